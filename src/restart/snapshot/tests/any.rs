//! Any state there could be.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;

use proptest::prelude::*;

use super::super::{Agent, ClosedConnection, Connection, Counts, Record, RemovedAgent};
use super::samples::at;
use crate::reactor::{ConnectionPhase, ConnectionState, MovedId};
use crate::roster::{AgentState, JudgedBy, PresenceState};
use crate::session::{Bucket, Clocks, SessionState, StopReason, Tag};
use crate::stats::{Cause, ReactorCounters, SessionCounters};
use hawk_time::{Moment, UnixNanos};
use hawk_wire::DecoderState;

pub(super) fn moment() -> impl Strategy<Value = Moment> {
    (1..u64::MAX).prop_map(at)
}

pub(super) fn peer() -> impl Strategy<Value = SocketAddr> {
    any::<SocketAddr>()
}

prop_compose! {
    pub(super) fn clocks()(
        last_passed in moment(),
        begun in prop::option::of(moment()),
        stopped in prop::option::of((
            prop::sample::select(vec![
                StopReason::Buffer,
                StopReason::Store,
                StopReason::Rate,
                StopReason::Output,
            ]),
            moment(),
        )),
        last_heartbeat in prop::option::of(moment()),
        last_report in prop::option::of(moment()),
        intervals in any::<[u32; 2]>(),
    ) -> Clocks {
        Clocks { last_passed, begun, stopped, last_heartbeat, last_report, intervals }
    }
}

prop_compose! {
    pub(super) fn session()(
        peer in peer(),
        agent in prop::option::of("[^\\pC]{1,30}"),
        tag in any::<Option<NonZeroU32>>(),
        buffered in prop::collection::vec(any::<u8>(), 0..300),
        clean in any::<prop::sample::Index>(),
        junk in any::<u32>(),
        boundary in any::<Option<u32>>(),
        clocks in clocks(),
        full_at in prop::option::of(moment()),
        unsent in prop::collection::vec(any::<u8>(), 0..300),
        frames in any::<u32>(),
    ) -> SessionState {
        let clean = u32::try_from(clean.index(buffered.len() + 1)).unwrap();
        SessionState {
            peer,
            agent,
            tag: tag.map(Tag),
            decoder: DecoderState { clean, junk, boundary },
            clocks,
            bucket: full_at.map(Bucket::from_full_at).unwrap_or_default(),
            buffered,
            unsent,
            frames,
        }
    }
}

pub(super) fn id() -> impl Strategy<Value = MovedId> {
    any::<u64>().prop_map(MovedId)
}

pub(super) fn phase() -> impl Strategy<Value = ConnectionPhase> {
    let ending = || (prop::sample::select(Cause::ALL.to_vec()), moment());
    prop_oneof![
        Just(ConnectionPhase::Open),
        Just(ConnectionPhase::Finishing),
        ending().prop_map(|(cause, until)| ConnectionPhase::Closing { cause, until }),
        ending().prop_map(|(cause, until)| ConnectionPhase::Lingering { cause, until }),
    ]
}

prop_compose! {
    pub(super) fn connection()(
        session in session(),
        phase in phase(),
        [write_failed, undecoded] in any::<[bool; 2]>(),
    ) -> ConnectionState {
        ConnectionState { session, phase, write_failed, undecoded }
    }
}

prop_compose! {
    pub(super) fn agent()(
        name in prop::option::of("[^\\pC]{1,30}"),
        address in any::<IpAddr>(),
        version in ".{0,30}",
        [first_seen, last_seen, changed_at] in any::<[i64; 3]>(),
        online in any::<bool>(),
        sessions in any::<u32>(),
        seen_at in moment(),
        last_heartbeat in prop::option::of(moment()),
        intervals in any::<[u32; 2]>(),
        hours in any::<u32>(),
        last_hour in any::<i64>(),
        presence in presence(),
    ) -> AgentState {
        AgentState {
            name,
            address,
            version,
            first_seen: UnixNanos::from_nanos(first_seen),
            last_seen: UnixNanos::from_nanos(last_seen),
            online,
            changed_at: UnixNanos::from_nanos(changed_at),
            sessions,
            seen_at,
            last_heartbeat,
            intervals,
            hours,
            last_hour,
            presence,
        }
    }
}

prop_compose! {
    fn presence()(
        [absence, paused, report_interval, alike] in any::<[u32; 4]>(),
        came_at in prop::option::of(moment()),
        judged_by in prop::sample::select(vec![
            JudgedBy::Heartbeats,
            JudgedBy::Reports,
            JudgedBy::FormerReports,
            JudgedBy::Nothing,
        ]),
        paused_since in prop::option::of(moment()),
        last_report in prop::option::of(moment()),
        alike_since in prop::option::of(moment()),
        alike_range in any::<[u32; 2]>(),
        cloned_at in prop::option::of(any::<i64>().prop_map(UnixNanos::from_nanos)),
    ) -> PresenceState {
        PresenceState {
            absence,
            came_at,
            judged_by,
            paused,
            paused_since,
            last_report,
            report_interval,
            alike,
            alike_since,
            alike_range,
            cloned_at,
        }
    }
}

pub(super) fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (id(), connection()).prop_map(|(id, state)| Record::Opened(Connection { id, state })),
        (id(), connection()).prop_map(|(id, state)| Record::Changed(Connection { id, state })),
        id().prop_map(|id| Record::Closed(ClosedConnection { id })),
        (any::<u32>(), agent()).prop_map(|(slot, state)| Record::Agent(Agent { slot, state })),
        any::<u32>().prop_map(|slot| Record::AgentRemoved(RemovedAgent { slot })),
        (any::<[u64; 10]>(), any::<[u64; 6]>()).prop_map(|(closed, numbers)| {
            let mut counters = ReactorCounters {
                accepted: numbers[0],
                reads: numbers[1],
                ..ReactorCounters::default()
            };
            counters.closed.0 = closed;
            let mut tally = SessionCounters {
                heartbeats: numbers[2],
                busy: numbers[3],
                ..SessionCounters::default()
            };
            tally.refusals.0 = closed;
            Record::Counts(Counts { counters, tally })
        }),
    ]
}
