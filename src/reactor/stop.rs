//! Signals, and the way to a gentle end.

use std::time::Duration;

use super::connection::Outcome;
use super::kernel::{BACKLOG, Kernel, Signal};
use super::linux::log_meaningless;
use super::{Reactor, Stop};
use crate::session::Handler;
use crate::stats::Cause;
use hawk_time::Moment;

/// How far apart two processes are told of one stop, at most. They are told one right
/// after the other; who has a server stop at once has seen it take its time.
const SAME_STOP: Duration = Duration::from_secs(1);

/// A stop of which the process was told that served before this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum InheritedStop {
    /// There is none.
    #[default]
    None,
    /// It is to be obeyed.
    Due,
    /// It was. Until then this process may be told as well.
    Obeyed(Moment),
}

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// What is left of the drain timeout; all of it before a stop.
    #[must_use]
    pub fn drain_left(&self) -> Duration {
        match self.stop_at {
            Some(stop_at) => stop_at.since(self.kernel.now()),
            None => self.config.drain_timeout,
        }
    }

    /// Whether it was told to stop.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.stop_at.is_some()
    }

    /// Whether a signal to stop has come since the last turn or call: for whoever drives
    /// the loop, if there will be no turn any more, or was none yet. Other signals are kept
    /// for the next turn.
    pub fn stop_came(&mut self) -> bool {
        let mut stop_came = false;
        for signal in self.kernel.signals() {
            match signal {
                Signal::Stop => stop_came = true,
                other if self.signals.contains(&other) => {}
                other => self.signals.push(other),
            }
        }
        self.signalled |= !self.signals.is_empty();
        stop_came
    }

    /// Stops in the next turn, because the process that served before this one was told
    /// to. A signal that both got is not taken for a second one here: within a second, the
    /// first that comes is the same.
    pub fn inherit_stop(&mut self) {
        if self.stop_at.is_none() {
            self.inherited_stop = InheritedStop::Due;
            self.signalled = true;
        }
    }

    /// Whether a signal asked for a new process since the last call.
    pub fn upgrade_wanted(&mut self) -> bool {
        std::mem::take(&mut self.upgrade_wanted)
    }

    pub(super) fn obey_signals(&mut self) {
        if !std::mem::take(&mut self.signalled) {
            return;
        }
        if self.inherited_stop == InheritedStop::Due {
            self.inherited_stop = InheritedStop::Obeyed(self.shop.now.after(SAME_STOP));
            self.begin_stop();
        }
        let mut signals = std::mem::take(&mut self.signals);
        signals.extend(self.kernel.signals());
        for signal in signals {
            match signal {
                Signal::Statistics => self.log_stats(true),
                Signal::Upgrade => self.upgrade_wanted = true,
                Signal::Reload => log::info!(
                    "SIGHUP: there is no configuration file to read again; nothing has changed"
                ),
                Signal::Meaningless(number) => log_meaningless(number),
                Signal::Stop if self.is_inherited_stop() => {}
                Signal::Stop if self.stop_at.is_some() => self.interrupted = true,
                Signal::Stop => self.begin_stop(),
            }
        }
    }

    /// Whether a signal to stop is the one of which the process before was told, too.
    fn is_inherited_stop(&mut self) -> bool {
        let inherited = std::mem::take(&mut self.inherited_stop);
        matches!(inherited, InheritedStop::Obeyed(until) if self.shop.now < until)
    }

    /// No newcomers from now on; those connected have a last turn each. That
    /// goes for those in the backlog too: they connected in time, and closing
    /// the listener would reset them, with what they have sent.
    fn begin_stop(&mut self) {
        if let Some(listener) = &mut self.listener {
            listener.mark_ready();
            listener.retry_now();
        }
        self.accept(usize::from(BACKLOG));
        self.listener = None;
        let connections = self.connections.len();
        let timeout = humantime::format_duration(self.config.drain_timeout);
        log::info!("stopping: {connections} connections have {timeout} to take their replies");
        self.stop_at = Some(self.shop.now.after(self.config.drain_timeout));
        for id in self.connections.ids() {
            if let Some(connection) = self.connections.get(id) {
                connection.finish_arrived();
                self.conclude(id, Outcome::Again);
            }
        }
    }

    pub(super) fn stopped(&mut self) -> Option<Stop> {
        let stop_at = self.stop_at?;
        if self.interrupted {
            return Some(Stop::Interrupted);
        }
        if self.shop.now < stop_at && !self.connections.is_empty() {
            return None;
        }
        let left = self.connections.len();
        if left > 0 {
            log::warn!("the drain timeout is over: {left} connections are cut off");
        }
        for id in self.connections.ids() {
            self.reap(id, Cause::Shutdown);
        }
        Some(Stop::Drained)
    }
}
