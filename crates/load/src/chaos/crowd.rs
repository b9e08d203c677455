//! The event loop of all chaotic agents.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};

use super::Totals;
use super::agent::{Agent, World};
use super::{Chaos, Setting};
use crate::tally::Fault;
use hawk_time::Moment;

/// Token of the waker; agents have their number.
pub(super) const WAKER: Token = Token(usize::MAX);

/// Events taken from the system at once.
const EVENTS: usize = 1024;

/// After the stop, the agents have this many times the patience of one connection to end:
/// the server may be slow before and after the agent's last bytes.
const STOP: u32 = 2;

/// Runs the agents until each of them has ended.
pub(super) fn run(mut poll: Poll, setting: &Setting, stop: &AtomicBool) -> Totals {
    let mut totals = Totals::default();
    let mut crowd = Crowd::new(setting, Moment::now());
    let mut events = Events::with_capacity(EVENTS);
    while !crowd.is_done() {
        if let Err(error) = poll.poll(&mut events, crowd.timeout(Moment::now()))
            && error.kind() != io::ErrorKind::Interrupted
        {
            let cause = format!("chaos could not wait for events: {error}");
            totals.faults.add(Fault::Connection, &cause, 1);
            break;
        }
        let mut world = World {
            setting,
            registry: poll.registry(),
            totals: &mut totals,
        };
        crowd.turn(&mut world, &events, stop);
    }
    totals
}

#[derive(Debug)]
struct Crowd {
    agents: Vec<Agent>,
    alarms: Alarms,
    /// The deadline of the agents' end; `None` before the stop.
    ending: Option<Moment>,
}

impl Crowd {
    /// All agents, about to begin their first life.
    fn new(setting: &Setting, now: Moment) -> Self {
        let Chaos { connections, seed } = setting.chaos;
        let agents = (0..connections).map(|number| Agent::new(number, seed, now));
        let mut crowd = Self {
            agents: agents.collect(),
            alarms: Alarms::default(),
            ending: None,
        };
        crowd.wake_all(now);
        crowd
    }

    fn is_done(&self) -> bool {
        self.agents.iter().all(Agent::is_done)
    }

    fn timeout(&self, now: Moment) -> Option<Duration> {
        let next = self.alarms.next().into_iter().chain(self.ending).min();
        next.map(|moment| round_up(moment.since(now)))
    }

    fn turn(&mut self, world: &mut World<'_>, events: &Events, stop: &AtomicBool) {
        let now = Moment::now();
        for event in events {
            self.resume(world, event.token().0, Some(event), now);
        }
        while let Some(number) = self.alarms.ring(now) {
            self.resume(world, number, None, now);
        }
        if self.ending.is_none() && stop.load(Ordering::Acquire) {
            self.ending = Some(now.after(world.setting.patience * STOP));
            self.wake_all(now);
        }
        if self.ending.is_some_and(|ending| now >= ending) {
            for agent in &mut self.agents {
                agent.end_now(world, now);
            }
        }
    }

    fn resume(&mut self, world: &mut World<'_>, number: usize, event: Option<&Event>, now: Moment) {
        // The waker's number is no agent's.
        if let Some(agent) = self.agents.get_mut(number) {
            agent.resume(world, event, now, self.ending.is_some());
            self.alarms.set(number, agent.wake());
        }
    }

    fn wake_all(&mut self, now: Moment) {
        for number in 0..self.agents.len() {
            self.alarms.set(number, Some(now));
        }
    }
}

/// Rounds up to the milliseconds of a poll: a poll with a rounded-down timeout would return
/// before the deadline, repeatedly.
fn round_up(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// When to resume each agent without an event.
///
/// A later deadline leaves the alarm unchanged: it rings early, and is set again. So frequent
/// changes cost nothing here.
#[derive(Debug, Default)]
struct Alarms {
    queue: BinaryHeap<Reverse<(Moment, usize)>>,
    /// The alarm of each agent; its other entries in the queue are void.
    set: Vec<Option<Moment>>,
}

impl Alarms {
    /// Sets this agent's alarm to `moment` or before.
    fn set(&mut self, number: usize, moment: Option<Moment>) {
        if self.set.len() <= number {
            self.set.resize(number + 1, None);
        }
        let Some(moment) = moment else { return };
        let set = &mut self.set[number];
        if set.is_none_or(|set| moment < set) {
            *set = Some(moment);
            self.queue.push(Reverse((moment, number)));
        }
    }

    /// When the next may ring.
    fn next(&self) -> Option<Moment> {
        self.queue.peek().map(|Reverse((moment, _))| *moment)
    }

    /// An agent that is to be looked at by `now`; it has no alarm from here on.
    fn ring(&mut self, now: Moment) -> Option<usize> {
        while self.next().is_some_and(|moment| moment <= now) {
            let Reverse((moment, number)) = self.queue.pop()?;
            let set = &mut self.set[number];
            if *set == Some(moment) {
                *set = None;
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_rings_once_for_the_nearest_moment_it_was_set_to() {
        let at = Moment::from_nanos;
        let mut alarms = Alarms::default();
        alarms.set(1, Some(at(50)));
        alarms.set(0, Some(at(30)));
        alarms.set(1, Some(at(20)));
        alarms.set(1, Some(at(40)));
        alarms.set(2, None);
        assert_eq!(alarms.next(), Some(at(20)));
        assert_eq!(alarms.ring(at(19)), None);
        assert_eq!(alarms.ring(at(20)), Some(1));
        let rest: Vec<_> = std::iter::from_fn(|| alarms.ring(at(99))).collect();
        assert_eq!(rest, [0]);
        alarms.set(1, Some(at(99)));
        assert_eq!(alarms.ring(at(99)), Some(1));
    }

    #[test]
    fn a_wait_is_never_cut_off_to_less() {
        assert_eq!(round_up(Duration::from_nanos(1)), Duration::from_millis(1));
        assert_eq!(round_up(Duration::ZERO), Duration::ZERO);
    }
}
