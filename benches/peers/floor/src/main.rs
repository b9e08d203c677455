//! The floor: the least work of a server of hawk's protocol. It reads, finds frames, checks
//! them and answers each with a line, without JSON, deadlines, bounds of memory, or search
//! after damage.
//!
//! One thread, one read of up to 64 KiB and one write for each event, the writes of up to
//! 16 connections after their reads, sockets registered once: the floor makes the same
//! system calls as hawk, so that hawk's additional time is its work on packets and agents.
//!
//! ```text
//! hawk-peer-floor 127.0.0.1:0
//! ```

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// Bytes of one read.
const ROOM: usize = 64 * 1024;

/// Bytes of a frame before and after its data.
const HEADER: usize = 4;
const TRAILER: usize = 4;

/// Most connections and bytes of replies that are written together, as in hawk.
const MOST_PUT_OFF: usize = 16;
const MOST_BYTES_PUT_OFF: usize = 32 * 1024;

/// The listener's token; a connection's token is its place in the table.
const LISTENER: Token = Token(usize::MAX);

fn main() -> anyhow::Result<()> {
    let address = std::env::args().nth(1);
    let address: SocketAddr = address
        .context("usage: hawk-peer-floor ADDR:PORT")?
        .parse()?;
    let mut listener = TcpListener::bind(address)?;
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    eprintln!("listening on {}", listener.local_addr()?);
    let mut server = Server {
        listener,
        agents: Vec::new(),
        buffer: vec![0; ROOM].into(),
        replies: Vec::new(),
        put_off: Vec::new(),
    };
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            outcome => outcome?,
        }
        for event in &events {
            match event.token() {
                LISTENER => server.accept(&poll)?,
                Token(place) => server.serve(place),
            }
        }
        server.deliver();
    }
}

struct Server {
    listener: TcpListener,
    /// Places are never reused: there is one for each connection so far.
    agents: Vec<Option<Agent>>,
    buffer: Box<[u8]>,
    replies: Vec<u8>,
    /// The connection of each reply, and its end.
    put_off: Vec<(usize, usize)>,
}

struct Agent {
    stream: TcpStream,
    /// A partial frame.
    begun: Vec<u8>,
    /// Replies that the socket did not take.
    unsent: Vec<u8>,
}

impl Server {
    fn accept(&mut self, poll: &Poll) -> anyhow::Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut stream, Token(self.agents.len()), interest)?;
            self.agents.push(Some(Agent {
                stream,
                begun: Vec::new(),
                unsent: Vec::new(),
            }));
        }
    }

    /// Serves a ready connection, and drops it at its end.
    fn serve(&mut self, place: usize) {
        let Some(agent) = &mut self.agents[place] else {
            return;
        };
        if !matches!(agent.serve(&mut self.buffer, &mut self.replies), Ok(true)) {
            self.agents[place] = None;
        }
        self.put_off.push((place, self.replies.len()));
        if self.put_off.len() >= MOST_PUT_OFF || self.replies.len() >= MOST_BYTES_PUT_OFF {
            self.deliver();
        }
    }

    /// Writes the delayed replies.
    fn deliver(&mut self) {
        let mut start = 0;
        for (place, end) in self.put_off.drain(..) {
            if let Some(agent) = &mut self.agents[place]
                && agent.send(&self.replies[start..end]).is_err()
            {
                self.agents[place] = None;
            }
            start = end;
        }
        self.replies.clear();
    }
}

impl Agent {
    /// Appends the replies to all available frames. Returns false at the end of the stream.
    fn serve(&mut self, buffer: &mut [u8], replies: &mut Vec<u8>) -> anyhow::Result<bool> {
        self.flush()?;
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let bytes = &buffer[..read];
            if self.begun.is_empty() {
                let consumed = answer(bytes, replies)?;
                self.begun.extend_from_slice(&bytes[consumed..]);
            } else {
                self.begun.extend_from_slice(bytes);
                let consumed = answer(&self.begun, replies)?;
                self.begun.drain(..consumed);
            }
            // A short read has drained the socket; further bytes cause an event.
            if read < buffer.len() {
                return Ok(true);
            }
        }
    }

    fn send(&mut self, replies: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.unsent.is_empty() && !replies.is_empty() {
            sent = write(&mut self.stream, replies)?;
        }
        self.unsent.extend_from_slice(&replies[sent..]);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.unsent.is_empty() {
            let sent = write(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
        }
        Ok(())
    }
}

/// Writes as much as the socket takes.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Appends a reply for each whole frame at the front of `bytes`, and returns their bytes.
///
/// # Errors At bytes that are no frame: the measured load sends only frames.
fn answer(bytes: &[u8], replies: &mut Vec<u8>) -> anyhow::Result<usize> {
    let mut at = 0;
    while let Some([0xFF, 0xFF, high, low]) = bytes.get(at..at + HEADER) {
        let end = at + HEADER + usize::from(u16::from_be_bytes([*high, *low]));
        let Some(&[sum_high, sum_low, mark, last]) = bytes.get(end..end + TRAILER) else {
            return Ok(at);
        };
        let data = &bytes[at + HEADER..end];
        let sum = u32::from(u16::from_be_bytes([sum_high, sum_low]));
        if [mark, last] != [0xFF, 0xFE]
            || memchr::memchr(0xFF, data).is_some()
            || crc32fast::hash(data) >> 16 != sum
        {
            bail!("a frame does not pass");
        }
        replies.extend_from_slice(match data {
            // Where Go's JSON has the packet's number, and the compact encoding.
            [b'{', rest @ ..] if rest.get(13) == Some(&b'1') => REPORT,
            [1, ..] => REPORT,
            _ => HEARTBEAT,
        });
        at = end + TRAILER;
    }
    if bytes.len() - at >= HEADER {
        bail!("no frame begins where one should");
    }
    Ok(at)
}

const HEARTBEAT: &[u8] = b"heartBeat\n";
const REPORT: &[u8] = b"Report data has recive\n";
