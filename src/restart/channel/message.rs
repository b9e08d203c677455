//! The messages of a hand-over.
//!
//! A message is encoded as one record of a snapshot: a kind, a length, and fields with tags, so
//! that a later build can add fields. Its descriptors travel beside it
//! ([`MessageSocket`](super::MessageSocket)), and their number must be right.
//!
//! | message | from | descriptors | content |
//! |---|---|---|---|
//! | `Hello` | both | | build, versions, limit of open files |
//! | `Ready` | successor | | the successor is set up |
//! | `Shared` | predecessor | store's lock, listeners | what both processes have from now on |
//! | `Batch` | predecessor | a snapshot, sockets | records; each `Opened` has the next socket |
//! | `Ack` | successor | | the batch is adopted |
//! | `Freeze` | predecessor | a snapshot, the token, sockets | the last changes, and the token |
//! | `Committed` | successor | | the token is taken, and the successor serves |
//! | `Refused` | successor | | why the successor refuses |
//! | `Stop` | predecessor | | the predecessor received a signal to stop after the hand-over |
//!
//! A rollback has no message: the predecessor takes the token and kills the successor. The
//! table in `endpoint.rs` has the order of messages.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::socket::MAX_DESCRIPTORS;
use crate::restart::snapshot::fields::{Fields, Value, layout, put};
use crate::restart::snapshot::{DecodeError, FORMATS, Versions};
use hawk_time::Moment;

/// The greatest number of sockets in a message: without the snapshot's descriptor and the
/// token.
pub const MAX_SOCKETS: usize = MAX_DESCRIPTORS - 2;

/// The greatest length of a build's name and of a reason: a message has room for both.
const MAX_TEXT: usize = 1024;

/// The version of this build. For a build with debug assertions, a variable at compile time
/// sets another name.
pub const BUILD: &str = match option_env!("HAWK_TEST_BUILD_STAMP") {
    Some(stamp) if cfg!(debug_assertions) => stamp,
    _ => env!("CARGO_PKG_VERSION"),
};

/// The versions of the protocol that this build speaks. `Hello` and `Refused` are the same in
/// every version.
pub const PROTOCOLS: Versions = Versions::new(1, 1);

/// What a process announces about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The version of the build.
    pub build: String,
    /// The versions of the protocol.
    pub protocols: Versions,
    /// The formats of snapshots.
    pub formats: Versions,
    /// The limit of open files: `RLIMIT_NOFILE` (`getrlimit(2)`).
    pub descriptors: u64,
}

layout! { Hello {
    0x81 build: must,
    0x82 protocols: must,
    0x83 formats: must,
    0x84 descriptors: must,
} }

/// The advice after a version mismatch.
const ADVICE: &str = "upgrade through a build between them, or restart";

/// Why two builds have no hand-over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionMismatch {
    /// The builds have no version of the protocol in common.
    #[error("build {build} speaks protocols {theirs}, and build {BUILD} {PROTOCOLS}; {ADVICE}")]
    Protocol {
        /// The other build.
        build: String,
        /// Its protocols.
        theirs: Versions,
    },
    /// The builds have no format of snapshots in common.
    #[error(
        "build {build} reads snapshots of formats {theirs}, and build {BUILD} {FORMATS}; \
             {ADVICE}"
    )]
    Format {
        /// The other build.
        build: String,
        /// Its formats.
        theirs: Versions,
    },
}

impl Hello {
    /// Returns the announcement of this build; `descriptors` is the limit of open files.
    #[must_use]
    pub fn ours(descriptors: u64) -> Self {
        Self {
            build: BUILD.to_owned(),
            protocols: PROTOCOLS,
            formats: FORMATS,
            descriptors,
        }
    }

    /// Returns the newest format of snapshots that both builds have.
    ///
    /// # Errors
    /// [`VersionMismatch`] if they have no format or no protocol in common.
    pub fn negotiate_format(&self) -> Result<u16, VersionMismatch> {
        let build = || self.build.clone();
        if self.protocols.common(PROTOCOLS).is_none() {
            let theirs = self.protocols;
            return Err(VersionMismatch::Protocol {
                build: build(),
                theirs,
            });
        }
        let theirs = self.formats;
        let common = theirs.common(FORMATS);
        common.ok_or_else(|| VersionMismatch::Format {
            build: build(),
            theirs,
        })
    }
}

/// A message of the predecessor. `F` is a descriptor: borrowed in a sent message, owned in a
/// received one.
#[derive(Debug)]
pub enum ToSuccessor<F> {
    /// The announcement.
    Hello(Hello),
    /// What both processes have from now on.
    Shared {
        /// The store's lock, if there is a store.
        lock: Option<F>,
        /// The sockets that listen.
        listeners: Vec<F>,
    },
    /// A part of the state. The successor acknowledges it.
    Batch {
        /// The batch's number, from 1.
        number: u32,
        /// Bytes of the snapshot.
        length: u64,
        /// The snapshot: a [`SealedFile`](super::SealedFile) file.
        records: F,
        /// One for each [`Record::Opened`](crate::restart::snapshot::Record::Opened), in the
        /// same order; at most [`MAX_SOCKETS`].
        sockets: Vec<F>,
    },
    /// The last changes. The predecessor has stopped its event loop; the process that takes
    /// the token serves.
    Freeze {
        /// Bytes of the snapshot.
        length: u64,
        /// The snapshot: a [`SealedFile`](super::SealedFile) file.
        records: F,
        /// The [`Token`](super::Token).
        token: F,
        /// As in a batch.
        sockets: Vec<F>,
    },
    /// The predecessor received a signal to stop after the hand-over; the successor must stop.
    /// An older build takes the unknown message for the end of the channel, which follows.
    Stop,
}

/// A message of the successor, without descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPredecessor {
    /// The announcement.
    Hello(Hello),
    /// The successor is set up.
    Ready,
    /// The successor has adopted the batch.
    Ack {
        /// The batch's number.
        number: u32,
    },
    /// The successor has taken the token and serves.
    Committed(Committed),
    /// The successor ends without the token.
    Refused {
        /// The reason in one line; at most 1,024 bytes are sent.
        why: String,
    },
}

/// The figures of the take-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// When the successor had taken the token.
    pub committed: Moment,
    /// When the successor began its first turn.
    pub resumed: Moment,
    /// The number of its connections.
    pub connections: u32,
}

layout! { Committed {
    0x81 committed: must,
    0x82 resumed: must,
    0x83 connections: may,
} }

/// Why a received message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// It cannot be decoded.
    #[error("a message from the other process is invalid")]
    DecodeError(#[from] DecodeError),
    /// The kind is unknown in this direction.
    #[error("a message from the other process is of the unknown kind {0:#04x}")]
    Kind(u8),
    /// The number of descriptors is wrong.
    #[error("a message from the other process has {0} descriptors, which is the wrong number")]
    Descriptors(usize),
}

const HELLO: u8 = 0x81;
const READY: u8 = 0x82;
const SHARED: u8 = 0x83;
const BATCH: u8 = 0x84;
const ACK: u8 = 0x85;
const FREEZE: u8 = 0x86;
const COMMITTED: u8 = 0x87;
const REFUSED: u8 = 0x88;
const STOP: u8 = 0x89;

/// The fields of every message but `Hello`, `Committed` and `Refused`.
#[derive(Default)]
struct Body {
    number: u32,
    length: u64,
    lock: bool,
}

layout! { Body {
    0x81 number: may,
    0x82 length: may,
    0x83 lock: may,
} }

struct Reason {
    why: String,
}

layout! { Reason {
    0x81 why: must,
} }

impl<F> ToSuccessor<F> {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Shared { .. } => "Shared",
            Self::Batch { .. } => "Batch",
            Self::Freeze { .. } => "Freeze",
            Self::Stop => "Stop",
        }
    }
}

impl<F: AsFd> ToSuccessor<F> {
    /// Returns the message's bytes, and the descriptors that travel beside them.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
        let mut out = Vec::new();
        let mut descriptors = Vec::new();
        let mut body = Body::default();
        let kind = match self {
            Self::Hello(hello) => {
                put(&mut out, HELLO, hello);
                return (out, descriptors);
            }
            Self::Shared { lock, listeners } => {
                body.lock = lock.is_some();
                descriptors.extend(lock.iter().chain(listeners).map(AsFd::as_fd));
                SHARED
            }
            Self::Batch {
                number,
                length,
                records,
                sockets,
            } => {
                (body.number, body.length) = (*number, *length);
                descriptors.push(records.as_fd());
                descriptors.extend(sockets.iter().map(AsFd::as_fd));
                BATCH
            }
            Self::Freeze {
                length,
                records,
                token,
                sockets,
            } => {
                body.length = *length;
                descriptors.extend([records.as_fd(), token.as_fd()]);
                descriptors.extend(sockets.iter().map(AsFd::as_fd));
                FREEZE
            }
            Self::Stop => STOP,
        };
        put(&mut out, kind, &body);
        (out, descriptors)
    }
}

impl ToSuccessor<OwnedFd> {
    /// Decodes a received message.
    ///
    /// # Errors
    /// [`InvalidMessage`]; the descriptors are closed.
    pub fn decode(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Self, InvalidMessage> {
        let (kind, bytes) = only_record(bytes)?;
        let count = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(InvalidMessage::Descriptors(count));
        let message = match kind {
            HELLO => Self::Hello(Value::read(bytes)?),
            SHARED => {
                let Body { lock, .. } = Value::read(bytes)?;
                let lock = if lock { Some(next()?) } else { None };
                let listeners = descriptors.by_ref().collect();
                Self::Shared { lock, listeners }
            }
            BATCH => {
                let Body { number, length, .. } = Value::read(bytes)?;
                Self::Batch {
                    number,
                    length,
                    records: next()?,
                    sockets: descriptors.by_ref().collect(),
                }
            }
            FREEZE => {
                let Body { length, .. } = Value::read(bytes)?;
                Self::Freeze {
                    length,
                    records: next()?,
                    token: next()?,
                    sockets: descriptors.by_ref().collect(),
                }
            }
            STOP => {
                let Body { .. } = Value::read(bytes)?;
                Self::Stop
            }
            unknown => return Err(InvalidMessage::Kind(unknown)),
        };
        match descriptors.len() {
            0 => Ok(message),
            _ => Err(InvalidMessage::Descriptors(count)),
        }
    }
}

impl ToPredecessor {
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::Ready => "Ready",
            Self::Ack { .. } => "Ack",
            Self::Committed(_) => "Committed",
            Self::Refused { .. } => "Refused",
        }
    }

    /// Returns the message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Hello(hello) => put(&mut out, HELLO, hello),
            Self::Ready => put(&mut out, READY, &Body::default()),
            Self::Ack { number } => {
                let number = *number;
                put(
                    &mut out,
                    ACK,
                    &Body {
                        number,
                        ..Body::default()
                    },
                );
            }
            Self::Committed(committed) => put(&mut out, COMMITTED, committed),
            Self::Refused { why } => {
                let mut end = MAX_TEXT.min(why.len());
                while !why.is_char_boundary(end) {
                    end -= 1;
                }
                let why = why[..end].to_owned();
                put(&mut out, REFUSED, &Reason { why });
            }
        }
        out
    }

    /// Decodes a received message. Replaces control characters in the reason of a refusal.
    ///
    /// # Errors
    /// [`InvalidMessage`], also if there are descriptors.
    pub fn decode(bytes: &[u8], descriptors: &[OwnedFd]) -> Result<Self, InvalidMessage> {
        if !descriptors.is_empty() {
            return Err(InvalidMessage::Descriptors(descriptors.len()));
        }
        let (kind, bytes) = only_record(bytes)?;
        Ok(match kind {
            HELLO => Self::Hello(Value::read(bytes)?),
            READY => {
                let Body { .. } = Value::read(bytes)?;
                Self::Ready
            }
            ACK => {
                let Body { number, .. } = Value::read(bytes)?;
                Self::Ack { number }
            }
            COMMITTED => Self::Committed(Value::read(bytes)?),
            REFUSED => {
                let Reason { why } = Value::read(bytes)?;
                let why = why.replace(char::is_control, " ");
                Self::Refused { why }
            }
            unknown => return Err(InvalidMessage::Kind(unknown)),
        })
    }
}

/// Returns kind and fields of the one record of a message.
fn only_record(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let mut records = Fields(bytes);
    let record = records.next().ok_or(DecodeError::CutShort)??;
    match records.next() {
        None => Ok(record),
        Some(_) => Err(DecodeError::Value),
    }
}

#[cfg(test)]
mod tests;
