//! A session as plain data.

use std::net::SocketAddr;

use super::restraint::Restraint;
use super::{Bucket, Clocks, Handler, Session, SessionContext, Tag};
use hawk_wire::{Decoder, DecoderState};

/// All there is to know of a session: enough to go on with it in another
/// process of the same machine as if nothing had happened.
///
/// It is taken between turns, when the replies of the batch at hand are written
/// or queued. Replies that wait for a commit are no part of it: it is all only when
/// there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The address the connection comes from.
    pub peer: SocketAddr,
    /// The name the agent gave itself last.
    pub agent: Option<String>,
    /// What the handler keeps with it: the handler that goes on knows the session
    /// by the same number, whose own state moves as well.
    pub tag: Option<Tag>,
    /// What the decoder remembers.
    pub decoder: DecoderState,
    /// From where deadlines are counted.
    pub clocks: Clocks,
    /// What it has used of its rate.
    pub bucket: Bucket,
    /// Bytes received and not yet consumed.
    pub buffered: Vec<u8>,
    /// Reply bytes not yet written.
    pub unsent: Vec<u8>,
    /// Frames that passed; `u32::MAX` if they are more.
    pub frames: u32,
}

impl Session {
    /// Writes the session down, together with the bytes of its `window`.
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

    /// The session that `state` describes, and the bytes its window begins with:
    /// [`receive`](Self::receive) is to be called with them at once, as whole
    /// frames may be among them. Its unsent replies are in the context's total from now on,
    /// and its name is the one that the handler has. If we do not read from its agent, that goes
    /// on until [`resume_reading`](Self::resume_reading).
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
