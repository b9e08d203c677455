//! How a value is written down: as fields, each with a tag, a length and bytes.
//!
//! ```text
//! tag u8 │ length u32 │ bytes
//! ```
//!
//! All numbers are little-endian. Who does not know a tag skips the field, unless
//! the tag's high bit is set ([`REQUIRED`]): then the value means something else
//! without it, and is refused. A value whose fields are absent, each for the value it
//! has by default, takes no bytes at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Duration;

use super::Damage;
use hawk_time::{Moment, UnixNanos};

/// The bit of a tag that says that the field must be understood.
pub(crate) const REQUIRED: u8 = 0x80;

/// Bytes in front of those of a field, and of a record: tag or kind, and length.
const HEAD: usize = 5;

/// Something that can be written down and read again.
pub(crate) trait Value: Sized {
    /// Appends its bytes.
    fn write(&self, out: &mut Vec<u8>);

    /// What `bytes` say, all of them.
    fn read(bytes: &[u8]) -> Result<Self, Damage>;
}

/// Appends a field.
pub(crate) fn put(out: &mut Vec<u8>, tag: u8, value: &impl Value) {
    put_with(out, tag, |out| value.write(out));
}

/// Appends a field, unless its value is what it is read as when it is absent.
pub(crate) fn put_unusual<T: Value + Default + PartialEq>(out: &mut Vec<u8>, tag: u8, value: &T) {
    if *value != T::default() {
        put(out, tag, value);
    }
}

/// Appends a field whose bytes `write` appends.
pub(crate) fn put_with(out: &mut Vec<u8>, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[tag, 0, 0, 0, 0]);
    write(out);
    // What is written down was in a process's memory piece by piece: nothing of it
    // comes near 4 GiB, and a length that does not fit is refused by who reads it.
    let length = u32::try_from(out.len() - start - HEAD).unwrap_or(u32::MAX);
    out[start + 1..start + HEAD].copy_from_slice(&length.to_le_bytes());
}

/// The fields, or the records, that bytes consist of: tag or kind, and bytes.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u8, &'a [u8]), Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let Some(([tag, length @ ..], rest)) = self.0.split_first_chunk::<HEAD>() else {
            self.0 = &[];
            return Some(Err(Damage::CutShort));
        };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let Some((bytes, behind)) = rest.split_at_checked(length) else {
            self.0 = &[];
            return Some(Err(Damage::CutShort));
        };
        self.0 = behind;
        Some(Ok((*tag, bytes)))
    }
}

/// Reads a field into its place, which must be free.
pub(crate) fn keep<T: Value>(
    place: &mut Option<T>,
    bytes: &[u8],
    of: &'static str,
    field: &'static str,
) -> Result<(), Damage> {
    if place.is_some() {
        return Err(Damage::Twice { of, field });
    }
    *place = Some(T::read(bytes).map_err(|damage| match damage {
        Damage::Value => Damage::Field { of, field },
        deeper => deeper,
    })?);
    Ok(())
}

/// Passes over a field that is not known, if that is allowed.
pub(crate) const fn skip(tag: u8, of: &'static str) -> Result<(), Damage> {
    if tag & REQUIRED == 0 {
        Ok(())
    } else {
        Err(Damage::UnknownField { of, tag })
    }
}

/// Says how a struct is written down, both ways at once: a tag, a field, and whether
/// the field is always there (`must`) or absent when it has its default (`may`). Tags
/// that are `retired` were written by older builds: they are skipped, and never used
/// again.
macro_rules! layout {
    ($type:ident { $($tag:literal $field:ident: $kind:ident),+ $(,)? }
     $(retired $($retired:literal),+)?) => {
        impl $crate::restart::snapshot::fields::Value for $type {
            fn write(&self, out: &mut Vec<u8>) {
                $( layout!(@write $kind out, $tag, self.$field); )+
            }

            fn read(bytes: &[u8]) -> Result<Self, $crate::restart::snapshot::Damage> {
                use $crate::restart::snapshot::fields::{Fields, keep, skip};
                $( let mut $field = None; )+
                for field in Fields(bytes) {
                    let (tag, bytes) = field?;
                    match tag {
                        $( $tag => {
                            keep(&mut $field, bytes, stringify!($type), stringify!($field))?;
                        } )+
                        $( $( $retired => {} )+ )?
                        unknown => skip(unknown, stringify!($type))?,
                    }
                }
                Ok(Self { $( $field: layout!(@read $kind $type $field) ),+ })
            }
        }
    };
    (@write must $out:ident, $tag:literal, $value:expr) => {
        $crate::restart::snapshot::fields::put($out, $tag, &$value);
    };
    (@write may $out:ident, $tag:literal, $value:expr) => {
        $crate::restart::snapshot::fields::put_unusual($out, $tag, &$value);
    };
    (@read must $type:ident $field:ident) => {
        $field.ok_or($crate::restart::snapshot::Damage::Missing {
            of: stringify!($type),
            field: stringify!($field),
        })?
    };
    (@read may $type:ident $field:ident) => {
        $field.unwrap_or_default()
    };
}
pub(crate) use layout;

/// The bytes of a number, if they are as many as it has.
fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Damage> {
    bytes.try_into().map_err(|_| Damage::Value)
}

macro_rules! numbers {
    ($($type:ident),+) => { $(
        impl Value for $type {
            fn write(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn read(bytes: &[u8]) -> Result<Self, Damage> {
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

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        match bytes {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Damage::Value),
        }
    }
}

impl Value for [u32; 2] {
    fn write(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|number| number.write(out));
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let (first, second) = bytes.split_at_checked(4).ok_or(Damage::Value)?;
        Ok([u32::read(first)?, u32::read(second)?])
    }
}

/// In nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine share.
impl Value for Moment {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_nanos().write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        match u64::read(bytes)? {
            0 => Err(Damage::Value),
            nanos => Ok(Self::from_nanos(nanos)),
        }
    }
}

impl Value for UnixNanos {
    fn write(&self, out: &mut Vec<u8>) {
        self.as_nanos().write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        i64::read(bytes).map(Self::from_nanos)
    }
}

/// In nanoseconds, 584 years at most.
impl Value for Duration {
    fn write(&self, out: &mut Vec<u8>) {
        let nanos = u64::try_from(self.as_nanos()).unwrap_or(u64::MAX);
        nanos.write(out);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        u64::read(bytes).map(Self::from_nanos)
    }
}

impl Value for Vec<u8> {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        Ok(bytes.to_vec())
    }
}

impl Value for String {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.as_bytes());
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let text = str::from_utf8(bytes).map_err(|_| Damage::Value)?;
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

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
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

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let (port, address) = bytes.split_at_checked(2).ok_or(Damage::Value)?;
        let port = u16::read(port)?;
        if let Ok(octets) = exactly::<4>(address) {
            return Ok(SocketAddrV4::new(octets.into(), port).into());
        }
        let (octets, more) = address.split_at_checked(16).ok_or(Damage::Value)?;
        let [flow, scope] = Value::read(more)?;
        let octets = exactly::<16>(octets)?;
        Ok(SocketAddrV6::new(octets.into(), port, flow, scope).into())
    }
}

/// What is not there is written as no field.
impl<T: Value> Value for Option<T> {
    fn write(&self, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.write(out);
        }
    }

    fn read(bytes: &[u8]) -> Result<Self, Damage> {
        T::read(bytes).map(Some)
    }
}
