//! The rules of docs/protocol.md for a frame's data, in their simplest form.
//!
//! Whether a text is JSON at all, serde_json says. Everything else is read here
//! from the text itself, which by then is known to be sound.

use std::borrow::Cow;

use hawk_wire::{AgentName, Heartbeat, Packet, PacketKind, Refusal, Report};
use serde::de::IgnoredAny;

/// Decodes a frame's data.
pub(crate) fn decode(data: &[u8]) -> Result<Packet<'static>, Refusal> {
    match data {
        [] => Err(Refusal::Empty),
        [b'{' | b' ' | b'\t' | b'\r' | b'\n', ..] => {
            let (kind, json) = envelope(data)?;
            inner(kind, &json)
        }
        [0, json @ ..] => inner(PacketKind::Heartbeat, json),
        [1, json @ ..] => inner(PacketKind::Report, json),
        [b'!'..=b'~', ..] => Err(Refusal::Malformed),
        _ => Err(Refusal::UnknownEncoding),
    }
}

fn envelope(json: &[u8]) -> Result<(PacketKind, Vec<u8>), Refusal> {
    let (mut number, mut content) = (None, None);
    let mut faults = Faults::default();
    for (key, value) in members(json)? {
        match key.as_str() {
            "PacketType" => faults.note(integer(value), number.get_or_insert(0)),
            "PacketContent" => content = Some(string(value)?.unwrap_or_default()),
            _ => {}
        }
    }
    faults.none()?;
    let (Some(number), Some(content)) = (number, content) else {
        return Err(Refusal::MissingField);
    };
    let kind = match number {
        0 => PacketKind::Heartbeat,
        1 => PacketKind::Report,
        2..=255 => return Err(Refusal::UnknownPacketType),
        _ => return Err(Refusal::OutOfRange),
    };
    Ok((kind, base64(&content).ok_or(Refusal::BadBase64)?))
}

fn inner(kind: PacketKind, json: &[u8]) -> Result<Packet<'static>, Refusal> {
    if json.is_empty() {
        return Err(Refusal::Empty);
    }
    let (mut version, mut content, mut agent) = (String::new(), String::new(), None);
    let (mut rand, mut timestamp, mut probe) = (0, 0, false);
    let mut faults = Faults::default();
    for (key, value) in members(json)? {
        match (kind, key.as_str()) {
            (PacketKind::Heartbeat, "version") => version = string(value)?.unwrap_or(version),
            (PacketKind::Heartbeat, "probe") => probe = boolean(value)?.unwrap_or(probe),
            (PacketKind::Report, "content") => content = string(value)?.unwrap_or(content),
            (PacketKind::Report, "rand") => faults.note(integer(value), &mut rand),
            (_, "timestamp") => faults.note(integer(value), &mut timestamp),
            (_, "agent") => agent = string(value)?.or(agent),
            _ => {}
        }
    }
    faults.none()?;
    let agent = match agent {
        None => None,
        Some(name) if (1..=128).contains(&name.len()) && !name.contains(char::is_control) => {
            Some(AgentName::new(name).unwrap())
        }
        Some(_) => return Err(Refusal::BadAgentName),
    };
    Ok(match kind {
        PacketKind::Heartbeat => Packet::Heartbeat(Heartbeat {
            version: version.into(),
            timestamp,
            agent,
            probe,
        }),
        PacketKind::Report => Packet::Report(Report {
            content: Cow::Owned(content),
            rand,
            timestamp,
            agent,
        }),
    })
}

/// The first number of an object that cannot be used. A value that should be text
/// and is not outranks it.
#[derive(Default)]
struct Faults(Option<Refusal>);

impl Faults {
    fn note(&mut self, read: Result<Option<i64>, Refusal>, into: &mut i64) {
        match read {
            Ok(None) => {}
            Ok(Some(number)) => *into = number,
            Err(refusal) => self.0 = self.0.or(Some(refusal)),
        }
    }

    fn none(self) -> Result<(), Refusal> {
        self.0.map_or(Ok(()), Err)
    }
}

/// The keys and values of the object that is the whole of `json`; `null` has none.
fn members(json: &[u8]) -> Result<Vec<(String, &[u8])>, Refusal> {
    if serde_json::from_slice::<IgnoredAny>(json).is_err() {
        return Err(Refusal::Malformed);
    }
    let json = json.trim_ascii();
    if json == b"null" {
        return Ok(Vec::new());
    }
    let mut rest = json.strip_prefix(b"{").ok_or(Refusal::WrongType)?;
    let mut members = Vec::new();
    loop {
        // What is between two members is white space, commas and colons.
        let separator = |byte: &u8| b" \t\r\n,:".contains(byte);
        let mut next = || {
            let start = rest.iter().position(|byte| !separator(byte)).unwrap();
            let (value, behind) = rest[start..].split_at(length_of_value(&rest[start..]));
            rest = behind;
            value
        };
        match next() {
            b"" => return Ok(members),
            key => members.push((string(key)?.unwrap_or_default(), next())),
        }
    }
}

/// Returns the length of the next value of valid JSON; 0 at a closing bracket.
fn length_of_value(json: &[u8]) -> usize {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b' ' | b'\t' | b'\r' | b'\n' | b',' | b':' | b']' | b'}' if depth == 0 => return at,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    json.len()
}

/// A value that should be an integer; nothing if it is `null`.
fn integer(value: &[u8]) -> Result<Option<i64>, Refusal> {
    if value == b"null" {
        return Ok(None);
    }
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::WrongType);
    }
    let number = std::str::from_utf8(value).unwrap().parse();
    number.map(Some).map_err(|_| Refusal::OutOfRange)
}

/// A value that should be a boolean; nothing if it is `null`.
fn boolean(value: &[u8]) -> Result<Option<bool>, Refusal> {
    match value {
        b"null" => Ok(None),
        b"true" => Ok(Some(true)),
        b"false" => Ok(Some(false)),
        _ => Err(Refusal::WrongType),
    }
}

/// A value that should be a string; nothing if it is `null`.
fn string(value: &[u8]) -> Result<Option<String>, Refusal> {
    let mut rest = match value {
        b"null" => return Ok(None),
        [b'"', text @ .., b'"'] => text,
        _ => return Err(Refusal::WrongType),
    };
    let (mut text, mut bad) = (String::new(), 0);
    while !rest.is_empty() {
        let (character, length) = match rest {
            [b'\\', b'u', hex @ ..] => escaped_unit(hex),
            [b'\\', letter, ..] => (escaped_letter(*letter), 2),
            _ => match raw_character(rest) {
                Some(character) => character,
                None => {
                    // Only so many are replaced by something that is longer.
                    bad += 1;
                    (if bad > 256 { '?' } else { '\u{FFFD}' }, 1)
                }
            },
        };
        text.push(character);
        rest = &rest[length..];
    }
    Ok(Some(text))
}

fn escaped_letter(letter: u8) -> char {
    match letter {
        b'b' => '\u{8}',
        b'f' => '\u{C}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        other => char::from(other),
    }
}

/// What `\u` and the digits in front of `hex` stand for, and the length of it all.
fn escaped_unit(hex: &[u8]) -> (char, usize) {
    let unit = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).unwrap();
        u16::from_str_radix(digits, 16).unwrap()
    };
    let first = unit(&hex[..4]);
    if let [b'\\', b'u', second @ ..] = &hex[4..]
        && let Some(Ok(pair)) = char::decode_utf16([first, unit(&second[..4])]).next()
        && u32::from(pair) > 0xFFFF
    {
        return (pair, 12);
    }
    (char::from_u32(u32::from(first)).unwrap_or('\u{FFFD}'), 6)
}

fn raw_character(bytes: &[u8]) -> Option<(char, usize)> {
    for length in 1..=bytes.len().min(4) {
        if let Ok(text) = std::str::from_utf8(&bytes[..length]) {
            return Some((text.chars().next().unwrap(), length));
        }
    }
    None
}

/// Standard base64, padded; line breaks may stand anywhere, and the bits that are
/// left over may be anything.
fn base64(text: &str) -> Option<Vec<u8>> {
    let text: Vec<u8> = text
        .bytes()
        .filter(|byte| !b"\r\n".contains(byte))
        .collect();
    let mut decoded = Vec::new();
    let (groups, []) = text.as_chunks::<4>() else {
        return None;
    };
    for (at, group) in groups.iter().enumerate() {
        let (digits, bytes) = match group {
            [_, _, b'=', b'='] if at + 1 == groups.len() => (&group[..2], 1),
            [_, _, _, b'='] if at + 1 == groups.len() => (&group[..3], 2),
            _ => (&group[..], 3),
        };
        let mut value = 0;
        for place in 0..4 {
            let digit = digits.get(place).map_or(Some(0), |digit| sextet(*digit))?;
            value = value << 6 | u32::from(digit);
        }
        decoded.extend_from_slice(&value.to_be_bytes()[1..=bytes]);
    }
    Some(decoded)
}

fn sextet(digit: u8) -> Option<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let place = ALPHABET.iter().position(|known| *known == digit)?;
    u8::try_from(place).ok()
}
