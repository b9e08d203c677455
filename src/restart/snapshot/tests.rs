//! Snapshots, written and read, whole and damaged.

mod any;
mod samples;

use proptest::prelude::*;

use self::any::record;
use self::samples::{at, busy_session, new_session, open, quiet_agent, samples};
use super::fields::Value as _;
use super::*;
use crate::reactor::MovedId;
use crate::roster::AgentState;
use crate::session::{Clocks, SessionState};
use crate::stats::Cause;

/// Every released format, as it was written then: read for ever. The last is what this
/// build writes.
const GOLDEN: &[(u16, &[u8])] = &[
    (1, include_bytes!("../../../tests/golden/snapshot-1")),
    // Without fields that are retired.
    (1, include_bytes!("../../../tests/golden/snapshot-1.1")),
];

fn written(records: &[Record]) -> Vec<u8> {
    let mut writer = Writer::new(FORMATS.newest());
    for record in records {
        writer.push(record);
    }
    writer.finish().to_vec()
}

fn read(bytes: &[u8]) -> Result<Vec<Record>, DecodeError> {
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
fn a_snapshot_is_read_as_written() {
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
        std::fs::write(format!("{folder}/snapshot-{newest}.1"), written(&samples())).unwrap();
        return;
    }
    for (format, golden) in GOLDEN {
        if FORMATS.contain(*format) {
            assert_eq!(read(golden).as_deref(), Ok(&samples()[..]), "{format}");
        }
    }
    if let Some((_, golden)) = GOLDEN.iter().rfind(|(format, _)| *format == newest) {
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
    assert!(matches!(read(&more), Err(DecodeError::Length { .. })));
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
    assert_eq!(refused(0, b"SQLite f"), DecodeError::Magic);
    assert_eq!(refused(10, &[1]), DecodeError::Magic);
    let later = FORMATS.newest() + 1;
    let damage = refused(8, &later.to_le_bytes());
    assert_eq!(damage, DecodeError::Format(later));
    assert_eq!(
        damage.to_string(),
        format!("it is of format {later}, and this build reads formats {FORMATS}")
    );
    assert!(matches!(
        refused(16, &[0xFF; 8]),
        DecodeError::Length { .. }
    ));
    assert_eq!(refused(24, &[0; 4]), DecodeError::Checksum);
    assert_eq!(read(b"HAWK"), Err(DecodeError::Magic));
}

#[test]
fn a_count_that_is_wrong_is_noticed_at_the_end() {
    let mut writer = Writer::new(FORMATS.newest());
    writer.push(&Record::Closed(ClosedConnection { id: MovedId(1) }));
    writer.count = 2;
    let mut reader = Reader::new(writer.finish()).unwrap();
    assert_eq!(
        reader.next(),
        Some(Ok(Record::Closed(ClosedConnection { id: MovedId(1) })))
    );
    let damage = DecodeError::Count {
        claimed: 2,
        found: 1,
    };
    assert_eq!(reader.next(), Some(Err(damage)));
    assert_eq!(reader.next(), None);
}

#[test]
fn fields_of_a_later_build_are_skipped_or_refused_by_their_tags() {
    let closed = |tag: u8| {
        let mut out = Vec::new();
        fields::put_with(&mut out, 0x83, |out| {
            fields::put(out, 0x81, &7_u64);
            fields::put(out, tag, &8_u64);
        });
        read(&sealed(&out))
    };
    assert_eq!(
        closed(0x02),
        Ok(vec![Record::Closed(ClosedConnection { id: MovedId(7) })])
    );
    let unknown = DecodeError::UnknownField {
        of: "ClosedConnection",
        tag: 0x82,
    };
    assert_eq!(closed(0x82), Err(unknown));
    let twice = DecodeError::Twice {
        of: "ClosedConnection",
        field: "id",
    };
    assert_eq!(closed(0x81), Err(twice));

    let record = |kind: u8| {
        let mut out = Vec::new();
        fields::put(&mut out, kind, &7_u64);
        fields::put_with(&mut out, 0x83, |out| fields::put(out, 0x81, &7_u64));
        read(&sealed(&out))
    };
    assert_eq!(
        record(0x70),
        Ok(vec![Record::Closed(ClosedConnection { id: MovedId(7) })])
    );
    assert_eq!(record(0xF0), Err(DecodeError::UnknownRecord(0xF0)));
}

#[test]
fn a_missing_required_field_is_refused() {
    let mut out = Vec::new();
    fields::put_with(&mut out, 0x83, |_| {});
    let missing = DecodeError::Missing {
        of: "ClosedConnection",
        field: "id",
    };
    assert_eq!(read(&sealed(&out)), Err(missing));
    assert_eq!(missing.to_string(), "its ClosedConnection has no id");
}

/// A decoder that believes to have seen more than there is would pass over frames.
#[test]
fn a_session_that_cannot_be_is_refused() {
    let cannot = |change: fn(&mut SessionState)| {
        let mut state = busy_session();
        change(&mut state);
        let (id, state) = (MovedId(1), open(state));
        read(&written(&[Record::Changed(Connection { id, state })])).unwrap_err()
    };
    let of = "SessionState";
    let field = "decoder";
    let damage = cannot(|state| state.decoder.clean = 7);
    assert_eq!(damage, DecodeError::Field { of, field });
    assert_eq!(
        damage.to_string(),
        "the decoder of its SessionState is invalid"
    );
    let field = "agent";
    let names: [fn(&mut SessionState); 3] = [
        |state| state.agent = Some(String::new()),
        |state| state.agent = Some("two\nlines".to_owned()),
        |state| state.agent = Some("x".repeat(129)),
    ];
    for change in names {
        assert_eq!(cannot(change), DecodeError::Field { of, field });
    }
}

#[test]
fn an_agent_that_cannot_be_is_refused() {
    let cannot = |change: fn(&mut AgentState)| {
        let mut state = quiet_agent();
        change(&mut state);
        read(&written(&[Record::Agent(Agent { slot: 1, state })])).unwrap_err()
    };
    let of = "AgentState";
    let field = "name";
    let damage = cannot(|state| state.name = Some(String::new()));
    assert_eq!(damage, DecodeError::Field { of, field });
    let field = "version";
    let damage = cannot(|state| state.version = "1".repeat(129));
    assert_eq!(damage, DecodeError::Field { of, field });
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
    let [Record::Counts(Counts { counters, .. })] = &records[..] else {
        panic!("{records:?}");
    };
    assert_eq!(counters.closed_by(Cause::IdleTimeout), 6);
    assert_eq!(counters.closings().map(|(_, count)| count).sum::<u64>(), 6);
}

#[test]
fn a_writer_is_used_again() {
    let mut writer = Writer::new(FORMATS.newest());
    samples().iter().for_each(|record| writer.push(record));
    assert_eq!(writer.count as usize, samples().len());
    writer.clear();
    assert!(writer.is_empty() && writer.bytes.len() == HEADER);
    writer.push(&Record::Closed(ClosedConnection { id: MovedId(5) }));
    assert_eq!(
        read(writer.finish()),
        Ok(vec![Record::Closed(ClosedConnection { id: MovedId(5) })])
    );
    // The writer continues after `finish`.
    writer.push(&Record::Closed(ClosedConnection { id: MovedId(6) }));
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
    let bytes = written(&[Record::Opened(Connection {
        id: MovedId(1),
        state: open(state),
    })]);
    assert!(bytes.len() - HEADER <= 200, "{}", bytes.len());
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
        prop_assert_eq!(read(&sealed(&out)), Err(DecodeError::CutShort));
    }
}

#[test]
fn two_builds_agree_on_the_newest_that_both_understand() {
    let agreed = |one: (u16, u16), other: (u16, u16)| {
        let [one, other] = [one, other].map(|(oldest, newest)| Versions::new(oldest, newest));
        assert_eq!(one.common(other), other.common(one));
        one.common(other)
    };
    assert_eq!(agreed((1, 1), (1, 1)), Some(1));
    assert_eq!(agreed((1, 3), (2, 5)), Some(3));
    assert_eq!(agreed((1, 9), (2, 5)), Some(5));
    assert_eq!(agreed((1, 2), (3, 5)), None);
}

#[test]
fn a_text_says_one_version_or_a_range() {
    assert_eq!(Versions::parse("2"), Versions::new(2, 2));
    assert_eq!(Versions::parse("1-12"), Versions::new(1, 12));
    assert_eq!(Versions::new(1, 12).to_string(), "1 to 12");
}

#[test]
fn a_range_that_has_no_version_is_refused() {
    let mut bytes = Vec::new();
    Versions::new(3, 4).write(&mut bytes);
    assert_eq!(Versions::read(&bytes), Ok(Versions::new(3, 4)));
    bytes[5] = 5;
    assert_eq!(Versions::read(&bytes), Err(DecodeError::Value));
}
