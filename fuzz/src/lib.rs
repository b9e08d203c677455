//! What is fuzzed: plain functions that take any bytes at all and panic only
//! where hawk is wrong.
//!
//! Three callers share them: libFuzzer's binaries in `fuzz_targets/`, the replay
//! of the corpus that is part of `make test`, and the harness for machines
//! without cargo-fuzz. The latter two are in `tests/fuzz/` and include this file.
//!
//! A new target is a function and a line in [`TARGETS`], a file in `fuzz_targets/`
//! with its `[[bin]]`, and a folder with some inputs in `corpus/`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a panic is how a finding is told"
)]
#![allow(
    unreachable_pub,
    reason = "a library to the binaries is a mere module to tests/fuzz"
)]

mod control;
mod conversation;
mod decoder;
mod json;
mod json_reference;
mod messages;
mod packets;
mod pieces;
mod replies;
mod sessions;
mod snapshot;
mod store;

pub use control::control;
pub use decoder::{decoder, streams};
pub use json::json;
pub use messages::messages;
pub use packets::packets;
pub use replies::replies;
pub use sessions::sessions;
pub use snapshot::snapshot;
pub use store::store;

/// Something to be fuzzed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also the name of its binary and of its folder in the corpus.
    pub name: &'static str,
    /// Panics if hawk is wrong about these bytes.
    pub run: fn(&[u8]),
}

/// All there are.
pub const TARGETS: [Target; 10] = [
    Target {
        name: "decoder",
        run: decoder,
    },
    Target {
        name: "streams",
        run: streams,
    },
    Target {
        name: "sessions",
        run: sessions,
    },
    Target {
        name: "json",
        run: json,
    },
    Target {
        name: "packets",
        run: packets,
    },
    Target {
        name: "snapshot",
        run: snapshot,
    },
    Target {
        name: "control",
        run: control,
    },
    Target {
        name: "messages",
        run: messages,
    },
    Target {
        name: "replies",
        run: replies,
    },
    Target {
        name: "store",
        run: store,
    },
];
