//! A session as plain data, to be exported and rebuilt.

use std::net::SocketAddr;

use super::restraint::Restraint;
use super::{Bucket, Clocks, Handler, Session, SessionContext, Tag};
use hawk_wire::{Decoder, DecoderState};

/// The whole state of a session, with which another process of the same machine continues it.
///
/// Exported between turns, when every reply is written or queued. Pending replies are no part
/// of it: it is complete only without them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The address the connection comes from.
    pub peer: SocketAddr,
    /// The name that the agent sent last.
    pub agent: Option<String>,
    /// The handler's tag, which means the same to the successor's handler.
    pub tag: Option<Tag>,
    /// The decoder's state.
    pub decoder: DecoderState,
    /// The points in time from which deadlines count.
    pub clocks: Clocks,
    /// The used rate.
    pub bucket: Bucket,
    /// Bytes received and not yet consumed.
    pub buffered: Vec<u8>,
    /// Reply bytes not yet written.
    pub unsent: Vec<u8>,
    /// Frames that passed; saturates at `u32::MAX`.
    pub frames: u32,
}

impl Session {
    /// Exports the session with the bytes of its `window`.
    #[must_use]
    pub fn export(&self, window: &[u8]) -> SessionState {
        SessionState {
            peer: self.peer.into(),
            agent: self.agent.as_deref().map(str::to_owned),
            tag: self.tag,
            decoder: self.decoder.state(),
            clocks: self.clocks(),
            bucket: self.restraint.bucket(),
            buffered: window.to_vec(),
            unsent: self.unsent().to_vec(),
            frames: self.frames,
        }
    }

    /// Returns the session that `state` describes, and the bytes its window begins with.
    /// The caller passes them to [`receive`](Self::receive) at once, because they may contain
    /// whole frames. The session's unsent replies are in the context's total from now on, and
    /// its name is shared with the handler. A paused session stays paused until
    /// [`resume_reading`](Self::resume_reading).
    #[must_use]
    pub fn rebuild<H: Handler>(
        state: SessionState,
        context: &mut SessionContext<H>,
    ) -> (Self, Vec<u8>) {
        let mut session = Self {
            peer: state.peer.into(),
            agent: state.agent.map(|name| context.handler.name(&name)),
            tag: state.tag,
            decoder: Decoder::rebuild(state.decoder),
            restraint: Restraint::rebuild(state.clocks.stopped, state.bucket),
            marks: state.clocks.into(),
            pending: 0,
            last_pending: None,
            frames: state.frames,
        };
        if !state.unsent.is_empty() {
            session.queue(&state.unsent, &context.unsent);
        }
        (session, state.buffered)
    }
}
