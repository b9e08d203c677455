use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::handler::KeeperState;
use crate::reactor::{ConnectionState, MovedId, MovedStanding};
use crate::roster::AgentState;
use crate::session::{Bucket, Clocks, SessionState, StopReason, Tag, Tally};
use crate::stats::{Cause, Counters};
use crate::store;
use crate::time::{Moment, UnixNanos};
use crate::wire::{DecoderState, Refusal, Reply};

/// Every released format, as it was written then: read for ever.
const GOLDEN: &[(u16, &[u8])] = &[(1, include_bytes!("../../tests/golden/snapshot-1"))];

fn at(nanos: u64) -> Moment {
    Moment::from_nanos(nanos)
}

/// A session that has something of everything.
fn busy_session() -> SessionState {
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
            intervals: [2000, 1999],
        },
        bucket: Bucket::from_full_at(at(1_700_000_000)),
        buffered: b"\xff\xff\x00\x20\x01{".to_vec(),
        unsent: b"Report data has recive\n".to_vec(),
        frames: 12_345,
    }
}

/// One that was accepted just now.
fn new_session() -> SessionState {
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
            intervals: [0; 2],
        },
        bucket: Bucket::default(),
        buffered: Vec::new(),
        unsent: Vec::new(),
        frames: 0,
    }
}

fn open(session: SessionState) -> ConnectionState {
    ConnectionState {
        session,
        standing: MovedStanding::Open,
        unheard: false,
        undecoded: false,
    }
}

/// One that is known by its address, and has sent no heartbeat.
fn quiet_agent() -> AgentState {
    AgentState {
        name: None,
        address: "192.0.2.7".parse().unwrap(),
        version: String::new(),
        first_seen: UnixNanos::from_nanos(-1),
        last_seen: UnixNanos::from_nanos(1),
        online: false,
        changed_at: UnixNanos::from_nanos(2),
        id: None,
        uncounted: 0,
        sessions: 0,
        heard_at: at(3),
        last_heartbeat: None,
        intervals: [0; 2],
    }
}

fn counts() -> Record {
    let mut counters = Counters {
        accepted: 1,
        accept_errors: 2,
        bytes_in: 3,
        bytes_out: 4,
        reads: 5,
        held: 6,
        rate_limited: 7,
        output_limited: 8,
        writes: 9,
        ..Counters::default()
    };
    for (times, cause) in Cause::ALL.into_iter().enumerate() {
        (0..times).for_each(|_| counters.closed(cause));
    }
    let mut tally = Tally {
        junk_bytes: 10,
        candidates_dropped: 11,
        ..Tally::default()
    };
    tally.answered(Reply::Heartbeat);
    tally.answered(Reply::Report);
    for (times, refusal) in Refusal::ALL.into_iter().enumerate() {
        (0..times).for_each(|_| tally.answered(Reply::Error(refusal)));
    }
    Record::Counts { counters, tally }
}

/// One of each kind, and of some several. What golden files hold: never changed, only
/// added to, together with a new format.
fn samples() -> Vec<Record> {
    vec![
        Record::Opened {
            id: MovedId(0),
            state: open(new_session()),
        },
        Record::Opened {
            id: MovedId(u64::MAX),
            state: ConnectionState {
                standing: MovedStanding::Closing {
                    cause: Cause::OutputTimeout,
                    until: at(9_000_000_000),
                },
                unheard: true,
                undecoded: true,
                ..open(busy_session())
            },
        },
        Record::Changed {
            id: MovedId(3),
            state: open(busy_session()),
        },
        Record::Closed { id: MovedId(4) },
        Record::Agent {
            slot: 0,
            state: quiet_agent(),
        },
        Record::Agent {
            slot: 7,
            state: AgentState {
                name: Some("web-01".to_owned()),
                version: "1.0".to_owned(),
                online: true,
                id: Some(-5),
                uncounted: 3,
                sessions: 2,
                last_heartbeat: Some(at(4)),
                intervals: [2000, 1999],
                ..quiet_agent()
            },
        },
        Record::Forgotten { slot: 8 },
        Record::Keeper(KeeperState {
            last_stamp: Some(UnixNanos::from_nanos(1_475_249_220_000_000_007)),
            amnesty: at(30_000_000_000),
            held_since: Some(at(31_000_000_000)),
            store: store::Counters {
                commits: 1,
                reports: 2,
                failed: 3,
                discarded: 4,
                expired: 5,
                bytes: 6,
                wal_bytes: 7,
            },
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

fn written(records: &[Record]) -> Vec<u8> {
    let mut writer = Writer::new(FORMATS.newest());
    for record in records {
        writer.push(record);
    }
    writer.finish().to_vec()
}

fn read(bytes: &[u8]) -> Result<Vec<Record>, Damage> {
    Reader::new(bytes)?.collect()
}

/// Puts a right header in front of bytes that are to be records.
fn sealed(records: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(FORMATS.newest());
    writer.bytes.extend_from_slice(records);
    writer.count = u32::try_from(Fields(records).count()).unwrap();
    writer.finish().to_vec()
}

#[test]
fn what_is_written_is_read() {
    let records = samples();
    assert_eq!(read(&written(&records)), Ok(records));
    assert_eq!(read(&written(&[])), Ok(Vec::new()));
}

/// What a released build wrote is read by every later one that has not given the format
/// up, and this build writes its own as it always has. Where it does not exist yet,
/// `HAWK_WRITE_GOLDEN=1` writes it.
#[test]
fn released_formats_are_read_for_ever() {
    let newest = FORMATS.newest();
    if std::env::var_os("HAWK_WRITE_GOLDEN").is_some() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
        std::fs::write(format!("{folder}/snapshot-{newest}"), written(&samples())).unwrap();
        return;
    }
    for (format, golden) in GOLDEN {
        if FORMATS.contain(*format) {
            assert_eq!(read(golden).as_deref(), Ok(&samples()[..]), "{format}");
        }
    }
    if let Some((_, golden)) = GOLDEN.iter().find(|(format, _)| *format == newest) {
        assert_eq!(written(&samples()), *golden);
    }
}

#[test]
fn each_changed_byte_is_noticed() {
    let whole = written(&samples());
    for at in 0..whole.len() {
        for change in [0x01, 0x80, 0xFF] {
            let mut damaged = whole.clone();
            damaged[at] ^= change;
            read(&damaged).unwrap_err();
        }
    }
}

#[test]
fn each_missing_byte_and_each_byte_more_is_noticed() {
    let whole = written(&samples());
    for length in 0..whole.len() {
        read(&whole[..length]).unwrap_err();
    }
    let mut more = whole;
    more.push(0);
    assert!(matches!(read(&more), Err(Damage::Length { .. })));
}

/// With a checksum that is right all the same, as a faulty build would write it: what is
/// let through is something that could have been written.
#[test]
fn changed_records_are_refused_or_make_sense() {
    let whole = written(&samples());
    let records = &whole[HEADER..];
    let (mut refused, mut other) = (0, 0);
    for at in 0..records.len() {
        for change in [0x01, 0x80, 0xFF] {
            let mut damaged = records.to_vec();
            damaged[at] ^= change;
            match read(&sealed(&damaged)) {
                Ok(records) => {
                    assert_eq!(read(&written(&records)), Ok(records));
                    other += 1;
                }
                Err(_) => refused += 1,
            }
        }
        drop(read(&sealed(&records[..at])));
    }
    assert!(refused > 100 && other > 100, "{refused} {other}");
}

#[test]
fn a_header_of_another_kind_is_said_to_be_one() {
    let refused = |at: usize, bytes: &[u8]| {
        let mut damaged = written(&samples());
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        read(&damaged).unwrap_err()
    };
    assert_eq!(refused(0, b"SQLite f"), Damage::NoSnapshot);
    assert_eq!(refused(10, &[1]), Damage::NoSnapshot);
    let later = FORMATS.newest() + 1;
    let damage = refused(8, &later.to_le_bytes());
    assert_eq!(damage, Damage::Format(later));
    assert_eq!(
        damage.to_string(),
        format!("it is of format {later}, and this build reads formats {FORMATS}")
    );
    assert!(matches!(refused(16, &[0xFF; 8]), Damage::Length { .. }));
    assert_eq!(refused(24, &[0; 4]), Damage::Checksum);
    assert_eq!(read(b"HAWK"), Err(Damage::NoSnapshot));
}

#[test]
fn a_count_that_is_wrong_is_noticed_at_the_end() {
    let mut writer = Writer::new(FORMATS.newest());
    writer.push(&Record::Closed { id: MovedId(1) });
    writer.count = 2;
    let mut reader = Reader::new(writer.finish()).unwrap();
    assert_eq!(reader.next(), Some(Ok(Record::Closed { id: MovedId(1) })));
    let damage = Damage::Count { told: 2, found: 1 };
    assert_eq!(reader.next(), Some(Err(damage)));
    assert_eq!(reader.next(), None);
}

#[test]
fn what_a_later_build_adds_is_skipped_or_refused_as_it_says() {
    let closed = |tag: u8| {
        let mut out = Vec::new();
        fields::put_with(&mut out, 0x83, |out| {
            fields::put(out, 0x81, &7_u64);
            fields::put(out, tag, &8_u64);
        });
        read(&sealed(&out))
    };
    assert_eq!(closed(0x02), Ok(vec![Record::Closed { id: MovedId(7) }]));
    let unknown = Damage::UnknownField {
        of: "Gone",
        tag: 0x82,
    };
    assert_eq!(closed(0x82), Err(unknown));
    let twice = Damage::Twice {
        of: "Gone",
        field: "id",
    };
    assert_eq!(closed(0x81), Err(twice));

    let record = |kind: u8| {
        let mut out = Vec::new();
        fields::put(&mut out, kind, &7_u64);
        fields::put_with(&mut out, 0x83, |out| fields::put(out, 0x81, &7_u64));
        read(&sealed(&out))
    };
    assert_eq!(record(0x70), Ok(vec![Record::Closed { id: MovedId(7) }]));
    assert_eq!(record(0xF0), Err(Damage::UnknownRecord(0xF0)));
}

#[test]
fn what_must_be_there_is_missed() {
    let mut out = Vec::new();
    fields::put_with(&mut out, 0x83, |_| {});
    let missing = Damage::Missing {
        of: "Gone",
        field: "id",
    };
    assert_eq!(read(&sealed(&out)), Err(missing));
    assert_eq!(missing.to_string(), "its Gone has no id");
}

/// A decoder that believes to have seen more than there is would pass over frames.
#[test]
fn a_session_that_cannot_be_is_refused() {
    let cannot = |change: fn(&mut SessionState)| {
        let mut state = busy_session();
        change(&mut state);
        let (id, state) = (MovedId(1), open(state));
        read(&written(&[Record::Changed { id, state }])).unwrap_err()
    };
    let of = "SessionState";
    let field = "decoder";
    let damage = cannot(|state| state.decoder.clean = 7);
    assert_eq!(damage, Damage::Field { of, field });
    assert_eq!(
        damage.to_string(),
        "the decoder of its SessionState makes no sense"
    );
    let field = "agent";
    let names: [fn(&mut SessionState); 3] = [
        |state| state.agent = Some(String::new()),
        |state| state.agent = Some("two\nlines".to_owned()),
        |state| state.agent = Some("x".repeat(129)),
    ];
    for change in names {
        assert_eq!(cannot(change), Damage::Field { of, field });
    }
}

#[test]
fn an_agent_that_cannot_be_is_refused() {
    let cannot = |change: fn(&mut AgentState)| {
        let mut state = quiet_agent();
        change(&mut state);
        read(&written(&[Record::Agent { slot: 1, state }])).unwrap_err()
    };
    let of = "AgentState";
    let field = "name";
    let damage = cannot(|state| state.name = Some(String::new()));
    assert_eq!(damage, Damage::Field { of, field });
    let field = "version";
    let damage = cannot(|state| state.version = "1".repeat(129));
    assert_eq!(damage, Damage::Field { of, field });
}

#[test]
fn counts_of_causes_that_are_not_known_are_left_out() {
    let mut out = Vec::new();
    fields::put_with(&mut out, 0x86, |out| {
        fields::put_with(out, 0x81, |out| {
            fields::put_with(out, 0x8A, |out| {
                for (count, name) in [(5_u64, "struck_by_lightning"), (6, "idle_timeout")] {
                    fields::put_with(out, 0x01, |out| {
                        out.extend_from_slice(&count.to_le_bytes());
                        out.extend_from_slice(name.as_bytes());
                    });
                }
            });
        });
        fields::put_with(out, 0x82, |_| {});
    });
    let records = read(&sealed(&out)).unwrap();
    let [Record::Counts { counters, .. }] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(counters.closed_by(Cause::IdleTimeout), 6);
    assert_eq!(counters.closings().map(|(_, count)| count).sum::<u64>(), 6);
}

#[test]
fn a_writer_is_used_again() {
    let mut writer = Writer::new(FORMATS.newest());
    samples().iter().for_each(|record| writer.push(record));
    assert_eq!(writer.count() as usize, samples().len());
    writer.clear();
    assert!(writer.is_empty() && writer.len() == HEADER);
    writer.push(&Record::Closed { id: MovedId(5) });
    assert_eq!(
        read(writer.finish()),
        Ok(vec![Record::Closed { id: MovedId(5) }])
    );
    // And goes on from where it was finished.
    writer.push(&Record::Closed { id: MovedId(6) });
    assert_eq!(read(writer.finish()).unwrap().len(), 2);
}

/// The state of an ordinary agent's connection is small.
#[test]
fn a_connection_takes_few_bytes() {
    let state = SessionState {
        agent: Some("web-01".to_owned()),
        frames: 5,
        clocks: Clocks {
            last_heartbeat: Some(at(5)),
            intervals: [2000; 2],
            ..new_session().clocks
        },
        ..new_session()
    };
    let bytes = written(&[Record::Opened {
        id: MovedId(1),
        state: open(state),
    }]);
    assert!(bytes.len() - HEADER <= 200, "{}", bytes.len());
}

fn moment() -> impl Strategy<Value = Moment> {
    (1..u64::MAX).prop_map(at)
}

fn peer() -> impl Strategy<Value = SocketAddr> {
    any::<SocketAddr>()
}

prop_compose! {
    fn clocks()(
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
        intervals in any::<[u32; 2]>(),
    ) -> Clocks {
        Clocks { last_passed, begun, stopped, last_heartbeat, intervals }
    }
}

prop_compose! {
    fn session()(
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

fn id() -> impl Strategy<Value = MovedId> {
    any::<u64>().prop_map(MovedId)
}

fn standing() -> impl Strategy<Value = MovedStanding> {
    let ending = || (prop::sample::select(Cause::ALL.to_vec()), moment());
    prop_oneof![
        Just(MovedStanding::Open),
        Just(MovedStanding::Finishing),
        ending().prop_map(|(cause, until)| MovedStanding::Closing { cause, until }),
        ending().prop_map(|(cause, until)| MovedStanding::Lingering { cause, until }),
    ]
}

prop_compose! {
    fn connection()(
        session in session(),
        standing in standing(),
        [unheard, undecoded] in any::<[bool; 2]>(),
    ) -> ConnectionState {
        ConnectionState { session, standing, unheard, undecoded }
    }
}

prop_compose! {
    fn agent()(
        name in prop::option::of("[^\\pC]{1,30}"),
        address in any::<IpAddr>(),
        version in ".{0,30}",
        [first_seen, last_seen, changed_at] in any::<[i64; 3]>(),
        online in any::<bool>(),
        id in any::<Option<i64>>(),
        [uncounted, sessions] in any::<[u32; 2]>(),
        heard_at in moment(),
        last_heartbeat in prop::option::of(moment()),
        intervals in any::<[u32; 2]>(),
    ) -> AgentState {
        AgentState {
            name,
            address,
            version,
            first_seen: UnixNanos::from_nanos(first_seen),
            last_seen: UnixNanos::from_nanos(last_seen),
            online,
            changed_at: UnixNanos::from_nanos(changed_at),
            id,
            uncounted,
            sessions,
            heard_at,
            last_heartbeat,
            intervals,
        }
    }
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        (id(), connection()).prop_map(|(id, state)| Record::Opened { id, state }),
        (id(), connection()).prop_map(|(id, state)| Record::Changed { id, state }),
        id().prop_map(|id| Record::Closed { id }),
        (any::<u32>(), agent()).prop_map(|(slot, state)| Record::Agent { slot, state }),
        any::<u32>().prop_map(|slot| Record::Forgotten { slot }),
        (any::<[u64; 10]>(), any::<[u64; 6]>()).prop_map(|(closed, numbers)| {
            let mut counters = Counters {
                accepted: numbers[0],
                reads: numbers[1],
                ..Counters::default()
            };
            counters.closed.0 = closed;
            let mut tally = Tally {
                heartbeats: numbers[2],
                busy: numbers[3],
                ..Tally::default()
            };
            tally.refusals.0 = closed;
            Record::Counts { counters, tally }
        }),
    ]
}

proptest! {
    #[test]
    fn any_state_is_read_as_it_was_written(records in prop::collection::vec(record(), 0..8)) {
        prop_assert_eq!(read(&written(&records)), Ok(records));
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(read(&bytes));
        drop(read(&sealed(&bytes)));
    }

    /// A length that is claimed is not believed before it is there.
    #[test]
    fn claimed_lengths_bring_no_memory(
        kind in prop::sample::select((0x81..=0x88_u8).collect::<Vec<_>>()),
        claimed in 100..u32::MAX,
        bytes in prop::collection::vec(any::<u8>(), 0..90),
    ) {
        let mut out = vec![kind];
        out.extend_from_slice(&claimed.to_le_bytes());
        out.extend_from_slice(&bytes);
        prop_assert_eq!(read(&sealed(&out)), Err(Damage::CutShort));
    }
}
