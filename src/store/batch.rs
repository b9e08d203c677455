//! What is committed together.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::surplus::ESTABLISHED_HOURS;
use hawk_time::UnixNanos;

/// Reports of a batch, at most: a commit of so many takes some 20 ms, of which
/// the disk's own time, the part that waits on nobody, is a small share.
const MAX_REPORTS: usize = 16 * 1024;

/// Bytes of text in a batch, at most, but for the last report's: 64 of the
/// longest reports, which keeps what is in memory for the store at some 25 MiB.
const MAX_TEXT: usize = 4 << 20;

/// Agents of a batch, at most.
const MAX_AGENTS: usize = 16 * 1024;

/// Events of a batch, at most.
const MAX_EVENTS: usize = 1024;

/// New agents of a batch, and removals, each, at most. Names are in no order: each of these
/// changes a page of the index of names of its own, which takes 8 KiB of the log, and some
/// 100 us if there are many names. So a commit takes some 30 ms, however many agents come.
const MAX_PLACES: usize = 128;

/// Maximum bytes of text of all discarded batches together.
const MAX_UNWRITTEN_TEXT: usize = 32 << 20;

/// Reports, agents' rows, events and removals that are kept together or not at all.
///
/// A batch is filled, committed, emptied and filled again; its memory stays.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) number: u64,
    pub(super) kept: bool,
    pub(super) reports: Vec<BatchReport>,
    pub(super) runs: Vec<Run>,
    pub(super) agents: Vec<BatchAgent>,
    pub(super) events: Vec<BatchEvent>,
    pub(super) removals: Vec<Removal>,
    /// Agents in it that were heard once: most of them are new.
    new_agents: usize,
    /// A health check waits for its commit.
    pub(super) is_probed: bool,
    text: String,
}

/// Where an agent's row stands in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentIndex(pub u32);

/// What is known of an agent.
#[derive(Clone, Copy, Debug)]
pub struct AgentRecord<'a> {
    /// The name it gave itself.
    pub name: Option<&'a str>,
    /// The address it was last heard from.
    pub address: IpAddr,
    /// The version in its last heartbeat.
    pub version: &'a str,
    /// When it was first heard.
    pub first_seen: UnixNanos,
    /// When it was last heard.
    pub last_seen: UnixNanos,
    /// Whether it is online.
    pub online: bool,
    /// Since when it is online or offline.
    pub changed_at: UnixNanos,
    /// Nanoseconds between its heartbeats, as learnt from them; 0 if unknown.
    pub interval: i64,
    /// Different hours in which it was heard, counted up to 3; `None` if they were not
    /// counted.
    pub hours: Option<u32>,
    /// The hour in which it was last heard, counted from 1970; 0 if unknown.
    pub last_hour: i64,
    /// Whether it is judged by its silence.
    pub watched: bool,
    /// Nanoseconds between its reports, as learnt from them; 0 if unknown.
    pub report_interval: i64,
    /// When two machines were last found to speak under its name, in nanoseconds since 1970; 0 if
    /// never.
    pub cloned_at: i64,
}

/// A change of an agent's state, with what was known of the agent at that time: its
/// row may be removed before the event is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRecord<'a> {
    /// The name it gave itself.
    pub name: Option<&'a str>,
    /// The address it was last heard from.
    pub address: IpAddr,
    /// The version in its last heartbeat.
    pub version: &'a str,
    /// When it was last heard.
    pub last_seen: UnixNanos,
    /// When its state changed.
    pub at: UnixNanos,
    /// Whether it is online since then, or offline.
    pub online: bool,
    /// Whether it was heard in enough different hours to be established.
    pub established: bool,
}

/// A report as it is kept.
#[derive(Clone, Copy, Debug)]
pub struct ReportRecord<'a> {
    /// When it was received.
    pub received_at: UnixNanos,
    /// The agent's text.
    pub content: &'a str,
    /// The agent's random number.
    pub rand: i64,
    /// The agent's clock, in Unix seconds.
    pub timestamp: i64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchReport {
    pub(super) received_at: i64,
    pub(super) rand: i64,
    pub(super) timestamp: i64,
    content: Text,
}

/// Reports that stand together and come from one place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) agent: AgentIndex,
    pub(super) peer: SocketAddr,
    pub(super) length: u32,
    /// The sequence number of the agent's last report in this batch before the run, once
    /// that is known; 0 if there is none.
    pub(super) previous: i64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchAgent {
    /// The caller's number for it; see [`Batch::add_agent`].
    pub(super) reference: u64,
    /// The number of its row, once that is written.
    pub(super) id: i64,
    /// The sequence number of its last report once that is written; 0 if unknown.
    pub(super) last_report: i64,
    pub(super) name: Option<Text>,
    pub(super) version: Text,
    pub(super) address: IpAddr,
    pub(super) first_seen: i64,
    pub(super) last_seen: i64,
    pub(super) online: bool,
    pub(super) changed_at: i64,
    pub(super) interval: i64,
    pub(super) hours: Option<u32>,
    pub(super) last_hour: i64,
    pub(super) watched: bool,
    pub(super) report_interval: i64,
    pub(super) cloned_at: i64,
    /// Heartbeats and reports since the row was last written.
    pub(super) heartbeats: u32,
    pub(super) reports: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchEvent {
    /// Its agent's row in this batch, if it has one there.
    pub(super) agent: Option<AgentIndex>,
    reference: u64,
    pub(super) name: Option<Text>,
    pub(super) address: IpAddr,
    pub(super) version: Text,
    pub(super) last_seen: i64,
    pub(super) at: i64,
    pub(super) online: bool,
    pub(super) established: bool,
}

/// An agent whose row is removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    /// Agents' rows in this batch that are written before.
    pub(super) after: AgentIndex,
    reference: u64,
    pub(super) name: Option<Text>,
    pub(super) address: IpAddr,
}

/// A place in the batch's text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Text {
    start: u32,
    end: u32,
}

impl Batch {
    /// Its number; later batches have greater ones.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Once it has come back: whether all of it is on disk, or nothing.
    #[must_use]
    pub const fn is_committed(&self) -> bool {
        self.kept
    }

    /// Whether it has as much as a batch is to have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.reports.len() >= MAX_REPORTS
            || self.text.len() >= MAX_TEXT
            || self.agents.len() >= MAX_AGENTS
            || self.events.len() >= MAX_EVENTS
            || self.new_agents >= MAX_PLACES
            || self.removals.len() >= MAX_PLACES
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let no_rows = self.agents.is_empty() && self.events.is_empty();
        no_rows && self.removals.is_empty() && !self.is_probed
    }

    /// Whether somebody waits for it to be kept, or would miss it: it has more
    /// than what is known of agents, or as much of that as it can take.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        let is_waited_for = !self.reports.is_empty() || self.is_probed;
        is_waited_for || !self.events.is_empty() || self.is_full()
    }

    /// Makes the writer commit the batch even if it has no rows, with a write that changes
    /// nothing.
    pub const fn probe(&mut self) {
        self.is_probed = true;
    }

    /// Adds the row of an agent, which the caller knows by `reference`.
    ///
    /// Its lower half is the place of the agent in the caller's list, counted from 1;
    /// the upper half distinguishes successive agents at this place.
    /// So the writer finds the agent's row by its place.
    pub fn add_agent(&mut self, reference: u64, agent: &AgentRecord<'_>) -> AgentIndex {
        let index = AgentIndex(place(self.agents.len()));
        let row = BatchAgent {
            reference,
            id: 0,
            last_report: 0,
            name: agent.name.map(|name| self.write(name)),
            version: self.write(agent.version),
            address: agent.address,
            first_seen: agent.first_seen.as_nanos(),
            last_seen: agent.last_seen.as_nanos(),
            online: agent.online,
            changed_at: agent.changed_at.as_nanos(),
            interval: agent.interval,
            hours: agent.hours,
            last_hour: agent.last_hour,
            watched: agent.watched,
            report_interval: agent.report_interval,
            cloned_at: agent.cloned_at,
            heartbeats: 0,
            reports: 0,
        };
        self.new_agents += usize::from(agent.first_seen == agent.last_seen);
        self.agents.push(row);
        index
    }

    /// Brings an agent's row up to date.
    pub fn update_agent(&mut self, index: AgentIndex, agent: &AgentRecord<'_>) {
        let mut row = self.agents[index.get()];
        if self.read(row.version) != agent.version {
            row.version = self.write(agent.version);
        }
        row.address = agent.address;
        row.last_seen = agent.last_seen.as_nanos();
        row.online = agent.online;
        row.changed_at = agent.changed_at.as_nanos();
        row.interval = agent.interval;
        row.hours = agent.hours;
        row.last_hour = agent.last_hour;
        row.watched = agent.watched;
        row.report_interval = agent.report_interval;
        row.cloned_at = agent.cloned_at;
        self.agents[index.get()] = row;
    }

    /// Counts heartbeats of an agent.
    pub fn add_heartbeats(&mut self, index: AgentIndex, heartbeats: u32) {
        let row = &mut self.agents[index.get()];
        row.heartbeats = row.heartbeats.saturating_add(heartbeats);
    }

    /// Adds a report of an agent.
    pub fn add_report(&mut self, index: AgentIndex, peer: SocketAddr, report: &ReportRecord<'_>) {
        let content = self.write(report.content);
        self.reports.push(BatchReport {
            received_at: report.received_at.as_nanos(),
            rand: report.rand,
            timestamp: report.timestamp,
            content,
        });
        self.agents[index.get()].reports += 1;
        match self.runs.last_mut() {
            Some(run) if run.agent == index && run.peer == peer => run.length += 1,
            _ => self.runs.push(Run {
                agent: index,
                peer,
                length: 1,
                previous: 0,
            }),
        }
    }

    /// Adds an event of the agent that the caller knows by `reference`; `index` is that
    /// of its row in this batch. An agent that the caller has removed has none.
    pub fn add_event(
        &mut self,
        reference: u64,
        index: Option<AgentIndex>,
        event: &EventRecord<'_>,
    ) {
        let row = index.map(|index| self.agents[index.get()]);
        let name = event.name.map(|name| match row.and_then(|row| row.name) {
            Some(text) if self.read(text) == name => text,
            _ => self.write(name),
        });
        let version = match row {
            Some(row) if self.read(row.version) == event.version => row.version,
            _ => self.write(event.version),
        };
        self.events.push(BatchEvent {
            agent: index,
            reference,
            name,
            address: event.address,
            version,
            last_seen: event.last_seen.as_nanos(),
            at: event.at.as_nanos(),
            online: event.online,
            established: event.established,
        });
    }

    /// Removes the row of the agent that the caller knew by `reference`: the one with this
    /// name, or without a name at this address. It is removed after what the batch has
    /// of the agent already; its reports and events stay.
    pub fn remove_agent(&mut self, reference: u64, name: Option<&str>, address: IpAddr) {
        let name = name.map(|name| self.write(name));
        self.removals.push(Removal {
            after: AgentIndex(place(self.agents.len())),
            reference,
            name,
            address,
        });
    }

    /// The agents that have a row in it: the caller's reference, and the heartbeats
    /// that the batch counts.
    pub fn agents(&self) -> impl Iterator<Item = (u64, u32)> {
        let rows = self.agents.iter();
        rows.map(|row| (row.reference, row.heartbeats))
    }

    /// The events in it, in their order, each with the caller's reference for its agent.
    fn events(&self) -> impl Iterator<Item = (u64, EventRecord<'_>)> {
        self.events.iter().map(|event| {
            let shown = EventRecord {
                name: event.name.map(|name| self.read(name)),
                address: event.address,
                version: self.read(event.version),
                last_seen: UnixNanos::from_nanos(event.last_seen),
                at: UnixNanos::from_nanos(event.at),
                online: event.online,
                established: event.established,
            };
            (event.reference, shown)
        })
    }

    /// Takes over the agents, events and removals of a discarded batch, at most `most` of each
    /// and [`MAX_UNWRITTEN_TEXT`] of their text. Returns how many events, and how many agents and
    /// removals, it leaves out. Leaves out the reports, which were answered. `rows` has the
    /// indices of the agents' rows by their references.
    pub(super) fn take_over(
        &mut self,
        discarded: &Self,
        rows: &mut HashMap<u64, AgentIndex>,
        most: usize,
    ) -> (u64, u64) {
        let (mut lost_events, mut lost_changes) = (0, 0);
        let mut removals = discarded.removals.iter().peekable();
        for at in 0..=discarded.agents.len() {
            while let Some(removal) = removals.next_if(|removal| removal.after.get() <= at) {
                let name = removal.name.map(|name| discarded.read(name));
                rows.remove(&removal.reference);
                match self.removals.len() < most && self.text.len() < MAX_UNWRITTEN_TEXT {
                    true => self.remove_agent(removal.reference, name, removal.address),
                    false => lost_changes += 1,
                }
            }
            let Some(row) = discarded.agents.get(at) else {
                break;
            };
            let agent = row.agent(discarded);
            let has_text = self.text.len() < MAX_UNWRITTEN_TEXT;
            let index = match rows.get(&row.reference) {
                Some(&index) if has_text => {
                    self.update_agent(index, &agent);
                    index
                }
                None if has_text && self.agents.len() < most => {
                    let index = self.add_agent(row.reference, &agent);
                    rows.insert(row.reference, index);
                    index
                }
                _ => {
                    lost_changes += 1;
                    continue;
                }
            };
            self.add_heartbeats(index, row.heartbeats);
        }
        for (reference, event) in discarded.events() {
            if self.events.len() >= most || self.text.len() >= MAX_UNWRITTEN_TEXT {
                lost_events += 1;
                continue;
            }
            let index = rows.get(&reference).copied();
            self.add_event(reference, index, &event);
        }
        (lost_events, lost_changes)
    }

    /// Returns the event that made the state of the agent's row at this place, unless the batch
    /// has an event of that agent.
    pub(super) fn missing_event(&self, at: usize) -> Option<BatchEvent> {
        let (row, agent) = (&self.agents[at], AgentIndex(place(at)));
        let has_event = self.events.iter().any(|event| event.agent == Some(agent));
        (!has_event).then_some(BatchEvent {
            agent: Some(agent),
            reference: row.reference,
            name: row.name,
            address: row.address,
            version: row.version,
            last_seen: row.last_seen,
            at: row.changed_at,
            online: row.online,
            established: row.hours >= Some(ESTABLISHED_HOURS),
        })
    }

    /// Notes the sequence number of each agent's last report, given that of the first
    /// report, and before each run that of its agent's report before.
    pub(super) fn number_reports(&mut self, first: i64) {
        let mut next = first;
        for agent in &mut self.agents {
            agent.last_report = 0;
        }
        for run in &mut self.runs {
            let agent = &mut self.agents[run.agent.get()];
            run.previous = agent.last_report;
            next += i64::from(run.length);
            agent.last_report = next - 1;
        }
    }

    /// Empties it for the next use.
    pub(super) fn reset(&mut self, number: u64) {
        self.number = number;
        self.kept = false;
        self.reports.clear();
        self.runs.clear();
        self.agents.clear();
        self.events.clear();
        self.removals.clear();
        self.new_agents = 0;
        self.is_probed = false;
        self.text.clear();
    }

    pub(super) fn read(&self, text: Text) -> &str {
        &self.text[Range::from(text)]
    }

    pub(super) fn content(&self, report: &BatchReport) -> &str {
        self.read(report.content)
    }

    fn write(&mut self, text: &str) -> Text {
        let start = self.text.len();
        self.text.push_str(text);
        Text {
            start: place(start),
            end: place(self.text.len()),
        }
    }
}

impl BatchAgent {
    /// What is known of the agent, read from the batch that the row is in.
    fn agent<'b>(&self, batch: &'b Batch) -> AgentRecord<'b> {
        AgentRecord {
            name: self.name.map(|name| batch.read(name)),
            address: self.address,
            version: batch.read(self.version),
            first_seen: UnixNanos::from_nanos(self.first_seen),
            last_seen: UnixNanos::from_nanos(self.last_seen),
            online: self.online,
            changed_at: UnixNanos::from_nanos(self.changed_at),
            interval: self.interval,
            hours: self.hours,
            last_hour: self.last_hour,
            watched: self.watched,
            report_interval: self.report_interval,
            cloned_at: self.cloned_at,
        }
    }
}

impl AgentIndex {
    pub(super) const fn get(self) -> usize {
        self.0 as usize
    }
}

/// A place in a batch as it is stored: [`Batch::is_full`] says stop long before one
/// does not fit.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
fn place(at: usize) -> u32 {
    debug_assert!(u32::try_from(at).is_ok(), "a batch has its limits");
    at as u32
}

impl From<Text> for Range<usize> {
    fn from(text: Text) -> Self {
        text.start as usize..text.end as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(version: &str) -> AgentRecord<'_> {
        let now = UnixNanos::from_nanos(7);
        AgentRecord {
            name: Some("web-01"),
            address: [10, 0, 0, 7].into(),
            version,
            first_seen: now,
            last_seen: now,
            online: true,
            changed_at: now,
            interval: 0,
            hours: Some(1),
            last_hour: 0,
            watched: true,
            report_interval: 0,
            cloned_at: 0,
        }
    }

    fn report(content: &str) -> ReportRecord<'_> {
        ReportRecord {
            received_at: UnixNanos::from_nanos(8),
            content,
            rand: 1,
            timestamp: 2,
        }
    }

    #[test]
    fn reports_from_one_place_make_one_run() {
        let mut batch = Batch::default();
        let [here, there] = ["10.0.0.7:1", "10.0.0.7:2"].map(|peer| peer.parse().unwrap());
        let index = batch.add_agent(7, &agent("1.0"));
        for peer in [here, here, there, here] {
            batch.add_report(index, peer, &report("hello"));
        }
        let lengths: Vec<u32> = batch.runs.iter().map(|run| run.length).collect();
        assert_eq!(lengths, [2, 1, 1]);
        assert_eq!(batch.agents[0].reports, 4);
        assert_eq!(batch.content(&batch.reports[3]), "hello");
    }

    #[test]
    fn an_agent_has_one_row_that_keeps_up() {
        let mut batch = Batch::default();
        let index = batch.add_agent(7, &agent("1.0"));
        let text = batch.text.len();
        batch.update_agent(index, &agent("1.0"));
        assert_eq!(
            batch.text.len(),
            text,
            "the same version is not written twice"
        );
        batch.update_agent(index, &agent("2.0"));
        assert_eq!(batch.read(batch.agents[0].version), "2.0");
        assert_eq!(batch.agents().collect::<Vec<_>>(), [(7, 0)]);
    }

    #[test]
    fn taking_over_discarded_batches_is_bounded_in_rows_and_text() {
        let event = EventRecord {
            name: Some("web-01"),
            address: [10, 0, 0, 7].into(),
            version: "1.0",
            last_seen: UnixNanos::from_nanos(7),
            at: UnixNanos::from_nanos(8),
            online: false,
            established: false,
        };
        let (mut unwritten, mut rows) = (Batch::default(), HashMap::new());
        let mut lost = (0, 0);
        for reference in 0..10 {
            let mut discarded = Batch::default();
            let index = discarded.add_agent(reference, &agent("1.0"));
            discarded.add_event(reference, Some(index), &event);
            discarded.remove_agent(reference, event.name, event.address);
            let (events, changes) = unwritten.take_over(&discarded, &mut rows, 4);
            lost = (lost.0 + events, lost.1 + changes);
        }
        assert_eq!((unwritten.agents.len(), unwritten.removals.len()), (4, 4));
        assert_eq!((unwritten.events.len(), lost), (4, (6, 12)));
        // One agent whose version changes with each batch.
        let (mut unwritten, mut rows) = (Batch::default(), HashMap::new());
        let versions = ["x".repeat(1 << 20), "y".repeat(1 << 20)];
        for version in versions.iter().cycle().take(64) {
            let mut discarded = Batch::default();
            discarded.add_agent(1, &agent(version));
            unwritten.take_over(&discarded, &mut rows, 4);
        }
        assert!(unwritten.text.len() < MAX_UNWRITTEN_TEXT + (2 << 20));
    }

    #[test]
    fn it_is_full_by_any_of_its_limits() {
        let mut batch = Batch::default();
        let index = batch.add_agent(7, &agent("1.0"));
        let peer = "10.0.0.7:1".parse().unwrap();
        let long = "x".repeat(MAX_TEXT / 4);
        (0..3).for_each(|_| batch.add_report(index, peer, &report(&long)));
        assert!(!batch.is_full());
        batch.add_report(index, peer, &report(&long));
        assert!(batch.is_full());

        batch.reset(2);
        assert!(batch.is_empty() && !batch.is_full());
        let index = batch.add_agent(7, &agent("1.0"));
        (0..MAX_REPORTS).for_each(|_| batch.add_report(index, peer, &report("")));
        assert!(batch.is_full());
    }
}
