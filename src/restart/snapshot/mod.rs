//! State to bytes and back: what a process hands over to its successor.
//!
//! Pure computation: [`channel`](super::channel) moves the bytes. `docs/restart.md` describes
//! the format in prose.
//!
//! ```text
//! magic "HAWKSNAP" │ format u16 │ 0 u16 │ count u32 │ length u64 │ crc32 u32
//! count times:       kind u8 │ length u32 │ fields: (tag u8 │ length u32 │ bytes) …
//! ```
//!
//! Numbers are little-endian. `length` is that of everything after the header. The checksum
//! covers all bytes but its own four. A reader refuses an unknown kind or tag with its high bit
//! set, and skips any other unknown one. So a new field needs no new format. A change that an
//! older build must not skip gets a new format.
//!
//! The reader accepts any input: it does not panic, allocates at most as much as the input's
//! length, and returns only state from which a server can continue.
//!
//! ```text
//! record   the records of a snapshot
//! state    the layout of each type of state, field by field
//! fields   the encoding of values and fields
//! ```

pub(crate) mod fields;
mod record;
mod state;

use std::fmt;

use fields::{Fields, layout};
pub use record::{Agent, ClosedConnection, Connection, Counts, Freeze, Record, RemovedAgent};

/// The formats that this build reads and writes. For a build with debug assertions, a
/// variable at compile time sets others, as `2` or `1-2`.
pub const FORMATS: Versions = match option_env!("HAWK_TEST_SNAPSHOT_VERSION") {
    Some(versions) if cfg!(debug_assertions) => Versions::parse(versions),
    _ => Versions::new(1, 1),
};

const MAGIC: [u8; 8] = *b"HAWKSNAP";

/// Bytes before the first record.
pub const HEADER: usize = 28;

/// Offset of the checksum: the last four bytes of the header.
const CHECKSUM: usize = HEADER - 4;

/// Encodes records into one snapshot.
#[derive(Debug)]
pub struct Writer {
    format: u16,
    count: u32,
    bytes: Vec<u8>,
}

impl Writer {
    /// Creates a writer without records. `format` is one that the reader understands.
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

    /// Returns whether there is no record.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the snapshot of all records so far.
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

    /// Removes all records, and keeps their memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.count = 0;
    }
}

/// Decodes the records of a snapshot. After the first error it yields no more records.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    records: Fields<'a>,
    claimed: u32,
    found: u32,
    is_done: bool,
}

impl<'a> Reader<'a> {
    /// Checks header, length and checksum of a snapshot.
    ///
    /// # Errors
    /// [`DecodeError`] if they are wrong or the format is unknown.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (header, records) = Header::read(bytes).ok_or(DecodeError::Magic)?;
        if !FORMATS.contain(header.format) {
            return Err(DecodeError::Format(header.format));
        }
        let (claimed, found) = (header.length, records.len() as u64);
        if claimed != found {
            return Err(DecodeError::Length { claimed, found });
        }
        if checksum(bytes) != header.checksum {
            return Err(DecodeError::Checksum);
        }
        Ok(Self {
            records: Fields(records),
            claimed: header.count,
            found: 0,
            is_done: false,
        })
    }

    /// Returns the next record of a known kind.
    fn read(&mut self) -> Result<Option<Record>, DecodeError> {
        for record in self.records.by_ref() {
            let (kind, bytes) = record?;
            self.found = self.found.saturating_add(1);
            if let Some(record) = Record::read(kind, bytes)? {
                return Ok(Some(record));
            }
        }
        let (claimed, found) = (self.claimed, self.found);
        if claimed != found {
            return Err(DecodeError::Count { claimed, found });
        }
        Ok(None)
    }
}

impl Iterator for Reader<'_> {
    type Item = Result<Record, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let record = self.read();
        self.is_done = !matches!(record, Ok(Some(_)));
        record.transpose()
    }
}

struct Header {
    format: u16,
    count: u32,
    length: u64,
    checksum: u32,
}

impl Header {
    /// Splits `bytes` into the header and the records.
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

/// Returns the checksum of a snapshot: over all bytes but its own.
fn checksum(bytes: &[u8]) -> u32 {
    let (header, records) = bytes.split_at_checked(HEADER).unwrap_or((bytes, &[]));
    let mut sum = crc32fast::Hasher::new();
    sum.update(header.get(..CHECKSUM).unwrap_or(header));
    sum.update(records);
    sum.finalize()
}

/// Why a snapshot or a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The magic number is missing.
    #[error("it is no snapshot")]
    Magic,
    /// This build does not read the format.
    #[error("it is of format {0}, and this build reads formats {FORMATS}")]
    Format(u16),
    /// The length differs from that in the header.
    #[error("it has {found} bytes, not {claimed}")]
    Length {
        /// The length in the header.
        claimed: u64,
        /// The number of bytes.
        found: u64,
    },
    /// The checksum differs from that in the header.
    #[error("its checksum is wrong")]
    Checksum,
    /// The number of records differs from that in the header.
    #[error("it has {found} records, not {claimed}")]
    Count {
        /// The number in the header.
        claimed: u32,
        /// The number of records.
        found: u32,
    },
    /// The last field or record is longer than the input.
    #[error("it is cut short")]
    CutShort,
    /// A record has an unknown kind that must not be skipped.
    #[error("it has a record of the unknown kind {0:#04x}")]
    UnknownRecord(u8),
    /// A field has an unknown tag that must not be skipped.
    #[error("its {of} has an unknown field {tag:#04x}")]
    UnknownField {
        /// The type with the field.
        of: &'static str,
        /// The field's tag.
        tag: u8,
    },
    /// A required field is missing.
    #[error("its {of} has no {field}")]
    Missing {
        /// The type with the field.
        of: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A field occurs twice.
    #[error("its {of} has {field} twice")]
    Twice {
        /// The type with the field.
        of: &'static str,
        /// The field.
        field: &'static str,
    },
    /// The bytes of a field are invalid.
    #[error("the {field} of its {of} is invalid")]
    Field {
        /// The type with the field.
        of: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A value outside of a field is invalid.
    #[error("a value is invalid")]
    Value,
}

/// The versions of a format or protocol that a build understands: a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    oldest: u16,
    newest: u16,
}

impl Versions {
    /// Returns the range from `oldest` to `newest`, in either order.
    #[must_use]
    pub const fn new(oldest: u16, newest: u16) -> Self {
        if oldest <= newest {
            Self { oldest, newest }
        } else {
            Self {
                oldest: newest,
                newest: oldest,
            }
        }
    }

    /// Parses `2` or `1-2`. For constants: an invalid text fails the build.
    #[must_use]
    #[expect(clippy::panic, reason = "an invalid text must fail the build")]
    pub(crate) const fn parse(text: &str) -> Self {
        let text = text.as_bytes();
        let (mut numbers, mut at, mut i) = ([0_u16; 2], 0, 0);
        while i < text.len() {
            match text[i] {
                b'-' if at == 0 => at = 1,
                digit @ b'0'..=b'9' => numbers[at] = numbers[at] * 10 + (digit - b'0') as u16,
                _ => panic!("versions are written as 2 or as 1-2"),
            }
            i += 1;
        }
        Self::new(numbers[0], numbers[at])
    }

    /// Returns the oldest version.
    #[must_use]
    pub const fn oldest(self) -> u16 {
        self.oldest
    }

    /// Returns the newest version.
    #[must_use]
    pub const fn newest(self) -> u16 {
        self.newest
    }

    const fn check(&self) -> Result<(), DecodeError> {
        if self.oldest <= self.newest {
            Ok(())
        } else {
            Err(DecodeError::Value)
        }
    }

    /// Returns whether `version` is in the range.
    #[must_use]
    pub const fn contain(self, version: u16) -> bool {
        self.oldest <= version && version <= self.newest
    }

    /// Returns the newest version in both ranges, if there is one.
    #[must_use]
    pub const fn common(self, other: Self) -> Option<u16> {
        let newest = if self.newest < other.newest {
            self.newest
        } else {
            other.newest
        };
        if self.contain(newest) && other.contain(newest) {
            Some(newest)
        } else {
            None
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.oldest, self.newest)
    }
}

layout! { Versions {
    0x81 oldest: must,
    0x82 newest: must,
} check Versions::check }

#[cfg(test)]
mod tests;
