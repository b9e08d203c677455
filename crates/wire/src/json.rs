//! The two JSON objects of the wire, read the way Go's `encoding/json` reads
//! them, because Go agents are what is deployed.
//!
//! Go takes much that other parsers refuse: `null` for any field (no effect on it), a key
//! given twice (the last one wins), a lone surrogate in an escape or a byte that is no
//! UTF-8 (each becomes U+FFFD). Unlike Go, keys match by exact case, and the number of
//! replaced bytes is [limited](MOST_REPLACED).
//!
//! Each byte is looked at once to find where values end. Only the texts of known keys are
//! looked at again, each once, when the whole is known to be sound: so a frame that is
//! malformed at its end costs no more than one that is not.

use std::borrow::Cow;

use super::plain::{end_of_plain, is_special};
use super::reply::Refusal;

/// Bytes that are no UTF-8 and are replaced by U+FFFD, in one text. Any more become `?`,
/// which is no longer than they are: otherwise a text could be stored as one three times as
/// long.
const MOST_REPLACED: usize = 256;

/// The classic envelope.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) packet_type: Option<i64>,
    /// The base64 text.
    pub(super) packet_content: Option<Text<'a>>,
}

/// The inner object; which keys it knows depends on the packet's kind.
#[derive(Debug, Default)]
pub(super) struct Inner<'a> {
    pub(super) version: Text<'a>,
    pub(super) content: Text<'a>,
    pub(super) rand: i64,
    pub(super) timestamp: i64,
    pub(super) agent: Option<Text<'a>>,
    pub(super) probe: bool,
}

/// The inner object of a heartbeat or of a report.
#[derive(Debug)]
pub(super) enum InnerObject<'a> {
    Heartbeat(Inner<'a>),
    Report(Inner<'a>),
}

/// An object that takes its fields one by one.
pub(super) trait Object<'a> {
    /// Where the value of the field `key` goes, if it has such a field.
    fn field(&mut self, key: Key) -> Field<'_, 'a>;
}

/// A field, by what its value is to be. In each, `null` changes nothing but for
/// [`Bytes`](Self::Bytes).
pub(super) enum Field<'f, 'a> {
    /// A text.
    Text(&'f mut Text<'a>),
    /// A text that may be missing.
    OptionalText(&'f mut Option<Text<'a>>),
    /// A text that stands for bytes: `null` is an empty one, as Go has it.
    Bytes(&'f mut Option<Text<'a>>),
    /// A number of 64 bits.
    Number(&'f mut i64),
    /// `true` or `false`.
    Flag(&'f mut bool),
    /// Anything: the key is unknown.
    Ignored,
}

impl<'a> Object<'a> for Envelope<'a> {
    fn field(&mut self, key: Key) -> Field<'_, 'a> {
        match key {
            Key::PacketType => Field::Number(self.packet_type.get_or_insert(0)),
            Key::PacketContent => Field::Bytes(&mut self.packet_content),
            _ => Field::Ignored,
        }
    }
}

impl<'a> Object<'a> for InnerObject<'a> {
    fn field(&mut self, key: Key) -> Field<'_, 'a> {
        match (self, key) {
            (Self::Heartbeat(inner), Key::Version) => Field::Text(&mut inner.version),
            (Self::Heartbeat(inner), Key::Probe) => Field::Flag(&mut inner.probe),
            (Self::Report(inner), Key::Content) => Field::Text(&mut inner.content),
            (Self::Report(inner), Key::Rand) => Field::Number(&mut inner.rand),
            (Self::Heartbeat(inner) | Self::Report(inner), Key::Timestamp) => {
                Field::Number(&mut inner.timestamp)
            }
            (Self::Heartbeat(inner) | Self::Report(inner), Key::Agent) => {
                Field::OptionalText(&mut inner.agent)
            }
            _ => Field::Ignored,
        }
    }
}

/// Reads an object that fills all of `json`, white space aside, into `object`, an empty one.
///
/// # Errors
/// [`Refusal::Malformed`] if `json` is no JSON. Otherwise [`Refusal::WrongType`] if it is no
/// object, or if a text or flag is something else; otherwise what is wrong with the first
/// number that cannot be used.
pub(super) fn parse<'a, T: Object<'a>>(json: &'a [u8], object: T) -> Result<T, Refusal> {
    let mut parser = Parser {
        json,
        at: 0,
        nesting: Nesting::default(),
        wrong_type: false,
        bad_number: None,
    };
    let object = parser.whole(object).ok_or(Refusal::Malformed)?;
    match parser.bad_number {
        _ if parser.wrong_type => Err(Refusal::WrongType),
        Some(refusal) => Err(refusal),
        None => Ok(object),
    }
}

/// A place in a JSON text. Its functions return `None` where the text is no JSON.
struct Parser<'a> {
    json: &'a [u8],
    at: usize,
    /// The values that are being skipped.
    nesting: Nesting,
    /// Whether a value of another type stands where a text, a flag or the object is to be.
    wrong_type: bool,
    /// The first number that cannot be used.
    bad_number: Option<Refusal>,
}

impl<'a> Parser<'a> {
    fn whole<T: Object<'a>>(&mut self, mut object: T) -> Option<T> {
        match self.peek()? {
            b'{' => {
                self.at += 1;
                self.members(&mut object)?;
            }
            b'n' => self.literal(b"null")?,
            _ => {
                self.wrong_type = true;
                self.skip()?;
            }
        }
        match self.peek() {
            None => Some(object),
            Some(_) => None,
        }
    }

    /// The members of an object whose opening bracket is passed.
    fn members<T: Object<'a>>(&mut self, object: &mut T) -> Option<()> {
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            let key = Key::of(self.key()?);
            match object.field(key) {
                Field::Ignored => self.skip()?,
                field => self.value(field)?,
            }
            match self.token()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// A value that is to go into `field`.
    fn value(&mut self, field: Field<'_, 'a>) -> Option<()> {
        match (self.peek()?, field) {
            (b'n', field) => {
                self.literal(b"null")?;
                if let Field::Bytes(text) = field {
                    *text = Some(Text::default());
                }
            }
            (b'"', Field::Text(text)) => {
                self.at += 1;
                *text = self.string()?;
            }
            (b'"', Field::OptionalText(text) | Field::Bytes(text)) => {
                self.at += 1;
                *text = Some(self.string()?);
            }
            (b'-' | b'0'..=b'9', Field::Number(number)) => match self.number()?.value() {
                Ok(value) => *number = value,
                Err(refusal) => self.refuse_number(refusal),
            },
            (b't', Field::Flag(flag)) => {
                self.literal(b"true")?;
                *flag = true;
            }
            (b'f', Field::Flag(flag)) => {
                self.literal(b"false")?;
                *flag = false;
            }
            (_, Field::Number(_)) => {
                self.refuse_number(Refusal::WrongType);
                self.skip()?;
            }
            (_, _) => {
                self.wrong_type = true;
                self.skip()?;
            }
        }
        Some(())
    }

    fn refuse_number(&mut self, refusal: Refusal) {
        self.bad_number.get_or_insert(refusal);
    }

    /// Passes a value of any kind. Nesting takes no stack.
    fn skip(&mut self) -> Option<()> {
        self.nesting.clear();
        loop {
            match self.token()? {
                b'"' => drop(self.string()?),
                b'[' if self.peek()? == b']' => self.at += 1,
                b'[' => {
                    self.nesting.enter(Kind::Array);
                    continue;
                }
                b'{' if self.peek()? == b'}' => self.at += 1,
                b'{' => {
                    self.nesting.enter(Kind::Object);
                    self.key()?;
                    continue;
                }
                b'-' | b'0'..=b'9' => {
                    self.at -= 1;
                    self.number()?;
                }
                b't' => self.rest_of_literal(b"rue")?,
                b'f' => self.rest_of_literal(b"alse")?,
                b'n' => self.rest_of_literal(b"ull")?,
                _ => return None,
            }
            loop {
                let Some(innermost) = self.nesting.innermost() else {
                    return Some(());
                };
                match (self.token()?, innermost) {
                    (b',', _) => break,
                    (b']', Kind::Array) | (b'}', Kind::Object) => self.nesting.leave(),
                    _ => return None,
                }
            }
            if self.nesting.innermost() == Some(Kind::Object) {
                self.key()?;
            }
        }
    }

    /// A key and the colon behind it.
    fn key(&mut self) -> Option<Text<'a>> {
        if self.token()? != b'"' {
            return None;
        }
        let key = self.string()?;
        (self.token()? == b':').then_some(key)
    }

    /// A string whose opening quote is passed.
    fn string(&mut self) -> Option<Text<'a>> {
        let start = self.at;
        let mut escaped = false;
        loop {
            // Where escapes stand close together, byte by byte is quicker.
            let near = self.json.get(self.at..)?;
            let near = near.first_chunk::<NEAR>().map_or(near, |near| near);
            let special = near.iter().position(|byte| is_special(*byte));
            self.at += match special {
                Some(at) => at,
                None => near.len() + end_of_plain(self.json.get(self.at + near.len()..)?)?,
            };
            match *self.json.get(self.at)? {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return None,
            }
        }
        let raw = self.json.get(start..self.at)?;
        self.at += 1;
        Some(Text { raw, escaped })
    }

    /// Passes escapes that stand one behind the other.
    fn escape(&mut self) -> Option<()> {
        while let Some([b'\\', letter, behind @ ..]) = self.json.get(self.at..) {
            match escape(*letter)? {
                UNICODE => {
                    let digits = behind.first_chunk::<4>()?;
                    if !digits.iter().all(u8::is_ascii_hexdigit) {
                        return None;
                    }
                    self.at += 6;
                }
                _ => self.at += 2,
            }
        }
        // A backslash that ends the text is no escape.
        (self.json.get(self.at)? != &b'\\').then_some(())
    }

    /// A number, whole or not.
    fn number(&mut self) -> Option<Number<'a>> {
        let start = self.at;
        if self.json.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.json.get(self.at)? {
            b'0' => self.at += 1,
            _ => self.digits()?,
        }
        let mut is_whole = true;
        if self.json.get(self.at) == Some(&b'.') {
            is_whole = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.json.get(self.at) {
            is_whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.json.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = self.json.get(start..self.at)?;
        Some(Number { text, is_whole })
    }

    /// Passes one digit or more.
    fn digits(&mut self) -> Option<()> {
        let rest = self.json.get(self.at..)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(())
    }

    fn literal(&mut self, literal: &[u8]) -> Option<()> {
        let rest = self.json.get(self.at..)?;
        self.at += literal.len();
        rest.starts_with(literal).then_some(())
    }

    /// The rest of a literal whose first byte is passed.
    fn rest_of_literal(&mut self, rest: &[u8]) -> Option<()> {
        self.literal(rest)
    }

    /// The next byte that is no white space, which it stands at then.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.json.get(self.at)? {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return Some(*byte),
            }
        }
    }

    /// As [`peek`](Self::peek), and passes it.
    #[inline]
    fn token(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }
}

/// A value that holds other values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Array,
    Object,
}

/// Arrays and objects that stand in each other. The outer ones take no memory of their own,
/// as an agent may send a key of its own with each packet.
#[derive(Default)]
struct Nesting {
    depth: usize,
    /// A bit for each of the outermost values, set for an object.
    outer: u64,
    /// The values inside those.
    inner: Vec<Kind>,
}

impl Nesting {
    const OUTER: usize = u64::BITS as usize;

    fn clear(&mut self) {
        (self.depth, self.outer) = (0, 0);
        self.inner.clear();
    }

    fn enter(&mut self, kind: Kind) {
        match self.depth < Self::OUTER {
            true => {
                let bit = 1 << self.depth;
                match kind {
                    Kind::Array => self.outer &= !bit,
                    Kind::Object => self.outer |= bit,
                }
            }
            false => self.inner.push(kind),
        }
        self.depth += 1;
    }

    fn leave(&mut self) {
        self.inner.pop();
        self.depth = self.depth.saturating_sub(1);
    }

    fn innermost(&self) -> Option<Kind> {
        let at = self.depth.checked_sub(1)?;
        match self
            .outer
            .checked_shr(u32::try_from(at).unwrap_or(u32::MAX))
        {
            Some(bits) if bits & 1 == 1 => Some(Kind::Object),
            Some(_) => Some(Kind::Array),
            None => self.inner.last().copied(),
        }
    }
}

/// A number as it is written.
struct Number<'a> {
    text: &'a [u8],
    is_whole: bool,
}

impl Number<'_> {
    fn value(&self) -> Result<i64, Refusal> {
        if !self.is_whole {
            return Err(Refusal::WrongType);
        }
        // A sign and digits are ASCII.
        let text = std::str::from_utf8(self.text).map_err(|_| Refusal::WrongType)?;
        text.parse().map_err(|_| Refusal::OutOfRange)
    }
}

/// Bytes of a string that are looked at one by one before the rest is looked at in blocks.
const NEAR: usize = 8;

/// What the letter behind a backslash stands for; [`UNICODE`] stands for itself, as digits
/// follow.
const fn escape(letter: u8) -> Option<u8> {
    Some(match letter {
        b'"' | b'\\' | b'/' | UNICODE => letter,
        b'b' => 0x08,
        b'f' => 0x0C,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// The letter in front of four digits.
const UNICODE: u8 = b'u';

/// A string as it is written, between its quotes. Its escapes are sound.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Text<'a> {
    raw: &'a [u8],
    /// Whether it has an escape.
    escaped: bool,
}

impl<'a> Text<'a> {
    /// What it stands for, as UTF-8: with a U+FFFD for each lone surrogate, and for each byte
    /// that is no UTF-8 as long as they are [few](MOST_REPLACED).
    pub(super) fn decode(self) -> Cow<'a, str> {
        match self.bytes() {
            Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => Cow::Owned(replace_invalid(bytes)),
            },
            Cow::Owned(bytes) => Cow::Owned(
                String::from_utf8(bytes).unwrap_or_else(|error| replace_invalid(error.as_bytes())),
            ),
        }
    }

    /// The same, without any check that it is UTF-8.
    pub(super) fn bytes(self) -> Cow<'a, [u8]> {
        match self.escaped {
            true => Cow::Owned(unescape(self.raw)),
            false => Cow::Borrowed(self.raw),
        }
    }
}

/// What a string with escapes stands for. It is never longer than it is written.
fn unescape(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    loop {
        rest = match rest {
            [] => return out,
            [b'\\', UNICODE, behind @ ..] => {
                let (character, behind) = unescape_unicode(behind);
                let mut bytes = [0; 4];
                out.extend_from_slice(character.encode_utf8(&mut bytes).as_bytes());
                behind
            }
            [b'\\', letter, behind @ ..] => {
                out.push(escape(*letter).unwrap_or(*letter));
                behind
            }
            _ => {
                let near = rest.first_chunk::<NEAR>().map_or(rest, |near| near);
                let end = near.iter().position(|byte| *byte == b'\\');
                let far = || end_of_plain(rest).unwrap_or(rest.len());
                let (text, behind) = rest.split_at(end.unwrap_or_else(far));
                match end {
                    // A loop is quicker than a call to copy so few.
                    Some(_) => text.iter().for_each(|byte| out.push(*byte)),
                    None => out.extend_from_slice(text),
                }
                behind
            }
        };
    }
}

/// The character of four hexadecimal digits, or of two such escapes that are a pair of
/// surrogates; and what is behind them.
fn unescape_unicode(digits: &[u8]) -> (char, &[u8]) {
    let (first, behind) = unit(digits);
    if let 0xD800..0xDC00 = first
        && let [b'\\', UNICODE, digits @ ..] = behind
        && let (second @ 0xDC00..0xE000, behind) = unit(digits)
    {
        let pair = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return (
            char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER),
            behind,
        );
    }
    let character = char::from_u32(first);
    (character.unwrap_or(char::REPLACEMENT_CHARACTER), behind)
}

/// The number that four hexadecimal digits write.
fn unit(text: &[u8]) -> (u32, &[u8]) {
    let (digits, behind) = text.split_at(text.len().min(4));
    let unit = digits.iter().fold(0, |unit, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10) & 0xF,
        };
        unit << 4 | u32::from(value)
    });
    (unit, behind)
}

/// Replaces each bad byte.
fn replace_invalid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 2 * MOST_REPLACED);
    let mut rest = bytes;
    for _ in 0..MOST_REPLACED {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                return text;
            }
            Err(error) => {
                let (valid, bad) = rest.split_at(error.valid_up_to());
                text.push_str(std::str::from_utf8(valid).unwrap_or_default());
                text.push(char::REPLACEMENT_CHARACTER);
                rest = bad.get(1..).unwrap_or_default();
            }
        }
    }
    text.push_str(&String::from_utf8(mask_invalid(rest)).unwrap_or_default());
    text
}

/// Puts a `?` in the place of each bad byte.
fn mask_invalid(bytes: &[u8]) -> Vec<u8> {
    let mut text = bytes.to_vec();
    let mut rest = text.as_mut_slice();
    while let [first, ..] = rest {
        let length = match *first {
            0..0x80 => 1,
            _ => match length_of_character(rest) {
                0 => {
                    if let Some(bad) = rest.first_mut() {
                        *bad = b'?';
                    }
                    1
                }
                length => length,
            },
        };
        (_, rest) = rest.split_at_mut(length);
    }
    text
}

/// Bytes of the first character of `bytes`, which is beyond ASCII; 0 if it is no UTF-8
/// (the Unicode Standard, table 3-7).
fn length_of_character(bytes: &[u8]) -> usize {
    match bytes {
        [0xC2..=0xDF, 0x80..=0xBF, ..] => 2,
        [0xE0, 0xA0..=0xBF, 0x80..=0xBF, ..]
        | [0xE1..=0xEC | 0xEE..=0xEF, 0x80..=0xBF, 0x80..=0xBF, ..]
        | [0xED, 0x80..=0x9F, 0x80..=0xBF, ..] => 3,
        [0xF0, 0x90..=0xBF, 0x80..=0xBF, 0x80..=0xBF, ..]
        | [0xF1..=0xF3, 0x80..=0xBF, 0x80..=0xBF, 0x80..=0xBF, ..]
        | [0xF4, 0x80..=0x8F, 0x80..=0xBF, 0x80..=0xBF, ..] => 4,
        _ => 0,
    }
}

/// The keys that mean something, in one object or another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// The longest key, in bytes, and how long it is if every byte is an escape.
const LONGEST_KEY: usize = "PacketContent".len();
const LONGEST_ESCAPED: usize = 6 * LONGEST_KEY;

impl Key {
    fn of(text: Text<'_>) -> Self {
        match text.escaped {
            false => Self::named(text.raw),
            true if text.raw.len() > LONGEST_ESCAPED => Self::Unknown,
            true => Self::named(&unescape(text.raw)),
        }
    }

    fn named(name: &[u8]) -> Self {
        match name {
            b"PacketType" => Self::PacketType,
            b"PacketContent" => Self::PacketContent,
            b"version" => Self::Version,
            b"content" => Self::Content,
            b"rand" => Self::Rand,
            b"timestamp" => Self::Timestamp,
            b"agent" => Self::Agent,
            b"probe" => Self::Probe,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// Whether serde_json takes `text` for JSON, and this parser does.
    fn both(text: &[u8]) -> (bool, bool) {
        let object = InnerObject::Report(Inner::default());
        let parsed = parse(text, object).map(drop);
        let by_serde = serde_json::from_slice::<IgnoredAny>(text).is_ok();
        (by_serde, parsed != Err(Refusal::Malformed))
    }

    #[test]
    fn what_is_json_is_json() {
        for text in [
            "",
            " ",
            "null",
            "nul",
            "nulll",
            "true",
            "tru",
            "false",
            "[]",
            "[",
            "]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{}",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":2}",
            "{a:1}",
            "{\"a\":[{}, [], {\"b\":[1, {\"c\":null}]}]}",
            "{\"a\":[}]",
            "{\"a\":{]}",
            "0",
            "-0",
            "-",
            "01",
            "1.",
            ".5",
            "1.5e",
            "1.5e+",
            "1.5E-07",
            "1e5",
            "+1",
            "--1",
            "0x1",
            "\"",
            "\"a\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\u12aF\"",
            "\"\\ud800\"",
            "\"\\",
            "\"\t\"",
            "\"\u{7f}\"",
            "{\"rand\":\"a",
            "{\"content\":\"a",
            "{\"content\":\"\\",
            "{\"content\":nul}",
            "{\"rand\":-}",
            "{\"rand\":1}x",
            "{\"rand\":1} ",
            " \t\r\n{\"rand\" : 1 , \"x\" : [ ] }",
        ] {
            let (by_serde, by_us) = both(text.as_bytes());
            assert_eq!(by_us, by_serde, "{text}");
        }
    }

    #[test]
    fn long_strings_end_where_they_end() {
        for length in 0..200 {
            let text = format!("{{\"content\":\"{}\",\"rand\":7}}", "x".repeat(length));
            let object = InnerObject::Report(Inner::default());
            let Ok(InnerObject::Report(inner)) = parse(text.as_bytes(), object) else {
                panic!("{text}");
            };
            assert_eq!((inner.content.decode().len(), inner.rand), (length, 7));
        }
    }

    #[test]
    fn a_text_does_not_grow_without_a_limit() {
        let text = |raw: &[u8]| {
            Text {
                raw,
                escaped: false,
            }
            .decode()
            .into_owned()
        };
        let few = vec![0x80; MOST_REPLACED];
        assert_eq!(text(&few), "\u{FFFD}".repeat(MOST_REPLACED));
        let many = [&[0x80; 60_000][..], "ü".as_bytes(), b"\xC3"].concat();
        let expected = [
            "\u{FFFD}".repeat(MOST_REPLACED),
            "?".repeat(60_000 - MOST_REPLACED),
            "ü?".into(),
        ];
        assert_eq!(text(&many), expected.concat());
        let escaped = Text {
            raw: &b"\\ud800".repeat(10_000),
            escaped: true,
        };
        assert_eq!(escaped.decode(), "\u{FFFD}".repeat(10_000));
    }

    proptest! {
        /// serde_json has the same opinion of what is JSON.
        #[test]
        fn json_is_what_serde_json_takes(
            text in prop_oneof![
                "[\\[\\]{}:,\"a\\\\u0e.\\-1 ntrue]{0,24}",
                "\\{(\"[a-c]\":(\\[[0-9,]{0,4}\\]|\"(\\\\[nu]|[a-f0-9]){0,9}\"|-?[0-9.e]{1,4})[,}]){1,3}",
            ],
        ) {
            let (by_serde, by_us) = both(text.as_bytes());
            prop_assert_eq!(by_us, by_serde);
        }

        /// Bad bytes are found where the standard library finds them.
        #[test]
        fn bad_bytes_are_those_of_the_standard_library(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), 0x80..=0xC3_u8, Just(0xE0), Just(0xED), Just(0xF0), Just(0xF4)],
                0..40,
            ),
        ) {
            let mut expected = Vec::new();
            for chunk in bytes.utf8_chunks() {
                expected.extend_from_slice(chunk.valid().as_bytes());
                expected.extend(chunk.invalid().iter().map(|_| b'?'));
            }
            prop_assert_eq!(mask_invalid(&bytes), expected.clone());
            let replaced = String::from_utf8(expected).unwrap();
            let question = bytes.iter().filter(|byte| **byte == b'?').count();
            if question == 0 {
                prop_assert_eq!(replace_invalid(&bytes), replaced.replace('?', "\u{FFFD}"));
            }
        }
    }
}
