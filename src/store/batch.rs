//! A batch: the rows that one transaction writes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::retention::ESTABLISHED_HOURS;
use hawk_time::UnixNanos;

/// Maximum number of reports in a batch: their commit takes some 20 ms, of which the sync is a
/// small share.
const MAX_REPORTS: usize = 16 * 1024;

/// Bytes of text at which a batch is full: 64 of the longest reports, which bounds the memory of
/// all batches to some 25 MiB.
const MAX_TEXT: usize = 4 << 20;

/// Maximum number of agents in a batch.
const MAX_AGENTS: usize = 16 * 1024;

/// Maximum number of events in a batch.
const MAX_EVENTS: usize = 1024;

/// Maximum number of new agents, and of removals, in a batch. Names are in no order: each of
/// these changes another page of the index of names, which takes 8 KiB of the log, and some
/// 100 us if there are many names. So a commit takes some 30 ms, however many agents are new.
const MAX_PLACES: usize = 128;

/// Bytes of text up to which discarded batches are kept.
const MAX_UNWRITTEN_TEXT: usize = 32 << 20;

/// Reports, agents, events and removals that are committed together or not at all.
///
/// A batch is filled, committed, emptied and filled again, with the same memory.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) number: u64,
    pub(super) is_committed: bool,
    pub(super) reports: Vec<BatchReport>,
    pub(super) runs: Vec<Run>,
    pub(super) agents: Vec<BatchAgent>,
    pub(super) events: Vec<BatchEvent>,
    pub(super) removals: Vec<Removal>,
    /// Number of agents in it with one packet so far: most of them are new.
    new_agents: usize,
    /// A health check waits for its commit.
    pub(super) is_probed: bool,
    /// With this batch and those before, all agents of the roster are in the file; the time by
    /// the server's clock, and the number of the rewrite.
    pub(super) complete_at: Option<(UnixNanos, u64)>,
    text: String,
}

/// The index of an agent in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentIndex(pub u32);

/// The columns of an agent, with texts of type `T`.
#[derive(Clone, Copy, Debug)]
pub struct AgentRecord<T> {
    /// Its name; `None` if it sends none.
    pub name: Option<T>,
    /// The address of its last packet.
    pub address: IpAddr,
    /// The version in its last heartbeat.
    pub version: T,
    /// Time of its first packet.
    pub first_seen: UnixNanos,
    /// Time of its last packet.
    pub last_seen: UnixNanos,
    /// Whether it is online.
    pub online: bool,
    /// Time of the last change of `online`.
    pub changed_at: UnixNanos,
    /// Learnt interval of its heartbeats in nanoseconds; 0 if unknown.
    pub interval: i64,
    /// Number of different hours with a packet, counted up to 3; `None` if not counted.
    pub hours: Option<u32>,
    /// The hour of its last packet, counted from 1970; 0 if unknown.
    pub last_hour: i64,
    /// Whether its silence is judged.
    pub watched: bool,
    /// Learnt interval of its reports in nanoseconds; 0 if unknown.
    pub report_interval: i64,
    /// Time at which two machines were last found to use its name, in nanoseconds since 1970;
    /// 0 if never.
    pub cloned_at: i64,
}

/// A change of an agent's state, with the agent's columns at that time: its row may be removed
/// before the event is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRecord<T> {
    /// The agent's name; `None` if it sends none.
    pub name: Option<T>,
    /// The address of the agent's last packet.
    pub address: IpAddr,
    /// The version in the agent's last heartbeat.
    pub version: T,
    /// Time of the agent's last packet.
    pub last_seen: UnixNanos,
    /// Time of the change.
    pub at: UnixNanos,
    /// Whether the new state is online.
    pub online: bool,
    /// Whether the agent is established: it sent packets in enough different hours.
    pub established: bool,
}

/// The columns of a report.
#[derive(Clone, Copy, Debug)]
pub struct ReportRecord<'a> {
    /// Time of its arrival.
    pub received_at: UnixNanos,
    /// The agent's text.
    pub content: &'a str,
    /// The agent's random number.
    pub rand: i64,
    /// The agent's clock, in seconds since 1970.
    pub timestamp: i64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchReport {
    pub(super) received_at: i64,
    pub(super) rand: i64,
    pub(super) timestamp: i64,
    content: Text,
}

/// Consecutive reports of one agent over one connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) agent: AgentIndex,
    pub(super) peer: SocketAddr,
    pub(super) length: u32,
    /// Sequence number of the agent's last report in this batch before the run; 0 if there is
    /// none, or the reports have no numbers yet.
    pub(super) previous: i64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchAgent {
    /// The caller's number of the agent; see [`Batch::add_agent`].
    pub(super) reference: u64,
    /// The number of its row; 0 before the row is written.
    pub(super) id: i64,
    /// Sequence number of its last report before this batch once the row is written; 0 if
    /// unknown.
    pub(super) last_report: i64,
    pub(super) record: AgentRecord<Text>,
    /// Heartbeats and reports since its row was last written.
    pub(super) heartbeats: u32,
    pub(super) reports: u32,
    /// A later batch has an event of the last change of its state.
    has_later_events: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct BatchEvent {
    /// Its agent in this batch; `None` if the agent has no row.
    pub(super) agent: Option<AgentIndex>,
    reference: u64,
    pub(super) record: EventRecord<Text>,
}

/// The removal of an agent's row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    /// Number of agents of this batch that are written before.
    pub(super) after: AgentIndex,
    reference: u64,
    pub(super) name: Option<Text>,
    pub(super) address: IpAddr,
}

/// A range of the batch's text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Text {
    start: u32,
    end: u32,
}

impl Batch {
    /// Returns its number; later batches have greater numbers.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// Whether a completed batch is on disk. If not, no part of it is.
    #[must_use]
    pub const fn is_committed(&self) -> bool {
        self.is_committed
    }

    /// Whether it has reached one of its bounds.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.reports.len() >= MAX_REPORTS
            || self.text.len() >= MAX_TEXT
            || self.agents.len() >= MAX_AGENTS
            || self.events.len() >= MAX_EVENTS
            || self.new_agents >= MAX_PLACES
            || self.removals.len() >= MAX_PLACES
    }

    /// Whether it has no rows to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let no_rows = self.agents.is_empty() && self.events.is_empty();
        no_rows && self.removals.is_empty() && !self.is_probed && self.complete_at.is_none()
    }

    /// Whether it must be committed now: it is full, or has reports, events or a health check.
    /// Columns of agents alone can wait.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        let is_awaited = self.is_probed || self.complete_at.is_some();
        let has_waiting = !self.reports.is_empty() || is_awaited;
        has_waiting || !self.events.is_empty() || self.is_full()
    }

    /// Makes the writer commit the batch even if it has no rows, with a write that changes
    /// nothing.
    pub const fn probe(&mut self) {
        self.is_probed = true;
    }

    /// Declares that with this batch and those before, the [rewrite](super::BatchProducer::take_rewrite)
    /// of this number is complete. The writer marks other agents that are online in the file
    /// offline, with an event at `wall`.
    pub const fn complete_agents(&mut self, wall: UnixNanos, rewrite: u64) {
        self.complete_at = Some((wall, rewrite));
    }

    /// Adds an agent, which the caller identifies by `reference`.
    ///
    /// The lower half of the reference is the agent's place in the caller's list, counted from
    /// 1; the upper half distinguishes successive agents at this place. The writer remembers
    /// the agent's row by the place.
    pub fn add_agent(&mut self, reference: u64, agent: &AgentRecord<&str>) -> AgentIndex {
        let index = AgentIndex(offset(self.agents.len()));
        let name = agent.name.map(|name| self.write(name));
        let version = self.write(agent.version);
        self.new_agents += usize::from(agent.first_seen == agent.last_seen);
        self.agents.push(BatchAgent {
            reference,
            id: 0,
            last_report: 0,
            record: agent.with_texts(name, version),
            heartbeats: 0,
            reports: 0,
            has_later_events: false,
        });
        index
    }

    /// Replaces the columns of an agent, but for its name.
    pub fn update_agent(&mut self, index: AgentIndex, agent: &AgentRecord<&str>) {
        let before = self.agents[index.get()].record;
        let version = match self.read(before.version) == agent.version {
            true => before.version,
            false => self.write(agent.version),
        };
        let record = &mut self.agents[index.get()].record;
        *record = AgentRecord {
            first_seen: before.first_seen,
            ..agent.with_texts(before.name, version)
        };
    }

    /// Adds to an agent's number of heartbeats.
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

    /// Sets whether a later batch has an event of the last change of the agent's state.
    pub fn set_later_events(&mut self, index: AgentIndex, has_later_events: bool) {
        self.agents[index.get()].has_later_events = has_later_events;
    }

    /// Adds an event of the agent with this reference, and the index, which is `None` if the caller has
    /// removed it.
    pub fn add_event(
        &mut self,
        reference: u64,
        index: Option<AgentIndex>,
        event: &EventRecord<&str>,
    ) {
        let agent = index.map(|index| self.agents[index.get()].record);
        let name = event
            .name
            .map(|name| match agent.and_then(|agent| agent.name) {
                Some(text) if self.read(text) == name => text,
                _ => self.write(name),
            });
        let version = match agent {
            Some(agent) if self.read(agent.version) == event.version => agent.version,
            _ => self.write(event.version),
        };
        self.events.push(BatchEvent {
            agent: index,
            reference,
            record: event.with_texts(name, version),
        });
    }

    /// Removes the row of an agent with this name, or without a name at this address. Earlier
    /// changes of the batch are written first; the agent's reports and events stay.
    pub fn remove_agent(&mut self, reference: u64, name: Option<&str>, address: IpAddr) {
        let name = name.map(|name| self.write(name));
        self.removals.push(Removal {
            after: AgentIndex(offset(self.agents.len())),
            reference,
            name,
            address,
        });
    }

    /// Returns the reference and the number of heartbeats of each agent in it.
    pub fn agents(&self) -> impl Iterator<Item = (u64, u32)> {
        let rows = self.agents.iter();
        rows.map(|row| (row.reference, row.heartbeats))
    }

    /// Takes over the agents, events and removals of a discarded batch, at most `most` of each
    /// and [`MAX_UNWRITTEN_TEXT`] of their text. Returns how many events, and how many agents
    /// and removals, it leaves out. Reports were answered `busy` and are not taken over.
    /// `rows` has the index of each agent by its reference.
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
                match self.removals.len() < most && self.has_unwritten_room() {
                    true => self.remove_agent(removal.reference, name, removal.address),
                    false => lost_changes += 1,
                }
            }
            let Some(row) = discarded.agents.get(at) else {
                break;
            };
            let agent = row.record;
            let agent = agent.with_texts(
                agent.name.map(|name| discarded.read(name)),
                discarded.read(agent.version),
            );
            let index = match rows.get(&row.reference) {
                Some(&index) if self.has_unwritten_room() => {
                    self.update_agent(index, &agent);
                    index
                }
                None if self.has_unwritten_room() && self.agents.len() < most => {
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
            self.set_later_events(index, row.has_later_events);
        }
        for event in &discarded.events {
            if self.events.len() >= most || !self.has_unwritten_room() {
                lost_events += 1;
                continue;
            }
            let record = event.record.with_texts(
                event.record.name.map(|name| discarded.read(name)),
                discarded.read(event.record.version),
            );
            let index = rows.get(&event.reference).copied();
            self.add_event(event.reference, index, &record);
        }
        (lost_events, lost_changes)
    }

    const fn has_unwritten_room(&self) -> bool {
        self.text.len() < MAX_UNWRITTEN_TEXT
    }

    /// Returns the event of the last change of the state of each of these agents, except of agents
    /// with an event in this batch or a later one.
    pub(super) fn missing_events(&self, agents: &[usize]) -> Vec<BatchEvent> {
        if agents.is_empty() {
            return Vec::new();
        }
        let events = self.events.iter().filter_map(|event| event.agent);
        let have_events: HashSet<usize> = events.map(AgentIndex::get).collect();
        let lack_events = agents
            .iter()
            .filter(|at| !have_events.contains(at) && !self.agents[**at].has_later_events);
        lack_events.map(|at| self.last_change(*at)).collect()
    }

    fn last_change(&self, at: usize) -> BatchEvent {
        let row = &self.agents[at];
        let record = &row.record;
        BatchEvent {
            agent: Some(AgentIndex(offset(at))),
            reference: row.reference,
            record: EventRecord {
                name: record.name,
                address: record.address,
                version: record.version,
                last_seen: record.last_seen,
                at: record.changed_at,
                online: record.online,
                established: record.hours >= Some(ESTABLISHED_HOURS),
            },
        }
    }

    /// Sets the sequence number of each agent's last report, and of the report before each
    /// run, given the number of the first report.
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
        self.is_committed = false;
        self.reports.clear();
        self.runs.clear();
        self.agents.clear();
        self.events.clear();
        self.removals.clear();
        self.new_agents = 0;
        self.is_probed = false;
        self.complete_at = None;
        self.text.clear();
    }

    pub(super) fn read(&self, text: Text) -> &str {
        &self.text[text.start as usize..text.end as usize]
    }

    pub(super) fn content(&self, report: &BatchReport) -> &str {
        self.read(report.content)
    }

    fn write(&mut self, text: &str) -> Text {
        let start = self.text.len();
        self.text.push_str(text);
        Text {
            start: offset(start),
            end: offset(self.text.len()),
        }
    }
}

impl<T> AgentRecord<T> {
    const fn with_texts<U: Copy>(&self, name: Option<U>, version: U) -> AgentRecord<U> {
        AgentRecord {
            name,
            address: self.address,
            version,
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            online: self.online,
            changed_at: self.changed_at,
            interval: self.interval,
            hours: self.hours,
            last_hour: self.last_hour,
            watched: self.watched,
            report_interval: self.report_interval,
            cloned_at: self.cloned_at,
        }
    }
}

impl<T> EventRecord<T> {
    const fn with_texts<U: Copy>(&self, name: Option<U>, version: U) -> EventRecord<U> {
        EventRecord {
            name,
            address: self.address,
            version,
            last_seen: self.last_seen,
            at: self.at,
            online: self.online,
            established: self.established,
        }
    }
}

impl AgentIndex {
    pub(super) const fn get(self) -> usize {
        self.0 as usize
    }
}

/// Converts an offset in a batch. The bounds of a batch are far below 4 GiB.
#[expect(clippy::cast_possible_truncation, reason = "see above")]
fn offset(at: usize) -> u32 {
    debug_assert!(u32::try_from(at).is_ok(), "a batch is bounded");
    at as u32
}

#[cfg(test)]
impl AgentRecord<&'static str> {
    /// Returns an agent that came online at `at`.
    pub(crate) fn sample(name: Option<&'static str>, at: UnixNanos) -> Self {
        Self {
            name,
            address: [10, 0, 0, 7].into(),
            version: "1.0",
            first_seen: at,
            last_seen: at,
            online: true,
            changed_at: at,
            interval: 0,
            hours: Some(1),
            last_hour: 0,
            watched: true,
            report_interval: 0,
            cloned_at: 0,
        }
    }
}

#[cfg(test)]
impl EventRecord<&'static str> {
    /// Returns a change of the state of the agent `web-01`.
    pub(super) fn sample(online: bool) -> Self {
        Self {
            name: Some("web-01"),
            address: [10, 0, 0, 7].into(),
            version: "1.0",
            last_seen: UnixNanos::from_nanos(2),
            at: UnixNanos::from_nanos(3),
            online,
            established: false,
        }
    }
}

#[cfg(test)]
impl ReportRecord<'static> {
    /// Returns an empty report.
    pub(super) fn sample(received_at: UnixNanos) -> Self {
        Self {
            received_at,
            content: "",
            rand: 0,
            timestamp: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(version: &str) -> AgentRecord<&str> {
        AgentRecord {
            version,
            ..AgentRecord::sample(Some("web-01"), UnixNanos::from_nanos(7))
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
    fn consecutive_reports_of_one_peer_are_one_run() {
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
    fn an_agent_has_one_row_that_is_updated() {
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
        assert_eq!(batch.read(batch.agents[0].record.version), "2.0");
        assert_eq!(batch.agents().collect::<Vec<_>>(), [(7, 0)]);
    }

    #[test]
    fn taking_over_discarded_batches_is_bounded_in_rows_and_text() {
        let event = EventRecord::sample(false);
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
        // One agent with another version in each batch.
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
