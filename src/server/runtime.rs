//! The main loop: the reactor's turns, and between two turns the control socket, hand-overs
//! and the service manager.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use super::EffectiveSettings;
use super::upgrades::{self, Upgrades};
use crate::control::{self, Answer, Asker, Request};
use crate::handler::PacketHandler;
use crate::reactor::kernel::OtherToken;
use crate::reactor::{Error, Stop};
use crate::restart::{HandOverFailure, Progress, ServerReactor, TakeOver, TakeOverFigures};
use crate::service::Notifier;
use hawk_time::Moment;

/// The shortest time between two changes of what `systemctl status` shows.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// The control socket among the descriptors that the reactor watches.
const CONTROL: OtherToken = OtherToken(0);

/// The channel to the predecessor or to a successor.
pub(super) const CHANNEL: OtherToken = OtherToken(1);

/// A reactor and what runs beside it on the same thread.
pub(super) struct Runtime {
    reactor: ServerReactor,
    control: Option<control::Server>,
    upgrades: Upgrades,
    /// The client that requested the current hand-over; `None` if a signal did.
    upgrade_client: Option<Asker>,
    notifier: Notifier,
    status: Status,
    address: SocketAddr,
    /// Whether the service manager was notified of the stop.
    stop_notified: bool,
}

/// How the main loop ended.
#[derive(Debug)]
pub(super) enum End {
    /// By a signal.
    Stopped(Stop),
    /// The successor serves.
    HandedOver,
    /// The successor took over and is not known to serve.
    Lost(HandOverFailure),
}

/// What `systemctl status` shows, and when it may change next.
struct Status {
    text: String,
    next: Moment,
}

impl Runtime {
    pub(super) fn new(
        mut reactor: ServerReactor,
        control: Option<control::Server>,
        address: SocketAddr,
        descriptors: u64,
    ) -> Result<Self, Error> {
        if let Some(control) = &control {
            reactor.kernel().watch_other(control.as_fd(), CONTROL)?;
        }
        let upgrades = Upgrades::new(descriptors);
        reactor.set_restart_statistics(upgrades.statistics());
        let now = Moment::now();
        Ok(Self {
            reactor,
            control,
            upgrades,
            upgrade_client: None,
            notifier: Notifier::from_env(now),
            status: Status {
                text: String::new(),
                next: now.after(STATUS_INTERVAL),
            },
            address,
            stop_notified: false,
        })
    }

    /// Returns the address on which agents connect.
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes over from the predecessor. The caller then calls [`took_over`](Self::took_over)
    /// and [`run`](Self::run) at once.
    pub(super) fn take_over(
        &mut self,
        take_over: &mut TakeOver,
    ) -> anyhow::Result<TakeOverFigures> {
        let kernel = self.reactor.kernel();
        kernel.watch_other(take_over.as_fd(), CHANNEL)?;
        take_over.take_over(&mut self.reactor)
    }

    /// Logs the take-over. The loop then waits for the predecessor's end.
    pub(super) fn took_over(
        &mut self,
        figures: TakeOverFigures,
        take_over: TakeOver,
        effective: &EffectiveSettings,
    ) {
        self.upgrades.took_over(figures, take_over, effective);
        self.reactor
            .set_restart_statistics(self.upgrades.statistics());
    }

    /// Runs until the server has stopped or a successor has taken over.
    pub(super) fn run(&mut self) -> Result<End, Error> {
        self.status.text = self.serving();
        self.notify_ready();
        loop {
            let stop = self.reactor.turn(self.deadline())?;
            let now = Moment::now();
            let ready = self.reactor.take_others();
            // Before the control socket: a request for a hand-over finds the last one complete.
            if let Some(end) = self.advance_upgrade(now) {
                return Ok(end);
            }
            self.serve_control(ready.contains(&CONTROL), now);
            if self.reactor.upgrade_wanted() {
                self.begin_upgrade(None, None, now);
            }
            self.notify_status(now);
            if let Some(stop) = stop {
                return Ok(End::Stopped(stop));
            }
        }
    }

    /// The reactor, for the end of the server. Removes the control socket.
    pub(super) fn into_reactor(self) -> ServerReactor {
        if let Some(control) = self.control {
            control.remove();
        }
        self.reactor
    }

    /// Closes what the successor has as well and what other processes may need. Returns the
    /// handler, and the connections, which take long to close.
    pub(super) fn leave(self) -> (PacketHandler, impl Sized) {
        drop(self.control);
        let (mut handler, connections) = self.reactor.into_parts();
        handler.leave_store();
        (handler, connections)
    }

    /// When the loop has work beside the reactor, at the latest.
    fn deadline(&self) -> Option<Moment> {
        let control = self.control.as_ref().and_then(control::Server::deadline);
        let notifies = self.notifier.is_configured() && !self.upgrades.has_predecessor();
        let notifier = [Some(self.status.next), self.notifier.deadline()];
        let notifier = notifier.into_iter().filter(|_| notifies);
        let others = [control, self.upgrades.deadline()];
        others.into_iter().chain(notifier).flatten().min()
    }

    /// Notifies the service manager that this process serves. While a predecessor or a
    /// successor exists, the service manager accepts no such message from this process, or
    /// receives the outcome of the hand-over soon.
    fn notify_ready(&mut self) {
        if !self.upgrades.has_predecessor() && !self.upgrades.has_successor() {
            self.notifier.ready(&self.status.text);
        }
    }

    /// Begins a hand-over at the request of a client or by a signal.
    fn begin_upgrade(&mut self, binary: Option<&Path>, client: Option<Asker>, now: Moment) {
        self.notifier
            .reloading(now, "Handing over to a new process");
        match self.upgrades.begin(&mut self.reactor, binary) {
            Ok(()) => self.upgrade_client = client,
            Err(why) => self.serve_on(client, now, &Answer::Failed(why)),
        }
    }

    /// Advances the hand-over, if there is one. Returns the end of this process's service.
    fn advance_upgrade(&mut self, now: Moment) -> Option<End> {
        let control = self.control.as_ref().and_then(control::Server::listener);
        match self.upgrades.advance(&mut self.reactor, control) {
            Progress::Going => {
                if let Some(predecessor) = self.upgrades.predecessor_end(now) {
                    self.notify_ready();
                    if predecessor.was_stopped() {
                        self.reactor.inherit_stop();
                    }
                }
                None
            }
            Progress::RolledBack(failure) => {
                let client = self.upgrade_client.take();
                let why = upgrades::rolled_back(&failure);
                self.serve_on(client, now, &Answer::Failed(why));
                None
            }
            Progress::HandedOver(figures) => {
                self.notifier.main_pid(figures.successor);
                self.answer_last(now, &Answer::Done(vec![format!("upgraded {figures}")]));
                // After the service manager's notification: from now on it accepts messages
                // of the successor.
                self.upgrades
                    .release_successor(self.reactor.take_stop_signal());
                Some(End::HandedOver)
            }
            Progress::Lost(failure) => {
                self.answer_last(now, &Answer::Failed(format!("lost: {failure}")));
                // A successor that only hangs may still receive it.
                self.upgrades
                    .release_successor(self.reactor.take_stop_signal());
                Some(End::Lost(failure))
            }
        }
    }

    /// Answers the client that requested the hand-over, and no other any more.
    fn answer_last(&mut self, now: Moment, answer: &Answer) {
        if let Some(control) = &mut self.control {
            control.leave();
            if let Some(client) = self.upgrade_client.take() {
                control.answer(client, now, answer);
            }
        }
    }

    /// Continues to serve after a hand-over failed, and answers the client that requested it.
    fn serve_on(&mut self, client: Option<Asker>, now: Moment, answer: &Answer) {
        if let (Some(control), Some(client)) = (&mut self.control, client) {
            control.answer(client, now, answer);
        }
        self.reactor
            .set_restart_statistics(self.upgrades.statistics());
        self.notify_ready();
    }

    fn serve_control(&mut self, is_ready: bool, now: Moment) {
        let Some(control) = &mut self.control else {
            return;
        };
        let is_due = control.deadline().is_some_and(|deadline| deadline <= now);
        if !is_ready && !is_due {
            return;
        }
        let mut requests = Vec::new();
        control.turn(now, &mut requests);
        for (client, request) in requests {
            let answer = match request {
                Request::Upgrade { binary } => {
                    self.begin_upgrade(binary.as_deref(), Some(client), now);
                    continue;
                }
                Request::Statistics => Answer::Done(self.reactor.answer_statistics()),
                Request::ConfirmClock => match self.reactor.handler().confirm_clock() {
                    true => Answer::Done(Vec::new()),
                    false => Answer::Failed(
                        "expiry by age is not paused: there is nothing to confirm".to_owned(),
                    ),
                },
            };
            if let Some(control) = &mut self.control {
                control.answer(client, now, &answer);
            }
        }
    }

    /// Notifies the service manager of a stop, and otherwise of a changed status.
    fn notify_status(&mut self, now: Moment) {
        if !self.notifier.is_configured() || self.upgrades.has_predecessor() {
            return;
        }
        self.notifier.beat(now);
        if self.reactor.is_stopping() {
            if !std::mem::replace(&mut self.stop_notified, true) {
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
