//! A command for each change of an agent's state.
//!
//! The reactor's thread puts events into a mailbox, which never lets it wait; a
//! thread of its own, the runner, runs a command for each. At most [`AT_ONCE`] of
//! them run at once, none for longer than its limit. Events of one agent follow one
//! another: the next command starts when the last one has ended. Events of
//! different agents may overtake each other.

mod command;
mod event;
mod mailbox;
mod queue;
mod runner;

use std::ffi::OsString;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::throttle::Throttle;
use crate::time::Moment;
pub use event::Event;
use mailbox::Mailbox;
use queue::Agent;
use runner::Runner;

/// Commands that run at once: enough that one which hangs does not hold up the
/// others, few enough that a rack that fails does not start a thousand mailers.
pub const AT_ONCE: usize = 4;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The command, for `sh -c`.
    pub command: OsString,
    /// How long one may run; then it is killed, with its process group.
    pub timeout: Duration,
    /// Variables of our environment that are not for commands.
    pub hidden: &'static [&'static str],
}

/// Has a command run for each event.
pub struct Hook {
    mailbox: Arc<Mailbox>,
    /// `None`: it has ended.
    thread: Option<JoinHandle<()>>,
    drops: Throttle,
}

impl Hook {
    /// Starts the thread that runs commands.
    ///
    /// # Errors
    /// If the kernel refuses a thread or a descriptor.
    pub fn start(config: Config) -> io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new()?);
        let runner = Runner::new(config, Arc::clone(&mailbox));
        let thread = std::thread::Builder::new()
            .name("hawk-hook".to_owned())
            .spawn(move || runner.run())?;
        Ok(Self {
            mailbox,
            thread: Some(thread),
            drops: Throttle::default(),
        })
    }

    /// Has the command run for `event`, soon. If too many wait already, it is
    /// dropped and counted.
    pub fn tell(&mut self, event: &Event<'_>, now: Moment) {
        if !self.mailbox.put(event)
            && let Some(left_out) = self.drops.allow(now)
        {
            log::warn!(
                "event dropped, too many wait for the on-event command; make it quicker agent={} \
                 state={} left_out={left_out}",
                Agent::of(event),
                event::word(event.online),
            );
        }
    }

    /// What was done so far, as a line of the statistics.
    #[must_use]
    pub fn statistics(&self) -> String {
        let mailbox::Counters {
            running,
            waiting,
            run,
            failed,
            timed_out,
            dropped,
        } = self.mailbox.counters();
        format!(
            "hook running={running} waiting={waiting} run={run} failed={failed} \
             timed_out={timed_out} dropped={dropped}"
        )
    }

    /// No event will come any more: has the thread end once it has run the
    /// commands that wait, or given them up after `patience`. Does not wait.
    pub fn stop_within(&self, patience: Duration) {
        self.mailbox.stop(Moment::now().after(patience));
    }

    /// Waits for the thread's end; see [`stop_within`](Self::stop_within), without
    /// which it ends at once.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // A stop that was asked for before keeps its time.
        if !self.mailbox.is_stopping() {
            self.stop_within(Duration::ZERO);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that runs on-event commands has ended by a fault of its own");
        }
    }
}

#[cfg(test)]
mod tests;
