//! The way of bytes from the socket to the session.

use std::io;

use super::super::kernel::Socket;
use super::super::output_limit::LEAST_READ;
use super::{Ahead, Connection, ConnectionPhase, Shop};
use crate::network::Network;
use crate::session::{Handler, OutputRoom, Progress, Rate, StopReason};
use hawk_time::log_limited;

/// Bytes that an agent under a rate limit is read for each frame that it may send:
/// what lies beyond its limit stays with the kernel, and not in a receive buffer
/// that others are waiting for.
const BYTES_PER_FRAME: usize = 256;

impl<S: Socket> Connection<S> {
    /// How many frames the agent may still have answered, by its rate and by that of its
    /// network. When the server stops, what has arrived is answered at once.
    pub(super) fn frames_left<H>(&self, shop: &mut Shop<H>) -> u32 {
        match shop.limits.rate {
            Some(rate) if self.phase.allowance().is_none() => {
                let of_network = shop.rates.left(self.network(), rate, shop.now);
                let left = self.session.frames_left(shop.now, &shop.limits);
                left.min(of_network)
            }
            _ => u32::MAX,
        }
    }

    /// The agent has sent more than it may: it is read again when it may send more.
    pub(super) fn slow_down<H: Handler>(&mut self, shop: &mut Shop<H>) {
        if let Some(rate) = shop.limits.rate
            && self.session.frames_left(shop.now, &shop.limits) > 0
            && let Some(next) = shop.rates.next(self.network(), rate, shop.now)
        {
            self.session.hold_until(next, &shop.limits);
        }
        self.stop_reading(StopReason::Rate, shop);
        shop.counters.rate_limited += 1;
        log_limited!(warn, shop.rate_log, shop.now, left_out =>
            "rate limit: read more slowly peer={} limit={} left_out={left_out}",
            self.session.sender().peer,
            shop.limits.rate.map_or(0, Rate::get));
    }

    fn network(&self) -> Network {
        Network::of(self.session.sender().peer.ip())
    }

    /// How much to read at once: no more than `frames` may take, and little if there
    /// is no `room` for their replies.
    pub(super) fn wanted(frames: u32, room: OutputRoom) -> usize {
        match room {
            OutputRoom::Enough => (frames as usize)
                .saturating_mul(BYTES_PER_FRAME)
                .max(LEAST_READ),
            OutputRoom::None => LEAST_READ,
        }
    }

    /// One call of read, for at most so many bytes; how many it brought.
    pub(super) fn read<H>(&mut self, most: usize, shop: &mut Shop<H>) -> io::Result<usize> {
        let mut space = self.input.space();
        let wanted = most.min(space.len());
        space = &mut space[..wanted];
        if let Some(allowance) = self.phase.allowance() {
            let allowed = space.len().min(allowance as usize);
            space = &mut space[..allowed];
        }
        let room = space.len();
        match self.socket.read(space) {
            Ok(0) => {
                self.readable = false;
                self.phase.enter(ConnectionPhase::Finishing);
                self.undecoded = true;
                Ok(0)
            }
            Ok(read) => {
                // A short read has drained the socket, unless the end of file
                // was already queued behind the data, or the read stopped at
                // urgent data (tcp(7)): there is no event for either.
                if read < room && self.ahead == Ahead::Open {
                    self.readable = false;
                }
                self.input.filled(read);
                self.undecoded = true;
                self.took_in(read, shop);
                self.phase.use_up(read);
                Ok(read)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    Ok(0)
                }
                io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            },
        }
    }

    /// Counts what a read brought, wanted or not.
    pub(super) fn took_in<H>(&mut self, bytes: usize, shop: &mut Shop<H>) {
        shop.work.read(bytes);
        shop.counters.bytes_in += bytes as u64;
        shop.counters.reads += 1;
    }

    /// Has the session take what is in the window.
    pub(super) fn decode<H: Handler>(&mut self, frames: &mut u32, shop: &mut Shop<H>) -> Progress {
        let input = match self.phase.is_open() {
            true => hawk_wire::Input::Open,
            false => hawk_wire::Input::Ended,
        };
        let window = self.input.window();
        let before = *frames;
        let received = self
            .session
            .receive(window, input, shop.now, frames, &mut shop.desk);
        self.input.consume(received.consumed);
        let recognised = before - *frames;
        shop.work.recognised(recognised);
        if let Some(rate) = shop.limits.rate {
            self.session
                .count_frames(recognised, shop.now, &shop.limits);
            let network = self.network();
            shop.rates.take(network, recognised, rate, shop.now);
        }
        if received.junk > 0 {
            log_limited!(warn, shop.junk_log, shop.now, left_out =>
                "junk: bytes that are no frame peer={} bytes={} left_out={left_out}",
                self.session.sender().peer,
                received.junk);
        }
        received.progress
    }
}
