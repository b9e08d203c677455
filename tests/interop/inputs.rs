//! The inputs on which hawk and Go are compared.

use std::fmt;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// A text for one part of a packet.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// The inner object of a heartbeat.
    Heartbeat(Vec<u8>),
    /// The inner object of a report.
    Report(Vec<u8>),
    /// All of a classic frame's data.
    Envelope(Vec<u8>),
}

impl Input {
    /// Returns its name in a line for the agent.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Heartbeat(_) => "hb",
            Self::Report(_) => "rp",
            Self::Envelope(_) => "en",
        }
    }

    pub(crate) fn json(&self) -> &[u8] {
        let (Self::Heartbeat(json) | Self::Report(json) | Self::Envelope(json)) = self;
        json
    }

    /// Returns the data of a frame that carries it.
    pub(crate) fn data(&self) -> Vec<u8> {
        match self {
            Self::Heartbeat(json) => [b"\x00", json.as_slice()].concat(),
            Self::Report(json) => [b"\x01", json.as_slice()].concat(),
            Self::Envelope(json) => json.clone(),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self
            .json()
            .escape_ascii()
            .to_string()
            .chars()
            .take(300)
            .collect();
        write!(formatter, "{} {shown}", self.kind())
    }
}

#[rustfmt::skip]
const TEXTS: &[&[u8]] = &[
    br#""""#, br#""plain""#, br#""\u003c\u003E\u0026""#, br#""\u2028\u2029""#, b"\"\xE2\x80\xA8\"",
    br#""\/\b\f\n\r\t\"\\""#, br#""\u0000\u001f\u007f""#, b"\"\x7F\"",
    // Surrogates, whole and torn.
    br#""\ud83d\ude00""#, br#""\uD83D\uDE00""#, br#""a\ud800b""#, br#""\ud800""#, br#""\udc00""#,
    br#""\ud800\ud800\udc00""#, br#""\udc00\ud800""#, br#""\ud800\n""#, br#""\ud800\u0041""#,
    br#""\ud800\\u0041""#, br#""\udbff\udfff\ud800\udfff""#, br#""\ud800\ue000""#, br#""\ud83d\ude0""#,
    br#""\ud83d\""#, br#""\ud800\ud800\ud800""#, "\"\\ud83dé\\ude00\"".as_bytes(),
    // No UTF-8.
    b"\"\x80\"", b"\"a\x80\xC3b\"", b"\"\xC3\"", b"\"\xC0\x80\"", b"\"\xF0\x9F\x98\"", b"\"\xF0\x9F\x98\x80\"",
    b"\"\xF4\x90\x80\x80\"", b"\"\xE2\x80\"", b"\"\xE2\x80\\u0041\"", b"\"\xFE\"", b"\"\xF8\x88\x80\x80\x80\"",
    b"\"\xE0\x80\x80\"", b"\"\\ud800\x80\"", b"\"\xED\x9F\xBF\"", b"\"\xEE\x80\x80\"",
    b"\"\xED\xA0\"", b"\"\xED\xA0\\u0041\"",
    // Raw control characters, and bad escapes.
    b"\"a\nb\"", b"\"\x00\"", b"\"\x1F\"", b"\"\t\"", br#""\x""#, br#""\'""#, br#""\u00g0""#, br#""\u12""#, br#""\U0041""#,
    br#""\"#, br#"""#, br#""unended"#, b"'single'",
];

#[rustfmt::skip]
const NUMBERS: &[&[u8]] = &[
    b"0", b"-0", b"1", b"-1", b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808",
    b"-9223372036854775809", b"18446744073709551615", b"18446744073709551616", b"99999999999999999999999",
    b"1.0", b"0.0", b"1.5", b"1e3", b"1E3", b"1e-3", b"0e0", b"-0.0", b"1e400", b"-0e1",
    b"01", b"-01", b"00", b"+1", b".5", b"1.", b"1e", b"1e+", b"-", b"--1", b"0x10", b"1_000", b"1 2", b"NaN", b"Infinity",
];

#[rustfmt::skip]
const OTHERS: &[&[u8]] = &[
    b"null", b"true", b"false", b"nul", b"nulll", b"Null", b"[]", b"{}", b"[1,2]", b"[1,]", b"{\"a\":1,}", b"{\"content\":1}", b"",
    b"[[[[{\"x\":[null,true,1.5e9,\"\\ud800\"]}]]]]", b"[1 2]", b"{\"a\" 1}", b"{1:2}", b"{null:1}", b"[}", b"tru",
];

/// Odd objects as a whole.
#[rustfmt::skip]
const OBJECTS: &[&[u8]] = &[
    b"", b" ", b"null", b" null ", b"nul", b"[]", b"[{}]", b"1", b"\"x\"", b"true", b"{", b"}", b"{}", b" \t\r\n{ } \t\r\n",
    b"{} ", b"{}x", b"{}{}", b"{},", b"{} null", b"{}\x00", b"\x00{}", b"{}\x0B", b"\x0C{}", b"\xC2\xA0{}", b"\xEF\xBB\xBF{}",
    b"{,}", b"{\"a\"}", b"{\"a\":}", b"{\"a\":1,}", b"{\"a\":1 \"b\":2}", b"{a:1}", b"{'a':1}", b"{\"a\":1;}", b"/**/{}", b"{}//",
    br#"{"content":"x","version":"y","rand":1,"timestamp":2}"#,
    br#"{"content" : "x" , "rand"	:1,
"timestamp":2}"#,
    br#"{"content":"first","content":"last"}"#, br#"{"content":"kept","content":null}"#, br#"{"rand":1,"rand":null,"rand":2}"#,
    br#"{"rand":7,"rand":null}"#, br#"{"rand":1,"rand":"x","rand":2}"#, br#"{"rand":1e9,"rand":1}"#, br#"{"version":1,"version":"x"}"#,
    br#"{"conten\u0074":"x","vers\u0069on":"y"}"#, br#"{"content\u0000":"x"}"#, br#"{"":"x"}"#, br#"{"content ":"x"}"#, br#"{" content":"x"}"#,
    br#"{"\ud800":1,"content":"x"}"#, b"{\"\x80\":1,\"content\":\"x\"}", b"{\"content\x80\":\"x\"}", b"{\"a\nb\":1}", br#"{"\x":1}"#,
    br#"{"contentcontentcontent":"x"}"#, br#"{"timestampt":5,"timestam":6}"#,
    br#"{"more":{"content":"inner","rand":5},"content":"x"}"#, br#"{"more":[{"content":"inner"}],"content":"x"}"#,
    br#"{"content":"x","more":1e999,"even":-1E-999}"#, br#"{"more":99999999999999999999999999,"content":"x"}"#,
    br#"{"more":"\ud800\udc","content":"x"}"#, br#"{"more":"\q"}"#, b"{\"more\":\"\n\"}", b"{\"more\":\"\x80\",\"content\":\"x\"}",
    br#"{"content":"x","agent":null}"#, br#"{"content":"x","agent":"web-01"}"#,
    br#"{"version":"x","probe":null}"#, br#"{"version":"x","probe":true}"#, br#"{"probe":true,"probe":false,"version":"x"}"#,
];

/// Whole envelopes; `e30=` is `{}` in base64.
#[rustfmt::skip]
const ENVELOPES: &[&[u8]] = &[
    br#"{"PacketType":0,"PacketContent":"e30="}"#, br#"{"PacketType":1,"PacketContent":"e30="}"#,
    br#" {"PacketContent":"e30=","x":[],"PacketType":1} "#, b"\n{\"PacketType\":\t1,\"PacketContent\":\r\"e30=\"}",
    br#"{"PacketType":null,"PacketContent":"e30="}"#, br#"{"PacketType":0,"PacketType":1,"PacketContent":"e30="}"#,
    br#"{"PacketType":1,"PacketType":null,"PacketContent":"e30="}"#,
    br#"{"PacketType":0,"PacketContent":null}"#, br#"{"PacketType":0,"PacketContent":""}"#,
    br#"{"PacketType":0,"PacketContent":"e30=","PacketContent":null}"#,
    br#"{"PacketType":0,"PacketContent":"e30=","PacketContent":"!"}"#,
    br#"{"PacketType":0,"PacketContent":1,"PacketContent":"e30="}"#,
    br#"{"PacketType":"1","PacketContent":"e30="}"#, br#"{"PacketType":1.0,"PacketContent":"e30="}"#, br#"{"PacketType":true,"PacketContent":"e30="}"#,
    br#"{"PacketType":1e0,"PacketContent":"e30="}"#,
    br#"{"PacketType":-1,"PacketContent":"e30="}"#, br#"{"PacketType":2,"PacketContent":"e30="}"#, br#"{"PacketType":255,"PacketContent":"e30="}"#,
    br#"{"PacketType":256,"PacketContent":"e30="}"#, br#"{"PacketType":257,"PacketContent":"e30="}"#, br#"{"PacketType":01,"PacketContent":"e30="}"#,
    br#"{"PacketType":18446744073709551617,"PacketContent":"e30="}"#, br#"{"PacketType":[1],"PacketContent":"e30="}"#,
    br#"{"PacketType":1,"PacketContent":1}"#, br#"{"PacketType":1,"PacketContent":{}}"#, br#"{"PacketType":1,"PacketContent":true}"#,
    br#"{"PacketType":1,"PacketContent":"e30="}x"#, br#"{"PacketType":1,"PacketContent":"e30="}}"#, br#"{"PacketType":1,"PacketContent":"e30=""#,
    br#"{"PacketType":1,"PacketContent":"e30=","PacketContentMore":"x","PacketTypes":7}"#,
    br#"{"Packet\u0054ype":1,"PacketContent":"e30="}"#, br#"{"PacketType\u0000":1,"PacketType":0,"PacketContent":"e30="}"#,
    b"null", b" null", b"{}", br#"{"PacketType":1}"#, b" ", b"{", b"{} {}", br#"[{"PacketType":1,"PacketContent":"e30="}]"#,
];

/// Base64 texts within an envelope. The valid ones encode `{}`, `{} ` or, the last, an
/// object with a text.
#[rustfmt::skip]
const BASE64: &[&str] = &[
    "e30=", "e30g", r"\u0065\u0033\u0030=", r"\u00653\u0030\u003d", r"e3\n0=", r"e30=\n", r"e30\r\n=", r"\ne\r3\n0\r=\n", r"\n", r"\r\n",
    "e31=", "e32=", "e33=", "e34=", "e3/=", "e30", "e3", "e", "e30==", "e30===", "e30=e30=", "=", "==", "====", "e=30", "e3=0", "=e30",
    "e3 0=", "e30= ", " e30=", r"e30\t=", r"e30=\t", "e3-0", "e3_0", r"e30=\u0000", r"e\u00003=", "e30=x", r"e30=\nx", "e30\u{e9}", "\u{fc}", r"\ud800",
    "ew==", "fQ==", "e30gIA==", r"e30gI\nA==", r"e30gIA=\n=", "e30gIB==", "e30gIP==", "e30gIA=", "e30gIA", "e30gIA===", "e30gIA=A", r"e30gIA=\r\n=\r\n",
    "eyJjb250ZW50Ijoi4oCoIn0=", r"eyJjb250ZW50\r\nIjoi4oCoIn0=\r\n", "eyJjb250ZW50Ijoi4oCoIn0",
];

/// The list of odd inputs.
pub(crate) fn inputs() -> Vec<Input> {
    let mut list = Vec::new();
    let mut both = |json: Vec<u8>| {
        list.push(Input::Heartbeat(json.clone()));
        list.push(Input::Report(json));
    };
    for value in [TEXTS, NUMBERS, OTHERS].concat() {
        for key in ["content", "version", "rand", "timestamp", "unknown"] {
            both([b"{\"", key.as_bytes(), b"\":", value, b"}"].concat());
        }
        both(
            [
                b"{\"x\":[0,",
                value,
                b"],\"content\":\"x\",\"version\":\"y\"}",
            ]
            .concat(),
        );
    }
    for object in OBJECTS {
        both(object.to_vec());
    }
    for depth in [1, 100, 9_000] {
        both(
            [
                b"{\"x\":",
                "[".repeat(depth).as_bytes(),
                "]".repeat(depth).as_bytes(),
                b"}",
            ]
            .concat(),
        );
        both(
            ["{\"x\":".repeat(depth), "1".to_owned(), "}".repeat(depth)]
                .concat()
                .into_bytes(),
        );
    }
    for envelope in ENVELOPES {
        list.push(Input::Envelope(envelope.to_vec()));
    }
    for text in BASE64 {
        let json = format!(r#"{{"PacketType":1,"PacketContent":"{text}"}}"#);
        list.push(Input::Envelope(json.into_bytes()));
    }
    list
}

/// Returns objects composed at random, some damaged at random, the same in each run.
pub(crate) fn random_inputs(count: usize) -> Vec<Input> {
    let random = &mut SmallRng::seed_from_u64(2016);
    (0..count)
        .map(|_| {
            let mut json = random_object(random);
            for _ in 0..[0, 0, 0, 1, 2].choose(random).copied().unwrap_or(0) {
                hurt(random, &mut json);
            }
            if random.random() {
                Input::Heartbeat(json)
            } else {
                Input::Report(json)
            }
        })
        .collect()
}

fn random_object(random: &mut SmallRng) -> Vec<u8> {
    const KEYS: [&str; 8] = [
        "content",
        "version",
        "rand",
        "timestamp",
        "x",
        r"conten\u0074",
        r"\u0072and",
        "",
    ];
    const SPACES: [&str; 8] = ["", "", "", "", "", " ", "\n", "\r\n\t "];
    let mut json = b"{".to_vec();
    for n in 0..random.random_range(0..6) {
        let key = *KEYS.choose(random).unwrap_or(&"");
        // Mostly values that suit the key; otherwise hardly an object would be valid.
        let fitting: &[&[u8]] = match key {
            "rand" | "timestamp" | r"\u0072and" => &NUMBERS[..6],
            _ => &TEXTS[..16],
        };
        let any = [TEXTS, NUMBERS, OTHERS].concat();
        let values = if random.random_bool(0.9) {
            fitting
        } else {
            &any
        };
        let mut space = || SPACES.choose(random).unwrap_or(&"").as_bytes().to_vec();
        if n > 0 {
            json.push(b',');
        }
        json.extend(
            [
                space(),
                format!("\"{key}\"").into_bytes(),
                space(),
                b":".to_vec(),
                space(),
            ]
            .concat(),
        );
        json.extend_from_slice(values.choose(random).unwrap_or(&b"".as_slice()));
    }
    json.push(b'}');
    json
}

/// Replaces, removes or doubles one byte. It inserts no letter, so that no key differs from
/// a known key by case alone.
fn hurt(random: &mut SmallRng, json: &mut Vec<u8>) {
    const BYTES: &[u8] = b"\"\"\\\\{}[]:,019-. \n\t\x00\x1F\x7F\x80\xC3\xE2\xF0u";
    let at = random.random_range(0..json.len());
    match random.random_range(0..4) {
        0 => {
            json.remove(at);
        }
        1 => json.insert(at, json[at]),
        _ => json[at] = *BYTES.choose(random).unwrap_or(&b' '),
    }
}
