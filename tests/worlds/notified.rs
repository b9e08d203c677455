//! Worlds of notification: the real queues of `--on-event` and `--on-events`, with commands
//! that are slow or fail, an event table that loses its oldest rows, and a process that is
//! killed or hands over. No command is run, and no thread.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hawk::notify::{Each, Event as StateChange, EventAgent, Gathered, Job, JobOutcome, Queue};
use hawk::store::Lane;
use hawk_testkit::worlds::{Broken, Counts, Dice, Tally as _, Worlds};
use hawk_time::{Moment, UnixNanos};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
const DAY: u64 = 86_400 * SECOND;

/// Commands of one consumer that run at once, and those of these for agents that are not
/// established (docs/operations.md).
const AT_ONCE: usize = 4;
const OTHERS_AT_ONCE: usize = 2;

/// Steps of one world, at least and at most, and those that `make test` takes.
const STEPS: (usize, usize) = (300, 4000);
const BUDGET: u64 = 200_000;

/// Rounds in which everything is to be delivered once commands succeed.
const LAST_ROUNDS: usize = 200_000;

/// A job whose command runs.
struct Running {
    job: Job,
    until: u64,
    outcome: JobOutcome,
}

struct World {
    dice: Dice,
    now: u64,
    wall: i64,
    gathers: bool,
    agents: usize,
    /// The rows of `events`.
    table: Vec<Arc<StateChange>>,
    next_seq: i64,
    /// The last event of each agent, as the table had it.
    last: HashMap<EventAgent, Arc<StateChange>>,
    queue: Box<dyn Queue>,
    running: Vec<Running>,
    /// What is written down: cursors and retries.
    cursors: [i64; 2],
    retries: BTreeSet<i64>,
    /// One command in so many fails; 0: none. Until then all fail.
    fails: u64,
    outage: u64,
    slow: u64,
    restarts: u64,
    /// The last that was delivered of each agent, ever and by this process.
    delivered: HashMap<EventAgent, i64>,
    by_process: HashMap<EventAgent, i64>,
    all: HashSet<i64>,
    /// Events that need not be delivered, as the queues of earlier processes counted them.
    skipped: u64,
    expired: u64,
    counts: Counts<Event>,
}

hawk_testkit::events! {
    steps: Turn, Command;
    observations: Delivered, DeliveredAgain, Failed, Killed, HandedOver, Outage, Expired,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x0717_F1ED);
        let gathers = dice.one_in(3);
        let mut world = Self {
            now: 1_000 * SECOND,
            wall: 1_790_000_000_000_000_000,
            gathers,
            agents: *dice.pick(&[1, 3, 20, 300]),
            table: Vec::new(),
            next_seq: 1,
            last: HashMap::new(),
            queue: Box::new(Each::new(true, [0; 2], 0)),
            running: Vec::new(),
            cursors: [0; 2],
            retries: BTreeSet::new(),
            fails: *dice.pick(&[0, 0, 20, 3]),
            outage: 0,
            slow: *dice.pick(&[10 * MS, SECOND, 30 * SECOND]),
            restarts: *dice.pick(&[0, 100, 20]),
            delivered: HashMap::new(),
            by_process: HashMap::new(),
            all: HashSet::new(),
            skipped: 0,
            expired: 0,
            counts: Counts::default(),
            dice,
        };
        world.begin();
        world
    }

    /// A process begins, from what is written down.
    fn begin(&mut self) {
        let seed = self.dice.roll();
        self.queue = match self.gathers {
            true => Box::new(Gathered::new(
                true,
                Duration::from_secs(1),
                self.cursors,
                seed,
            )),
            false => Box::new(Each::new(true, self.cursors, seed)),
        };
        self.by_process.clear();
        let now = Moment::from_nanos(self.now);
        let retries: Vec<_> = self.retries.iter().copied().collect();
        for seq in retries {
            match self.table.iter().find(|event| event.seq == seq) {
                Some(event) => self.queue.restore(Arc::clone(event), now),
                None => {
                    self.retries.remove(&seq);
                    self.expired += 1;
                }
            }
        }
    }

    fn run(&mut self, steps: u64) -> Result<(), String> {
        while self.counts.steps() < steps {
            self.counts.saw(Event::Turn);
            match self.dice.below(40) {
                0..14 => self.event(),
                14 if self.dice.one_in(10) => {
                    // A rack fails.
                    (0..self.dice.between(1, 200)).for_each(|_| self.event());
                }
                15 if self.dice.one_in(20) => {
                    self.outage = self.now + self.dice.below_u64(3600 * SECOND);
                    self.counts.saw(Event::Outage);
                }
                16 if self.dice.one_in(20) => self.expire(),
                17..20 => self.publish(),
                20 if self.restarts > 0 && self.dice.one_in(self.restarts) => self.end_process()?,
                _ => {
                    let most = *self.dice.pick(&[100 * MS, 3 * SECOND, 600 * SECOND]);
                    let most = if self.dice.one_in(30) { most } else { 50 * MS };
                    self.passes(most)?;
                }
            }
            self.pump()?;
        }
        self.come_to_an_end()
    }

    /// An agent changes its state.
    fn event(&mut self) {
        let agent = self.dice.below(self.agents);
        let named = agent.is_multiple_of(2);
        let agent = EventAgent {
            text: match named {
                true => format!("agent-{agent}").into(),
                false => format!("10.0.0.{agent}").into(),
            },
            named,
        };
        let online = self.last.get(&agent).is_none_or(|last| !last.online);
        let event = Arc::new(StateChange {
            seq: self.next_seq,
            at: UnixNanos::from_nanos(self.wall),
            established: agent.text.len().is_multiple_of(2),
            agent: agent.clone(),
            address: [10, 0, 0, 1].into(),
            version: "".into(),
            online,
            last_seen: UnixNanos::from_nanos(self.wall),
        });
        self.next_seq += 1;
        self.last.insert(agent, Arc::clone(&event));
        self.table.push(event);
    }

    /// Retention removes the oldest rows.
    fn expire(&mut self) {
        let count = self.dice.below(self.table.len() / 4 + 1);
        let gone: Vec<_> = self.table.drain(..count).collect();
        let missed = gone.iter().filter(|event| !self.all.contains(&event.seq));
        self.expired += missed.count() as u64;
        self.counts.observe(Event::Expired, count as u64);
    }

    /// The writer writes down how far it is.
    fn publish(&mut self) {
        for (seq, is_retry) in self.queue.take_changes() {
            match is_retry {
                true => self.retries.insert(seq),
                false => self.retries.remove(&seq),
            };
        }
        self.cursors = Lane::ALL.map(|lane| self.queue.cursor(lane));
    }

    /// The queue is filled, and commands begin.
    fn pump(&mut self) -> Result<(), String> {
        let now = Moment::from_nanos(self.now);
        for lane in Lane::ALL {
            loop {
                let most = self.queue.room(lane);
                let after = self.queue.read(lane);
                let from = self.table.partition_point(|event| event.seq <= after);
                let of_lane =
                    |event: &&Arc<StateChange>| event.established == (lane == Lane::Established);
                let found: Vec<_> = self.table[from..]
                    .iter()
                    .filter(of_lane)
                    .take(most)
                    .cloned()
                    .collect();
                let upto = match found.last() {
                    Some(last) if found.len() == most => last.seq,
                    _ if most == 0 => break,
                    _ => self.next_seq - 1,
                };
                let count = found.len();
                for event in found {
                    self.queue.put(event, now);
                }
                self.queue.passed(lane, upto);
                if count < most {
                    break;
                }
            }
        }
        while let Some(job) = self.queue.start(now, UnixNanos::from_nanos(self.wall)) {
            self.counts.saw(Event::Command);
            let fails = self.now < self.outage || (self.fails > 0 && self.dice.one_in(self.fails));
            let takes = self.dice.below_u64(self.slow);
            self.running.push(Running {
                job,
                until: self.now + takes,
                outcome: match fails {
                    true => JobOutcome::Failed,
                    false => JobOutcome::Delivered,
                },
            });
        }
        self.check_slots()
    }

    /// With commands that succeed, nothing waits while there is a place for it.
    fn check_slots(&self) -> Result<(), String> {
        if self.gathers {
            return Ok(());
        }
        let established = |running: &&Running| running.job.events[0].established;
        let first = self.running.iter().filter(established).count();
        let others = self.running.len() - first;
        if first + others > AT_ONCE || others > OTHERS_AT_ONCE {
            return Err(format!("{first} and {others} commands run at once"));
        }
        if self.fails > 0
            || self.counts.of(Event::Failed) > 0
            || self.outage > 0
            || self.counts.of(Event::Killed) > 0
        {
            return Ok(());
        }
        for (lane, has_place) in [
            (Lane::Established, first + others < AT_ONCE),
            (
                Lane::Others,
                first + others < AT_ONCE && others < OTHERS_AT_ONCE,
            ),
        ] {
            let waits = self.table.iter().find(|event| {
                event.established == (lane == Lane::Established)
                    && event.seq <= self.queue.read(lane)
                    && !self.all.contains(&event.seq)
                    && !self
                        .running
                        .iter()
                        .any(|running| running.job.events[0].agent == event.agent)
            });
            if has_place && let Some(event) = waits {
                return Err(format!(
                    "event {} waits although there is a place",
                    event.seq
                ));
            }
        }
        Ok(())
    }

    /// Time goes by, at most so much; commands end.
    fn passes(&mut self, most: u64) -> Result<(), String> {
        let next = self.queue.next_at(Moment::from_nanos(self.now));
        let ends = self.running.iter().map(|running| running.until);
        let next = ends.chain(next.map(Moment::as_nanos)).min();
        let then = (self.now + self.dice.below_u64(most) + 1).min(next.unwrap_or(u64::MAX));
        let then = then.max(self.now + 1);
        self.wall += (then - self.now) as i64;
        self.now = then;
        let now = self.now;
        let ended = self.running.extract_if(.., |running| running.until <= now);
        for running in ended.collect::<Vec<_>>() {
            self.ended(&running)?;
        }
        Ok(())
    }

    fn ended(&mut self, running: &Running) -> Result<(), String> {
        let now = Moment::from_nanos(self.now);
        if running.outcome == JobOutcome::Delivered {
            self.delivered(&running.job)?;
        } else {
            self.counts.saw(Event::Failed);
        }
        self.queue.end(running.job.number, running.outcome, now);
        Ok(())
    }

    fn delivered(&mut self, job: &Job) -> Result<(), String> {
        for event in &job.events {
            self.counts.saw(Event::Delivered);
            if !self.all.insert(event.seq) {
                self.counts.saw(Event::DeliveredAgain);
            }
            self.delivered.insert(event.agent.clone(), event.seq);
            let before = self.by_process.insert(event.agent.clone(), event.seq);
            if before.is_some_and(|before| before >= event.seq) {
                let (agent, seq) = (&event.agent, event.seq);
                return Err(format!(
                    "{agent}: event {seq} is delivered after {before:?}"
                ));
            }
        }
        Ok(())
    }

    /// The process hands over once its commands have ended, or is killed: then some of them
    /// have succeeded without a record.
    fn end_process(&mut self) -> Result<(), String> {
        let running = std::mem::take(&mut self.running);
        if self.dice.one_in(2) {
            self.counts.saw(Event::HandedOver);
            for running in running {
                self.now = self.now.max(running.until);
                self.ended(&running)?;
            }
            self.publish();
        } else {
            self.counts.saw(Event::Killed);
            for running in running {
                if running.outcome == JobOutcome::Delivered && self.dice.one_in(2) {
                    self.delivered(&running.job)?;
                }
            }
        }
        self.skipped += self.queue.tally().skipped;
        self.begin();
        Ok(())
    }

    /// Commands succeed from now on: all is delivered, and the last that is delivered of an
    /// agent is its state.
    fn come_to_an_end(&mut self) -> Result<(), String> {
        (self.fails, self.outage) = (0, 0);
        for round in 0.. {
            self.pump()?;
            if self.running.is_empty() && self.queue.waiting() == 0 {
                break;
            }
            if round == LAST_ROUNDS {
                return Err(format!(
                    "{} events are never delivered",
                    self.queue.waiting()
                ));
            }
            self.passes(3600 * SECOND)?;
        }
        self.publish();
        self.skipped += self.queue.tally().skipped;
        for (agent, last) in &self.last {
            let is_there = self.table.iter().any(|event| event.seq == last.seq);
            let is_old = self.wall - last.at.as_nanos() > DAY as i64;
            let found = self.delivered.get(agent);
            if is_there && !is_old && found != Some(&last.seq) {
                let seq = last.seq;
                return Err(format!(
                    "{agent}: its last event is {seq}, delivered was {found:?}"
                ));
            }
        }
        let undelivered = self.next_seq as u64 - 1 - self.all.len() as u64;
        if undelivered > self.skipped + self.expired {
            return Err(format!(
                "{undelivered} events were not delivered, {} counted as skipped, {} gone",
                self.skipped, self.expired
            ));
        }
        match self.retries.is_empty() {
            true => Ok(()),
            false => Err(format!("retries are left: {:?}", self.retries)),
        }
    }
}

const WORLDS: Worlds<Counts<Event>> = Worlds {
    replay: "--test worlds notified::replay",
    run,
};

/// Runs the world of a seed from its start to its end.
fn run(seed: u64) -> Result<Counts<Event>, Broken> {
    let steps = Dice::new(!seed).between(STEPS.0, STEPS.1) as u64;
    let mut world = World::new(seed);
    let World {
        gathers,
        agents,
        fails,
        restarts,
        ..
    } = world;
    let end = world.run(steps);
    end.map_err(|broken| Broken {
        step: world.counts.steps(),
        report: format!(
            "{broken}\ngathers={gathers} agents={agents} fails={fails} restarts={restarts}"
        ),
    })?;
    Ok(world.counts)
}

#[test]
fn the_last_notification_is_the_truth() {
    let missing = WORLDS.run_many(1, BUDGET, Duration::MAX).missing();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}

#[test]
fn replay() {
    WORLDS.replay();
}

#[test]
#[ignore = "runs until a world breaks: make sim-notified"]
fn sim() {
    WORLDS.run_as_asked();
}
