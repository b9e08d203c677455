//! The inputs that hawk and Go decode differently.

use crate::inputs::Input;

/// An input that hawk intentionally decodes differently from Go.
pub(crate) struct Difference {
    pub(crate) input: Input,
    pub(crate) go: &'static str,
    pub(crate) hawk: &'static str,
    pub(crate) why: &'static str,
}

/// Leaks a generated text, for inputs too long to be written out.
fn leak(text: String) -> &'static str {
    text.leak()
}

/// Returns every difference that `docs/protocol.md` lists.
pub(crate) fn differences() -> Vec<Difference> {
    let report = |json: &str, go, hawk, why| Difference {
        input: Input::Report(json.into()),
        go,
        hawk,
        why,
    };
    let envelope = |json: &str, go, hawk, why| Difference {
        input: Input::Envelope(json.into()),
        go,
        hawk,
        why,
    };
    let raw = |input, go, hawk, why| Difference {
        input,
        go,
        hawk,
        why,
    };
    let deep = ["{\"x\":", &"[".repeat(10_001), &"]".repeat(10_001), "}"].concat();
    vec![
        report(
            r#"{"Content":"x"}"#,
            "rp x78 0 0",
            "rp x 0 0",
            "keys match by exact case",
        ),
        report(
            r#"{"RAND":5}"#,
            "rp x 5 0",
            "rp x 0 0",
            "keys match by exact case",
        ),
        report(
            "{\"time\u{17F}tamp\":5}",
            "rp x 0 5",
            "rp x 0 0",
            "keys match by exact case",
        ),
        report(
            r#"{"content":"a","Content":"b"}"#,
            "rp x62 0 0",
            "rp x61 0 0",
            "keys match by exact case",
        ),
        report(
            r#"{"Content":5}"#,
            "err",
            "rp x 0 0",
            "keys match by exact case",
        ),
        envelope(
            r#"{"packettype":1,"PacketContent":"e30="}"#,
            "rp x 0 0",
            "err",
            "keys match by exact case",
        ),
        envelope(
            "{\"Pac\u{212A}etType\":1,\"PacketContent\":\"e30=\"}",
            "rp x 0 0",
            "err",
            "keys match by exact case",
        ),
        envelope(
            r#"{"PacketContent":"e30="}"#,
            "hb x 0",
            "err",
            "an envelope needs both keys",
        ),
        report(
            r#"{"agent":7}"#,
            "rp x 0 0",
            "err",
            "the optional key is ours",
        ),
        raw(
            Input::Heartbeat(br#"{"probe":1}"#.to_vec()),
            "hb x 0",
            "err",
            "the optional key is ours",
        ),
        report(
            r#"{"agent":""}"#,
            "rp x 0 0",
            "err",
            "the optional key is ours",
        ),
        report(
            r#"{"agent":"a\tb"}"#,
            "rp x 0 0",
            "err",
            "the optional key is ours",
        ),
        raw(
            Input::Report([b"{\"content\":\"".as_slice(), &[0x80; 258], b"\"}"].concat()),
            leak(format!("rp x{} 0 0", "efbfbd".repeat(258))),
            leak(format!("rp x{}3f3f 0 0", "efbfbd".repeat(256))),
            "of bytes that are no UTF-8, 256 are replaced by a U+FFFD each and the others by `?`",
        ),
        raw(
            Input::Envelope(
                r#"{"PacketType":0,"PacketContent":"!","PacketContent":"e30="}"#.into(),
            ),
            "err",
            "hb x 0",
            "of duplicate contents only the last is read, even if another is bad base64",
        ),
        raw(
            Input::Envelope(r#"{"PacketType":-0,"PacketContent":"e30="}"#.into()),
            "err",
            "hb x 0",
            "-0 is a packet type",
        ),
        raw(
            Input::Envelope(r#"{"PacketType":1,"PacketContent":[123,125]}"#.into()),
            "rp x 0 0",
            "err",
            "a content is base64 and never a list of numbers",
        ),
        raw(
            Input::Report(deep.into_bytes()),
            "err",
            "rp x 0 0",
            "nesting is not limited to 10,000",
        ),
    ]
}
