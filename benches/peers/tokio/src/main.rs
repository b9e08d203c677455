//! hawk's protocol on tokio, for comparison: a task for each connection and a
//! tokio-util codec, on a runtime of one thread.
//!
//! hawk's own `wire` crate decodes frames and packets, so that the servers differ in how
//! they move bytes. It is written to be fast: packets are decoded in place in the receive
//! buffer, reads have room for 64 KiB, replies to all frames of a read are flushed once,
//! and Nagle's algorithm is off. It has no deadlines, bounds of memory and roster, to
//! tokio's advantage.
//!
//! ```text
//! hawk-peer-tokio 127.0.0.1:0
//! ```

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;

use anyhow::Context as _;
use bytes::{Buf as _, BytesMut};
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use hawk_wire::{Input, Packet, PacketDecoder, Refusal, Reply, Step};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::codec::{Decoder, Encoder, Framed};

/// Room for a read, and the reply bytes that make a write due.
const ROOM: usize = 64 * 1024;

/// As in hawk: enough for all agents to connect at once.
const BACKLOG: u32 = 4096;

fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1);
    let address = address
        .context("usage: hawk-peer-tokio ADDR:PORT")?
        .parse()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(serve(address))
}

async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    eprintln!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // The end of a conversation is ignored.
        tokio::spawn(async move { converse(stream).await.ok() });
    }
}

/// Answers one agent until it ends.
async fn converse(stream: TcpStream) -> io::Result<()> {
    let mut agent = Framed::with_capacity(stream, Codec::default(), ROOM);
    agent.set_backpressure_boundary(ROOM);
    while let Some(reply) = agent.next().await {
        agent.feed(reply?).await?;
        // First all other frames that have arrived, then the write.
        while let Some(Some(reply)) = agent.next().now_or_never() {
            agent.feed(reply?).await?;
        }
        agent.flush().await?;
    }
    Ok(())
}

/// Frames to replies, and replies to lines.
#[derive(Default)]
struct Codec {
    frames: hawk_wire::Decoder,
}

thread_local! {
    /// All connections share its scratch space, as in hawk.
    static PACKETS: RefCell<PacketDecoder> = RefCell::default();
}

impl Codec {
    fn next(&mut self, window: &mut BytesMut, input: Input) -> io::Result<Option<Reply>> {
        let decoded = self.frames.decode(window, input);
        let reply = match decoded.step {
            Step::Frame(data) => Some(answer(data)),
            Step::ChecksumMismatch => Some(Reply::Error(Refusal::ChecksumMismatch)),
            Step::Incomplete => None,
            Step::JunkLimit => return Err(io::Error::other("too much junk")),
        };
        window.advance(decoded.consumed);
        Ok(reply)
    }
}

fn answer(data: &[u8]) -> Reply {
    PACKETS.with_borrow_mut(|packets| match packets.decode(data) {
        Ok(Packet::Heartbeat(_)) => Reply::Heartbeat,
        Ok(Packet::Report(_)) => Reply::Report,
        Err(refusal) => Reply::Error(refusal),
    })
}

impl Decoder for Codec {
    type Item = Reply;
    type Error = io::Error;

    fn decode(&mut self, window: &mut BytesMut) -> io::Result<Option<Reply>> {
        let reply = self.next(window, Input::Open)?;
        if reply.is_none() {
            // Reclaims the space at the front. Otherwise reads would get shorter until the
            // buffer is full.
            window.reserve(ROOM.saturating_sub(window.len()).max(ROOM / 4));
        }
        Ok(reply)
    }

    fn decode_eof(&mut self, window: &mut BytesMut) -> io::Result<Option<Reply>> {
        self.next(window, Input::Ended)
    }
}

impl Encoder<Reply> for Codec {
    type Error = io::Error;

    fn encode(&mut self, reply: Reply, lines: &mut BytesMut) -> io::Result<()> {
        lines.extend_from_slice(reply.line());
        Ok(())
    }
}
