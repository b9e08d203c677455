//! The wire protocol: bytes in, packets out, and back again.
//!
//! Pure computation. Nothing here knows a socket, a clock, a buffer pool or a
//! connection: the caller owns the bytes, the [`Decoder`] keeps offsets only.
//! `docs/protocol.md` describes the same in prose.
//!
//! ```text
//! bytes ── Decoder ──► frame data ── PacketDecoder ──► Packet ── handler ──► Reply ──► line
//! ```

// What a stranger sent is never indexed, so that no length it claims can be one too
// many. Tests index what they have made themselves.
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
