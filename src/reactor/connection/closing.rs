//! How a connection ends from our side: what is unsent goes out, our end of
//! file follows, and what comes in is discarded until the agent's.

use std::io;
use std::time::Duration;

use super::super::kernel::Socket;
use super::{Connection, ConnectionPhase, Outcome, Shop};
use crate::session::Handler;
use crate::stats::Cause;

/// How long a connection that we close may go on sending before it is cut
/// off. Closing with unread input would reset it and destroy replies that the
/// agent has not read yet.
pub(super) const LINGER: Duration = Duration::from_secs(2);

impl<S: Socket> Connection<S> {
    /// Begins to close it from our side, for `cause`, with what is unsent and
    /// without reading anything more.
    pub(in crate::reactor) fn close<H: Handler>(
        &mut self,
        cause: Cause,
        shop: &mut Shop<H>,
    ) -> Outcome {
        let patience = match cause {
            // Its time is over: that replies are unsent may be the very reason.
            Cause::IdleTimeout | Cause::FrameTimeout | Cause::OutputTimeout
                if !self.session.is_owed() =>
            {
                LINGER
            }
            // Replies have as long to get out as an agent may take to read them.
            _ => shop.limits.idle,
        };
        self.phase.enter(ConnectionPhase::Closing {
            cause,
            until: shop.now.after(patience),
        });
        // Whatever else comes is not read: a whole frame that an unfinished
        // candidate hides is found now or never.
        let mut frames = u32::MAX;
        if cause != Cause::JunkLimit && !self.input.window().is_empty() {
            self.decode(&mut frames, shop);
        }
        self.input.clear();
        self.session.stop_receiving();
        let outcome = self.wind_down(shop);
        self.end_turn(outcome)
    }

    /// Says `line`, and nothing else, before it closes for `cause`.
    pub(in crate::reactor) fn turn_away<H: Handler>(
        &mut self,
        reply: hawk_wire::Reply,
        cause: Cause,
        shop: &mut Shop<H>,
    ) -> Outcome {
        shop.desk.answer(reply);
        self.close(cause, shop)
    }

    /// Ends it for everybody who has its socket: in another process it is open too.
    pub(in crate::reactor) fn shut_down(&mut self) {
        // It fails only if it has ended already.
        let _ended = self.socket.end_both();
    }

    /// The server stops: what has arrived by now is still read and answered.
    pub(in crate::reactor) fn finish_arrived(&mut self) {
        if self.phase.is_open() {
            let arrived = self.socket.arrived().unwrap_or(0);
            self.phase.set_allowance(arrived);
            self.readable = true;
        }
    }

    fn lingers(&self) -> bool {
        matches!(self.phase.get(), ConnectionPhase::Lingering { .. })
    }

    /// The way out once we close: flush, end our side, discard what comes.
    pub(super) fn wind_down<H: Handler>(&mut self, shop: &mut Shop<H>) -> Outcome {
        let Some((cause, _)) = self.phase.get().ending() else {
            return Outcome::Idle;
        };
        self.flush(shop);
        if self.unheard {
            return Outcome::Ended(cause);
        }
        let answered = self.session.unsent().is_empty() && !self.session.is_owed();
        if !self.lingers() && answered {
            if self.socket.end_output().is_err() {
                return Outcome::Ended(cause);
            }
            self.phase.enter(ConnectionPhase::Lingering {
                cause,
                until: shop.now.after(LINGER),
            });
        }
        let mut bytes = shop.work.share();
        while self.readable {
            if bytes == 0 {
                return Outcome::Again;
            }
            match self.socket.read(&mut shop.discard) {
                Ok(0) => {
                    self.readable = false;
                    if self.lingers() {
                        return Outcome::Ended(cause);
                    }
                }
                Ok(read) => {
                    bytes = bytes.saturating_sub(read);
                    self.took_in(read, shop);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Ended(cause),
            }
        }
        Outcome::Idle
    }
}
