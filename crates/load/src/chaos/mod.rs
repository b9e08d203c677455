//! Agents that misbehave, while the other agents measure the effect.
//!
//! ```text
//! seed ──► script ──bytes──► life ──► socket
//!            │                │ ▲
//!            │     what was sent, what came
//!            ▼                ▼ │
//!         conduct           judge ──breaches──► totals ──► summary
//! ```
//!
//! A chaotic agent has one connection at a time and one [`Conduct`] for each:
//! its lives. When one is over it waits as agents should, with full jitter, and
//! begins the next. What it does in a life is a [`Script`](script::Script), drawn
//! from the seed, the agent's number and the life's: the same seed makes the same
//! bytes, pauses and endings, whatever the server does.
//!
//! The ends of their connections are counted. They fail the run only where the server breaks
//! the protocol: the library's own decoder runs over all bytes sent and determines which
//! lines are due.
//!
//! They have a thread of their own, so that good agents' frames always leave in time. A run
//! without chaos does not start it.

mod agent;
mod crowd;
mod damage;
mod judge;
mod life;
mod script;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use super::LoadError;
use super::dial::Dialler;
use super::frames::ContentSize;
use super::tally::{Fault, Faults};

pub use script::Conduct;

/// How many agents misbehave, and from which seed what they do is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// Connections at a time, one for each agent.
    pub connections: u32,
    /// The same seed makes the same scripts.
    pub seed: u64,
}

/// The settings of the crowd.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) chaos: Chaos,
    pub(super) dialler: Dialler,
    /// Number of the first agent among all connections, by which the dialler
    /// chooses the source address.
    pub(super) first: usize,
    pub(super) content: ContentSize,
    /// How long a connection with due replies may make no progress.
    pub(super) patience: Duration,
}

/// The running chaotic agents. A drop stops them.
#[derive(Debug)]
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    waker: mio::Waker,
    thread: Option<JoinHandle<Totals>>,
}

impl Crowd {
    /// Lets them loose.
    ///
    /// # Errors
    /// [`LoadError::System`] if there is no event queue or no thread for them.
    pub(super) fn start(setting: Setting) -> Result<Self, LoadError> {
        let system = |what| move |source: io::Error| LoadError::System { what, source };
        let poll = mio::Poll::new().map_err(system("open an event queue for chaos"))?;
        let waker = mio::Waker::new(poll.registry(), crowd::WAKER)
            .map_err(system("make a waker for chaos"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("chaos".into())
            .spawn(move || crowd::run(poll, &setting, &stopped))
            .map_err(system("start a thread for chaos"))?;
        Ok(Self {
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// Stops the agents: none begins another life, but each has
    /// had one.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // It fails when the thread has ended already.
        let _ended = self.waker.wake();
    }

    /// Waits for their end, some times the patience at most; what became of them.
    pub(super) fn finish(mut self) -> Totals {
        self.stop();
        let totals = self.thread.take().map(JoinHandle::join);
        // A panic of the thread counts as a fault.
        totals.and_then(Result::ok).unwrap_or_else(Totals::lost)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How the life of a connection ended, where that is no fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As its script had it.
    AsPlanned,
    /// The server ended the stream before.
    ClosedByServer,
    /// The server, or the way to it, broke the connection off.
    ResetByServer,
    /// The server had too many connections and said so.
    TurnedAway,
    /// The connection was not established, for any reason.
    NotMade,
    /// The connection did not end in time after the run.
    Unfinished,
}

/// What became of the lives of one conduct.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Counts {
    /// In which way these agents misbehaved.
    pub conduct: Conduct,
    /// Connections, those that were not made included.
    pub lives: u64,
    /// Bytes that were sent.
    pub bytes_sent: u64,
    /// Reply lines that came.
    pub lines: u64,
    /// Lives that ended as their script had it.
    pub as_planned: u64,
    /// The server ended the stream before.
    pub closed_by_server: u64,
    /// The server, or the way to it, broke the connection off.
    pub reset_by_server: u64,
    /// The server had too many connections and said so.
    pub turned_away: u64,
    /// The connection was not established, for any reason.
    pub not_made: u64,
    /// The connection did not end in time after the run.
    pub unfinished: u64,
    /// Lives in which the server broke the protocol; these are errors of the run.
    pub wronged: u64,
}

/// All counts, and what the server must not have done.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    counts: BTreeMap<Conduct, Counts>,
    pub(crate) faults: Faults,
}

impl Totals {
    /// Returns the totals of a thread that panicked: a fault and no counts.
    pub(super) fn lost() -> Self {
        let mut totals = Self::default();
        let cause = "the chaotic agents' thread ended by a panic";
        totals.faults.add(Fault::Connection, cause, 1);
        totals
    }

    /// The counts of one conduct.
    pub(super) fn of(&mut self, conduct: Conduct) -> &mut Counts {
        self.counts.entry(conduct).or_insert(Counts {
            conduct,
            lives: 0,
            bytes_sent: 0,
            lines: 0,
            as_planned: 0,
            closed_by_server: 0,
            reset_by_server: 0,
            turned_away: 0,
            not_made: 0,
            unfinished: 0,
            wronged: 0,
        })
    }

    /// The counts of all conducts that occurred.
    pub(crate) fn counts(&self) -> Vec<Counts> {
        self.counts.values().copied().collect()
    }
}

impl Counts {
    /// Counts an end.
    pub(super) fn end(&mut self, ending: Ending) {
        *match ending {
            Ending::AsPlanned => &mut self.as_planned,
            Ending::ClosedByServer => &mut self.closed_by_server,
            Ending::ResetByServer => &mut self.reset_by_server,
            Ending::TurnedAway => &mut self.turned_away,
            Ending::NotMade => &mut self.not_made,
            Ending::Unfinished => &mut self.unfinished,
        } += 1;
    }
}
