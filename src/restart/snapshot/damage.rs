//! Why bytes are refused.

use super::FORMATS;

/// What is wrong with a snapshot, so that nothing of it may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It does not begin as a snapshot does.
    #[error("it is no snapshot")]
    NoSnapshot,
    /// It is of a format that this build does not read.
    #[error("it is of format {0}, and this build reads formats {FORMATS}")]
    Format(u16),
    /// There are not as many bytes as it says.
    #[error("it has {found} bytes, not {told}")]
    Length {
        /// How many it says there are.
        told: u64,
        /// How many there are.
        found: u64,
    },
    /// Some of its bytes have changed.
    #[error("its checksum is wrong")]
    Checksum,
    /// There are not as many records as it says.
    #[error("it has {found} records, not {told}")]
    Count {
        /// How many it says there are.
        told: u32,
        /// How many there are.
        found: u32,
    },
    /// The last field or record has fewer bytes than it says.
    #[error("it is cut short")]
    CutShort,
    /// A record of a kind that this build does not know and must not skip.
    #[error("it has a record of the unknown kind {0:#04x}")]
    UnknownRecord(u8),
    /// A field that this build does not know and must not skip.
    #[error("its {of} has an unknown field {tag:#04x}")]
    UnknownField {
        /// In what.
        of: &'static str,
        /// The field's tag.
        tag: u8,
    },
    /// A field that must be there is not.
    #[error("its {of} has no {field}")]
    Missing {
        /// In what.
        of: &'static str,
        /// Which.
        field: &'static str,
    },
    /// A field is there twice.
    #[error("its {of} has {field} twice")]
    Twice {
        /// In what.
        of: &'static str,
        /// Which.
        field: &'static str,
    },
    /// A field has bytes that mean nothing.
    #[error("the {field} of its {of} makes no sense")]
    Field {
        /// In what.
        of: &'static str,
        /// Which.
        field: &'static str,
    },
    /// Bytes that mean nothing, outside of any field.
    #[error("a value makes no sense")]
    Value,
}
