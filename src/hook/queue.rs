//! Whose event is next.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::Event;

/// Who an agent is: two of them are one if name or address is the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    text: Arc<str>,
    named: bool,
}

impl Agent {
    pub(super) fn of(event: &Event<'_>) -> Self {
        Self {
            text: Arc::from(&*event.agent),
            named: event.named,
        }
    }
}

/// As log lines have it: a name comes from the wire and is escaped.
impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.named {
            true => write!(f, "{:?}", self.text),
            false => write!(f, "{}", self.text),
        }
    }
}

/// An event that waits for its command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) agent: Agent,
    pub(super) online: bool,
    /// What the command gets to read.
    pub(super) line: Vec<u8>,
}

/// Events, agent by agent. Each agent has one command at a time, so that its
/// events do not overtake each other; agents take turns.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Agents with events that wait and no command that runs.
    ready: VecDeque<Agent>,
    /// The events of each agent that is ready or has a command.
    events: HashMap<Agent, VecDeque<Job>>,
}

impl Queue {
    pub(super) fn push(&mut self, job: Job) {
        match self.events.entry(job.agent.clone()) {
            Entry::Occupied(entry) => entry.into_mut().push_back(job),
            Entry::Vacant(entry) => {
                self.ready.push_back(job.agent.clone());
                entry.insert(VecDeque::from([job]));
            }
        }
    }

    /// The next event whose command may start. Its agent has no other before
    /// [`done`](Self::done).
    pub(super) fn next(&mut self) -> Option<Job> {
        let agent = self.ready.pop_front()?;
        self.events.get_mut(&agent)?.pop_front()
    }

    /// The agent's command has ended.
    pub(super) fn done(&mut self, agent: Agent) {
        if let Entry::Occupied(entry) = self.events.entry(agent) {
            if entry.get().is_empty() {
                entry.remove();
            } else {
                self.ready.push_back(entry.key().clone());
            }
        }
    }

    /// Whether nothing waits and nothing runs.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::tests::event;

    fn job(agent: &str, number: u8) -> Job {
        Job {
            agent: Agent::of(&event(agent, "")),
            online: true,
            line: vec![number],
        }
    }

    #[test]
    fn an_agents_events_follow_one_another_and_others_go_on() {
        let mut queue = Queue::default();
        for job in [job("a", 1), job("a", 2), job("b", 3), job("a", 4)] {
            queue.push(job);
        }
        assert_eq!(queue.next(), Some(job("a", 1)));
        assert_eq!(queue.next(), Some(job("b", 3)));
        assert_eq!(queue.next(), None, "a's first has not ended");
        queue.push(job("b", 5));
        queue.done(job("a", 1).agent);
        queue.done(job("b", 3).agent);
        assert_eq!(queue.next(), Some(job("a", 2)));
        assert_eq!(queue.next(), Some(job("b", 5)));
        queue.done(job("b", 5).agent);
        queue.done(job("a", 2).agent);
        assert_eq!(queue.next(), Some(job("a", 4)));
        assert!(!queue.is_empty(), "one runs");
        queue.done(job("a", 4).agent);
        assert!(queue.is_empty() && queue.next().is_none());
    }

    #[test]
    fn a_name_that_is_written_like_an_address_is_another_agent() {
        let name = event("10.0.0.7", "");
        let address = Event {
            named: false,
            ..name.clone()
        };
        assert_ne!(Agent::of(&name), Agent::of(&address));
        assert_eq!(Agent::of(&name).to_string(), "\"10.0.0.7\"");
        assert_eq!(Agent::of(&address).to_string(), "10.0.0.7");
    }
}
