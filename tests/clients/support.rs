//! A stand-in for a server that misbehaves on demand, and a way to run the real binary
//! against it within a deadline.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use hawk_wire::{Busy, Decoder, Input, Packet, PacketDecoder, Refusal, Reply, Step};

/// Far beyond the time of any test here: only a hang reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// How a stand-in server treats its clients.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Conduct {
    /// Correctly.
    Good,
    /// Answers every frame with a number that is a multiple of this with this line.
    Wrong(u64, &'static str),
    /// Does not answer frames with a number that is a multiple of this.
    Silent(u64),
    /// Answers every frame, and this frame twice.
    Twice(u64),
    /// Answers so many frames, then ends the stream, reading on.
    Ends(u64),
    /// Answers so many frames, then resets the connection.
    Resets(u64),
    /// Answers, but only when the client has ended its stream.
    Tardy,
    /// Answers, but does not close when the client has ended its stream.
    Lingers,
    /// Answers heartbeats, and has no store for reports.
    NoStore,
    /// Accepts so many connections, and answers `busy: too many connections` to the others.
    Full(u64),
    /// Correctly, except to agents with chaotic names.
    Unfair(Ill),
}

/// How a stand-in server treats chaotic agents.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ill {
    /// Answers with this.
    Says(&'static str),
    /// Answers twice.
    Twice,
    /// Does not answer.
    Silent,
    /// Does not close when they have ended their stream.
    Lingers,
    /// Ends the stream at their first report.
    Ends,
    /// Resets the connection at their first report.
    Resets,
}

/// An observation of a stand-in server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Connection(IpAddr),
    /// The client has ended a stream that was ended by the server before.
    Parted,
    Heartbeat,
    Report {
        content: String,
        agent: Option<String>,
    },
}

/// A stand-in server on its own port. It ends with the test's process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Receiver<Seen>,
}

impl Server {
    pub(crate) fn start(conduct: Conduct) -> Self {
        Self::on("127.0.0.1:0", conduct).unwrap()
    }

    pub(crate) fn on(address: &str, conduct: Conduct) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let (sender, seen) = channel();
        thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (stream, sender) = (stream.unwrap(), sender.clone());
                match conduct {
                    Conduct::Full(most) if number as u64 >= most => {
                        thread::spawn(move || turn_away(stream));
                    }
                    _ => drop(thread::spawn(move || {
                        Session::new(stream, conduct, sender).run();
                    })),
                }
            }
        });
        Ok(Self { address, seen })
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Waits for the next observation.
    pub(crate) fn wait(&self) -> Seen {
        self.seen.recv_timeout(DEADLINE).unwrap()
    }

    /// Returns all observations so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.try_iter().collect()
    }
}

fn turn_away(mut stream: TcpStream) {
    // The agent may be gone.
    drop(stream.write_all(Reply::Busy(Busy::TooManyConnections).line()));
    hang_up(stream);
}

/// Ends the stream, reading on.
fn hang_up(mut stream: TcpStream) {
    drop(stream.shutdown(Shutdown::Write));
    drop(std::io::copy(&mut stream, &mut std::io::sink()));
}

struct Session {
    stream: TcpStream,
    conduct: Conduct,
    seen: Sender<Seen>,
    packets: PacketDecoder,
    frames: u64,
    /// The agent has a chaotic name.
    is_chaotic: bool,
    replies: Vec<u8>,
}

impl Session {
    fn new(stream: TcpStream, conduct: Conduct, seen: Sender<Seen>) -> Self {
        drop(seen.send(Seen::Connection(stream.peer_addr().unwrap().ip())));
        Self {
            stream,
            conduct,
            seen,
            packets: PacketDecoder::default(),
            frames: 0,
            is_chaotic: false,
            replies: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut decoder = Decoder::default();
        let mut window = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count) = self.stream.read(&mut buffer) {
            let input = match count {
                0 => Input::Ended,
                _ => Input::Open,
            };
            window.extend_from_slice(&buffer[..count]);
            let mut at = 0;
            loop {
                let decoded = decoder.decode(&window[at..], input);
                at += decoded.consumed;
                let reply = match decoded.step {
                    Step::Frame(data) => self.note(data),
                    Step::ChecksumMismatch => Reply::Error(Refusal::ChecksumMismatch),
                    Step::Incomplete => break,
                    Step::JunkLimit => {
                        self.write();
                        return hang_up(self.stream);
                    }
                };
                if !self.answer(reply) {
                    return;
                }
            }
            window.drain(..at);
            if input == Input::Ended {
                break;
            }
            if !matches!(self.conduct, Conduct::Tardy) && !self.write() {
                return;
            }
        }
        self.write();
        let lingers = match self.conduct {
            Conduct::Lingers => true,
            Conduct::Unfair(Ill::Lingers) => self.is_chaotic,
            _ => false,
        };
        if lingers {
            thread::park_timeout(DEADLINE);
        }
    }

    /// Returns the right reply to this data.
    fn note(&mut self, data: &[u8]) -> Reply {
        let (reply, note) = match self.packets.decode(data) {
            Ok(Packet::Heartbeat(_)) => (Reply::Heartbeat, Seen::Heartbeat),
            Ok(Packet::Report(report)) => {
                let agent = report.agent.map(|name| name.as_str().to_owned());
                self.is_chaotic |= agent.iter().any(|name| name.starts_with("chaos-"));
                let content = report.content.into_owned();
                (Reply::Report, Seen::Report { content, agent })
            }
            Err(refusal) => return Reply::Error(refusal),
        };
        // The test may be over.
        drop(self.seen.send(note));
        reply
    }

    /// Returns whether the session continues.
    fn answer(&mut self, reply: Reply) -> bool {
        self.frames += 1;
        let frame = self.frames;
        match self.conduct {
            Conduct::Wrong(every, line) if frame.is_multiple_of(every) => {
                self.replies.extend_from_slice(line.as_bytes());
            }
            Conduct::Silent(every) if frame.is_multiple_of(every) => {}
            Conduct::NoStore if reply == Reply::Report => {
                let busy = Reply::Busy(Busy::StoreUnavailable);
                self.replies.extend_from_slice(busy.line());
            }
            Conduct::Ends(after) if frame > after => return self.end(),
            Conduct::Resets(after) if frame > after => return self.reset(),
            Conduct::Unfair(ill) if self.is_chaotic => match ill {
                Ill::Says(line) => self.replies.extend_from_slice(line.as_bytes()),
                Ill::Twice => self.replies.extend_from_slice(&reply.line().repeat(2)),
                Ill::Silent => {}
                Ill::Lingers => self.replies.extend_from_slice(reply.line()),
                Ill::Ends => return self.end(),
                Ill::Resets => return self.reset(),
            },
            Conduct::Twice(which) if frame == which => {
                self.replies.extend_from_slice(&reply.line().repeat(2));
            }
            _ => self.replies.extend_from_slice(reply.line()),
        }
        true
    }

    /// Ends the stream and the session.
    fn end(&mut self) -> bool {
        self.write();
        hang_up(self.stream.try_clone().unwrap());
        drop(self.seen.send(Seen::Parted));
        false
    }

    /// Resets the connection and ends the session.
    fn reset(&self) -> bool {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        false
    }

    fn write(&mut self) -> bool {
        let written = self.stream.write_all(&self.replies).is_ok();
        self.replies.clear();
        written
    }
}

/// Returns an address without a listener.
pub(crate) fn address_without_listener() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The result of a run of the binary.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `hawk` with these arguments and this standard input.
pub(crate) fn hawk(arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hawk"));
    command.args(arguments);
    finish(command, input)
}

/// Runs a command to its end, which must come before the deadline.
pub(crate) fn finish(command: Command, input: &[u8]) -> Ran {
    finish_meanwhile(command, input, |_| {})
}

/// Runs a command to its end, and calls `meanwhile` once it has started.
pub(crate) fn finish_meanwhile(
    mut command: Command,
    input: &[u8],
    meanwhile: impl FnOnce(rustix::process::Pid),
) -> Ran {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let process = rustix::process::Pid::from_child(&child);
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // The process may end before it has read its whole input.
    thread::spawn(move || drop(stdin.write_all(&input)));
    meanwhile(process);
    let (sender, done) = channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = done.recv_timeout(DEADLINE) else {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
        panic!("{command:?} has not come to an end");
    };
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap();
    Ran {
        code: status.code(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

impl Ran {
    /// Asserts that the run succeeded without complaints.
    #[track_caller]
    pub(crate) fn succeeded(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
    }

    /// Asserts that the run failed, with one last line that contains `why`.
    #[track_caller]
    pub(crate) fn failed_with(&self, why: &str) {
        assert_eq!(self.code, Some(1), "{self:#?}");
        let last = self.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("hawk: "), "{self:#?}");
        assert!(last.contains(why), "expected {why:?} in {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }
}
