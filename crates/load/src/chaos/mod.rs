//! Agents that misbehave, while the other agents measure the effect.
//!
//! ```text
//! seed ──► script ──bytes──► agent ──► socket
//!            │                │ ▲
//!            │   bytes sent, bytes received
//!            ▼                ▼ │
//!         conduct           judge ──breaches──► totals ──► summary
//! ```
//!
//! A chaotic agent has one connection at a time, each with one [`Conduct`]: its lives. Between
//! two lives it waits with full jitter, as every agent should. A life follows a
//! [`Script`](script::Script) drawn from the seed, the agent's number and the life's: the same
//! seed makes the same bytes, pauses and endings, independent of the server.
//!
//! All outcomes are counted. They fail the run only if the server violates the protocol: a decoder
//! of the wire format reads the sent bytes and returns the lines that are due.
//!
//! The agents have their own thread, so that the frames of good agents leave in time.

mod agent;
mod judge;
mod script;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token, Waker};
use serde::Serialize;

use super::LoadError;
use super::dial::Dialler;
use super::tally::{Fault, Faults};
use super::traffic::ContentSize;
use agent::Agent;
use hawk_time::{Moment, TimerWheel};

pub use script::Conduct;

/// The number of chaotic agents and the seed of their behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chaos {
    /// Connections at a time, one for each agent.
    pub connections: u32,
    /// The same seed makes the same scripts.
    pub seed: u64,
}

/// The parameters of the chaotic agents.
#[derive(Debug)]
pub(super) struct Setting {
    pub(super) chaos: Chaos,
    pub(super) dialler: Dialler,
    /// Number of the first agent among all connections, by which the dialler
    /// chooses the source address.
    pub(super) first: usize,
    pub(super) content: ContentSize,
    /// Limit of the time without progress on a connection that waits for the server.
    pub(super) patience: Duration,
}

/// The thread of the chaotic agents; dropping it makes them stop.
#[derive(Debug)]
pub(super) struct Crowd {
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<Totals>>,
}

/// Token of the waker; agents have their number.
const WAKER: Token = Token(usize::MAX);

/// Events taken from the system at once.
const EVENTS: usize = 1024;

/// Limit of the time from the stop to the end, in multiples of the patience: a connection has one
/// until its own end of file and one until the server's.
const STOP: u32 = 2;

impl Crowd {
    /// Starts the agents.
    ///
    /// # Errors
    /// [`LoadError`] if the system has no event queue or no thread for them.
    pub(super) fn start(setting: Setting) -> Result<Self, LoadError> {
        let poll = Poll::new().map_err(LoadError::system("open an event queue for chaos"))?;
        let waker = Waker::new(poll.registry(), WAKER)
            .map_err(LoadError::system("make a waker for chaos"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let world = World {
            setting,
            poll,
            totals: Totals::default(),
        };
        let thread = thread::Builder::new()
            .name("chaos".into())
            .spawn(move || EventLoop::new(world).run(&stopped))
            .map_err(LoadError::system("start a thread for chaos"))?;
        Ok(Self {
            stop,
            waker,
            thread: Some(thread),
        })
    }

    /// Stops the agents: they begin no further life, except the first.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // It fails if the thread has ended.
        let _ended = self.waker.wake();
    }

    /// Stops the agents and waits until they have ended. Returns their totals.
    pub(super) fn finish(mut self) -> Totals {
        self.stop();
        let totals = self.thread.take().map(JoinHandle::join);
        totals.and_then(Result::ok).unwrap_or_else(|| {
            let mut totals = Totals::default();
            let cause = "the chaotic agents' thread ended by a panic";
            totals.faults.add(Fault::Connection, cause, 1);
            totals
        })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The shared state of all agents.
#[derive(Debug)]
struct World {
    setting: Setting,
    poll: Poll,
    totals: Totals,
}

/// The event loop of all agents.
struct EventLoop {
    world: World,
    agents: Vec<Agent>,
    wheel: TimerWheel,
    /// When all agents must have ended; `None` before the stop.
    ending: Option<Moment>,
}

impl EventLoop {
    fn new(world: World) -> Self {
        let now = Moment::now();
        let Chaos { connections, seed } = world.setting.chaos;
        let agents = (0..connections).map(|number| Agent::new(number, seed, now));
        Self {
            world,
            agents: agents.collect(),
            wheel: TimerWheel::new(now),
            ending: None,
        }
    }

    /// Runs until all agents have ended.
    fn run(mut self, stop: &AtomicBool) -> Totals {
        let mut events = Events::with_capacity(EVENTS);
        self.resume_all(Moment::now());
        while !self.agents.iter().all(Agent::is_done) {
            let timeout = self.timeout(Moment::now());
            if let Err(error) = self.world.poll.poll(&mut events, timeout)
                && error.kind() != io::ErrorKind::Interrupted
            {
                let cause = format!("chaos could not wait for events: {error}");
                self.world.totals.faults.add(Fault::Connection, &cause, 1);
                break;
            }
            self.turn(&events, stop);
        }
        self.world.totals
    }

    fn timeout(&self, now: Moment) -> Option<Duration> {
        let next = self.wheel.next().into_iter().chain(self.ending).min();
        next.map(|moment| round_up(moment.since(now)))
    }

    fn turn(&mut self, events: &Events, stop: &AtomicBool) {
        let now = Moment::now();
        for event in events {
            // The waker's token is no number of an agent.
            if let Ok(number) = u32::try_from(event.token().0) {
                self.resume(number, Some(event), now);
            }
        }
        let mut due = Vec::new();
        self.wheel.expire(now, &mut due);
        for number in due {
            self.resume(number, None, now);
        }
        if self.ending.is_none() && stop.load(Ordering::Acquire) {
            self.ending = Some(now.after(self.world.setting.patience * STOP));
            self.resume_all(now);
        }
        if self.ending.is_some_and(|ending| now >= ending) {
            for agent in &mut self.agents {
                agent.end_now(&mut self.world, now);
            }
        }
    }

    fn resume(&mut self, number: u32, event: Option<&Event>, now: Moment) {
        let is_ending = self.ending.is_some();
        if let Some(agent) = self.agents.get_mut(number as usize) {
            agent.resume(&mut self.world, event, now, is_ending);
            if let Some(wake) = agent.wake() {
                self.wheel.arm(number, wake);
            }
        }
    }

    fn resume_all(&mut self, now: Moment) {
        for number in 0..self.world.setting.chaos.connections {
            self.resume(number, None, now);
        }
    }
}

/// Rounds up to whole milliseconds, the unit of the poll: a timeout rounded down would wake too
/// early, again and again.
fn round_up(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// The end of a life without a fault; each has a counter of this name in [`Counts`].
#[derive(Clone, Copy, Debug)]
enum Ending {
    AsPlanned,
    ClosedByServer,
    ResetByServer,
    TurnedAway,
    NotMade,
    Unfinished,
}

/// The outcomes of all lives of one conduct.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// The conduct of these connections.
    pub conduct: Conduct,
    /// Connections, including those that were not made.
    pub lives: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Reply lines received.
    pub lines: u64,
    /// Lives that ended as in their script.
    pub as_planned: u64,
    /// Lives in which the server ended the stream first.
    pub closed_by_server: u64,
    /// Lives in which the server, or the network, reset the connection.
    pub reset_by_server: u64,
    /// Lives that the server, at a limit of its connections, refused with a busy line.
    pub turned_away: u64,
    /// Lives without a connection, for any reason.
    pub not_made: u64,
    /// Lives that were cut off at the end of the run.
    pub unfinished: u64,
    /// Lives in which the server violated the protocol; these are errors of the run.
    pub wronged: u64,
}

/// The counts of all conducts, and the faults of the server.
#[derive(Debug, Default)]
pub(super) struct Totals {
    counts: BTreeMap<Conduct, Counts>,
    pub(super) faults: Faults,
}

impl Totals {
    fn of(&mut self, conduct: Conduct) -> &mut Counts {
        self.counts.entry(conduct).or_insert(Counts {
            conduct,
            ..Counts::default()
        })
    }

    /// Returns the counts of all conducts that occurred.
    pub(super) fn counts(&self) -> Vec<Counts> {
        self.counts.values().copied().collect()
    }
}

impl Counts {
    fn end(&mut self, ending: Ending) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_never_cut_off_to_less() {
        assert_eq!(round_up(Duration::from_nanos(1)), Duration::from_millis(1));
        assert_eq!(round_up(Duration::ZERO), Duration::ZERO);
    }
}
