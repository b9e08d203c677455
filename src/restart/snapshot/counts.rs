//! What was counted, field by field; by cause, under the names that the statistics
//! have for the causes too.

use super::Damage;
use super::fields::{Fields, Value, layout, put_with, skip};
use crate::stats::{Cause, CountByCause, CountByRefusal, ReactorCounters, SessionCounters};
use hawk_wire::Refusal;

layout! { ReactorCounters {
    0x81 accepted: may,
    0x82 accept_errors: may,
    0x83 bytes_in: may,
    0x84 bytes_out: may,
    0x85 reads: may,
    0x86 writes: may,
    0x87 held: may,
    0x88 rate_limited: may,
    0x89 output_limited: may,
    0x8A closed: may,
} }

layout! { SessionCounters {
    0x81 heartbeats: may,
    0x82 reports: may,
    0x83 busy: may,
    0x84 junk_bytes: may,
    0x85 candidates_dropped: may,
    0x86 refusals: may,
} }

/// By its name, which is the same in every build.
impl Value for Cause {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.name().as_bytes());
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let mut all = Self::ALL.into_iter();
        all.find(|cause| cause.name().as_bytes() == bytes)
            .ok_or(Damage::Value)
    }
}

impl Value for CountByCause {
    fn write(&self, out: &mut Vec<u8>) {
        write_named(&Cause::ALL.map(Cause::name), &self.0, out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        read_named(&Cause::ALL.map(Cause::name), bytes).map(Self)
    }
}

impl Value for CountByRefusal {
    fn write(&self, out: &mut Vec<u8>) {
        write_named(&Refusal::ALL.map(Refusal::name), &self.0, out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        read_named(&Refusal::ALL.map(Refusal::name), bytes).map(Self)
    }
}

/// The tag of a count under a name: a field that may be skipped, as a build that does
/// not know a cause has nowhere to count it.
const NAMED: u8 = 0x01;

/// Each count that is not zero: the count, then its name.
fn write_named<const N: usize>(names: &[&str; N], counts: &[u64; N], out: &mut Vec<u8>) {
    for (name, count) in names.iter().zip(counts).filter(|(_, count)| **count > 0) {
        put_with(out, NAMED, |out| {
            count.write(out);
            out.extend_from_slice(name.as_bytes());
        });
    }
}

/// The counts of the names that are known.
fn read_named<const N: usize>(names: &[&str; N], bytes: &[u8]) -> Result<[u64; N], Damage> {
    let mut counts = [0; N];
    for field in Fields(bytes) {
        let (tag, bytes) = field?;
        if tag != NAMED {
            skip(tag, "counts by cause")?;
            continue;
        }
        let (count, name) = bytes.split_at_checked(8).ok_or(Damage::Value)?;
        let place = names.iter().position(|known| known.as_bytes() == name);
        if let Some(place) = place {
            counts[place] = u64::read(count)?;
        }
    }
    Ok(counts)
}
