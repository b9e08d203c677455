//! Notification: a command for changes of agents' states.
//!
//! A thread of its own, the runner, reads events from a sequence: the store's table of events,
//! or a bounded queue in memory if nothing is stored. Each *consumer* of the sequence has a
//! queue (`queue::Queue`), which decides what is delivered when, and a command that delivers.
//! Another kind of consumer is another way to carry out the jobs of such a queue.

mod command;
mod environment;
mod event;
pub mod queue;
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
use environment::Environment;
pub use event::{Agent, Event};
use hawk_time::Moment;
use hawk_time::{Throttle, log_limited};
use runner::Runner;
use shared::Shared;
use source::{Memory, Stored};

/// A command and when it is run.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// For `sh -c`.
    pub command: OsString,
    /// What one call of it delivers.
    pub calls: Calls,
}

/// What one call of a command delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// One event.
    Each,
    /// All events that came within a time, with bounds.
    Gathered(Duration),
}

impl Config {
    /// The names of the consumers, in their order.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        let name = |one: &Consumer| one.calls.name();
        self.consumers.iter().map(name).collect()
    }
}

impl Calls {
    /// The consumer's name: its option, and the key of its cursors in the store.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Each => "on-event",
            Self::Gathered(_) => "on-events",
        }
    }

    /// The first word of its line in the statistics.
    const fn line(self) -> &'static str {
        match self {
            Self::Each => "hook",
            Self::Gathered(_) => "events",
        }
    }
}

/// What is to be run, and how.
#[derive(Debug)]
pub struct Config {
    /// At least one.
    pub consumers: Vec<Consumer>,
    /// How long a command may run; then it is killed, with its process group.
    pub timeout: Duration,
    /// The soft limit of open files that commands get; `None`: this process's.
    pub open_files: Option<u64>,
    /// The process before this one, which may have commands that still run.
    pub predecessor: Option<Predecessor>,
}

/// The process before this one: its commands end before commands of this process begin.
#[derive(Debug)]
pub struct Predecessor {
    /// Readable once it has ended.
    pub end: OwnedFd,
    /// How long it is waited for.
    pub patience: Duration,
}

/// Delivers events to commands.
pub struct Notifier {
    shared: Arc<Shared>,
    /// Events that are not in a store.
    memory: Option<Arc<Memory>>,
    environment: Arc<Environment>,
    calls: Vec<Calls>,
    /// `None`: it has ended.
    thread: Option<JoinHandle<()>>,
    drops: Throttle,
}

impl Notifier {
    /// Starts the thread that delivers the events that are [put](Self::put) in: each at most
    /// once.
    ///
    /// # Errors
    /// If the kernel refuses a thread or a descriptor.
    pub fn in_memory(config: Config) -> io::Result<Self> {
        let memory = Arc::new(Memory::new(config.consumers.len()));
        let shared = Arc::new(Shared::new(config.consumers.len())?);
        let source = Box::new(Arc::clone(&memory));
        Self::start(config, shared, source, Some(memory))
    }

    /// Starts the thread that delivers the events in the store at `path`, each at least once,
    /// and publishes its progress in `delivery`, which the store's writer shares.
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

    /// Whether events are to be [put](Self::put) in.
    #[must_use]
    pub const fn wants_events(&self) -> bool {
        self.memory.is_some()
    }

    /// Delivers `event`, soon. If too many wait already, it is dropped and counted.
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

    /// The soft limit of open files that commands get, if it is not this process's own.
    #[must_use]
    pub fn open_files(&self) -> Option<u64> {
        self.environment.open_files()
    }

    /// Sets the soft limit of open files that commands get.
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

    /// Whether it is paused and no command runs any more.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.shared.is_quiet()
    }

    /// No event will come any more: ends the thread once all that is left is delivered, or
    /// after `patience`. Does not wait.
    pub fn stop_within(&self, patience: Duration) {
        self.shared.stop(Moment::now().after(patience), true);
    }

    /// Another process delivers the events that are in the store: ends the thread once the
    /// commands that run have ended, or after `patience`. Events in memory are delivered
    /// before. Does not wait.
    pub fn leave_within(&self, patience: Duration) {
        let deliver = self.memory.is_some();
        self.shared.stop(Moment::now().after(patience), deliver);
    }

    /// Waits for the thread's end; see [`stop_within`](Self::stop_within), without
    /// which it ends at once.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // A stop that was asked for before keeps its time.
        if !self.shared.is_stopping() {
            self.stop_within(Duration::ZERO);
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread for notification has ended by a fault of its own");
        }
    }
}

#[cfg(test)]
mod tests;
