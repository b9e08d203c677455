//! Notification: commands that are run for changes of agents' states.
//!
//! Owns the thread `hawk-notify`, the processes of the commands, and the order of deliveries.
//! The thread, the runner, reads events from a sequence: the store's table of events, or a
//! bounded queue in memory without a store. Each *consumer* of the sequence has a queue, which
//! decides what is delivered when, and a command that delivers. A consumer of another kind, such
//! as a webhook, would be another way to carry out the jobs of such a queue.
//!
//! Must not know connections, sessions and the roster.
//!
//! Start with [`Notifier`] and `runner`; the promises of delivery are those of [`Queue`].

mod command;
mod event;
mod queue;
mod runner;
mod shared;
mod source;

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::stats::{HookCounters, HookStatistics};
use crate::store::Delivery;
use command::Environment;
pub use event::{Event, EventAgent};
use hawk_time::Moment;
use hawk_time::{Throttle, log_limited};
pub use queue::{Each, Gathered, Job, JobOutcome, MAX_AGE, Queue};
use runner::Runner;
use shared::Shared;
use source::{Memory, Stored};

/// A command, and what one call of it delivers.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// For `sh -c`.
    pub command: OsString,
    /// What one call delivers.
    pub calls: Calls,
}

/// What one call of a command delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// One event.
    Each,
    /// All events that arrive within this time, up to a bound.
    Gathered(Duration),
}

impl Config {
    /// Returns the names of the consumers in order.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let name = |one: &Consumer| one.calls.name();
        self.consumers.iter().map(name).collect()
    }
}

impl Calls {
    /// Returns the consumer's name: its option, and the key of its cursors in the store.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Each => "on-event",
            Self::Gathered(_) => "on-events",
        }
    }

    /// Returns the first word of the consumer's line of statistics.
    const fn line(self) -> &'static str {
        match self {
            Self::Each => "hook",
            Self::Gathered(_) => "events",
        }
    }
}

/// The commands and how they are run.
#[derive(Debug)]
pub struct Config {
    /// At least one.
    pub consumers: Vec<Consumer>,
    /// Time after which a command is killed, with its process group.
    pub timeout: Duration,
    /// The soft limit of open files of commands; `None`: that of this process.
    pub open_files: Option<u64>,
    /// The predecessor, if its commands may still run; `None` without a hand-over.
    pub predecessor: Option<Predecessor>,
}

/// The predecessor of this process. Its commands end before commands of this process begin.
#[derive(Debug)]
pub struct Predecessor {
    /// Readable once the predecessor has ended.
    pub end: OwnedFd,
    /// Maximum time to wait for its end.
    pub patience: Duration,
}

/// Delivers events to commands.
pub struct Notifier {
    shared: Arc<Shared>,
    /// The events, if they are not in a store.
    memory: Option<Arc<Memory>>,
    environment: Arc<Environment>,
    calls: Vec<Calls>,
    /// `None` once it has ended.
    thread: Option<JoinHandle<()>>,
    drops: Throttle,
}

impl Notifier {
    /// Starts the thread, which delivers each event that is [put](Self::put) in at most once.
    ///
    /// # Errors
    /// If the kernel refuses a thread or a descriptor.
    pub fn in_memory(config: Config) -> io::Result<Self> {
        let memory = Arc::new(Memory::new(config.consumers.len()));
        let shared = Arc::new(Shared::new(config.consumers.len())?);
        let source = Box::new(Arc::clone(&memory));
        Self::start(config, shared, source, Some(memory))
    }

    /// Starts the thread, which delivers each event in the store at `path` at least once, and
    /// publishes its progress in `delivery` for the store's writer.
    ///
    /// # Errors
    /// If the kernel refuses a thread or a descriptor.
    pub fn stored(config: Config, path: PathBuf, delivery: &Arc<Delivery>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(config.consumers.len())?);
        let bell = Arc::clone(&shared);
        delivery.ring_with(move || bell.ring());
        let source = Box::new(Stored::new(path, Arc::clone(delivery)));
        Self::start(config, shared, source, None)
    }

    fn start(
        config: Config,
        shared: Arc<Shared>,
        source: Box<dyn source::EventSource>,
        memory: Option<Arc<Memory>>,
    ) -> io::Result<Self> {
        let environment = Arc::new(Environment::new(config.open_files));
        let calls = config.consumers.iter().map(|one| one.calls).collect();
        let runner = Runner::new(config, &environment, Arc::clone(&shared), source);
        let thread = std::thread::Builder::new()
            .name("hawk-notify".to_owned())
            .spawn(move || runner.run())?;
        Ok(Self {
            shared,
            memory,
            environment,
            calls,
            thread: Some(thread),
            drops: Throttle::default(),
        })
    }

    /// Returns whether events are to be [put](Self::put) in: there is no store.
    #[must_use]
    pub const fn wants_events(&self) -> bool {
        self.memory.is_some()
    }

    /// Queues `event` for delivery. If too many events wait, it is dropped and counted.
    pub fn put(&mut self, event: Event, now: Moment) {
        let Some(memory) = &self.memory else {
            return;
        };
        let (agent, online) = (event.agent.clone(), event.online);
        if memory.put(event) {
            self.shared.ring();
            return;
        }
        self.shared.count_dropped();
        log_limited!(warn, self.drops, now, left_out =>
            "event dropped, too many wait for the {} command; make it quicker agent={agent} \
             state={} left_out={left_out}",
            self.calls.first().map_or("", |calls| calls.name()),
            event::word(online));
    }

    /// Returns the statistics of each consumer.
    #[must_use]
    pub fn statistics(&self) -> Vec<HookStatistics> {
        let statistics = |(calls, counters): (&Calls, HookCounters)| HookStatistics {
            name: calls.line(),
            counters,
        };
        let counters = self.shared.counters();
        self.calls.iter().zip(counters).map(statistics).collect()
    }

    /// Returns the soft limit of open files of commands; `None`: that of this process.
    #[must_use]
    pub fn open_files(&self) -> Option<u64> {
        self.environment.open_files()
    }

    /// Sets the soft limit of open files of commands.
    pub fn set_open_files(&self, limit: u64) {
        self.environment.set_open_files(limit);
    }

    /// Starts no command until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.shared.pause(true);
    }

    /// Resumes after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.shared.pause(false);
    }

    /// Returns whether delivery is paused and no command runs.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.shared.is_quiet()
    }

    /// Orders the thread to end once all waiting events are delivered, or after `patience`. No
    /// further event may be put in. Returns at once.
    pub fn stop_within(&self, patience: Duration) {
        self.shared.stop(Moment::now().after(patience), true);
    }

    /// Orders the thread to end once its running commands have ended, or after `patience`:
    /// another process delivers the events in the store. Events in memory are delivered before.
    /// Returns at once.
    pub fn leave_within(&self, patience: Duration) {
        let deliver = self.memory.is_some();
        self.shared.stop(Moment::now().after(patience), deliver);
    }

    /// Waits for the thread's end. Without an order to [stop](Self::stop_within) before, the
    /// thread kills its commands and ends at once.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // An earlier order keeps its time.
        if !self.shared.is_stopping() {
            self.stop_within(Duration::ZERO);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the notification thread has panicked");
        }
    }
}

#[cfg(test)]
mod tests;
