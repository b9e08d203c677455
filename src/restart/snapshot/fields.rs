//! The encoding of values: as fields, each with a tag, a length and bytes.
//!
//! ```text
//! tag u8 │ length u32 │ bytes
//! ```
//!
//! All numbers are little-endian. A reader skips a field with an unknown tag, unless the
//! tag's high bit is set ([`REQUIRED`]): then it refuses the value. Optional fields with the
//! default value are omitted, so a value of such fields may take no bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use super::DecodeError;
use hawk_time::{Moment, UnixNanos};

/// The bit of a tag that marks a field that a reader must understand.
pub(crate) const REQUIRED: u8 = 0x80;

/// Bytes before those of a field or record: tag or kind, and length.
const HEAD: usize = 5;

/// A value that is encoded as bytes and decoded again.
pub(crate) trait Value: Sized {
    /// Appends the value's bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// Decodes the value that all of `bytes` encode.
    fn read(bytes: &[u8]) -> Result<Self, DecodeError>;
}

/// Appends a field.
pub(crate) fn put(out: &mut Vec<u8>, tag: u8, value: &impl Value) {
    put_with(out, tag, |out| value.write(out));
}

/// Appends a field, unless it has the default value.
pub(crate) fn put_unless_default<T: Value + Default + PartialEq>(
    out: &mut Vec<u8>,
    tag: u8,
    value: &T,
) {
    if *value != T::default() {
        put(out, tag, value);
    }
}

/// Appends a field with the bytes that `write` appends.
pub(crate) fn put_with(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[tag, 0, 0, 0, 0]);
    write(out);
    // No value of a process comes near 4 GiB. A reader refuses this length as cut short.
    let length = u32::try_from(out.len() - start - HEAD).unwrap_or(u32::MAX);
    out[start + 1..start + HEAD].copy_from_slice(&length.to_le_bytes());
}

/// Iterates over encoded fields or records. Yields tag or kind, and bytes.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u8, &'a [u8]), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some(([tag, length @ ..], rest)) = self.0.split_first_chunk::<HEAD>() else {
            self.0 = &[];
            return Some(Err(DecodeError::CutShort));
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((bytes, behind)) = rest.split_at_checked(length) else {
            self.0 = &[];
            return Some(Err(DecodeError::CutShort));
        };
        self.0 = behind;
        Some(Ok((*tag, bytes)))
    }
}

/// Decodes a field into its place, which must be empty.
pub(crate) fn read_into<T: Value>(
    place: &mut Option<T>,
    bytes: &[u8],
    of: &'static str,
    field: &'static str,
) -> Result<(), DecodeError> {
    if place.is_some() {
        return Err(DecodeError::Twice { of, field });
    }
    *place = Some(T::read(bytes).map_err(|damage| match damage {
        DecodeError::Value => DecodeError::Field { of, field },
        deeper => deeper,
    })?);
    Ok(())
}

/// Skips an unknown field, unless it is required.
pub(crate) const fn skip(tag: u8, of: &'static str) -> Result<(), DecodeError> {
    if tag & REQUIRED == 0 {
        Ok(())
    } else {
        Err(DecodeError::UnknownField { of, tag })
    }
}

/// Implements [`Value`] for a struct, both ways at once: a tag, a field, and whether the
/// field is required (`must`) or omitted with the default value (`may`). `retired` tags were
/// written by older builds: they are skipped, and never used again. `check` refuses a decoded
/// value that no build encodes.
macro_rules! layout {
    ($type:ident { $($tag:literal $field:ident: $kind:ident),+ $(,)? }
     $(retired $($retired:literal),+)? $(check $check:path)?) => {
        impl $crate::restart::snapshot::fields::Value for $type {
            fn write(&self, out: &mut Vec<u8>) {
                $( layout!(@write $kind out, $tag, self.$field); )+
            }

            fn read(bytes: &[u8]) -> Result<Self, $crate::restart::snapshot::DecodeError> {
                use $crate::restart::snapshot::fields::{Fields, read_into, skip};
                $( let mut $field = None; )+
                for field in Fields(bytes) {
                    let (tag, bytes) = field?;
                    match tag {
                        $( $tag => {
                            read_into(&mut $field, bytes, stringify!($type), stringify!($field))?;
                        } )+
                        $( $( $retired => {} )+ )?
                        unknown => skip(unknown, stringify!($type))?,
                    }
                }
                let value = Self { $( $field: layout!(@read $kind $type $field) ),+ };
                $( $check(&value)?; )?
                Ok(value)
            }
        }
    };
    (@write must $out:ident, $tag:literal, $value:expr) => {
        $crate::restart::snapshot::fields::put($out, $tag, &$value);
    };
    (@write may $out:ident, $tag:literal, $value:expr) => {
        $crate::restart::snapshot::fields::put_unless_default($out, $tag, &$value);
    };
    (@read must $type:ident $field:ident) => {
        $field.ok_or($crate::restart::snapshot::DecodeError::Missing {
            of: stringify!($type),
            field: stringify!($field),
        })?
    };
    (@read may $type:ident $field:ident) => {
        $field.unwrap_or_default()
    };
}
pub(crate) use layout;

/// Implements [`Value`] for an enum without fields: each variant as one byte.
macro_rules! codes {
    ($type:ident { $($code:literal $variant:ident),+ $(,)? }) => {
        impl Value for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.push(match self { $( Self::$variant => $code ),+ });
            }

            fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
                match bytes {
                    $( [$code] => Ok(Self::$variant), )+
                    _ => Err(DecodeError::Value),
                }
            }
        }
    };
}
pub(super) use codes;

/// Returns `bytes` as an array, if they have its length.
fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], DecodeError> {
    bytes.try_into().map_err(|_| DecodeError::Value)
}

macro_rules! numbers {
    ($($type:ident),+) => { $(
        impl Value for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
                exactly(bytes).map(Self::from_le_bytes)
            }
        }
    )+ };
}
numbers!(u8, u16, u32, u64, i64);

impl Value for bool {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(DecodeError::Value),
        }
    }
}

impl Value for [u32; 2] {
    fn write(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|number| number.write(out));
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (first, second) = bytes.split_at_checked(4).ok_or(DecodeError::Value)?;
        Ok([u32::read(first)?, u32::read(second)?])
    }
}

/// In nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine share.
impl Value for Moment {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_nanos().write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        match u64::read(bytes)? {
            0 => Err(DecodeError::Value),
            nanos => Ok(Self::from_nanos(nanos)),
        }
    }
}

impl Value for UnixNanos {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_nanos().write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        i64::read(bytes).map(Self::from_nanos)
    }
}

/// In nanoseconds, 584 years at most.
impl Value for Duration {
    fn write(&self, out: &mut Vec<u8>) {
        let nanos = u64::try_from(self.as_nanos()).unwrap_or(u64::MAX);
        nanos.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        u64::read(bytes).map(Self::from_nanos)
    }
}

impl Value for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(bytes.to_vec())
    }
}

impl Value for String {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let text = str::from_utf8(bytes).map_err(|_| DecodeError::Value)?;
        Ok(text.to_owned())
    }
}

/// Its bytes in network order, 4 or 16 of them.
impl Value for IpAddr {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => out.extend_from_slice(&address.octets()),
            Self::V6(address) => out.extend_from_slice(&address.octets()),
        }
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        if let Ok(octets) = exactly::<4>(bytes) {
            return Ok(Ipv4Addr::from(octets).into());
        }
        exactly::<16>(bytes).map(|octets| Ipv6Addr::from(octets).into())
    }
}

/// Port, then the address; behind one of IPv6, flow label and scope.
impl Value for SocketAddr {
    fn write(&self, out: &mut Vec<u8>) {
        self.port().write(out);
        self.ip().write(out);
        if let Self::V6(address) = self {
            address.flowinfo().write(out);
            address.scope_id().write(out);
        }
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (port, address) = bytes.split_at_checked(2).ok_or(DecodeError::Value)?;
        let port = u16::read(port)?;
        if let Ok(octets) = exactly::<4>(address) {
            return Ok(SocketAddrV4::new(octets.into(), port).into());
        }
        let (octets, more) = address.split_at_checked(16).ok_or(DecodeError::Value)?;
        let [flow, scope] = Value::read(more)?;
        let octets = exactly::<16>(octets)?;
        Ok(SocketAddrV6::new(octets.into(), port, flow, scope).into())
    }
}

/// `None` is an omitted field.
impl<T: Value> Value for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        T::read(bytes).map(Some)
    }
}
