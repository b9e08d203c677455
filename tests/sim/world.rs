//! One world: a server, its agents and their fate, all of it from one seed.

use std::any::Any;
use std::cell::RefCell;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use hawk::admission::Rules;
use hawk::log_sink::LeftOut;
use hawk::reactor::kernel::{OtherToken, Signal};
use hawk::reactor::{Config, MIN_POOL_LIMIT, PhaseBudget, Reactor, Stop};
use hawk::session::{Fate, Limits, Rate};
use hawk_time::Moment;

use super::agent::Agent;
use super::checks::{Checks, LONGEST};
use super::counts::{Counts, Event};
use super::kernel::SimKernel;
use super::machine::{Doors, Machine, Shared};
use super::patience::Terms;
use super::store::{Counter, Manners, Store};
use hawk_testkit::worlds::{Dice, Tally as _};

pub const MS: u64 = 1_000_000;
pub const SECOND: u64 = 1_000 * MS;

/// More replies than any world has.
const UNLIMITED: usize = 1 << 40;

/// More than a phase of any world needs.
const NEVER_SPENT: PhaseBudget = PhaseBudget {
    bytes: usize::MAX,
    frames: u32::MAX,
    alarms: u32::MAX,
};

/// Turns in which nothing happens although the server does not wait.
const SPINS: u32 = 64;

/// Turns that a world may take to come to its end.
const LAST_TURNS: u32 = 100_000;

/// A world in which something is wrong.
#[derive(Clone, Debug)]
pub struct Broken {
    pub step: u64,
    /// What is wrong, and more about it.
    pub what: &'static str,
    pub more: String,
    pub port: u16,
    /// What happened last.
    pub trace: String,
}

pub struct World {
    pub machine: Shared,
    pub reactor: Reactor<Counter, SimKernel>,
    /// How the server was told to run.
    pub config: Config,
    pub agents: Vec<Agent>,
    pub checks: Checks,
    pub dice: Dice,
    /// It is replaced between two turns in so many, or never.
    upgrades: Option<u64>,
    /// The sockets of the process before this one, which takes its time to close them.
    pub(super) leaving: Option<Box<dyn Any>>,
    /// Steps between two turns, at most.
    batch: usize,
    /// How much time goes by between two turns, as a rule.
    tempo: u64,
    drain: u64,
    spins: u32,
    end: Option<Stop>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let agents = *dice.pick(&[1, 2, 4, 4, 8, 8, 14, 24]);
        let terms = Terms {
            idle: *dice.pick(&[SECOND, 5 * SECOND, 30 * SECOND, 90 * SECOND]),
            frame: *dice.pick(&[200 * MS, 2 * SECOND, 10 * SECOND, 60 * SECOND]),
        };
        let doors = Doors {
            connections: *dice.pick(&[1, agents / 2 + 1, 1000, 1000, 1000]),
            per_ip: *dice.pick(&[None, None, None, Some(1), Some(2)]),
            denied_from: *dice.pick(&[255, 255, 255, 200]),
        };
        let manners = Manners {
            acknowledges_receipt: dice.one_in(4),
            batch: *dice.pick(&[3, 50, 1000, 1000]),
            depth: *dice.pick(&[1, 1, 2]),
            gather: *dice.pick(&[0, 0, 2 * MS, 500 * MS]),
            loses: *dice.pick(&[1000, 20, 3]),
            refuses: *dice.pick(&[0, 0, 50]),
        };
        let rate = *dice.pick(&[None, None, None, None, Some(2), Some(50), Some(3000)]);
        let mut machine = Machine::new(seed, terms, doors, Store::new(manners));
        machine.rate = rate;
        machine.faults.interrupts = *dice.pick(&[0, 0, 20]);
        machine.faults.aborts = *dice.pick(&[0, 0, 5]);
        machine.faults.arrivals = *dice.pick(&[0, 0, 8]);
        let drain = *dice.pick(&[100 * MS, 5 * SECOND, 30 * SECOND]);
        let deny = format!("10.0.0.{}/29", 200);
        let config = Config {
            listen: ([10, 0, 0, 1], 9876).into(),
            max_connections: doors.connections,
            admission: Rules {
                allow: Vec::new(),
                deny: match doors.denied_from {
                    255 => Vec::new(),
                    _ => vec![deny.parse().unwrap()],
                },
                per_ip: doors.per_ip.and_then(NonZeroU32::new),
                ..Rules::default()
            },
            pool_limit: *dice.pick(&[
                MIN_POOL_LIMIT,
                MIN_POOL_LIMIT + 1500,
                3 * LONGEST,
                8 * LONGEST,
                64 * LONGEST,
            ]),
            limits: Limits {
                idle: Duration::from_nanos(terms.idle),
                frame: Duration::from_nanos(terms.frame),
                rate: rate.and_then(NonZeroU32::new).map(Rate::per_second),
            },
            output_limit: *dice.pick(&[
                0, 300, 20_000, 200_000, UNLIMITED, UNLIMITED, UNLIMITED, UNLIMITED,
            ]),
            phase_budget: match dice.below(8) {
                0 => PhaseBudget {
                    bytes: 1,
                    ..PhaseBudget::default()
                },
                1 => PhaseBudget {
                    frames: 1,
                    ..PhaseBudget::default()
                },
                2 => PhaseBudget {
                    bytes: 3000,
                    frames: 40,
                    alarms: 3,
                },
                3 => PhaseBudget {
                    alarms: 1,
                    ..PhaseBudget::default()
                },
                _ => NEVER_SPENT,
            },
            drain_timeout: Duration::from_nanos(drain),
            stats_interval: Duration::from_nanos(*dice.pick(&[SECOND, 3600 * SECOND])),
            log_left_out: LeftOut::default(),
        };
        machine.output_limit = config.output_limit;
        machine.bites = config.phase_budget != NEVER_SPENT;
        // Two agents share an address; a few have one that is not let in.
        let hosts = (0..agents).map(|n| match dice.one_in(8) {
            true => 200 + (n % 8) as u8,
            false => 2 + n as u8 / 2,
        });
        let hosts: Vec<u8> = hosts.collect();
        let agents = hosts
            .into_iter()
            .map(|host| Agent::new(host, &mut dice))
            .collect();
        let machine = Rc::new(RefCell::new(machine));
        let kernel = SimKernel::new(machine.clone(), 0);
        let checks = Checks::new(config.clone());
        let counter = Counter::new(machine.clone(), 0);
        let reactor = Reactor::new(config.clone(), counter, kernel);
        Self {
            reactor: reactor.unwrap(),
            config,
            machine,
            leaving: None,
            upgrades: *dice.pick(&[None, None, Some(300), Some(30)]),
            agents,
            checks,
            batch: *dice.pick(&[1, 2, 4, 8, 16]),
            tempo: *dice.pick(&[20_000, MS, 20 * MS]),
            drain,
            dice,
            spins: 0,
            end: None,
        }
    }

    /// What happened last, should anything be wrong.
    pub fn machine(&self) -> Shared {
        self.machine.clone()
    }

    /// Lives for so many steps, and comes to an end.
    pub fn run(mut self, steps: u64) -> Result<Counts, Broken> {
        while self.machine.borrow().counts.steps() < steps {
            let mut wanted = self.dice.between(1, self.batch);
            // Most of what can happen may not just now.
            for _ in 0..4 * self.batch + 16 {
                wanted -= usize::from(self.step());
                if wanted == 0 {
                    break;
                }
            }
            self.turns()?;
            if let Some(upgrades) = self.upgrades {
                // Connections that wait for a buffer move as well, and are rare.
                let crowded = self.reactor.waiters().next().is_some();
                let upgrades = if crowded { upgrades / 15 } else { upgrades };
                if self.dice.one_in(upgrades) {
                    self.upgrade()?;
                }
            }
        }
        self.leaving = None;
        if self.dice.one_in(3) {
            self.all_leave()?;
        } else {
            self.stop()?;
        }
        let machine = &mut *self.machine.borrow_mut();
        machine.counts.bytes = machine.bytes[0];
        Ok(machine.counts.clone())
    }

    /// Something happens, or nothing.
    pub fn step(&mut self) -> bool {
        let machine = &mut *self.machine.borrow_mut();
        match self.dice.below(4000) {
            0 => machine.faults.no_descriptors = true,
            1..5 => machine.faults.no_descriptors = false,
            5 => machine.faults.watch = 1,
            6 | 7 => {
                let until = machine.now + self.dice.below_u64(20) * SECOND;
                machine.store.stall(until);
                machine.counts.saw(Event::StoreStall);
                machine.trace(0, "the store stalls", 0);
            }
            8 => {
                machine.signals.push(Signal::Statistics);
                machine.signalled = true;
                machine.counts.saw(Event::StatisticsSignal);
            }
            9 => {
                machine.jump = self.dice.below_u64(5 * machine.terms.idle);
                machine.counts.saw(Event::ClockJump);
                machine.trace(0, "the process will stand still for ns", machine.jump);
            }
            10 => {
                machine.signals.push(Signal::Upgrade);
                machine.signalled = true;
                machine.upgrade = true;
                machine.counts.saw(Event::UpgradeSignal);
            }
            11 => {
                let token = OtherToken(self.dice.roll() as u8);
                if !machine.others.contains(&token) {
                    machine.others.push(token);
                }
                machine.counts.saw(Event::OtherReady);
            }
            _ => {
                let agent = self.dice.below(self.agents.len());
                return self.agents[agent].act(machine);
            }
        }
        true
    }

    /// A little while, in which the server has its turns.
    pub fn turns(&mut self) -> Result<(), Broken> {
        let idle = self.machine.borrow().terms.idle;
        let mut passes = true;
        if self.dice.one_in(8) || self.machine.borrow().jump > 0 {
            self.leaving = None;
        }
        let span = match self.dice.below(1024) {
            0 => self.dice.below_u64(3 * idle / 2),
            1..6 => self.dice.below_u64(SECOND),
            6..40 => self.dice.below_u64(30 * MS),
            _ => {
                passes = false;
                self.dice.below_u64(self.tempo)
            }
        };
        if passes {
            // It has all the time it needs.
            self.leaving = None;
            self.machine.borrow_mut().counts.saw(Event::TimePasses);
        }
        let until = self.machine.borrow().now + span;
        loop {
            self.turn(until)?;
            let machine = &mut *self.machine.borrow_mut();
            if self.end.is_some() || machine.now >= until {
                return Ok(());
            }
            if until - machine.now < 30_000 {
                machine.now = until;
                return Ok(());
            }
        }
    }

    /// One turn, and a look at all that came of it.
    fn turn(&mut self, until: u64) -> Result<(), Broken> {
        self.store_settles();
        let (calls, before) = {
            let machine = &mut *self.machine.borrow_mut();
            machine.until = until.min(machine.store.due().unwrap_or(u64::MAX));
            machine.turn_until = self.dice.one_in(4).then_some(until);
            machine.counts.saw(Event::Turn);
            (machine.calls, machine.store.kept())
        };
        let turn_until = self.machine.borrow().turn_until.map(Moment::from_nanos);
        self.end = self
            .reactor
            .turn(turn_until)
            .map_err(|error| self.broken("the loop fails", error.to_string()))?;
        let wanted = self.reactor.upgrade_wanted();
        let others = self.reactor.take_others();
        let machine = &mut *self.machine.borrow_mut();
        let told = wanted == std::mem::take(&mut machine.upgrade) || self.end.is_some();
        machine.demand(told, 0, "an upgrade is requested and not reported");
        let told = others == std::mem::take(&mut machine.others);
        machine.demand(told, 0, "another source is ready and not reported");
        self.checks.look(&self.reactor, machine, self.end.is_some());
        let at_once = machine.asked == Some(Duration::ZERO) && machine.events.is_empty();
        let idle = at_once && machine.calls == calls && machine.store.kept() == before;
        self.spins = if idle { self.spins + 1 } else { 0 };
        machine.demand(
            self.spins < SPINS,
            0,
            "the server turns and turns, and does nothing",
        );
        if machine.broken.is_some() {
            return Err(Self::tell(machine));
        }
        Ok(())
    }

    /// Commits that are over by now are settled.
    fn store_settles(&mut self) {
        let machine = &mut *self.machine.borrow_mut();
        let mut wake = false;
        while machine.store.due().is_some_and(|due| due <= machine.now) {
            let lost = self.dice.one_in(machine.store.manners.loses);
            let (fate, event) = match lost {
                true => (Fate::Discarded, Event::CommitLost),
                false => (Fate::Kept, Event::CommitKept),
            };
            machine.store.settle(fate);
            machine.counts.saw(event);
            wake = true;
        }
        if let Some(waker) = machine.store.wake.as_ref().filter(|_| wake) {
            waker.wake();
        } else if self.dice.one_in(3000) {
            machine.counts.saw(Event::SpuriousWake);
            machine
                .woken
                .store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// The server is told to stop, and stops in time.
    fn stop(&mut self) -> Result<(), Broken> {
        let now = self.signal(Event::StopSignal);
        let twice = self.dice.one_in(6);
        for turn in 0..LAST_TURNS {
            if twice && turn == 3 {
                self.signal(Event::SecondStop);
            }
            if !twice || turn < 3 {
                self.step();
            }
            self.turns()?;
            let machine = &mut *self.machine.borrow_mut();
            if let Some(end) = self.end {
                let late = machine.now > now + self.drain + SECOND + machine.terms.idle * 8;
                machine.demand(!late, 0, "the stop took too long");
                let fits = (end == Stop::Interrupted) == (twice && turn >= 3);
                machine.demand(
                    fits || !twice,
                    0,
                    "the stop ends in another way than it should",
                );
                machine.counts.saw(Event::WorldStopped);
                if end == Stop::Drained && machine.now >= now + self.drain {
                    machine.counts.saw(Event::DrainCut);
                }
                if machine.broken.is_some() {
                    return Err(Self::tell(machine));
                }
                return Ok(());
            }
        }
        Err(self.broken("the server does not stop", String::new()))
    }

    fn signal(&mut self, event: Event) -> u64 {
        let machine = &mut *self.machine.borrow_mut();
        machine.signals.push(Signal::Stop);
        machine.signalled = true;
        machine.stopping.get_or_insert(machine.now);
        machine.counts.saw(event);
        machine.trace(0, "told to stop", 0);
        machine.now
    }

    /// All agents read their replies and leave, without further faults: then all that was
    /// sent is answered, and nothing is left.
    fn all_leave(&mut self) -> Result<(), Broken> {
        {
            let machine = &mut *self.machine.borrow_mut();
            machine.faults = super::machine::Faults::default();
            machine.trace(0, "all agents leave", 0);
        }
        for _ in 0..LAST_TURNS {
            for agent in &mut self.agents {
                agent.leave(&mut self.machine.borrow_mut());
            }
            let until = {
                let machine = &mut *self.machine.borrow_mut();
                machine.now + self.dice.below_u64(machine.terms.idle / 4)
            };
            while self.machine.borrow().now < until {
                self.turn(until)?;
            }
            let machine = &mut *self.machine.borrow_mut();
            if machine.live.is_empty() && machine.backlog.is_empty() && machine.store.is_idle() {
                self.nothing_is_left(machine);
                machine.counts.saw(Event::WorldLeft);
                return match machine.broken {
                    Some(_) => Err(Self::tell(machine)),
                    None => Ok(()),
                };
            }
        }
        Err(self.broken(
            "all agents have left, and connections remain",
            String::new(),
        ))
    }

    fn nothing_is_left(&self, machine: &mut Machine) {
        let figures = self.reactor.figures();
        let classes = self.reactor.pool().stats().classes;
        let free = classes
            .iter()
            .all(|class| class.in_use == 0 && class.waiters == 0);
        machine.demand(free, 0, "a buffer is left");
        let (kept, refused) = machine.store.kept();
        let tally = figures.sessions;
        machine.demand(tally.reports == kept, 0, "the count of reports");
        machine.demand(
            tally.heartbeats == machine.store.heartbeats,
            0,
            "the count of heartbeats",
        );
        machine.demand(
            tally.busy >= refused,
            0,
            "the count of those told to come again",
        );
        let departed = machine.store.met == machine.store.departed;
        machine.demand(departed, 0, "a session has not departed");
    }

    pub fn tell_if_broken(&self) -> Result<(), Broken> {
        let machine = self.machine.borrow();
        match machine.broken {
            Some(_) => Err(Self::tell(&machine)),
            None => Ok(()),
        }
    }

    fn broken(&self, what: &'static str, more: String) -> Broken {
        let machine = &mut *self.machine.borrow_mut();
        machine.breaks(0, what, || more);
        Self::tell(machine)
    }

    fn tell(machine: &Machine) -> Broken {
        let (port, what, more) = machine
            .broken
            .clone()
            .unwrap_or((0, "nothing", String::new()));
        Broken {
            step: machine.counts.steps(),
            what,
            more,
            port,
            trace: machine.tell_trace(),
        }
    }
}
