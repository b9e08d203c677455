//! What drives the event loop, and what it does between two turns: the control socket,
//! and what the service manager is told.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use crate::control::{self, Answer, Asker, Request};
use crate::handler::Keeper;
use crate::reactor::kernel::OtherToken;
use crate::reactor::{Error, Linux, Reactor, Stop};
use crate::service::Notifier;
use crate::time::Moment;

/// How often `systemctl status` gets news, at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The control socket's name among what the event loop watches.
const CONTROL: OtherToken = OtherToken(0);

const NO_HAND_OVER: &str = "this version cannot hand over to another while it serves; stop it and \
                            start the other one";

/// The event loop and what goes on beside it, on the same thread.
pub(super) struct Driver {
    reactor: Reactor<Keeper, Linux>,
    control: Option<control::Server>,
    /// Who has asked on it and is to be answered.
    asked: Vec<(Asker, Request)>,
    notifier: Notifier,
    status: Status,
    address: SocketAddr,
    /// The service manager knows that it stops.
    told_to_stop: bool,
}

/// What `systemctl status` shows.
struct Status {
    text: String,
    next: Moment,
}

impl Driver {
    pub(super) fn new(
        mut reactor: Reactor<Keeper, Linux>,
        control: Option<control::Server>,
        address: SocketAddr,
    ) -> Result<Self, Error> {
        if let Some(control) = &control {
            reactor.kernel().watch_other(control.as_fd(), CONTROL)?;
        }
        let now = Moment::now();
        Ok(Self {
            reactor,
            control,
            asked: Vec::new(),
            notifier: Notifier::from_env(now),
            status: Status {
                text: String::new(),
                next: now.after(STATUS_INTERVAL),
            },
            address,
            told_to_stop: false,
        })
    }

    /// Has the loop turn until it has stopped.
    pub(super) fn run(&mut self) -> Result<Stop, Error> {
        self.status.text = self.serving();
        self.notifier.ready(&self.status.text);
        loop {
            let stop = self.reactor.turn(self.deadline())?;
            let now = Moment::now();
            self.serve_control(now);
            self.tell_service_manager(now);
            if self.reactor.upgrade_wanted() {
                log::warn!("SIGUSR2: {NO_HAND_OVER}");
            }
            if let Some(stop) = stop {
                return Ok(stop);
            }
        }
    }

    /// The loop, to see to its end. The control socket is gone.
    pub(super) fn into_reactor(self) -> Reactor<Keeper, Linux> {
        if let Some(control) = self.control {
            control.remove();
        }
        self.reactor
    }

    /// When there is something to do here at the latest.
    fn deadline(&self) -> Option<Moment> {
        let control = self.control.as_ref().and_then(control::Server::deadline);
        let status = self.notifier.is_heard().then_some(self.status.next);
        let times = [control, self.notifier.deadline(), status];
        times.into_iter().flatten().min()
    }

    fn serve_control(&mut self, now: Moment) {
        let is_ready = self.reactor.take_others().contains(&CONTROL);
        let Some(control) = &mut self.control else {
            return;
        };
        let is_due = control.deadline().is_some_and(|deadline| deadline <= now);
        if !is_ready && !is_due {
            return;
        }
        control.turn(now, &mut self.asked);
        for (asker, request) in self.asked.drain(..) {
            let answer = match request {
                Request::Statistics => Answer::Done(statistics(&mut self.reactor, now)),
                Request::Upgrade { .. } => Answer::Failed(NO_HAND_OVER.to_owned()),
            };
            control.answer(asker, now, &answer);
        }
    }

    fn tell_service_manager(&mut self, now: Moment) {
        if !self.notifier.is_heard() {
            return;
        }
        self.notifier.beat(now);
        if self.reactor.is_stopping() {
            if !std::mem::replace(&mut self.told_to_stop, true) {
                let connections = self.reactor.figures().connections;
                self.notifier
                    .stopping(&format!("Stopping: connections={connections}"));
            }
        } else if self.status.next <= now {
            self.status.next = now.after(STATUS_INTERVAL);
            let text = self.serving();
            if text != self.status.text {
                self.notifier.status(&text);
                self.status.text = text;
            }
        }
    }

    fn serving(&self) -> String {
        let connections = self.reactor.figures().connections;
        format!("Serving on {}: connections={connections}", self.address)
    }
}

/// The lines of the log, and before them the time at which they were true: whoever asks
/// again can tell rates of its own.
fn statistics(reactor: &mut Reactor<Keeper, Linux>, now: Moment) -> Vec<String> {
    let clock = format!("clock monotonic_ns={}", now.as_nanos());
    let lines = reactor.statistics().lines();
    std::iter::once(clock).chain(lines).collect()
}
