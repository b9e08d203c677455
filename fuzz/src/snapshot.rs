//! Snapshots: the header and the records of what one process hands to another.

use hawk::restart::snapshot::{FORMATS, HEADER, Reader, Record, Writer};
use hawk::session::{Session, SessionContext};
use hawk_wire::Input;

use super::conversation::{Recorder, START};

/// The input is a snapshot, and it is also records to which the right header is added:
/// nothing else would ever get past the checksum. What is read can be written again and
/// gone on with.
pub fn snapshot(input: &[u8]) {
    check(input);
    check(&with_header(input));
}

fn check(bytes: &[u8]) {
    let Ok(reader) = Reader::new(bytes) else {
        return;
    };
    let mut writer = Writer::new(FORMATS.newest());
    let mut records = Vec::new();
    for record in reader {
        let Ok(record) = record else { break };
        writer.push(&record);
        records.push(record);
    }
    let again: Result<Vec<Record>, _> = Reader::new(writer.finish()).unwrap().collect();
    assert_eq!(again.as_ref(), Ok(&records));
    records.into_iter().for_each(go_on);
}

/// A session that was let through can be rebuilt, and takes what it has.
fn go_on(record: Record) {
    let (Record::Opened(connection) | Record::Changed(connection)) = record else {
        return;
    };
    let mut context = SessionContext::new(Recorder::default());
    let (mut session, window) = Session::rebuild(connection.state.session, &mut context);
    for input in [Input::Open, Input::Ended] {
        let mut frames = u32::MAX;
        session.receive(&window, input, START, &mut frames, &mut context);
    }
}

/// A snapshot of just these records, if they are some.
fn with_header(records: &[u8]) -> Vec<u8> {
    let mut count = 0_u32;
    let mut rest = records;
    while let Some(([_, length @ ..], behind)) = rest.split_first_chunk::<5>() {
        let length = u32::from_le_bytes(*length) as usize;
        count += 1;
        rest = behind.get(length..).unwrap_or_default();
    }
    let mut bytes = Writer::new(FORMATS.newest()).finish().to_vec();
    bytes[12..16].copy_from_slice(&count.to_le_bytes());
    bytes[16..24].copy_from_slice(&(records.len() as u64).to_le_bytes());
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[..HEADER - 4]);
    sum.update(records);
    bytes[HEADER - 4..].copy_from_slice(&sum.finalize().to_le_bytes());
    bytes.extend_from_slice(records);
    bytes
}
