//! What drives the event loop, and what it does between two turns: the control socket,
//! the hand-over to another process, and what the service manager is told.

mod upgrades;

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use self::upgrades::{Legacy, Upgrades};
use crate::control::{self, Answer, Asker, Request};
use crate::handler::Keeper;
use crate::reactor::kernel::OtherToken;
use crate::reactor::{Error, Stop};
use crate::restart::{Failure, Progress, Server, Succeeded, Succession, SuccessionError};
use crate::service::Notifier;
use hawk_time::Moment;

/// How often `systemctl status` gets news, at most.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The control socket's name among what the event loop watches.
const CONTROL: OtherToken = OtherToken(0);

/// The name of the line to another process, before or after this one.
const LINE: OtherToken = OtherToken(1);

/// The event loop and what goes on beside it, on the same thread.
pub(super) struct Driver {
    reactor: Server,
    control: Option<control::Server>,
    /// Who has asked on it and is to be answered.
    asked: Vec<(Asker, Request)>,
    upgrades: Upgrades,
    /// Who has asked for the hand-over that is under way, if not by a signal.
    upgrade_for: Option<Asker>,
    notifier: Notifier,
    status: Status,
    address: SocketAddr,
    /// The service manager knows that it stops.
    told_to_stop: bool,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum End {
    /// It was told to stop, and has.
    Stopped(Stop),
    /// Another process serves.
    HandedOver,
    /// Another process has taken over, and is not known to serve.
    Lost(Failure),
}

/// What `systemctl status` shows.
struct Status {
    text: String,
    next: Moment,
}

impl Driver {
    pub(super) fn new(
        mut reactor: Server,
        control: Option<control::Server>,
        address: SocketAddr,
        descriptors: u64,
    ) -> Result<Self, Error> {
        if let Some(control) = &control {
            reactor.kernel().watch_other(control.as_fd(), CONTROL)?;
        }
        let upgrades = Upgrades::new(descriptors);
        reactor.tell_with_statistics(upgrades.statistics());
        let now = Moment::now();
        Ok(Self {
            reactor,
            control,
            asked: Vec::new(),
            upgrades,
            upgrade_for: None,
            notifier: Notifier::from_env(now),
            status: Status {
                text: String::new(),
                next: now.after(STATUS_INTERVAL),
            },
            address,
            told_to_stop: false,
        })
    }

    /// Takes over from another process. [`has_succeeded`](Self::has_succeeded) and the first
    /// turn are due as soon as it has.
    pub(super) fn succeed(
        &mut self,
        succession: &mut Succession,
    ) -> Result<Succeeded, SuccessionError> {
        self.reactor
            .kernel()
            .watch_other(succession.as_fd(), LINE)?;
        succession.take_over(&mut self.reactor)
    }

    /// Knows how this process took over, and waits for the other to go.
    pub(super) fn has_succeeded(
        &mut self,
        how: Succeeded,
        succession: Succession,
        max_connections: usize,
    ) {
        self.upgrades
            .has_succeeded(how, succession, max_connections);
        self.reactor
            .tell_with_statistics(self.upgrades.statistics());
    }

    /// Has the loop turn until it has stopped, or another process goes on with it.
    pub(super) fn run(&mut self) -> Result<End, Error> {
        self.status.text = self.serving();
        self.say_ready();
        loop {
            let stop = self.reactor.turn(self.deadline())?;
            let now = Moment::now();
            let ready = self.reactor.take_others();
            // First, so that whoever asks for a hand-over finds the last one at its end.
            if let Some(end) = self.go_on_with_upgrade(now) {
                return Ok(end);
            }
            self.serve_control(ready.contains(&CONTROL), now);
            if self.reactor.upgrade_wanted() {
                self.upgrade(None, None, now);
            }
            self.tell_service_manager(now);
            if let Some(stop) = stop {
                return Ok(End::Stopped(stop));
            }
        }
    }

    /// The loop, to see to its end. The control socket is gone.
    pub(super) fn into_reactor(self) -> Server {
        if let Some(control) = self.control {
            control.remove();
        }
        self.reactor
    }

    /// Lets go of what another process has and others may want; what is left are the
    /// connections, and what is this process's own.
    pub(super) fn leave(self) -> (Keeper, impl Sized) {
        drop(self.control);
        let (mut keeper, connections) = self.reactor.into_parts();
        keeper.leave_store();
        (keeper, connections)
    }

    /// When there is something to do here at the latest.
    fn deadline(&self) -> Option<Moment> {
        let control = self.control.as_ref().and_then(control::Server::deadline);
        let times = [control, self.upgrades.deadline()];
        let is_heard = self.notifier.is_heard() && !self.upgrades.is_still_introduced();
        let news = [Some(self.status.next), self.notifier.deadline()];
        let news = news.into_iter().filter(|_| is_heard);
        times.into_iter().chain(news).flatten().min()
    }

    /// Tells the service manager that this process serves, unless it does not believe it
    /// yet, or is to be told of the outcome of a hand-over soon.
    fn say_ready(&mut self) {
        if !self.upgrades.is_still_introduced() && !self.upgrades.is_handing_over() {
            self.notifier.ready(&self.status.text);
        }
    }

    /// Begins to hand over, because somebody `asked` for it or by a signal.
    fn upgrade(&mut self, binary: Option<&Path>, asker: Option<Asker>, now: Moment) {
        self.notifier
            .reloading(now, "Handing over to a new process");
        let begun = self.upgrades.begin(&mut self.reactor, binary);
        match begun {
            Ok(()) => self.upgrade_for = asker,
            Err(why) => self.conclude(asker, now, &Answer::Failed(why)),
        }
    }

    /// Goes on with the hand-over; how this process ends, if it does not serve any more.
    fn go_on_with_upgrade(&mut self, now: Moment) -> Option<End> {
        let control = self.control.as_ref().and_then(control::Server::listener);
        match self.upgrades.go_on(&mut self.reactor, control) {
            Progress::Going => {
                if let Some(legacy) = self.upgrades.was_introduced(now) {
                    self.say_ready();
                    if legacy == Legacy::Stop {
                        self.reactor.inherit_stop();
                    }
                }
                None
            }
            Progress::RolledBack(failure) => {
                let asker = self.upgrade_for.take();
                let why = upgrades::rolled_back(&failure);
                self.conclude(asker, now, &Answer::Failed(why));
                None
            }
            Progress::HandedOver(report) => {
                self.notifier.main_pid(report.successor);
                self.take_leave(now, &Answer::Done(vec![format!("upgraded {report}")]));
                // Behind what the service manager was told: now the other process may speak.
                self.upgrades.let_go(self.reactor.stop_came());
                Some(End::HandedOver)
            }
            Progress::Lost(failure) => {
                self.take_leave(now, &Answer::Failed(format!("lost: {failure}")));
                // It may yet hear that, if it only hangs.
                self.upgrades.let_go(self.reactor.stop_came());
                Some(End::Lost(failure))
            }
        }
    }

    /// Tells who asked for the hand-over how it went. Nobody else is answered here any more.
    fn take_leave(&mut self, now: Moment, answer: &Answer) {
        if let Some(control) = &mut self.control {
            control.leave();
            if let Some(asker) = self.upgrade_for.take() {
                control.answer(asker, now, answer);
            }
        }
    }

    /// No other process serves after all.
    fn conclude(&mut self, asker: Option<Asker>, now: Moment, answer: &Answer) {
        if let (Some(control), Some(asker)) = (&mut self.control, asker) {
            control.answer(asker, now, answer);
        }
        let line = self.upgrades.statistics();
        self.reactor.tell_with_statistics(line);
        self.say_ready();
    }

    fn serve_control(&mut self, is_ready: bool, now: Moment) {
        let Some(control) = &mut self.control else {
            return;
        };
        let is_due = control.deadline().is_some_and(|deadline| deadline <= now);
        if !is_ready && !is_due {
            return;
        }
        control.turn(now, &mut self.asked);
        for (asker, request) in std::mem::take(&mut self.asked) {
            match request {
                Request::Statistics => {
                    let answer = Answer::Done(self.statistics(now));
                    if let Some(control) = &mut self.control {
                        control.answer(asker, now, &answer);
                    }
                }
                Request::ConfirmClock => {
                    let answer = match self.reactor.handler().confirm_clock() {
                        true => Answer::Done(Vec::new()),
                        false => Answer::Failed(
                            "expiry by age is not paused: there is nothing to confirm".to_owned(),
                        ),
                    };
                    if let Some(control) = &mut self.control {
                        control.answer(asker, now, &answer);
                    }
                }
                Request::Upgrade { binary } => self.upgrade(binary.as_deref(), Some(asker), now),
            }
        }
    }

    fn tell_service_manager(&mut self, now: Moment) {
        if !self.notifier.is_heard() || self.upgrades.is_still_introduced() {
            return;
        }
        self.notifier.beat(now);
        if self.reactor.is_stopping() {
            self.tell_of_stop();
        } else if self.status.next <= now {
            self.status.next = now.after(STATUS_INTERVAL);
            let text = self.serving();
            if text != self.status.text {
                self.notifier.status(&text);
                self.status.text = text;
            }
        }
    }

    fn tell_of_stop(&mut self) {
        if !std::mem::replace(&mut self.told_to_stop, true) {
            let connections = self.reactor.figures().connections;
            self.notifier
                .stopping(&format!("Stopping: connections={connections}"));
        }
    }

    /// The lines of the log, and before them the time at which they were true: whoever
    /// asks again can tell rates of its own.
    fn statistics(&mut self, now: Moment) -> Vec<String> {
        let clock = format!("clock monotonic_ns={}", now.as_nanos());
        let lines = self.reactor.statistics().lines();
        std::iter::once(clock).chain(lines).collect()
    }

    fn serving(&self) -> String {
        let connections = self.reactor.figures().connections;
        format!("Serving on {}: connections={connections}", self.address)
    }
}
