//! Plain state to bytes and back: what a process hands to the one that replaces it.
//!
//! Pure computation. The bytes travel in `handover`, which knows processes and
//! descriptors; here is only what they mean. `docs/restart.md` describes the format in
//! prose.
//!
//! ```text
//! magic "HAWKSNAP" │ format u16 │ 0 u16 │ count u32 │ length u64 │ crc32 u32
//! count times:       kind u8 │ length u32 │ fields: (tag u8 │ length u32 │ bytes) …
//! ```
//!
//! Numbers are little-endian. `length` is that of all that follows the header, and the
//! checksum is over all bytes but its own four. A kind or tag with its high bit set must
//! be understood; one without it is skipped where it is not known. So a field can be
//! added without a new format; a change that an older build must not read over gets one.
//!
//! Reading trusts nothing: it panics at no input, it allocates no more than the input
//! has bytes, and what it lets through can be gone on with.

mod agent;
mod connection;
mod counts;
mod damage;
pub(crate) mod fields;
mod record;
mod session;
mod versions;

pub use damage::Damage;
use fields::Fields;
pub use record::{Freeze, Record};
pub use versions::Versions;

/// The formats that this build reads; it writes any of them. One with debug assertions may
/// say otherwise, as `2` or `1-2`, by a variable that is read when it is compiled.
pub const FORMATS: Versions = match option_env!("HAWK_TEST_SNAPSHOT_VERSION") {
    Some(versions) if cfg!(debug_assertions) => Versions::parse(versions),
    _ => Versions::new(1, 1),
};

const MAGIC: [u8; 8] = *b"HAWKSNAP";

/// Bytes in front of the first record.
pub const HEADER: usize = 28;

/// Where in the header the checksum is: its last four bytes.
const CHECKSUM: usize = HEADER - 4;

/// Writes records down, one after the other.
#[derive(Debug)]
pub struct Writer {
    format: u16,
    count: u32,
    bytes: Vec<u8>,
}

impl Writer {
    /// Nothing is written yet. `format` is one that the reader understands.
    #[must_use]
    pub fn new(format: u16) -> Self {
        Self {
            format,
            count: 0,
            bytes: vec![0; HEADER],
        }
    }

    /// Appends a record.
    pub fn push(&mut self, record: &Record) {
        record.write(&mut self.bytes);
        self.count = self.count.saturating_add(1);
    }

    /// How many records there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, the header among them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The snapshot of all records so far.
    pub fn finish(&mut self) -> &[u8] {
        let length = (self.bytes.len() - HEADER) as u64;
        let header = &mut self.bytes[..CHECKSUM];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&self.format.to_le_bytes());
        header[12..16].copy_from_slice(&self.count.to_le_bytes());
        header[16..24].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(&self.bytes);
        self.bytes[CHECKSUM..HEADER].copy_from_slice(&sum.to_le_bytes());
        &self.bytes
    }

    /// Forgets all records, and keeps the memory they had.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.count = 0;
    }
}

/// Reads the records of a snapshot, one after the other. After the first damage there
/// is nothing more.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    records: Fields<'a>,
    told: u32,
    found: u32,
    over: bool,
}

impl<'a> Reader<'a> {
    /// Checks that `bytes` are a whole snapshot, unchanged, in a format that this build
    /// reads.
    ///
    /// # Errors
    /// [`Damage`], if they are not.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Damage> {
        let (header, records) = Header::read(bytes).ok_or(Damage::NoSnapshot)?;
        if !FORMATS.contain(header.format) {
            return Err(Damage::Format(header.format));
        }
        let (told, found) = (header.length, records.len() as u64);
        if told != found {
            return Err(Damage::Length { told, found });
        }
        if checksum(bytes) != header.checksum {
            return Err(Damage::Checksum);
        }
        Ok(Self {
            records: Fields(records),
            told: header.count,
            found: 0,
            over: false,
        })
    }

    /// The next record, those left out that may be skipped.
    fn read(&mut self) -> Result<Option<Record>, Damage> {
        for record in self.records.by_ref() {
            let (kind, bytes) = record?;
            self.found = self.found.saturating_add(1);
            if let Some(record) = Record::read(kind, bytes)? {
                return Ok(Some(record));
            }
        }
        let (told, found) = (self.told, self.found);
        if told != found {
            return Err(Damage::Count { told, found });
        }
        Ok(None)
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Record, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let record = self.read();
        self.over = !matches!(record, Ok(Some(_)));
        record.transpose()
    }
}

/// What stands in front of the records.
struct Header {
    format: u16,
    count: u32,
    length: u64,
    checksum: u32,
}

impl Header {
    /// The header that `bytes` begin with, and what is behind it.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes;
        let magic = take(&mut rest)?;
        let format = u16::from_le_bytes(take(&mut rest)?);
        let zero = u16::from_le_bytes(take(&mut rest)?);
        let header = Self {
            format,
            count: u32::from_le_bytes(take(&mut rest)?),
            length: u64::from_le_bytes(take(&mut rest)?),
            checksum: u32::from_le_bytes(take(&mut rest)?),
        };
        (magic == MAGIC && zero == 0).then_some((header, rest))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*first)
}

/// The checksum of a snapshot: over all of it but the checksum's own place.
fn checksum(bytes: &[u8]) -> u32 {
    let (header, records) = bytes.split_at_checked(HEADER).unwrap_or((bytes, &[]));
    let mut sum = crc32fast::Hasher::new();
    sum.update(header.get(..CHECKSUM).unwrap_or(header));
    sum.update(records);
    sum.finalize()
}

#[cfg(test)]
mod tests;
