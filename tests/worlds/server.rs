//! The server's process, as far as these worlds have it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use hawk::handler::{Ack, Config, PacketHandler};
use hawk::roster;
use hawk::session::{Answer, CommitId, Fate, Handler as _, Sender};
use hawk::stats::{ServerStatistics, Statistics};
use hawk::store::{FreeSpace, InlineWriter, OpenError, Retention, Store};
use hawk_testkit::worlds::Dice;
use hawk_time::{Clock, ManualClock, Moment, UnixNanos};
use hawk_wire::{AgentName, Busy, Heartbeat, Packet, Reply, Report};

use super::agents::Link;
use super::files::Files;
use super::ledger::{Ledger, Pending};
use super::plan::Plan;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was taken, or the report was refused because the store is down.
    Heard,
    /// The server takes nothing just now.
    Paused,
    /// There is no place for its agent.
    NoPlace,
}

/// What an agent has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Heartbeat,
    Report,
    Probe,
}

/// Counts of reports.
#[derive(Default)]
pub struct Reports {
    /// Acknowledged after their commit.
    pub kept: u64,
    /// Refused with `busy`.
    pub refused: u64,
    /// In a batch that was discarded.
    pub discarded: u64,
}

pub struct Server {
    pub clock: Arc<ManualClock>,
    pub keeper: Option<PacketHandler>,
    pub ledger: Ledger,
    pub files: Files,
    pub dice: Dice,
    /// Bytes of a report's content, at most.
    content: usize,
    /// Reports since the last audit, by what became of them.
    pub reports: Reports,
}

impl Server {
    pub fn new(plan: &Plan, dice: Dice) -> Self {
        let now = Moment::from_nanos(1_000_000_000_000);
        let wall = UnixNanos::from_nanos(1_790_000_000_000_000_000);
        Self {
            clock: Arc::new(ManualClock::new(now, wall)),
            keeper: None,
            ledger: Ledger::default(),
            files: Files::new(),
            dice,
            content: plan.content,
            reports: Reports::default(),
        }
    }

    pub fn now(&self) -> u64 {
        self.clock.now().as_nanos()
    }

    pub fn wall(&self) -> i64 {
        self.clock.wall().as_nanos()
    }

    /// Starts it; its writer is to be run.
    pub fn start(&mut self, plan: &Plan) -> Result<InlineWriter, OpenError> {
        let clock = Clock::Manual(Arc::clone(&self.clock));
        let config = Config {
            ack: Ack::Committed,
            roster: roster::Config {
                offline_after: plan.offline_after.map(Duration::from_nanos),
                start_grace: Duration::from_nanos(plan.start_grace),
                capacity: plan.capacity,
            },
            remember: plan.age,
            log_packets: false,
        };
        let retention = Retention {
            age: plan.age,
            size: plan.size,
            free: FreeSpace::Bytes(0),
        };
        let mut store = Store::open(self.files.store())?;
        let mut keeper = PacketHandler::with_clock(config, clock.clone());
        store.agents(plan.capacity, |agent| keeper.remember(agent))?;
        let (producer, writer) = store.with_inline_writer(retention, clock);
        keeper.store_in(producer);
        self.keeper = Some(keeper);
        Ok(writer)
    }

    /// A turn begins: what has become of commits.
    pub fn begin_turn(&mut self) {
        let Some(keeper) = &mut self.keeper else {
            return;
        };
        keeper.begin_turn(self.clock.now());
        let live = self.files.live();
        while let Some(settled) = keeper.next_completed() {
            let CommitId(commit) = settled.commit;
            let kept = settled.fate == Fate::Kept;
            let count = self.ledger.settle(commit.get(), kept, live) as u64;
            match kept {
                true => self.reports.kept += count,
                false => self.reports.discarded += count,
            }
            // What is kept after it was renamed is in the new file.
            if kept && count > 0 {
                let last = self.ledger.kept.last().map(|report| report.files.0);
                self.files.unnoticed &= last != Some(live);
            }
        }
    }

    /// Returns its statistics, if it runs.
    pub fn statistics(&self) -> Option<Statistics> {
        let mut statistics = Statistics::new(self.clock.now(), ServerStatistics::default());
        self.keeper.as_ref()?.statistics(&mut statistics);
        Some(statistics)
    }

    /// Returns how many agents it knows.
    pub fn known(&self) -> usize {
        let agents = self.statistics().and_then(|statistics| statistics.agents);
        agents.map_or(0, |agents| agents.known)
    }

    pub fn end_turn(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.end_turn();
        }
    }

    /// A packet comes on this connection, from the agent that `owner` names.
    pub fn take(&mut self, link: &mut Link, name: Option<&str>, owner: &str, what: What) -> Sent {
        let Some(keeper) = self.keeper.as_mut().filter(|keeper| keeper.is_ready()) else {
            return Sent::Paused;
        };
        if let Some(name) = name
            && link.agent.as_deref() != Some(name)
        {
            link.agent = Some(keeper.name(name));
        }
        let agent = name.map(|name| AgentName::new(name.to_owned()).unwrap());
        let mut number = 0;
        let packet = match what {
            What::Heartbeat | What::Probe => Packet::Heartbeat(Heartbeat {
                version: Cow::Borrowed("1.0"),
                agent,
                probe: what == What::Probe,
                ..Heartbeat::default()
            }),
            What::Report => {
                number = self.ledger.next(self.clock.wall().as_nanos());
                let more = self.dice.below(self.content);
                let content = format!("{owner}|{number}|{}", "x".repeat(more));
                Packet::Report(Report {
                    content: Cow::Owned(content),
                    agent,
                    ..Report::default()
                })
            }
        };
        let gap = match what {
            What::Probe => None,
            _ => link.gap(what == What::Heartbeat, self.clock.now().as_nanos()),
        };
        let sender = Sender {
            peer: link.peer,
            agent: link.agent.as_ref(),
            gap,
        };
        match keeper.handle(sender, &mut link.tag, &packet) {
            Answer::Now(Reply::Busy(Busy::TooManyAgents)) => return Sent::NoPlace,
            Answer::Now(_) => self.reports.refused += u64::from(number > 0),
            Answer::AfterCommit(CommitId(commit)) => {
                let pending = Pending {
                    number,
                    file: self.files.live(),
                };
                let batch = self.ledger.pending.entry(commit.get()).or_default();
                batch.push(pending);
            }
        }
        Sent::Heard
    }

    /// A connection ends.
    pub fn close(&mut self, link: &mut Link) {
        if let (Some(keeper), Some(tag)) = (&mut self.keeper, link.tag.take()) {
            keeper.detach(tag);
        }
        link.agent = None;
    }
}
