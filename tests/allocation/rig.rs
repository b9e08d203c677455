//! A server and its agents, alternating on one thread: the server reads each piece before
//! an agent sends the next, so that every cut is a read of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use allocation_counter::measure;
use hawk::reactor::kernel::{Event, Kernel, ListenerTag, Signal, SocketToken};
use hawk::reactor::{Linux, Reactor};
use hawk::session::{Handler, Wake};
use hawk_time::Moment;

use crate::script::{AGENTS, Scene, Script};
use hawk_testkit::{PATIENCE, in_process};

/// A server in this thread, with all its agents connected.
pub(crate) struct Rig<H: Handler> {
    reactor: Reactor<H, Paced>,
    agents: Vec<TcpStream>,
    /// Allocations in the server's turns so far.
    allocations: u64,
}

/// The result of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Played {
    /// Frames that were answered.
    pub(crate) frames: u64,
    /// The answered frames that reached the handler.
    pub(crate) packets: u64,
    /// Allocations on the event loop's thread, in its turns.
    pub(crate) allocations: u64,
}

impl<H: Handler> Rig<H> {
    pub(crate) fn new(handler: H) -> Self {
        let config = in_process::reactor(PATIENCE);
        let reactor = Reactor::new(config, handler, Paced::new()).unwrap();
        let address = reactor.local_addr().unwrap();
        let agents = (0..AGENTS).map(|_| connect(address)).collect();
        Self {
            reactor,
            agents,
            allocations: 0,
        }
    }

    /// Plays the whole script, and checks every reply.
    pub(crate) fn play(&mut self, script: &Script) -> Played {
        let before = self.so_far();
        script.scenes().iter().for_each(|scene| self.act(scene));
        let after = self.so_far();
        Played {
            frames: after.frames - before.frames,
            packets: after.packets - before.packets,
            allocations: after.allocations - before.allocations,
        }
    }

    /// Returns the handler, so that the test can end it.
    pub(crate) fn into_handler(self) -> H {
        self.reactor.into_handler()
    }

    fn so_far(&self) -> Played {
        let tally = self.reactor.figures().sessions;
        let packets = tally.heartbeats + tally.reports;
        Played {
            frames: packets + tally.refused_total() + tally.busy,
            packets,
            allocations: self.allocations,
        }
    }

    fn act(&mut self, scene: &Scene) {
        let (read, written) = (self.bytes_in(), self.bytes_out());
        let mut sent = 0;
        for (agent, piece) in &scene.pieces {
            let mut rest = piece.as_slice();
            sent += rest.len() as u64;
            while !rest.is_empty() || self.bytes_in() < read + sent {
                // An agent that cannot write has already written bytes that the server can
                // read.
                rest = &rest[write(&self.agents[*agent], rest)..];
                self.turn();
            }
        }
        let due: usize = scene.replies.iter().map(Vec::len).sum();
        while self.bytes_out() < written + due as u64 {
            self.turn();
        }
        for (agent, expected) in self.agents.iter().zip(&scene.replies) {
            expect(agent, expected);
        }
    }

    /// Runs one turn of the event loop, the only place where allocations count.
    fn turn(&mut self) {
        let counted = measure(|| {
            let ended = self.reactor.turn(None).unwrap();
            assert_eq!(ended, None, "something has told the server to stop");
        });
        self.allocations += counted.count_total;
    }

    fn bytes_in(&self) -> u64 {
        self.reactor.figures().reactor.bytes_in
    }

    fn bytes_out(&self) -> u64 {
        self.reactor.figures().reactor.bytes_out
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let agent = TcpStream::connect(address).unwrap();
    agent.set_nodelay(true).unwrap();
    agent.set_read_timeout(Some(PATIENCE)).unwrap();
    agent
}

/// Sends as many bytes as the socket takes, and returns their number.
fn write(mut agent: &TcpStream, bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    agent.set_nonblocking(true).unwrap();
    let outcome = agent.write(bytes);
    agent.set_nonblocking(false).unwrap();
    match outcome {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

/// Reads these replies, which the server has sent.
fn expect(mut agent: &TcpStream, expected: &[u8]) {
    let mut replies = vec![0; expected.len()];
    agent.read_exact(&mut replies).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&replies),
        String::from_utf8_lossy(expected)
    );
}

/// The time of each wait for events by the server's clock.
///
/// The clock is simulated, because the pool frees unused buffers after 5 s, and a slow
/// machine may take 5 s for any step. With it these 5 s pass several times, and never
/// within one round of the script.
const WAIT: Duration = Duration::from_micros(50);

/// The real kernel, with a simulated clock.
pub(crate) struct Paced {
    linux: Linux,
    now: Moment,
}

impl Paced {
    fn new() -> Self {
        Self {
            linux: Linux::new().unwrap(),
            now: Moment::now(),
        }
    }
}

impl Kernel for Paced {
    type Socket = <Linux as Kernel>::Socket;
    type Listener = <Linux as Kernel>::Listener;

    fn now(&self) -> Moment {
        self.now
    }

    fn listen(&mut self, address: SocketAddr) -> io::Result<Self::Listener> {
        self.linux.listen(address)
    }

    fn watch_listener(
        &mut self,
        listener: &mut Self::Listener,
        tag: ListenerTag,
    ) -> io::Result<()> {
        self.linux.watch_listener(listener, tag)
    }

    fn waker(&mut self) -> io::Result<Wake> {
        self.linux.waker()
    }

    fn watch(&mut self, socket: &mut Self::Socket, token: SocketToken) -> io::Result<()> {
        self.linux.watch(socket, token)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.linux.wait(timeout)?;
        self.now = self.now.after(WAIT);
        Ok(())
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        self.linux.events()
    }

    fn signals(&mut self) -> Vec<Signal> {
        self.linux.signals()
    }
}
