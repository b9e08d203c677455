//! The channel between the predecessor and the successor: messages with descriptors over a
//! pair of sockets, in a fixed order. `docs/restart.md` describes the protocol in prose.
//!
//! Knows snapshots as bytes only, and no reactor, handler or store.
//!
//! ```text
//! endpoint  one end of the channel: typed messages, and the phases of the protocol
//! message   the messages and their encoding
//! socket    messages of bytes and descriptors
//! sealed    a snapshot in transit: a file in memory that no process can change
//! token     what exactly one of the two processes can take
//! ```

mod endpoint;
mod message;
mod sealed;
mod socket;
mod token;

pub use endpoint::{
    Channel, ChannelError, Predecessor, ProtocolPhase, Successor, UnexpectedMessage,
};
pub use message::{
    BUILD, Committed, Hello, InvalidMessage, MAX_SOCKETS, PROTOCOLS, ToPredecessor, ToSuccessor,
    VersionMismatch,
};
pub use sealed::{SealError, SealedFile};
pub(super) use socket::wait_readable;
pub use socket::{MAX_DESCRIPTORS, MAX_MESSAGE, MessageSocket, ReceiveError, Received, SendError};
pub use token::{Ownership, Token};
