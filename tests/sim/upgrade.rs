//! The server is replaced by another process while it serves, or nearly.

use std::num::NonZeroU32;

use hawk::reactor::kernel::{ListenerTag, SocketToken};
use hawk::reactor::{
    AdoptError, Change, Config, ConnectionState, MIN_POOL_LIMIT, MovedId, Reactor,
};
use hawk::session::Rate;
use hawk::transfer::Transfer as _;

use super::checks::LONGEST;
use super::counts::Event;
use super::kernel::{SimKernel, SimListener, SimSocket};
use super::machine::{Machine, Shared};
use super::store::Counter;
use super::world::{Broken, MS, SECOND, World};

/// Rounds that an upgrade has for what is to be over by then.
const ROUNDS: usize = 40;

/// Rounds that commits have to come to their end.
const QUIET_ROUNDS: usize = 100;

/// How long a process takes it that the one before has its sockets.
const SHARED: u64 = 60 * SECOND;

/// The process that is to go on.
struct Successor {
    process: u32,
    machine: Shared,
    config: Config,
    reactor: Reactor<Counter, SimKernel>,
    failed: Option<AdoptError>,
}

impl Successor {
    fn new(machine: &Shared, config: Config, process: u32) -> Self {
        let kernel = SimKernel::new(machine.clone(), process);
        let counter = Counter::new(machine.clone(), process);
        let listener = SimListener::new(machine.clone(), process);
        let listeners = [(ListenerTag::AGENTS, listener)];
        Self {
            process,
            machine: machine.clone(),
            reactor: Reactor::with_listeners(config.clone(), counter, kernel, listeners).unwrap(),
            config,
            failed: None,
        }
    }

    fn change(&mut self, id: MovedId, change: Change<&SimSocket>) {
        let change = match change {
            Change::Opened(socket, state) => {
                self.expect_sound(&state);
                Change::Opened(socket.duplicate(self.process), state)
            }
            Change::Changed(state) => {
                self.expect_sound(&state);
                Change::Changed(state)
            }
            Change::Closed => Change::Closed,
        };
        match self.reactor.import(id, change) {
            Ok(()) => {}
            // A connection that was refused may change.
            Err(AdoptError::Unknown) if self.failed.is_some() => {}
            Err(error) => self.failed = Some(error),
        }
    }

    /// Another process would refuse what could not be (`snapshot`).
    fn expect_sound(&self, state: &ConnectionState) {
        let known = state.session.decoder.clean as usize;
        let there = state.session.buffered.len();
        self.demand(
            known <= there,
            "a decoder knows of bytes that are not there",
        );
    }

    fn demand(&self, holds: bool, what: &'static str) {
        self.machine.borrow_mut().demand(holds, 0, what);
    }
}

impl World {
    /// The server is replaced by another process, or goes on because that came to nothing.
    pub(super) fn upgrade(&mut self) -> Result<(), Broken> {
        self.leaving = None;
        let config = self.next_config();
        let process = self.machine.borrow().process + 1;
        let mut successor = Successor::new(&self.machine, config, process);
        self.machine.borrow_mut().counts.saw(Event::UpgradeBegun);
        self.reactor.begin_copy();
        if self.copy(&mut successor)? && self.freeze(&mut successor)? {
            self.commit(successor)
        } else {
            self.roll_back(successor)
        }
    }

    /// Shows all while the server goes on; whether nothing went wrong.
    fn copy(&mut self, successor: &mut Successor) -> Result<bool, Broken> {
        let gives_up = self.dice.one_in(5).then(|| self.dice.below(6));
        let most = self.dice.between(1, 6);
        let later = self.dice.below(8);
        let mut all = false;
        for round in 0..ROUNDS {
            if gives_up == Some(round) {
                return Ok(false);
            }
            all |= self
                .reactor
                .copy_some(most, &mut |id, change| successor.change(id, change));
            if successor.failed.is_some() || (all && round >= later) {
                break;
            }
            match self.dice.below(3) {
                0 if all => self.take_changes(most, successor),
                1 => self
                    .reactor
                    .take_closed(&mut |id| successor.change(id, Change::Closed)),
                _ => {}
            }
            self.go_on()?;
        }
        Ok(self.succeeds(successor))
    }

    /// Takes over what has changed, once no reply is pending and no connection is served;
    /// returns true if nothing failed.
    fn freeze(&mut self, successor: &mut Successor) -> Result<bool, Broken> {
        if !self.reactor.is_quiet() {
            self.machine.borrow_mut().store.quiesced = true;
            for _ in 0..QUIET_ROUNDS {
                if self.reactor.is_quiet() {
                    break;
                }
                self.go_on()?;
            }
        }
        if !self.reactor.is_quiet() {
            self.machine.borrow_mut().counts.saw(Event::NotQuiet);
            return Ok(false);
        }
        self.take_changes(usize::MAX, successor);
        let all = self.reactor.changes() == 0;
        let (counters, tally) = self.reactor.counts();
        successor.reactor.resume_counts(counters, tally);
        self.machine
            .borrow_mut()
            .demand(all, 0, "the notes do not come to an end");
        // Agents know nothing of it and go on.
        for _ in 0..self.dice.below(8) {
            self.step();
        }
        let pause = match self.dice.below(8) {
            0 => self.dice.below_u64(250 * MS),
            _ => self.dice.below_u64(5 * MS),
        };
        self.machine.borrow_mut().now += pause;
        if successor.failed.is_none() {
            successor.failed = successor.reactor.complete_adoption().err();
        }
        Ok(self.succeeds(successor) && !self.dice.one_in(8))
    }

    fn commit(&mut self, mut successor: Successor) -> Result<(), Broken> {
        let config = successor.config;
        {
            let machine = &mut *self.machine.borrow_mut();
            machine.commit(successor.process);
            machine.doors.connections = config.max_connections;
            machine.doors.per_ip = config.admission.per_ip.map(NonZeroU32::get);
            machine.rate = config.limits.rate.map(Rate::get);
            machine.output_limit = config.output_limit;
        }
        std::mem::swap(&mut self.reactor, &mut successor.reactor);
        let (_counter, connections) = successor.reactor.into_parts();
        self.leaving = Some(Box::new(connections));
        self.checks.moved(&self.reactor, &config);
        self.config = config;
        self.tell_if_broken()
    }

    fn roll_back(&mut self, successor: Successor) -> Result<(), Broken> {
        drop(successor.reactor);
        self.reactor.end_copy();
        let somebody_is_held = self.reactor.connections().any(|view| view.paused);
        self.machine.borrow_mut().roll_back(somebody_is_held);
        self.tell_if_broken()
    }

    /// Agents do something, and the server has a turn or several.
    fn go_on(&mut self) -> Result<(), Broken> {
        for _ in 0..self.dice.below(6) {
            self.step();
        }
        self.turns()
    }

    fn take_changes(&mut self, most: usize, successor: &mut Successor) {
        self.reactor
            .take_changes(most, &mut |id, change| successor.change(id, change));
    }

    /// Whether all could be adopted; if not, for a reason that is one.
    fn succeeds(&self, successor: &Successor) -> bool {
        let machine = &mut *self.machine.borrow_mut();
        match &successor.failed {
            None => return true,
            Some(AdoptError::Watch(_)) => machine.counts.saw(Event::AdoptUnwatched),
            Some(AdoptError::PoolTooSmall { limit }) => {
                machine.counts.saw(Event::AdoptWithoutRoom);
                let smaller = *limit < self.config.pool_limit;
                machine.demand(smaller, 0, "what fitted into the pool does not any more");
            }
            Some(_) => machine.demand(false, 0, "a connection is adopted wrongly"),
        }
        false
    }

    /// How the next process is told to run: as this one, or not.
    fn next_config(&mut self) -> Config {
        let mut config = self.config.clone();
        if self.dice.one_in(2) {
            return config;
        }
        let agents = self.agents.len();
        match self.dice.below(6) {
            0 => config.max_connections = *self.dice.pick(&[1, agents / 2 + 1, 1000]),
            1 => {
                let most = *self.dice.pick(&[None, Some(1), Some(2)]);
                config.admission.per_ip = most.and_then(NonZeroU32::new);
            }
            2..5 => {
                let limits = [MIN_POOL_LIMIT, MIN_POOL_LIMIT, 3 * LONGEST, 8 * LONGEST];
                config.pool_limit = *self.dice.pick(&limits);
            }
            _ => {
                config.output_limit = *self.dice.pick(&[300, 20_000, 1 << 40]);
                let rate = *self.dice.pick(&[None, Some(2), Some(3000)]);
                config.limits.rate = rate.and_then(NonZeroU32::new).map(Rate::per_second);
            }
        }
        config
    }
}

impl Machine {
    /// The other process has it all from now on.
    fn commit(&mut self, process: u32) {
        self.process = process;
        self.phantoms.clear();
        self.store.quiesced = false;
        self.counts.saw(Event::Upgraded);
        self.shared_until = self.now + SHARED;
        self.trace(0, "process takes over", process.into());
        // No event says that a connection waits to be accepted: the successor has to look.
        self.newcomers = false;
        self.wake_by = (u64::MAX, 0);
        for slot in self.live.clone() {
            let link = &mut self.links[slot];
            link.token = link.successors.take();
            // Registration reports that there is something to read. It would report that a
            // write succeeds as well, which the server must not rely on.
            link.edge = link.readiness().readable;
            // The run queue begins anew: each has its turn in so many turns from now.
            (link.passed_over, link.late) = (0, 0);
            let (port, adopted) = (link.peer.port(), link.token.is_some());
            self.demand(adopted, port, "a connection was not adopted");
        }
    }

    /// It has nothing any more.
    fn roll_back(&mut self, somebody_is_held: bool) {
        self.counts.saw(Event::RolledBack);
        self.trace(0, "the other process is gone", 0);
        self.phantoms.clear();
        self.store.quiesced = false;
        if somebody_is_held && self.store.is_ready() {
            self.must_wake_by(self.now, 0);
        }
        for link in &mut self.links {
            link.successors = None;
        }
        let held = |link: &&super::link::Link| link.holders > usize::from(link.is_live());
        let left = self.links.iter().filter(held).count();
        self.demand(left == 0, 0, "the other process still has a socket");
    }

    /// A poll tells of a socket that this process has closed, because another has it open.
    pub(super) fn haunt(&mut self, token: Option<SocketToken>) {
        self.phantoms.extend(token);
    }
}
