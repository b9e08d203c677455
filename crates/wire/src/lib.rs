//! The wire protocol: frames, packets, their two encodings and replies, in both directions.
//!
//! Pure computation, without sockets, clocks, buffer pools or connections: the caller owns
//! the bytes, the [`Decoder`] keeps offsets into them. `docs/protocol.md` describes the same
//! in prose.
//!
//! Start at [`Decoder::decode`], which finds frames in a stream, then read
//! [`PacketDecoder::decode`]: `payload` chooses the encoding, `plain` reads the exact shape
//! that deployed agents write in one pass, `json` reads all else as Go does.
//!
//! ```text
//! bytes ── Decoder ──► frame data ── PacketDecoder ──► Packet ── handler ──► Reply ──► line
//! ```

// Input is never indexed: no length that a frame claims can cause a panic. Tests index their
// own data.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::string_slice))]
#![cfg_attr(not(test), deny(clippy::expect_used, clippy::unreachable))]

mod decoder;
mod encode;
mod frame;
mod json;
mod packet;
mod payload;
mod plain;
mod reply;
mod utf8;

pub use decoder::{Decoded, Decoder, DecoderState, Input, JUNK_LIMIT, Step};
pub use encode::{Encoding, encode_packet};
pub use frame::{
    DataError, END_MARKER, FRAME_OVERHEAD, MAX_DATA, MAX_FRAME, START_MARKER, checksum,
    encode_frame, missing,
};
pub use packet::{
    AgentName, AgentNameError, Heartbeat, MAX_AGENT_NAME, Packet, PacketKind, Report, STORE_PROBE,
};
pub use payload::PacketDecoder;
pub use reply::{Busy, MAX_REPLY_LINE, Refusal, Reply};
