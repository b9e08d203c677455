//! Agents that misbehave, while the others measure what good agents feel.
//!
//! ```text
//! seed ──► script ──bytes──► life ──► socket
//!            │                │ ▲
//!            │     what was sent, what came
//!            ▼                ▼ │
//!         conduct           judge ──breaches──► books ──► summary
//! ```
//!
//! A chaotic agent has one connection at a time and one [`Conduct`] for each:
//! its lives. When one is over it waits as agents should, with full jitter, and
//! begins the next. What it does in a life is a [`Script`](script::Script), drawn
//! from the seed, the agent's number and the life's: the same seed makes the same
//! bytes, pauses and endings, whatever the server does.
//!
//! What becomes of them is counted. It fails the run only where the server breaks
//! the protocol, to which even the worst agent has a right: the library's own
//! decoder runs over what was sent and tells which lines are due.
//!
//! They have a thread of their own, so that the good agents' frames leave in time,
//! whatever happens here, and a run without chaos has nothing of it.

mod agent;
mod backoff;
mod books;
mod crowd;
mod damage;
mod judge;
mod life;
mod script;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::LoadError;
use super::dial::Dialler;
use super::frames::ContentSize;

pub use books::{Counts, Ending};
pub use script::Conduct;

pub(super) use books::Books;

/// How many agents misbehave, and from which seed what they do is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// Connections at a time, one for each agent.
    pub connections: u32,
    /// The same seed makes the same scripts.
    pub seed: u64,
}

/// What the crowd must know of the run.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) chaos: Chaos,
    pub(super) dialler: Dialler,
    /// Number of the first agent among all connections, by which the dialler
    /// chooses the source address.
    pub(super) first: usize,
    pub(super) content: ContentSize,
    /// How long a connection may make no progress that is owed.
    pub(super) patience: Duration,
}

/// The chaotic agents at work; dropping it tells them to stop.
#[derive(Debug)]
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    waker: mio::Waker,
    thread: Option<JoinHandle<Books>>,
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

    /// Tells them to come to an end: no agent begins another life, but each has
    /// had one.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // It fails when the thread has ended already.
        let _ended = self.waker.wake();
    }

    /// Waits for their end, some times the patience at most; what became of them.
    pub(super) fn finish(mut self) -> Books {
        self.stop();
        let books = self.thread.take().map(JoinHandle::join);
        // It has no way to panic that we know of; if it does, that was a fault.
        books.and_then(Result::ok).unwrap_or_else(Books::lost)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop();
    }
}
