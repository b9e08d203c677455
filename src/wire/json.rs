//! The two JSON objects of the wire, read the way Go's `encoding/json` reads
//! them, because Go agents are what is deployed.
//!
//! Derived serde would refuse much of what Go takes: `null` for any field (no
//! effect on it), a key given twice (the last one wins), a lone surrogate in an
//! escape or a byte that is no UTF-8 (each becomes U+FFFD). Unlike Go, keys
//! match by exact case.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserializer as _;
use serde::de::{self, Deserialize, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::reply::Refusal;

/// The classic envelope.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) packet_type: Option<i64>,
    /// The base64 text, unescaped.
    pub(super) packet_content: Option<Cow<'a, [u8]>>,
}

/// The inner object; which keys it knows depends on the packet's kind.
#[derive(Debug, Default)]
pub(super) struct Inner<'a> {
    pub(super) version: Cow<'a, str>,
    pub(super) content: Cow<'a, str>,
    pub(super) rand: i64,
    pub(super) timestamp: i64,
    pub(super) agent: Option<Cow<'a, str>>,
    pub(super) probe: bool,
}

/// Reads an object of type `T`, of which `empty` makes an empty one, that fills
/// all of `json`, white space aside.
///
/// At first numbers are read the quick way. That is right for all that it
/// understands; where it does not, the whole is read again with each number
/// looked at closely.
pub(super) fn parse<'a, T: Object<'a>>(
    json: &'a [u8],
    empty: impl Fn() -> T,
) -> Result<T, Refusal> {
    // serde_json lets control characters stand in strings that it reads as
    // bytes. Skipping a value, it does not.
    if has_control_characters(json) && !is_json(json) {
        return Err(Refusal::Malformed);
    }
    let mut object = empty();
    if let Ok(None) = read::<T, Quick>(json, &mut object) {
        return Ok(object);
    }
    object = empty();
    match read::<T, Exact>(json, &mut object) {
        Ok(None) => Ok(object),
        Ok(Some(refusal)) => Err(refusal),
        // The parser stopped in the middle, so the rest may be no JSON at all; and
        // of a wrong type that holds text it says that its UTF-8 is bad.
        Err(_) if is_json(json) => Err(Refusal::WrongType),
        Err(_) => Err(Refusal::Malformed),
    }
}

/// Fills `object` from `json`; a refusal is of a value that is sound JSON.
fn read<'a, T: Object<'a>, I: Integers>(
    json: &'a [u8],
    object: &mut T,
) -> Result<Option<Refusal>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let mut refusal = None;
    deserializer.deserialize_option(ObjectVisitor {
        object,
        refusal: &mut refusal,
        integers: PhantomData::<I>,
    })?;
    deserializer.end()?;
    Ok(refusal)
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Looks at every byte, come what may: that is many bytes at a time, where
/// stopping at the first hit would be one by one.
fn has_control_characters(json: &[u8]) -> bool {
    json.iter()
        .fold(false, |found, byte| found | (*byte < b' '))
}

/// An object that takes its fields one by one.
pub(super) trait Object<'de> {
    /// Takes the value behind `key`. A value that is sound JSON but unusable
    /// comes back as the refusal, so that the rest is still checked to be JSON.
    fn field<A: MapAccess<'de>, I: Integers>(
        &mut self,
        key: Key,
        map: &mut A,
    ) -> Result<Option<Refusal>, A::Error>;
}

impl<'de> Object<'de> for Envelope<'de> {
    fn field<A: MapAccess<'de>, I: Integers>(
        &mut self,
        key: Key,
        map: &mut A,
    ) -> Result<Option<Refusal>, A::Error> {
        match key {
            Key::PacketType => {
                let present = self.packet_type.get_or_insert(0);
                I::read(map, present)
            }
            Key::PacketContent => {
                // Go sets a byte slice to nil for null, where it leaves scalars alone.
                let Bytes(text) = map.next_value()?;
                self.packet_content = Some(text.unwrap_or_default());
                Ok(None)
            }
            _ => ignore(map),
        }
    }
}

/// The inner object of a heartbeat or of a report.
#[derive(Debug)]
pub(super) enum InnerObject<'a> {
    Heartbeat(Inner<'a>),
    Report(Inner<'a>),
}

impl<'de> Object<'de> for InnerObject<'de> {
    fn field<A: MapAccess<'de>, I: Integers>(
        &mut self,
        key: Key,
        map: &mut A,
    ) -> Result<Option<Refusal>, A::Error> {
        match (self, key) {
            (Self::Heartbeat(inner), Key::Version) => text(map, &mut inner.version),
            (Self::Heartbeat(inner), Key::Probe) => {
                let probe: Option<bool> = map.next_value()?;
                inner.probe = probe.unwrap_or(inner.probe);
                Ok(None)
            }
            (Self::Report(inner), Key::Content) => text(map, &mut inner.content),
            (Self::Report(inner), Key::Rand) => I::read(map, &mut inner.rand),
            (Self::Heartbeat(inner) | Self::Report(inner), Key::Timestamp) => {
                I::read(map, &mut inner.timestamp)
            }
            (Self::Heartbeat(inner) | Self::Report(inner), Key::Agent) => {
                let Bytes(name) = map.next_value()?;
                if let Some(name) = name {
                    inner.agent = Some(to_text(name));
                }
                Ok(None)
            }
            _ => ignore(map),
        }
    }
}

fn ignore<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<Refusal>, A::Error> {
    map.next_value::<IgnoredAny>()?;
    Ok(None)
}

fn text<'de, A: MapAccess<'de>>(
    map: &mut A,
    into: &mut Cow<'de, str>,
) -> Result<Option<Refusal>, A::Error> {
    let Bytes(text) = map.next_value()?;
    if let Some(text) = text {
        *into = to_text(text);
    }
    Ok(None)
}

/// A way to read the 64-bit numbers of an object.
pub(super) trait Integers {
    /// Reads the value behind a key into `into`, or says why it is unusable.
    fn read<'de, A: MapAccess<'de>>(
        map: &mut A,
        into: &mut i64,
    ) -> Result<Option<Refusal>, A::Error>;
}

/// Plain integers only; everything else is an error.
enum Quick {}

impl Integers for Quick {
    fn read<'de, A: MapAccess<'de>>(
        map: &mut A,
        into: &mut i64,
    ) -> Result<Option<Refusal>, A::Error> {
        *into = map.next_value()?;
        Ok(None)
    }
}

/// A number is read from its own text: that tells `null`, `-0`, a fraction and
/// a number beyond 64 bits apart, which serde's data model does not.
enum Exact {}

impl Integers for Exact {
    fn read<'de, A: MapAccess<'de>>(
        map: &mut A,
        into: &mut i64,
    ) -> Result<Option<Refusal>, A::Error> {
        use std::num::IntErrorKind::{NegOverflow, PosOverflow};

        let raw: &RawValue = map.next_value()?;
        match raw.get() {
            "null" => Ok(None),
            number => match number.parse() {
                Ok(number) => {
                    *into = number;
                    Ok(None)
                }
                // Too many digits are told of before what stands behind them.
                Err(error)
                    if matches!(error.kind(), PosOverflow | NegOverflow)
                        && !number.contains(['.', 'e', 'E']) =>
                {
                    Ok(Some(Refusal::OutOfRange))
                }
                Err(_) => Ok(Some(Refusal::WrongType)),
            },
        }
    }
}

/// UTF-8 as it is; what is no UTF-8, with a U+FFFD for each bad byte and for
/// each lone surrogate.
///
/// serde_json hands a lone surrogate over as the three bytes that UTF-8 would
/// give it, if it gave any. Only a string with an escape, which never borrows,
/// can have one; in any other such bytes came raw and are three bad ones.
fn to_text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(replace_invalid(bytes, Surrogate::Raw)),
        },
        Cow::Owned(bytes) => Cow::Owned(
            String::from_utf8(bytes)
                .unwrap_or_else(|error| replace_invalid(error.as_bytes(), Surrogate::Escaped)),
        ),
    }
}

/// What the three bytes of a surrogate are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Surrogate {
    /// Three bad bytes.
    Raw,
    /// What serde_json made of one escape.
    Escaped,
}

/// Replaces each bad byte, and each escaped surrogate as one.
fn replace_invalid(mut bytes: &[u8], surrogate: Surrogate) -> String {
    let mut text = String::with_capacity(bytes.len());
    while let Some(chunk) = bytes.utf8_chunks().next() {
        text.push_str(chunk.valid());
        let bad = bytes.get(chunk.valid().len()..).unwrap_or_default();
        bytes = match bad {
            [] => break,
            [0xED, 0xA0..=0xBF, 0x80..=0xBF, rest @ ..] if surrogate == Surrogate::Escaped => rest,
            [_, rest @ ..] => rest,
        };
        text.push(char::REPLACEMENT_CHARACTER);
    }
    text
}

/// A JSON string as bytes, or `null`.
struct Bytes<'a>(Option<Cow<'a, [u8]>>);

impl<'de> Deserialize<'de> for Bytes<'de> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrNull;

        impl<'de> Visitor<'de> for StringOrNull {
            type Value = Bytes<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or null")
            }

            fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Bytes(None))
            }

            fn visit_some<D: de::Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_bytes(self)
            }

            fn visit_borrowed_bytes<E: de::Error>(
                self,
                bytes: &'de [u8],
            ) -> Result<Self::Value, E> {
                Ok(Bytes(Some(Cow::Borrowed(bytes))))
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Bytes(Some(Cow::Owned(bytes.to_vec()))))
            }
        }

        deserializer.deserialize_option(StringOrNull)
    }
}

/// The keys that mean something, in one object or another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    PacketType,
    PacketContent,
    Version,
    Content,
    Rand,
    Timestamp,
    Agent,
    Probe,
    Unknown,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a key")
            }

            fn visit_bytes<E: de::Error>(self, key: &[u8]) -> Result<Key, E> {
                Ok(match key {
                    b"PacketType" => Key::PacketType,
                    b"PacketContent" => Key::PacketContent,
                    b"version" => Key::Version,
                    b"content" => Key::Content,
                    b"rand" => Key::Rand,
                    b"timestamp" => Key::Timestamp,
                    b"agent" => Key::Agent,
                    b"probe" => Key::Probe,
                    _ => Key::Unknown,
                })
            }
        }

        // As bytes, because a key with a lone surrogate is merely unknown.
        deserializer.deserialize_bytes(KeyVisitor)
    }
}

struct ObjectVisitor<'o, T, I> {
    object: &'o mut T,
    refusal: &'o mut Option<Refusal>,
    integers: PhantomData<I>,
}

impl<'de, T: Object<'de>, I: Integers> Visitor<'de> for ObjectVisitor<'_, T, I> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or null")
    }

    fn visit_none<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Key>()? {
            let refusal = self.object.field::<A, I>(key, &mut map)?;
            if self.refusal.is_none() {
                *self.refusal = refusal;
            }
        }
        Ok(())
    }
}
