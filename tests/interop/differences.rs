//! Where hawk reads in another way than Go.

use crate::inputs::Input;

/// An input that hawk reads in another way than Go, on purpose.
pub(crate) struct Difference {
    pub(crate) input: Input,
    pub(crate) go: &'static str,
    pub(crate) hawk: &'static str,
    pub(crate) why: &'static str,
}

/// Every difference that `docs/protocol.md` names.
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
    ]
}

/// Differences that `docs/protocol.md` does not name: each is to be either
/// ended or written down there.
pub(crate) fn open_differences() -> Vec<Difference> {
    let new = |input, go, hawk, why| Difference {
        input,
        go,
        hawk,
        why,
    };
    let report = |json: &[u8]| Input::Report(json.to_vec());
    let envelope = |json: &str| Input::Envelope(json.into());
    let deep = ["{\"x\":", &"[".repeat(10_001), &"]".repeat(10_001), "}"].concat();
    const SURROGATES: &str = "a surrogate's raw bytes: U+FFFD once, not for each byte";
    vec![
        new(
            report(b"{\"content\":\"\xED\xA0\x80\"}"),
            "rp xefbfbdefbfbdefbfbd 0 0",
            "rp xefbfbd 0 0",
            SURROGATES,
        ),
        new(
            report(b"{\"content\":\"\\n\xED\xBF\xBF\"}"),
            "rp x0aefbfbdefbfbdefbfbd 0 0",
            "rp x0aefbfbd 0 0",
            SURROGATES,
        ),
        new(
            envelope(r#"{"PacketType":0,"PacketContent":"!","PacketContent":"e30="}"#),
            "err",
            "hb x 0",
            "of duplicate contents only the last is read, even if another is bad base64",
        ),
        new(
            envelope(r#"{"PacketType":-0,"PacketContent":"e30="}"#),
            "err",
            "hb x 0",
            "-0 is a packet type",
        ),
        new(
            envelope(r#"{"PacketType":1,"PacketContent":[123,125]}"#),
            "rp x 0 0",
            "err",
            "a content is base64 and never a list of numbers",
        ),
        new(
            Input::Report(deep.into_bytes()),
            "err",
            "rp x 0 0",
            "nesting is not limited to 10,000",
        ),
    ]
}
