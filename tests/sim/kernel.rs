//! The operating system that the machine has: sockets with bounded buffers and
//! edge-triggered readiness, as Linux has them.

use std::cell::RefMut;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hawk::reactor::kernel::{
    Accept, Event as Said, Kernel, ListenerTag, Readiness, Signal, Socket, SocketToken,
};
use hawk::session::Wake;
use hawk::stats::Cause;
use hawk_time::Moment;
use rustix::io::Errno;

use super::counts::Event;
use super::link::Stage;
use super::machine::{Machine, Shared};

/// The kernel as one process has it.
pub struct SimKernel {
    machine: Shared,
    process: u32,
}

pub struct SimSocket {
    machine: Shared,
    slot: usize,
    process: u32,
}

pub struct SimListener {
    machine: Shared,
    process: u32,
}

impl SimKernel {
    pub fn new(machine: Shared, process: u32) -> Self {
        Self { machine, process }
    }
}

impl SimSocket {
    fn new(machine: Shared, slot: usize, process: u32) -> Self {
        machine.borrow_mut().links[slot].holders += 1;
        Self {
            machine,
            slot,
            process,
        }
    }

    /// Another process has it too.
    pub fn duplicate(&self, process: u32) -> Self {
        Self::new(self.machine.clone(), self.slot, process)
    }
}

impl SimListener {
    /// Another descriptor of the one listening socket.
    pub fn new(machine: Shared, process: u32) -> Self {
        machine.borrow_mut().listeners += 1;
        Self { machine, process }
    }
}

impl Kernel for SimKernel {
    type Socket = SimSocket;
    type Listener = SimListener;

    fn now(&self) -> Moment {
        Moment::from_nanos(self.machine.borrow().now)
    }

    fn listen(&mut self, _: SocketAddr) -> io::Result<SimListener> {
        self.machine.borrow_mut().listens = true;
        Ok(SimListener::new(self.machine.clone(), self.process))
    }

    fn watch_listener(&mut self, _: &mut SimListener, _: ListenerTag) -> io::Result<()> {
        Ok(())
    }

    fn waker(&mut self) -> io::Result<Wake> {
        let woken = self.machine.borrow().woken.clone();
        Ok(Wake::new(move || woken.store(true, Ordering::Relaxed)))
    }

    fn watch(&mut self, socket: &mut SimSocket, token: SocketToken) -> io::Result<()> {
        let machine = &mut *self.machine.borrow_mut();
        let link = &mut machine.links[socket.slot];
        if self.process != machine.process {
            if machine.faults.watch > 0 {
                machine.faults.watch -= 1;
                return Err(Errno::NOSPC.into());
            }
            link.successors = Some(token);
            return Ok(());
        }
        if machine.faults.watch > 0 {
            machine.faults.watch -= 1;
            machine.accept_errors += 1;
            machine.waiting_since = machine.now;
            if link.is_live() {
                link.stage = Stage::Unwatched;
                machine.live.retain(|slot| *slot != socket.slot);
                machine.accepted -= 1;
            }
            machine.counts.saw(Event::WatchFailure);
            return Err(Errno::NOSPC.into());
        }
        link.token = Some(token);
        link.edge = true;
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let machine = &mut *self.machine.borrow_mut();
        machine.demand_owner(self.process);
        machine.asked = timeout;
        let asked = timeout.map_or(u64::MAX, |timeout| timeout.as_nanos() as u64);
        let wakes = machine.now.saturating_add(asked);
        let (by, port) = machine.wake_by;
        if wakes > by.max(machine.now) {
            let now = machine.now;
            machine.breaks(port, "the server sleeps through a deadline", || {
                format!("now {now}, by {by}, it wakes at {wakes}")
            });
        }
        let until = machine.turn_until.unwrap_or(u64::MAX);
        machine.demand(
            wakes <= until.max(machine.now),
            0,
            "the server waits for longer than its turn may last",
        );
        machine.collect();
        if machine.events.is_empty() {
            machine.now = machine.now.max(wakes.min(machine.until));
        }
        // A turn takes a moment.
        machine.now += 1_000 + std::mem::take(&mut machine.jump);
        Ok(())
    }

    fn events(&self) -> impl Iterator<Item = Said> {
        self.machine.borrow().events.clone().into_iter()
    }

    fn signals(&mut self) -> Vec<Signal> {
        std::mem::take(&mut self.machine.borrow_mut().signals)
    }
}

impl Machine {
    /// Gathers what the kernel has to say.
    fn collect(&mut self) {
        self.events.clear();
        if self.listens && std::mem::take(&mut self.newcomers) {
            self.events.push(Said::Incoming(ListenerTag::AGENTS));
        }
        if std::mem::take(&mut self.signalled) {
            self.events.push(Said::Signals);
        }
        let others = self.others.iter();
        self.events.extend(others.map(|token| Said::Other(*token)));
        if self.woken.swap(false, Ordering::Relaxed) {
            self.events.push(Said::Woken);
        }
        for token in self.phantoms.drain(..) {
            let hung_up = Readiness {
                readable: true,
                writable: true,
                end_of_file: true,
                urgent: false,
                broken: true,
            };
            self.events.push(Said::Ready(token, hung_up));
        }
        for &slot in &self.live {
            let link = &mut self.links[slot];
            if let Some(token) = link.token
                && std::mem::take(&mut link.edge)
            {
                self.events.push(Said::Ready(token, link.readiness()));
            }
        }
    }

    /// Only the process that owns the connections touches or watches them.
    fn demand_owner(&mut self, process: u32) {
        let owns = process == self.process;
        self.demand(owns, 0, "a process touches what another has");
    }

    fn is_interrupted(&mut self) -> bool {
        let interrupts = self.faults.interrupts;
        let interrupted = interrupts > 0 && self.dice.one_in(interrupts);
        if interrupted {
            self.counts.saw(Event::Interrupted);
        }
        interrupted
    }

    fn read(&mut self, slot: usize, space: &mut [u8]) -> io::Result<usize> {
        let port = self.links[slot].peer.port();
        self.demand(!space.is_empty(), port, "a read into nothing");
        self.note_look(slot, space.len());
        if self.is_interrupted() {
            return Err(ErrorKind::Interrupted.into());
        }
        let result = self.links[slot].read(space);
        match result {
            Ok(0) => {
                self.trace(port, "end of file read", 0);
                let due = self.due(slot).any();
                let link = &mut self.links[slot];
                link.read_now = true;
                let heard = link.closing.is_none() && !link.conversation.is_over();
                match heard && due {
                    true => link.conversation.end_perhaps(),
                    false => link.conversation.end(),
                }
            }
            Ok(bytes) => {
                self.calls += 1;
                self.trace(port, "read", bytes as u64);
                self.note_read(slot, &space[..bytes]);
            }
            Err(_) => {}
        }
        let arrivals = self.faults.arrivals;
        if arrivals > 0 && self.dice.one_in(arrivals) {
            let most = self.dice.between(1, 200);
            if self.links[slot].deliver(most) {
                self.counts.saw(Event::MidTurnArrival);
            }
        }
        result
    }

    fn write(&mut self, slot: usize, bytes: &[u8]) -> io::Result<usize> {
        if self.is_interrupted() {
            return Err(ErrorKind::Interrupted.into());
        }
        let link = &mut self.links[slot];
        let port = link.peer.port();
        let deaf = link.deaf;
        let result = link.write(bytes.len());
        match &result {
            Ok(taken) => {
                let said = &bytes[..*taken];
                let may = self.explain(slot, |conversation, store| {
                    conversation.may_write(said, store)
                });
                if may {
                    let link = &mut self.links[slot];
                    link.conversation.wrote(said.len(), &self.store);
                    link.wrote_now = true;
                } else {
                    self.breaks(port, "an agent is told what it must not be told", || {
                        String::from_utf8_lossy(&said[..said.len().min(100)]).into_owned()
                    });
                }
                self.forget_unsent(slot, *taken);
                self.calls += 1;
                self.bytes[1] += *taken as u64;
                self.trace(port, "write", *taken as u64);
                if deaf {
                    // The connection is gone: the other host says so.
                    self.links[slot].reset();
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => {
                self.forget_unsent(slot, usize::MAX);
                self.links[slot].unheard = true;
            }
        }
        result
    }

    fn accept(&mut self) -> io::Result<usize> {
        if self.faults.no_descriptors && !self.backlog.is_empty() {
            self.accept_errors += 1;
            self.waiting_since = self.now;
            self.counts.saw(Event::NoDescriptors);
            return Err(Errno::MFILE.into());
        }
        if self.backlog.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.is_interrupted() {
            return Err(Errno::INTR.into());
        }
        let slot = self.backlog.pop_front().unwrap_or(0);
        if self.faults.aborts > 0 && self.dice.one_in(self.faults.aborts) {
            self.links[slot].reset();
            self.links[slot].stage = Stage::Closed;
            self.counts.saw(Event::AbortedNewcomer);
            return Err(Errno::CONNABORTED.into());
        }
        let stage = self.admit(slot);
        let now = self.now;
        let link = &mut self.links[slot];
        link.stage = stage;
        link.accepted_at = now;
        link.moved_at = now;
        link.patience = super::patience::Patience::new(now);
        if let Stage::TurnedAway(cause) = stage {
            link.closing = Some((cause, now));
            match Self::refusal(cause) {
                Some(reply) => link.conversation.refuse(reply),
                None => link.conversation.end(),
            }
        }
        let port = link.peer.port();
        self.accepted += 1;
        self.waiting_since = now;
        self.live.push(slot);
        self.calls += 1;
        self.trace(port, "accepted", 0);
        Ok(slot)
    }

    fn end_output(&mut self, slot: usize) -> io::Result<()> {
        let now = self.now;
        let link = &mut self.links[slot];
        let port = link.peer.port();
        let once = link.ended_output.is_none();
        let result = link.end_output(now);
        let denied = link.stage == Stage::TurnedAway(Cause::NotAllowed);
        let open = link.conversation.is_open() || link.conversation.has_packets();
        if result.is_ok() && !link.unheard && !denied {
            self.demand(!open, port, "end of file goes out before the replies");
        }
        self.demand(once, port, "end of file goes out twice");
        self.trace(port, "end of file written", 0);
        result
    }

    fn end_both(&mut self, slot: usize) -> io::Result<()> {
        let link = &mut self.links[slot];
        let port = link.peer.port();
        let shared = link.holders > 1 || self.now < self.shared_until;
        self.demand(
            shared,
            port,
            "it is shut down although no other process has its socket",
        );
        self.end(slot);
        Ok(())
    }

    fn arrived(&mut self, slot: usize) -> u64 {
        let link = &mut self.links[slot];
        let arrived = link.arrived() as u64;
        link.allowance = Some(arrived);
        arrived
    }
}

impl SimSocket {
    /// The machine, to which this process does something.
    fn touch(&self) -> RefMut<'_, Machine> {
        let mut machine = self.machine.borrow_mut();
        machine.demand_owner(self.process);
        machine
    }
}

impl Socket for SimSocket {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        self.touch().read(self.slot, space)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.touch().write(self.slot, bytes)
    }

    fn end_output(&mut self) -> io::Result<()> {
        self.touch().end_output(self.slot)
    }

    fn end_both(&mut self) -> io::Result<()> {
        self.touch().end_both(self.slot)
    }

    fn arrived(&self) -> io::Result<u64> {
        Ok(self.touch().arrived(self.slot))
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        self.machine.borrow_mut().drop_socket(self.slot);
    }
}

impl Accept for SimListener {
    type Socket = SimSocket;

    fn accept(&mut self) -> io::Result<(SimSocket, SocketAddr)> {
        self.machine.borrow_mut().demand_owner(self.process);
        let slot = self.machine.borrow_mut().accept()?;
        let peer = self.machine.borrow().links[slot].peer;
        let socket = SimSocket::new(self.machine.clone(), slot, self.process);
        Ok((socket, peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([10, 0, 0, 1], 9876)))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let machine = &mut *self.machine.borrow_mut();
        machine.listeners -= 1;
        if machine.listeners > 0 {
            return;
        }
        machine.listens = false;
        while let Some(slot) = machine.backlog.pop_front() {
            machine.links[slot].reset();
            machine.links[slot].stage = Stage::Closed;
        }
    }
}
