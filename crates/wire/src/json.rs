//! The two JSON objects of the wire, read as Go's `encoding/json` reads them, because Go
//! agents are deployed.
//!
//! Go takes much that other parsers refuse: `null` for any field (no effect on it), a key
//! given twice (the last value wins), a lone surrogate in an escape or a byte that is not
//! UTF-8 (each becomes U+FFFD). Unlike Go, keys match by exact case, and the number of
//! replaced bytes is [limited](super::utf8).
//!
//! The parser reads each byte once: it decodes escapes while it looks for the end of the
//! string. So a frame that is malformed at its end costs no more than a valid frame.

use std::borrow::Cow;
use std::mem;

use super::plain::{end_of_plain, is_special};
use super::reply::Refusal;

/// The classic envelope.
#[derive(Debug, Default)]
pub(super) struct Envelope<'a> {
    pub(super) packet_type: Option<i64>,
    /// The base64 text.
    pub(super) packet_content: Option<Text<'a>>,
}

/// A string without its quotes and with its escapes decoded. It may hold bytes that are not
/// UTF-8. Borrows from the frame if the string has no escapes.
pub(super) type Text<'a> = Cow<'a, [u8]>;

/// The inner object. Its known keys depend on the packet's kind.
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

/// A field, by what its value is to be. `null` leaves each unchanged, except
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
pub(super) fn parse<'a, T: Object<'a>>(json: &'a [u8], mut object: T) -> Result<T, Refusal> {
    let mut parser = Parser::default();
    parser.whole(json, &mut object).ok_or(Refusal::Malformed)?;
    match parser.bad_number {
        _ if parser.wrong_type => Err(Refusal::WrongType),
        Some(refusal) => Err(refusal),
        None => Ok(object),
    }
}

/// Reads a JSON text. Each function takes the text from some place on and returns what is
/// behind the part that it has read, or `None` where the text is not JSON.
#[derive(Default)]
struct Parser {
    /// Whether a value of another type stands in the place of a text, a flag or the object.
    wrong_type: bool,
    /// The refusal for the first number that cannot be used.
    bad_number: Option<Refusal>,
}

impl Parser {
    /// Reads a text that is one object, or `null`, into `object`.
    fn whole<'a, T: Object<'a>>(&mut self, json: &'a [u8], object: &mut T) -> Option<()> {
        let behind = match token(json)? {
            (b'{', rest) => self.members(rest, object)?,
            (b'n', rest) => literal(rest, b"ull")?,
            _ => {
                self.wrong_type = true;
                skip(json)?
            }
        };
        token(behind).is_none().then_some(())
    }

    /// Reads the members of an object from behind its opening bracket to its closing one.
    #[inline]
    fn members<'a, T: Object<'a>>(&mut self, json: &'a [u8], object: &mut T) -> Option<&'a [u8]> {
        let mut rest = match token(json)? {
            (b'}', behind) => return Some(behind),
            _ => json,
        };
        loop {
            let (key, value) = key(rest)?;
            let behind = match key {
                Key::Unknown => skip(value)?,
                key => match object.field(key) {
                    Field::Ignored => skip(value)?,
                    field => self.value(value, field)?,
                },
            };
            match token(behind)? {
                (b',', next) => rest = next,
                (b'}', behind) => return Some(behind),
                _ => return None,
            }
        }
    }

    /// Reads a value into `field`.
    #[inline(never)]
    fn value<'a>(&mut self, json: &'a [u8], field: Field<'_, 'a>) -> Option<&'a [u8]> {
        let (first, rest) = token(json)?;
        match (first, field) {
            (b'n', field) => {
                if let Field::Bytes(text) = field {
                    *text = Some(Text::default());
                }
                literal(rest, b"ull")
            }
            (b'"', Field::Text(text)) => string(rest, text),
            (b'"', Field::OptionalText(text) | Field::Bytes(text)) => {
                string(rest, text.get_or_insert_default())
            }
            (b'-' | b'0'..=b'9', Field::Number(number)) => {
                let (value, behind) = integer(json)?;
                match value {
                    Ok(value) => *number = value,
                    Err(refusal) => self.refuse_number(refusal),
                }
                Some(behind)
            }
            (b't', Field::Flag(flag)) => {
                *flag = true;
                literal(rest, b"rue")
            }
            (b'f', Field::Flag(flag)) => {
                *flag = false;
                literal(rest, b"alse")
            }
            (_, Field::Number(_)) => {
                self.refuse_number(Refusal::WrongType);
                skip(json)
            }
            (_, _) => {
                self.wrong_type = true;
                skip(json)
            }
        }
    }

    fn refuse_number(&mut self, refusal: Refusal) {
        self.bad_number.get_or_insert(refusal);
    }
}

/// Returns the first byte that is not white space, and what is behind it.
#[inline(always)]
fn token(json: &[u8]) -> Option<(u8, &[u8])> {
    match json {
        [byte, behind @ ..] if *byte > b' ' => Some((*byte, behind)),
        _ => token_behind_space(json),
    }
}

#[inline(never)]
fn token_behind_space(json: &[u8]) -> Option<(u8, &[u8])> {
    let space = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    let length = json.iter().take_while(|byte| space(byte)).count();
    let (byte, behind) = json.get(length..)?.split_first()?;
    Some((*byte, behind))
}

/// Passes the rest of a literal.
fn literal<'a>(json: &'a [u8], rest: &[u8]) -> Option<&'a [u8]> {
    json.strip_prefix(rest)
}

/// Passes a value of any kind.
#[inline(always)]
fn skip(json: &[u8]) -> Option<&[u8]> {
    match token(json)? {
        (first @ (b'[' | b'{'), behind) => skip_nested(first, behind),
        (first, behind) => skip_scalar(first, behind),
    }
}

/// Passes the rest of an array or object behind its bracket `first`. Nesting takes no stack.
#[inline(never)]
fn skip_nested(mut first: u8, mut rest: &[u8]) -> Option<&[u8]> {
    let mut nesting = Nesting::default();
    loop {
        // A value begins with `first`, which is passed.
        match first {
            b'[' => {
                nesting.enter(Kind::Array);
                while nesting.is_even()
                    && let Some(behind) = rest.strip_prefix(b"[[[[[[[[")
                {
                    nesting.enter_eight_arrays();
                    rest = behind;
                }
                (first, rest) = token(rest)?;
                if first != b']' {
                    continue;
                }
                nesting.leave();
            }
            b'{' => {
                nesting.enter(Kind::Object);
                match token(rest)? {
                    (b'}', behind) => {
                        rest = behind;
                        nesting.leave();
                    }
                    _ => {
                        (first, rest) = token(skip_key(rest)?)?;
                        continue;
                    }
                }
            }
            _ => rest = skip_scalar(first, rest)?,
        }
        // A value is passed: find the next one.
        first = loop {
            let Some(innermost) = nesting.innermost() else {
                return Some(rest);
            };
            let (byte, behind) = token(rest)?;
            rest = behind;
            match (byte, innermost) {
                (b',', Kind::Array) => {
                    (first, rest) = token(rest)?;
                    break first;
                }
                (b',', Kind::Object) => {
                    (first, rest) = token(skip_key(rest)?)?;
                    break first;
                }
                (b']', Kind::Array) => {
                    nesting.leave();
                    while nesting.ends_with_eight_arrays()
                        && let Some(behind) = rest.strip_prefix(b"]]]]]]]]")
                    {
                        nesting.leave_eight();
                        rest = behind;
                    }
                }
                (b'}', Kind::Object) => nesting.leave(),
                _ => return None,
            }
        };
    }
}

/// Passes the rest of a string, number or literal behind its byte `first`.
#[inline(always)]
fn skip_scalar(first: u8, rest: &[u8]) -> Option<&[u8]> {
    match first {
        b'"' => skip_string(rest),
        b'0'..=b'9' | b'-' => Some(number(first, rest)?.1),
        b't' => literal(rest, b"rue"),
        b'f' => literal(rest, b"alse"),
        b'n' => literal(rest, b"ull"),
        _ => None,
    }
}

/// Reads a key and passes the colon behind it.
#[inline(always)]
fn key(json: &[u8]) -> Option<(Key, &[u8])> {
    let (b'"', rest) = token(json)? else {
        return None;
    };
    let (key, behind) = match plain(rest)? {
        (name, [b'"', behind @ ..]) => (Key::named(name), behind),
        (start, special) => escaped_key(start, special)?,
    };
    match token(behind)? {
        (b':', value) => Some((key, value)),
        _ => None,
    }
}

/// Reads a key from its first special byte on; `start` stands before it.
#[inline(never)]
fn escaped_key<'a>(start: &[u8], special: &'a [u8]) -> Option<(Key, &'a [u8])> {
    let mut name = KeyName::default();
    name.append(start);
    let behind = unescape(special, |bytes| name.append(bytes))?;
    Some((Key::named(name.get()), behind))
}

/// Passes a key and the colon behind it.
#[inline(always)]
fn skip_key(json: &[u8]) -> Option<&[u8]> {
    let (b'"', rest) = token(json)? else {
        return None;
    };
    match token(skip_string(rest)?)? {
        (b':', value) => Some(value),
        _ => None,
    }
}

/// Reads a string into `text`, from behind its opening quote.
fn string<'a>(json: &'a [u8], text: &mut Text<'a>) -> Option<&'a [u8]> {
    let (start, special) = plain(json)?;
    match special {
        [b'"', behind @ ..] => {
            *text = Text::Borrowed(start);
            return Some(behind);
        }
        [b'\\', ..] => {}
        _ => return None,
    }
    // A repeated key reuses the memory of its last value.
    let mut decoded = match mem::take(text) {
        Text::Borrowed(_) => Vec::new(),
        Text::Owned(last) => last,
    };
    decoded.clear();
    decoded.reserve(start.len() + special.len().min(RESERVED));
    decoded.extend_from_slice(start);
    let behind = unescape(special, |bytes| decoded.extend_from_slice(bytes))?;
    *text = Text::Owned(decoded);
    Some(behind)
}

/// Passes the rest of a string behind its opening quote.
#[inline(always)]
fn skip_string(json: &[u8]) -> Option<&[u8]> {
    match plain(json)? {
        (_, [b'"', behind @ ..]) => Some(behind),
        (_, special) => skip_escaped(special),
    }
}

#[inline(never)]
fn skip_escaped(special: &[u8]) -> Option<&[u8]> {
    unescape(special, |_| ())
}

/// Splits a string before its first special byte.
#[inline(always)]
fn plain(json: &[u8]) -> Option<(&[u8], &[u8])> {
    // Most keys are so short that a search in words costs more.
    let near = json.first_chunk::<NEAR>();
    let near = near.and_then(|near| near.iter().position(|byte| look_up(&SPECIAL, *byte)));
    json.split_at_checked(near.or_else(|| end_of_plain(json))?)
}

/// Decodes a string from a special byte on and passes its closing quote. Gives `sink` what
/// the string stands for, in pieces.
#[inline]
fn unescape(mut json: &[u8], mut sink: impl FnMut(&[u8])) -> Option<&[u8]> {
    let mut decoded = [0; DECODED];
    loop {
        match json {
            [b'"', behind @ ..] => return Some(behind),
            [b'\\', ..] => {
                let mut end = [0; WINDOW];
                let window = match json.first_chunk() {
                    Some(window) => window,
                    None => {
                        // Zeros, which cannot stand in a string, follow the last bytes.
                        end.get_mut(..json.len())?.copy_from_slice(json);
                        &end
                    }
                };
                let (read, written) = unescape_window(window, &mut decoded)?;
                json = json.get(read..)?;
                sink(decoded.get(..written)?);
            }
            _ => {
                let (plain, behind) = json.split_at_checked(end_of_plain(json)?)?;
                if plain.is_empty() {
                    return None;
                }
                sink(plain);
                json = behind;
            }
        }
    }
}

/// Passes the rest of a number behind its byte `first`. Returns also whether it is an integer.
#[inline(always)]
fn number(first: u8, rest: &[u8]) -> Option<(bool, &[u8])> {
    let (first, rest) = match first {
        b'-' => {
            let (digit, rest) = rest.split_first()?;
            (*digit, rest)
        }
        _ => (first, rest),
    };
    let behind = match first {
        b'0' => rest,
        b'1'..=b'9' => behind_digits(rest),
        _ => return None,
    };
    match behind {
        [b'.' | b'e' | b'E', ..] => Some((false, fraction(behind)?)),
        _ => Some((true, behind)),
    }
}

/// Passes the fraction and the exponent of a number.
#[inline(never)]
fn fraction(mut rest: &[u8]) -> Option<&[u8]> {
    if let [b'.', b'0'..=b'9', behind @ ..] = rest {
        rest = behind_digits(behind);
    }
    match rest {
        [b'e' | b'E', b'0'..=b'9', behind @ ..]
        | [b'e' | b'E', b'+' | b'-', b'0'..=b'9', behind @ ..] => Some(behind_digits(behind)),
        [b'.' | b'e' | b'E', ..] => None,
        _ => Some(rest),
    }
}

#[inline(always)]
fn behind_digits(mut rest: &[u8]) -> &[u8] {
    while let [b'0'..=b'9', behind @ ..] = rest {
        rest = behind;
    }
    rest
}

/// Reads a number; returns its value if it is whole and fits 64 bits.
fn integer(json: &[u8]) -> Option<(Result<i64, Refusal>, &[u8])> {
    let (first, rest) = token(json)?;
    let (is_whole, behind) = number(first, rest)?;
    let text = json.get(..json.len() - behind.len())?;
    // A sign and digits are ASCII.
    let value = match std::str::from_utf8(text) {
        Ok(text) if is_whole => text
            .trim_ascii_start()
            .parse()
            .map_err(|_| Refusal::OutOfRange),
        _ => Err(Refusal::WrongType),
    };
    Some((value, behind))
}

/// A value that holds other values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Array,
    Object,
}

/// Arrays and objects that stand in each other. The innermost 64 take no memory of the heap,
/// as an agent may send a key of its own with each packet.
#[derive(Default)]
struct Nesting {
    depth: usize,
    /// A bit for each of the innermost values, the last one in the lowest bit, set for an
    /// object; at most 64, as many as make the number of the outer ones a multiple of 64.
    innermost: u64,
    /// The values around those, 64 in each.
    outer: Vec<u64>,
}

impl Nesting {
    const WORD: usize = u64::BITS as usize;

    fn enter(&mut self, kind: Kind) {
        self.make_room();
        self.innermost = self.innermost << 1 | u64::from(kind == Kind::Object);
        self.depth += 1;
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.innermost >>= 1;
        self.refill();
    }

    fn innermost(&self) -> Option<Kind> {
        match self.innermost & 1 {
            _ if self.depth == 0 => None,
            0 => Some(Kind::Array),
            _ => Some(Kind::Object),
        }
    }

    /// Whether eight more values fit in the word of the innermost ones, or begin another.
    const fn is_even(&self) -> bool {
        self.depth.is_multiple_of(8)
    }

    /// Does what eight calls of [`enter`](Self::enter) do, where the nesting is
    /// [even](Self::is_even): a frame may be filled with brackets.
    fn enter_eight_arrays(&mut self) {
        self.make_room();
        self.innermost <<= 8;
        self.depth += 8;
    }

    const fn ends_with_eight_arrays(&self) -> bool {
        self.is_even() && self.depth > 0 && self.innermost & 0xFF == 0
    }

    fn leave_eight(&mut self) {
        self.depth = self.depth.saturating_sub(8);
        self.innermost >>= 8;
        self.refill();
    }

    #[inline]
    fn make_room(&mut self) {
        if self.depth.is_multiple_of(Self::WORD) && self.depth > 0 {
            self.outer.push(self.innermost);
        }
    }

    #[inline]
    fn refill(&mut self) {
        if self.depth.is_multiple_of(Self::WORD) {
            self.innermost = self.outer.pop().unwrap_or_default();
        }
    }
}

/// Bytes of memory that are reserved at once for a string with escapes, at most: more than
/// the strings of deployed agents take.
const RESERVED: usize = 1024;

/// Bytes that [`unescape`] is shown.
const WINDOW: usize = 160;

/// An escape that begins behind so many of them is left to the next window. A pair of
/// surrogates and [`NEAR`] bytes fit behind.
const BLOCK: usize = 128;

/// Plain bytes behind an escape that are taken one by one; more are searched in blocks.
const NEAR: usize = 8;

/// Room for what a window stands for: more than [`WINDOW`], and as many as a `u8` counts, so
/// that no index needs a check.
const DECODED: usize = 256;

/// Decodes the escapes at the front of `window`, and plain bytes that stand between them, into
/// `decoded`. Returns how many bytes of both that takes, or `None` at a bad escape.
fn unescape_window(window: &[u8; WINDOW], decoded: &mut [u8; DECODED]) -> Option<(usize, usize)> {
    let (mut read, mut written) = (0, 0_u8);
    let byte_at = |at: usize| window.get(at).copied().unwrap_or_default();
    while read < BLOCK && byte_at(read) == b'\\' {
        match look_up(&LETTERS, byte_at(read + 1)) {
            0 => {
                let (character, length) = unescape_unicode(window.get(read..)?.first_chunk()?)?;
                let utf8 = decoded
                    .get_mut(usize::from(written)..)?
                    .first_chunk_mut::<4>()?;
                let length_of_utf8 = character.encode_utf8(utf8).len();
                written = written.wrapping_add(u8::try_from(length_of_utf8).ok()?);
                read += length;
            }
            byte => {
                put(decoded, &mut written, byte);
                read += 2;
                while read < BLOCK
                    && byte_at(read) == b'\\'
                    && let byte @ 1.. = look_up(&LETTERS, byte_at(read + 1))
                {
                    put(decoded, &mut written, byte);
                    read += 2;
                }
            }
        }
        for _ in 0..NEAR {
            let byte = byte_at(read);
            if look_up(&SPECIAL, byte) {
                break;
            }
            put(decoded, &mut written, byte);
            read += 1;
        }
    }
    Some((read, usize::from(written)))
}

#[inline(always)]
fn put(decoded: &mut [u8; DECODED], written: &mut u8, byte: u8) {
    if let Some(slot) = decoded.get_mut(usize::from(*written)) {
        *slot = byte;
    }
    *written = written.wrapping_add(1);
}

/// Returns the character of the `\u` escape at the front of `escapes`, or of two such escapes
/// that are a pair of surrogates, and how many bytes they take; `None` if they are no `\u` escape.
#[inline]
fn unescape_unicode(escapes: &[u8; 12]) -> Option<(char, usize)> {
    let [_, UNICODE, a, b, c, d, backslash, letter, e, f, g, h] = *escapes else {
        return None;
    };
    let first = unit([a, b, c, d])?;
    // The digits of the second of a pair are DC00 to DFFF.
    if let 0xD800..0xDC00 = first
        && let (b'\\', UNICODE, b'c'..=b'f' | b'C'..=b'F') = (backslash, letter, f)
        && let Some(second @ 0xDC00..0xE000) = unit([e, f, g, h])
    {
        let pair = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        return Some((char::from_u32(pair)?, 12));
    }
    let character = char::from_u32(first);
    Some((character.unwrap_or(char::REPLACEMENT_CHARACTER), 6))
}

/// Returns the number that four hexadecimal digits write.
#[inline]
fn unit(digits: [u8; 4]) -> Option<u32> {
    let [a, b, c, d] = digits.map(|digit| u32::from(look_up(&HEX, digit)));
    ((a | b | c | d) < 16).then_some(a << 12 | b << 8 | c << 4 | d)
}

/// The letter in front of four digits.
const UNICODE: u8 = b'u';

/// Makes a table with an entry for each byte.
macro_rules! by_byte {
    ($byte:ident => $entry:expr) => {{
        let mut table = [{
            let $byte = 0_u8;
            $entry
        }; 256];
        let mut rest: &mut [_] = &mut table;
        let mut $byte = 0_u8;
        while let Some((slot, behind)) = rest.split_first_mut() {
            *slot = $entry;
            rest = behind;
            $byte = $byte.wrapping_add(1);
        }
        table
    }};
}

/// What the letter behind a backslash stands for; 0 for [`UNICODE`], where digits follow, and
/// for letters that mean nothing.
static LETTERS: [u8; 256] = by_byte!(letter => match letter {
    b'"' | b'\\' | b'/' => letter,
    b'b' => 0x08,
    b'f' => 0x0C,
    b'n' => b'\n',
    b'r' => b'\r',
    b't' => b'\t',
    _ => 0,
});

/// The value of a hexadecimal digit, and 255 for any other byte.
static HEX: [u8; 256] = by_byte!(digit => match digit {
    b'0'..=b'9' => digit - b'0',
    b'a'..=b'f' => digit - b'a' + 10,
    b'A'..=b'F' => digit - b'A' + 10,
    _ => u8::MAX,
});

/// Whether a byte cannot stand in a string as it is.
static SPECIAL: [bool; 256] = by_byte!(byte => is_special(byte));

#[inline]
fn look_up<T: Copy + Default>(table: &[T; 256], byte: u8) -> T {
    table.get(usize::from(byte)).copied().unwrap_or_default()
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

/// The longest key, in bytes.
const LONGEST_KEY: usize = "PacketContent".len();

/// The first bytes of a key with escapes, enough to compare it with the known keys.
#[derive(Default)]
struct KeyName {
    bytes: [u8; LONGEST_KEY + 1],
    length: usize,
}

impl KeyName {
    /// Appends as many of `bytes` as fit.
    fn append(&mut self, bytes: &[u8]) {
        for (slot, byte) in self.bytes.iter_mut().skip(self.length).zip(bytes) {
            *slot = *byte;
            self.length += 1;
        }
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Key {
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
    fn valid_json_is_accepted() {
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
            assert_eq!((inner.content.len(), inner.rand), (length, 7));
        }
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

        /// Escapes are decoded as serde_json decodes them, wherever windows end.
        #[test]
        fn a_string_stands_for_what_serde_json_makes_of_it(
            pieces in prop::collection::vec(
                prop_oneof![
                    Just("\\n".to_owned()), Just("\\\"".to_owned()), Just("\\\\".to_owned()),
                    "[a-z]{0,3}", "[a-z]{9,90}", Just("\\u00fC".to_owned()),
                    Just("\\ud83d\\ude00".to_owned()), "\\PC{0,2}".prop_map(|text| text.replace(['"', '\\'], "")),
                ],
                0..90,
            ),
        ) {
            let string = format!("\"{}\"", pieces.concat());
            let expected: String = serde_json::from_str(&string).unwrap();
            let text = format!("{{\"x\":[{string}],\"content\":{string},\"rand\":7}}");
            let object = InnerObject::Report(Inner::default());
            let Ok(InnerObject::Report(inner)) = parse(text.as_bytes(), object) else {
                return Err(TestCaseError::fail(text));
            };
            prop_assert_eq!(inner.content.as_ref(), expected.as_bytes());
            prop_assert_eq!(inner.rand, 7);
        }

        /// Nesting is followed as serde_json follows it, also at eight brackets at once.
        #[test]
        fn nesting_is_what_serde_json_takes(
            runs in prop::collection::vec((prop::sample::select(vec!["[", "{\"a\":", "[1,"]), 1..70_usize), 1..6),
            cut in 0..3_usize,
            broken in prop::option::of((any::<prop::sample::Index>(), prop::sample::select(vec![b'[', b']', b'}', b'1']))),
        ) {
            let mut text = String::new();
            let mut closing = Vec::new();
            for (opening, times) in runs {
                text.push_str(&opening.repeat(times));
                closing.extend(std::iter::repeat_n(if opening.starts_with('[') { ']' } else { '}' }, times));
            }
            text.push('1');
            // serde_json goes no deeper than 127.
            prop_assume!(closing.len() < 120);
            text.extend(closing.into_iter().rev().skip(cut));
            let mut text = text.into_bytes();
            if let Some((at, byte)) = broken {
                let at = at.index(text.len());
                text[at] = byte;
            }
            let (by_serde, by_us) = both(&text);
            prop_assert_eq!(by_us, by_serde);
        }
    }
}
