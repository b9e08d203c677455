//! Signals, and the drain at the end.

use std::time::Duration;

use super::connection::ServeOutcome;
use super::kernel::{BACKLOG, Kernel, Signal};
use super::linux::log_meaningless;
use super::{Reactor, Stop};
use crate::session::Handler;
use crate::stats::Cause;
use hawk_time::Moment;

/// The longest time between two signals of one stop, sent to two processes one right after
/// the other. A second stop within this time cannot be meant to end the first at once.
const SAME_STOP: Duration = Duration::from_secs(1);

/// A stop that the process before this one was signalled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum InheritedStop {
    #[default]
    None,
    /// To be begun in the next turn.
    Due,
    /// Begun. A stop signal until this moment belongs to the same stop.
    Begun(Moment),
}

impl<H: Handler, K: Kernel> Reactor<H, K> {
    /// Returns what is left of the drain timeout; all of it before a stop.
    #[must_use]
    pub fn drain_left(&self) -> Duration {
        match self.stop_at {
            Some(stop_at) => stop_at.since(self.kernel.now()),
            None => self.config.drain_timeout,
        }
    }

    /// Returns whether the server stops.
    #[must_use]
    pub const fn is_stopping(&self) -> bool {
        self.stop_at.is_some()
    }

    /// Takes a stop signal received since the last turn or call; returns whether there was
    /// one. For the driver of the loop, before the first turn and after the last. Other
    /// signals are kept for the next turn.
    pub fn take_stop_signal(&mut self) -> bool {
        let mut has_stop = false;
        for signal in self.kernel.signals() {
            match signal {
                Signal::Stop => has_stop = true,
                other if self.signals.contains(&other) => {}
                other => self.signals.push(other),
            }
        }
        self.signalled |= !self.signals.is_empty();
        has_stop
    }

    /// Stops in the next turn, because the process before this one was signalled to. The first
    /// stop signal within a second belongs to the same stop.
    pub fn inherit_stop(&mut self) {
        if self.stop_at.is_none() {
            self.inherited_stop = InheritedStop::Due;
            self.signalled = true;
        }
    }

    /// Returns whether a signal asked for a new process since the last call.
    pub fn upgrade_wanted(&mut self) -> bool {
        std::mem::take(&mut self.upgrade_wanted)
    }

    pub(super) fn handle_signals(&mut self) {
        if !std::mem::take(&mut self.signalled) {
            return;
        }
        if self.inherited_stop == InheritedStop::Due {
            self.inherited_stop = InheritedStop::Begun(self.cx.now.after(SAME_STOP));
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

    /// Returns whether a stop signal belongs to the inherited stop.
    fn is_inherited_stop(&mut self) -> bool {
        let inherited = std::mem::take(&mut self.inherited_stop);
        matches!(inherited, InheritedStop::Begun(until) if self.cx.now < until)
    }

    /// Closes the listeners and gives each connection a last turn. Accepts the connections in
    /// the backlog first: they connected in time, and closing a listener would reset them and
    /// lose what they have sent.
    fn begin_stop(&mut self) {
        let mut backlog = 0;
        for listener in self.listeners.iter_mut() {
            listener.mark_ready();
            backlog += usize::from(BACKLOG);
        }
        self.listeners.retry_now();
        self.accept(backlog);
        self.listeners.clear();
        let connections = self.connections.len();
        let timeout = humantime::format_duration(self.config.drain_timeout);
        log::info!("stopping: {connections} connections have {timeout} to take their replies");
        self.stop_at = Some(self.cx.now.after(self.config.drain_timeout));
        for id in self.connections.ids() {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.finish_arrived();
                self.after_serve(id, ServeOutcome::Again);
            }
        }
    }

    /// Returns how the stop ended, if it did. Closes all connections after the drain timeout.
    pub(super) fn stopped(&mut self) -> Option<Stop> {
        let stop_at = self.stop_at?;
        if self.interrupted {
            return Some(Stop::Interrupted);
        }
        if self.cx.now < stop_at && !self.connections.is_empty() {
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
