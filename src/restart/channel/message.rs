//! What predecessor and successor say to each other.
//!
//! A message is one record in the manner of a snapshot: a kind, a length, and fields with
//! tags, so that a later build can say more. Its descriptors travel beside it
//! ([`Channel`](super::Channel)), and their number must be the one that is due.
//!
//! | message | from | descriptors | what it says |
//! |---|---|---|---|
//! | `Hello` | both | | build, versions, limit of open files |
//! | `Ready` | successor | | all that could fail before the copy has not |
//! | `Shared` | predecessor | store's lock, listeners | what there is one of |
//! | `Batch` | predecessor | a snapshot, sockets | records; each `Opened` has the next socket |
//! | `Ack` | successor | | this batch is adopted |
//! | `Freeze` | predecessor | a snapshot, the token, sockets | what has changed, and the token to take |
//! | `Committed` | successor | | the token is taken, and the successor serves |
//! | `Refused` | successor | | why it gives up |
//! | `Stop` | predecessor | | it was told to stop when it could no longer |
//!
//! There is no message for a rollback: the predecessor takes the token, ends the
//! successor, and need not be heard. When they may be said is in
//! [`Phase`](super::Phase).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::socket::MAX_DESCRIPTORS;
use crate::restart::snapshot::fields::{Fields, Value, layout, put_with};
use crate::restart::snapshot::{Damage, FORMATS, Versions};
use hawk_time::Moment;

/// Sockets in one batch, at most: what a message holds, less the snapshot's descriptor
/// and the token's.
pub const MAX_SOCKETS: usize = MAX_DESCRIPTORS - 2;

/// Bytes of a build's name and of a reason, at most: a message has room for both.
const MAX_TEXT: usize = 1024;

/// Which build this is. One with debug assertions may be called something else, by a
/// variable that is read when it is compiled.
pub const BUILD: &str = match option_env!("HAWK_TEST_BUILD_STAMP") {
    Some(stamp) if cfg!(debug_assertions) => stamp,
    _ => env!("CARGO_PKG_VERSION"),
};

/// The versions of these messages that this build speaks. `Hello` and `Refused` are the
/// same in all of them.
pub const PROTOCOLS: Versions = Versions::new(1, 1);

/// What either process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which build it is.
    pub build: String,
    /// The versions of messages that it speaks.
    pub protocols: Versions,
    /// The formats of snapshots that it reads and writes.
    pub formats: Versions,
    /// How many files it may have open: `RLIMIT_NOFILE` (`getrlimit(2)`), as it is then.
    pub descriptors: u64,
}

layout! { Hello {
    0x81 build: must,
    0x82 protocols: must,
    0x83 formats: must,
    0x84 descriptors: must,
} }

/// What there is to do then.
const WAY_ROUND: &str = "go by way of a build between them, or restart";

/// Why two builds cannot hand over to each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// They have no version of the messages in common.
    #[error("build {build} speaks protocols {theirs}, and build {BUILD} {PROTOCOLS}; {WAY_ROUND}")]
    Protocol {
        /// The other build.
        build: String,
        /// What it speaks.
        theirs: Versions,
    },
    /// They have no format of snapshots in common.
    #[error(
        "build {build} reads snapshots of formats {theirs}, and build {BUILD} {FORMATS}; \
             {WAY_ROUND}"
    )]
    Format {
        /// The other build.
        build: String,
        /// What it reads.
        theirs: Versions,
    },
}

impl Hello {
    /// What this build says; `descriptors` is the limit of open files.
    #[must_use]
    pub fn ours(descriptors: u64) -> Self {
        Self {
            build: BUILD.to_owned(),
            protocols: PROTOCOLS,
            formats: FORMATS,
            descriptors,
        }
    }

    /// The format of snapshots in which this build and the one that says this hand over:
    /// the newest that both know.
    ///
    /// # Errors
    /// That there is none, or no protocol.
    pub fn agree(&self) -> Result<u16, Mismatch> {
        let build = || self.build.clone();
        if self.protocols.common(PROTOCOLS).is_none() {
            let theirs = self.protocols;
            return Err(Mismatch::Protocol {
                build: build(),
                theirs,
            });
        }
        let theirs = self.formats;
        let common = theirs.common(FORMATS);
        common.ok_or_else(|| Mismatch::Format {
            build: build(),
            theirs,
        })
    }
}

/// What the predecessor says. `F` is a descriptor: borrowed where it is sent, owned where
/// it has come.
#[derive(Debug)]
pub enum ToSuccessor<F> {
    /// Who speaks.
    Hello(Hello),
    /// What there is one of, and both processes have from now on.
    Shared {
        /// The store's lock, if there is a store.
        lock: Option<F>,
        /// The sockets that listen.
        listeners: Vec<F>,
    },
    /// Some of the state. To be acknowledged.
    Batch {
        /// The batch's number; they are counted from 1.
        number: u32,
        /// Bytes of the snapshot.
        length: u64,
        /// The snapshot: a [`Sealed`](super::Sealed) file.
        records: F,
        /// One for each [`Record::Opened`](crate::restart::snapshot::Record::Opened) in it, in
        /// that order; at most [`MAX_SOCKETS`].
        sockets: Vec<F>,
    },
    /// The predecessor does nothing any more. This is all that has changed; whoever takes
    /// the token goes on.
    Freeze {
        /// Bytes of the snapshot.
        length: u64,
        /// The snapshot: a [`Sealed`](super::Sealed) file.
        records: F,
        /// The [`Token`](super::Token).
        token: F,
        /// As in a batch.
        sockets: Vec<F>,
    },
    /// The predecessor was told to stop, and has handed over: it is for the successor. An
    /// older build that does not know it takes it for the end of the line, which comes
    /// then.
    Stop,
}

/// What the successor says. It has no descriptors to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPredecessor {
    /// Who speaks.
    Hello(Hello),
    /// It is set up.
    Ready,
    /// It has adopted what was in this batch.
    Ack {
        /// The batch's number.
        number: u32,
    },
    /// It has taken the token and serves.
    Committed(Committed),
    /// It gives up, and has taken nothing.
    Refused {
        /// Why, in one line for people to read; at most 1,024 bytes are sent.
        why: String,
    },
}

/// How it went, as the successor saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// When it had taken the token.
    pub committed: Moment,
    /// When it began its first turn, in which it reads.
    pub resumed: Moment,
    /// How many connections it has.
    pub connections: u32,
}

layout! { Committed {
    0x81 committed: must,
    0x82 resumed: must,
    0x83 connections: may,
} }

/// Why a message is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Its bytes are wrong.
    #[error("a message from the other process makes no sense")]
    Damage(#[from] Damage),
    /// There is no such message in this direction.
    #[error("a message from the other process is of the unknown kind {0:#04x}")]
    Kind(u8),
    /// It has another number of descriptors than is due.
    #[error("a message from the other process has {0} descriptors, which is not what is due")]
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

/// The fields of `Shared`, `Batch`, `Ack` and `Freeze`, as far as they have them.
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

impl<F: AsFd> ToSuccessor<F> {
    /// Its bytes, and the descriptors that travel beside them.
    #[must_use]
    pub fn encode(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
        let mut out = Vec::new();
        let mut descriptors = Vec::new();
        match self {
            Self::Hello(hello) => put_with(&mut out, HELLO, |out| hello.write(out)),
            Self::Shared { lock, listeners } => {
                let body = Body {
                    lock: lock.is_some(),
                    ..Body::default()
                };
                put_with(&mut out, SHARED, |out| body.write(out));
                descriptors.extend(lock.iter().chain(listeners).map(AsFd::as_fd));
            }
            Self::Batch {
                number,
                length,
                records,
                sockets,
            } => {
                let body = Body {
                    number: *number,
                    length: *length,
                    ..Body::default()
                };
                put_with(&mut out, BATCH, |out| body.write(out));
                descriptors.push(records.as_fd());
                descriptors.extend(sockets.iter().map(AsFd::as_fd));
            }
            Self::Freeze {
                length,
                records,
                token,
                sockets,
            } => {
                let body = Body {
                    length: *length,
                    ..Body::default()
                };
                put_with(&mut out, FREEZE, |out| body.write(out));
                descriptors.extend([records.as_fd(), token.as_fd()]);
                descriptors.extend(sockets.iter().map(AsFd::as_fd));
            }
            Self::Stop => put_with(&mut out, STOP, |_| {}),
        }
        (out, descriptors)
    }
}

impl ToSuccessor<OwnedFd> {
    /// The message that came.
    ///
    /// # Errors
    /// [`BadMessage`] if it is none; its descriptors are closed.
    pub fn decode(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<Self, BadMessage> {
        let (kind, bytes) = only_record(bytes)?;
        let count = descriptors.len();
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(BadMessage::Descriptors(count));
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
            unknown => return Err(BadMessage::Kind(unknown)),
        };
        match descriptors.len() {
            0 => Ok(message),
            _ => Err(BadMessage::Descriptors(count)),
        }
    }
}

impl ToPredecessor {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Hello(hello) => put_with(&mut out, HELLO, |out| hello.write(out)),
            Self::Ready => put_with(&mut out, READY, |_| {}),
            Self::Ack { number } => {
                let body = Body {
                    number: *number,
                    ..Body::default()
                };
                put_with(&mut out, ACK, |out| body.write(out));
            }
            Self::Committed(committed) => {
                put_with(&mut out, COMMITTED, |out| committed.write(out));
            }
            Self::Refused { why } => {
                let mut end = (0..=MAX_TEXT.min(why.len())).rev();
                let end = end.find(|&end| why.is_char_boundary(end)).unwrap_or(0);
                let why = why[..end].to_owned();
                put_with(&mut out, REFUSED, |out| Reason { why }.write(out));
            }
        }
        out
    }

    /// The message that came. The text of a refusal has no control characters.
    ///
    /// # Errors
    /// [`BadMessage`] if it is none, or if it has descriptors.
    pub fn decode(bytes: &[u8], descriptors: &[OwnedFd]) -> Result<Self, BadMessage> {
        if !descriptors.is_empty() {
            return Err(BadMessage::Descriptors(descriptors.len()));
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
            unknown => return Err(BadMessage::Kind(unknown)),
        })
    }
}

/// The kind and the fields of the one record that a message is.
fn only_record(bytes: &[u8]) -> Result<(u8, &[u8]), Damage> {
    let mut records = Fields(bytes);
    let record = records.next().ok_or(Damage::CutShort)??;
    match records.next() {
        None => Ok(record),
        Some(_) => Err(Damage::Value),
    }
}

#[cfg(test)]
mod tests;
