//! What golden files hold, and what tests begin with.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::{Agent, ClosedConnection, Connection, Counts, Freeze, Record, RemovedAgent};
use crate::handler::HandlerState;
use crate::reactor::{ConnectionPhase, ConnectionState, MovedId};
use crate::roster::{self, AgentState, PresenceState};
use crate::session::{Bucket, Clocks, SessionState, StopReason, Tag};
use crate::stats::{Cause, ReactorCounters, SessionCounters, StoreCounters};
use hawk_time::{Moment, UnixNanos};
use hawk_wire::{DecoderState, Refusal, Reply};

pub(super) fn at(nanos: u64) -> Moment {
    Moment::from_nanos(nanos)
}

/// A session that has something of everything.
pub(super) fn busy_session() -> SessionState {
    SessionState {
        peer: "[2001:db8::7%3]:50000".parse().unwrap(),
        agent: Some("web-01".to_owned()),
        tag: NonZeroU32::new(8).map(Tag),
        decoder: DecoderState {
            clean: 6,
            junk: 77,
            boundary: Some(2),
        },
        clocks: Clocks {
            last_passed: at(1_000_000_000),
            begun: Some(at(1_500_000_000)),
            stopped: Some((StopReason::Output, at(1_600_000_000))),
            last_heartbeat: Some(at(900_000_000)),
            last_report: None,
            intervals: [2000, 1999],
        },
        bucket: Bucket::from_full_at(at(1_700_000_000)),
        buffered: b"\xff\xff\x00\x20\x01{".to_vec(),
        unsent: b"Report data has recive\n".to_vec(),
        frames: 12_345,
    }
}

/// One that was accepted just now.
pub(super) fn new_session() -> SessionState {
    SessionState {
        peer: "192.0.2.7:40000".parse().unwrap(),
        agent: None,
        tag: None,
        decoder: DecoderState::default(),
        clocks: Clocks {
            last_passed: at(1),
            begun: None,
            stopped: None,
            last_heartbeat: None,
            last_report: None,
            intervals: [0; 2],
        },
        bucket: Bucket::default(),
        buffered: Vec::new(),
        unsent: Vec::new(),
        frames: 0,
    }
}

pub(super) fn open(session: SessionState) -> ConnectionState {
    ConnectionState {
        session,
        phase: ConnectionPhase::Open,
        write_failed: false,
        undecoded: false,
    }
}

/// One that is known by its address, and has sent no heartbeat.
pub(super) fn quiet_agent() -> AgentState {
    AgentState {
        name: None,
        address: "192.0.2.7".parse().unwrap(),
        version: String::new(),
        first_seen: UnixNanos::from_nanos(-1),
        last_seen: UnixNanos::from_nanos(1),
        online: false,
        changed_at: UnixNanos::from_nanos(2),
        sessions: 0,
        seen_at: at(3),
        last_heartbeat: None,
        intervals: [0; 2],
        hours: 0,
        last_hour: 0,
        presence: PresenceState::default(),
    }
}

pub(super) fn counts() -> Record {
    let mut counters = ReactorCounters {
        accepted: 1,
        accept_errors: 2,
        bytes_in: 3,
        bytes_out: 4,
        reads: 5,
        held: 6,
        rate_limited: 7,
        output_limited: 8,
        writes: 9,
        ..ReactorCounters::default()
    };
    for (times, cause) in Cause::ALL.into_iter().enumerate() {
        (0..times).for_each(|_| counters.closed(cause));
    }
    let mut tally = SessionCounters {
        junk_bytes: 10,
        candidates_dropped: 11,
        ..SessionCounters::default()
    };
    tally.answered(Reply::Heartbeat);
    tally.answered(Reply::Report);
    for (times, refusal) in Refusal::ALL.into_iter().enumerate() {
        (0..times).for_each(|_| tally.answered(Reply::Error(refusal)));
    }
    Record::Counts(Counts { counters, tally })
}

/// One of each kind, and of some several. What golden files hold: never changed, only
/// added to, together with a new format.
pub(super) fn samples() -> Vec<Record> {
    vec![
        Record::Opened(Connection {
            id: MovedId(0),
            state: open(new_session()),
        }),
        Record::Opened(Connection {
            id: MovedId(u64::MAX),
            state: ConnectionState {
                phase: ConnectionPhase::Closing {
                    cause: Cause::OutputTimeout,
                    until: at(9_000_000_000),
                },
                write_failed: true,
                undecoded: true,
                ..open(busy_session())
            },
        }),
        Record::Changed(Connection {
            id: MovedId(3),
            state: open(busy_session()),
        }),
        Record::Closed(ClosedConnection { id: MovedId(4) }),
        Record::Agent(Agent {
            slot: 0,
            state: quiet_agent(),
        }),
        Record::Agent(Agent {
            slot: 7,
            state: AgentState {
                name: Some("web-01".to_owned()),
                version: "1.0".to_owned(),
                online: true,
                sessions: 2,
                last_heartbeat: Some(at(4)),
                intervals: [2000, 1999],
                ..quiet_agent()
            },
        }),
        Record::AgentRemoved(RemovedAgent { slot: 8 }),
        Record::Handler(HandlerState {
            amnesty: at(30_000_000_000),
            held_since: Some(at(31_000_000_000)),
            stood_still_ms: 0,
            store: StoreCounters {
                commits: 1,
                reports: 2,
                failed: 3,
                discarded: 4,
                expired: 5,
                bytes: 6,
                wal_bytes: 7,
                ..StoreCounters::default()
            },
            agents: roster::Counters::default(),
            open_files: None,
        }),
        counts(),
        Record::Freeze(Freeze {
            begun: at(5_000_000_000),
            generation: 2,
            precopy: Duration::from_millis(80),
            quiesce: Duration::from_millis(7),
            bytes: 123_456,
        }),
    ]
}
