//! Long frames that are malformed or out of the ordinary, each beside a valid one of its
//! shape: none is to cost much more.

use std::hint::black_box;

use hawk_wire::{Decoder, FRAME_OVERHEAD, Input, PacketDecoder, Step, encode_frame};

use super::Operation;

/// The group of these operations.
pub const GROUP: &str = "59 kB";

/// The valid frame with plain content, of the classic and of the compact encoding.
pub const PLAIN: [&str; 2] = ["classic, plain", "compact, plain"];

/// A long frame.
#[derive(Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    /// The valid frame of the same shape; its own name if it is valid.
    pub valid: &'static str,
    data: fn() -> Vec<u8>,
}

/// Bytes of data in each of them, about.
const LENGTH: usize = 59_000;

/// Every shape there is.
pub const SHAPES: [Shape; 35] = [
    shape("compact, plain", "compact, plain", || content(b"x")),
    shape("compact, no end", "compact, plain", || {
        let mut data = content(b"x");
        data.pop();
        data
    }),
    shape("compact, bytes behind the end", "compact, plain", || {
        [content(b"x"), b"x".to_vec()].concat()
    }),
    shape("compact, bad number behind it", "compact, plain", || {
        compact(&[&fill(b"x"), "\",\"rand\":1,\"timestamp\":2e".as_bytes()].concat())
    }),
    shape("compact, wrong type behind it", "compact, plain", || {
        compact(&[&fill(b"x"), "\",\"rand\":1,\"timestamp\":\"2\"}".as_bytes()].concat())
    }),
    shape("compact, bad name behind it", "compact, plain", || {
        compact(
            &[
                &fill(b"x"),
                "\",\"rand\":1,\"timestamp\":2,\"agent\":\"\"}".as_bytes(),
            ]
            .concat(),
        )
    }),
    shape(
        "compact, control character at the end",
        "compact, plain",
        || compact(&[&fill(b"x"), "\n\",\"rand\":1,\"timestamp\":2}".as_bytes()].concat()),
    ),
    shape("compact, content of a wrong type", "compact, plain", || {
        compact(
            &[
                "[\"".as_bytes(),
                &fill(b"x"),
                b"\"],\"rand\":1,\"timestamp\":2}",
            ]
            .concat(),
        )
    }),
    shape("compact, bad UTF-8 at the end", "compact, plain", || {
        compact(
            &[
                &fill(b"x"),
                b"\x80\",\"rand\":1,\"timestamp\":2}".as_slice(),
            ]
            .concat(),
        )
    }),
    shape(
        "compact, text beyond ASCII",
        "compact, text beyond ASCII",
        || content("ü€".as_bytes()),
    ),
    shape(
        "compact, bad UTF-8 behind it",
        "compact, text beyond ASCII",
        || {
            compact(
                &[
                    &fill("ü€".as_bytes()),
                    b"\x80\",\"rand\":1,\"timestamp\":2}".as_slice(),
                ]
                .concat(),
            )
        },
    ),
    shape(
        "compact, all bad UTF-8",
        "compact, text beyond ASCII",
        || content(b"\x80"),
    ),
    shape(
        "compact, every other byte bad",
        "compact, text beyond ASCII",
        || content(b"a\x80"),
    ),
    shape(
        "compact, characters cut off",
        "compact, text beyond ASCII",
        || content(b"\xE2\x82"),
    ),
    shape(
        "compact, characters and bad bytes",
        "compact, text beyond ASCII",
        || content(b"\xC3\xBC\x80"),
    ),
    shape("compact, escapes", "compact, escapes", || content(b"\\n")),
    shape("compact, escapes and a bad one", "compact, escapes", || {
        compact(
            &[
                &fill(b"\\n"),
                b"\\x\",\"rand\":1,\"timestamp\":2}".as_slice(),
            ]
            .concat(),
        )
    }),
    shape("compact, escapes and no end", "compact, escapes", || {
        let mut data = content(b"\\n");
        data.pop();
        data
    }),
    shape(
        "compact, escapes between letters",
        "compact, escapes",
        || content(b"a\\n"),
    ),
    shape("compact, escapes of surrogates", "compact, escapes", || {
        content(b"\\ud83d\\ude00")
    }),
    shape("compact, lone surrogates", "compact, escapes", || {
        content(b"\\ud800")
    }),
    shape("compact, escapes and bad UTF-8", "compact, escapes", || {
        content(b"\\n\x80")
    }),
    shape("compact, deep nesting", "compact, deep nesting", || {
        unknown(&nested())
    }),
    shape(
        "compact, nesting without an end",
        "compact, deep nesting",
        || compact_raw(&[b"{\"x\":".as_slice(), &b"[".repeat(LENGTH)].concat()),
    ),
    shape("compact, nested objects", "compact, deep nesting", || {
        let depth = LENGTH / 7;
        unknown(&[b"{\"a\":".repeat(depth), b"1".to_vec(), b"}".repeat(depth)].concat())
    }),
    shape("compact, many keys", "compact, many keys", || {
        keys(b"\"a\":1,")
    }),
    shape(
        "compact, a known key again and again",
        "compact, many keys",
        || keys(b"\"content\":\"\","),
    ),
    shape("compact, keys with escapes", "compact, many keys", || {
        keys(b"\"\\u0061\":1,")
    }),
    shape(
        "compact, many keys and a bad one",
        "compact, many keys",
        || [keys(b"\"a\":1,"), b",".to_vec()].concat(),
    ),
    shape(
        "compact, a number of 59,000 digits",
        "compact, a number of 59,000 digits",
        || unknown(&fill(b"7")),
    ),
    shape(
        "compact, as many for a known key",
        "compact, a number of 59,000 digits",
        || compact_raw(&[b"{\"rand\":".as_slice(), &fill(b"7"), b"}"].concat()),
    ),
    shape("compact, white space", "compact, white space", || {
        compact_raw(&[b"{ \"content\": ".as_slice(), &fill(b" "), b"\"\"}"].concat())
    }),
    shape("classic, plain", "classic, plain", || classic(&inner())),
    shape("classic, bad base64 at the end", "classic, plain", || {
        let mut data = classic(&inner());
        let end = data.len() - 3;
        data[end] = b'!';
        data
    }),
    shape("classic, line breaks in base64", "compact, escapes", || {
        let text = base64_simd::STANDARD.encode_to_string(inner());
        let half = &text.as_bytes()[..LENGTH / 4 / 4 * 4];
        let broken: Vec<u8> = half.iter().flat_map(|byte| [*byte, b'\\', b'n']).collect();
        [
            b"{\"PacketType\":1,\"PacketContent\":\"".as_slice(),
            &broken,
            b"\"}",
        ]
        .concat()
    }),
];

const fn shape(name: &'static str, valid: &'static str, data: fn() -> Vec<u8>) -> Shape {
    Shape { name, valid, data }
}

/// Repeats `with` up to the length of a long frame.
fn fill(with: &[u8]) -> Vec<u8> {
    with.repeat(LENGTH / with.len())
}

/// Returns a compact report with content made of these bytes.
fn content(of: &[u8]) -> Vec<u8> {
    compact(&[&fill(of), b"\",\"rand\":1,\"timestamp\":2}".as_slice()].concat())
}

/// Returns a compact report with `rest` behind the opening quote of its content.
fn compact(rest: &[u8]) -> Vec<u8> {
    compact_raw(&[b"{\"content\":\"".as_slice(), rest].concat())
}

fn compact_raw(inner: &[u8]) -> Vec<u8> {
    [b"\x01", inner].concat()
}

/// A report with this value under an unknown key.
fn unknown(value: &[u8]) -> Vec<u8> {
    compact_raw(&[b"{\"x\":".as_slice(), value, b"}"].concat())
}

fn nested() -> Vec<u8> {
    [b"[".repeat(LENGTH / 2), b"]".repeat(LENGTH / 2)].concat()
}

/// A report with these members and one more.
fn keys(members: &[u8]) -> Vec<u8> {
    compact_raw(&[b"{".as_slice(), &fill(members), b"\"rand\":1}"].concat())
}

/// The inner object of a classic report of that length.
fn inner() -> Vec<u8> {
    let content = "x".repeat(LENGTH / 4 * 3);
    format!("{{\"content\":\"{content}\",\"rand\":1,\"timestamp\":2}}").into_bytes()
}

fn classic(inner: &[u8]) -> Vec<u8> {
    let content = base64_simd::STANDARD.encode_to_string(inner);
    format!("{{\"PacketType\":1,\"PacketContent\":\"{content}\"}}").into_bytes()
}

/// A frame to its packet, or to why it is refused.
pub(crate) fn operations() -> Vec<Operation> {
    let operation = |shape: Shape| {
        Operation::new(GROUP, shape.name, 1, move || {
            let mut frame = Vec::new();
            encode_frame(&(shape.data)(), &mut frame).expect("it fits a frame");
            let (mut decoder, mut packets) = (Decoder::default(), PacketDecoder::default());
            move || {
                let decoded = decoder.decode(black_box(&frame), Input::Open);
                let Step::Frame(data) = decoded.step else {
                    unreachable!("it is a whole frame");
                };
                assert!(data.len() + FRAME_OVERHEAD == frame.len());
                let _packet = black_box(packets.decode(data));
            }
        })
    };
    SHAPES.map(operation).into()
}
