//! The thread that delivers.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::command::{Failure, Running, Shell};
use super::environment::Environment;
use super::event::word;
use super::queue::{Each, Gathered, Job, Outcome, Queue, Tally};
use super::shared::{Orders, Shared};
use super::source::{EventSource, Unreadable};
use super::{Calls, Config, Predecessor};
use crate::stats::HookCounters;
use crate::store::{Lane, Opening, Progress};
use hawk_time::{Moment, UnixNanos};
use hawk_time::{Throttle, log_limited};

/// When events cannot be read, the time to the next attempt.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Delivers the events of a source to all consumers.
pub(super) struct Runner {
    shared: Arc<Shared>,
    source: Box<dyn EventSource>,
    consumers: Vec<Consumer>,
    /// The sequence that is read; 0: none yet.
    opening: u64,
    /// After an error nothing is read before.
    read_again_at: Option<Moment>,
    unreadable: Throttle,
    /// The process before this one, and until when it is waited for.
    predecessor: Option<(Predecessor, Moment)>,
}

/// A command with the jobs that it carries out.
struct Consumer {
    calls: Calls,
    shell: Shell,
    queue: Box<dyn Queue>,
    running: Vec<Call>,
    /// What was published last.
    published: Progress,
    /// What its queues of earlier openings have done.
    before: Tally,
    /// Retries that the store had removed.
    gone: u64,
    counters: HookCounters,
    complaints: Complaints,
}

/// A job under way.
struct Call {
    running: Running,
    /// `None`: its queue is gone.
    job: Option<u64>,
    what: What,
}

/// What a call delivers, as log lines have it.
enum What {
    Event(String),
    Events(usize),
}

/// Failures come as often as agents come and go: a line now and then, for each
/// kind of them.
#[derive(Default)]
struct Complaints {
    start: Throttle,
    status: Throttle,
    timed_out: Throttle,
    skipped: Throttle,
    missed: Throttle,
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Event(text) => f.write_str(text),
            Self::Events(number) => write!(f, "events={number}"),
        }
    }
}

impl What {
    fn of(calls: Calls, job: &Job) -> Self {
        match (calls, job.events.first()) {
            (Calls::Each, Some(event)) => {
                let state = word(event.online);
                Self::Event(format!("agent={} state={state}", event.agent))
            }
            _ => Self::Events(job.events.len()),
        }
    }
}

impl Runner {
    pub(super) fn new(
        config: Config,
        environment: &Arc<Environment>,
        shared: Arc<Shared>,
        source: Box<dyn EventSource>,
    ) -> Self {
        let timeout = config.timeout;
        let is_lasting = source.is_lasting();
        let consumer = |one: super::Consumer| Consumer {
            calls: one.calls,
            shell: Shell {
                command: one.command,
                timeout,
                environment: Arc::clone(environment),
            },
            queue: queue(one.calls, is_lasting, [0; 2]),
            running: Vec::new(),
            published: Progress::default(),
            before: Tally::default(),
            gone: 0,
            counters: HookCounters::default(),
            complaints: Complaints::default(),
        };
        let until = |predecessor: Predecessor| {
            let until = Moment::now().after(predecessor.patience);
            (predecessor, until)
        };
        Self {
            shared,
            source,
            consumers: config.consumers.into_iter().map(consumer).collect(),
            opening: 0,
            read_again_at: None,
            unreadable: Throttle::default(),
            predecessor: config.predecessor.map(until),
        }
    }

    /// Delivers until a stop is ordered.
    pub(super) fn run(mut self) {
        if let Err(error) = self.serve() {
            log::error!("cannot wait for commands, no event is delivered any more: {error}");
        }
        self.give_up();
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let orders = self.shared.orders();
            let (now, wall) = (Moment::now(), UnixNanos::now());
            for consumer in &mut self.consumers {
                consumer.reap(now);
                consumer.kill_late(now);
            }
            let delivers = !orders.pause && orders.stop.is_none_or(|stop| stop.deliver);
            if orders.stop.is_some_and(|stop| !stop.deliver) {
                self.source.close();
            }
            match delivers {
                true => self.read(now),
                // The next attempt is due once events are delivered again: nothing waits
                // for its time until then.
                false => self.read_again_at = None,
            }
            if orders.stop.is_some() && delivers {
                self.consumers.iter_mut().for_each(|one| one.queue.drain());
            }
            self.look_at_predecessor(now);
            let may_start = delivers && self.predecessor.is_none();
            if orders.stop.is_some_and(|stop| stop.by <= now) {
                return Ok(());
            }
            let is_lasting = self.source.is_lasting();
            for consumer in &mut self.consumers {
                if may_start {
                    consumer.start_some(is_lasting, now, wall);
                }
            }
            self.publish();
            self.tell(now);
            if orders.stop.is_some() && self.is_done(delivers) {
                return Ok(());
            }
            self.wait(orders, may_start, now)?;
        }
    }

    fn is_done(&self, delivers: bool) -> bool {
        let nothing_runs = self.consumers.iter().all(|one| one.running.is_empty());
        let is_drained = |one: &Consumer| one.queue.is_drained();
        nothing_runs && (!delivers || self.consumers.iter().all(is_drained))
    }

    /// Reads as many events as there is room for.
    fn read(&mut self, now: Moment) {
        if self.read_again_at.is_some_and(|at| at > now) {
            return;
        }
        self.read_again_at = None;
        if let Err(error) = self.try_to_read(now) {
            self.read_again_at = Some(now.after(READ_AGAIN));
            log_limited!(warn, self.unreadable, now, left_out =>
                "cannot read events to deliver: {error} left_out={left_out}");
        }
    }

    fn try_to_read(&mut self, now: Moment) -> Result<(), Unreadable> {
        if let Some(opening) = self.source.opening(self.opening) {
            self.begin(&opening, now)?;
        }
        if self.opening == 0 {
            return Ok(());
        }
        for consumer in &mut self.consumers {
            for lane in Lane::ALL {
                loop {
                    let most = consumer.queue.room(lane);
                    if most == 0 {
                        break;
                    }
                    let after = consumer.queue.read(lane);
                    let found = self.source.read(lane, after, most)?;
                    let count = found.events.len();
                    for event in found.events {
                        consumer.queue.put(event, now);
                    }
                    consumer.queue.passed(lane, found.upto);
                    if count < most {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Continues with another sequence of events.
    fn begin(&mut self, opening: &Opening, now: Moment) -> Result<(), Unreadable> {
        let is_lasting = self.source.is_lasting();
        let mut queues = Vec::new();
        for (consumer, (cursors, retries)) in self.consumers.iter().zip(&opening.consumers) {
            let mut queue = queue(consumer.calls, is_lasting, *cursors);
            let found = self.source.fetch(retries)?;
            let there: Vec<_> = found.iter().map(|event| event.seq).collect();
            for event in found {
                queue.restore(event, now);
            }
            let is_gone = |seq: &&i64| there.binary_search(seq).is_err();
            let gone: Vec<_> = retries.iter().filter(is_gone).copied().collect();
            queues.push((queue, gone));
        }
        self.opening = opening.number;
        for (index, (queue, gone)) in queues.into_iter().enumerate() {
            let consumer = &mut self.consumers[index];
            consumer.before = consumer.tally();
            consumer.queue = queue;
            // Their outcomes do not belong to this sequence.
            consumer.running.iter_mut().for_each(|call| call.job = None);
            let (cursors, _) = &opening.consumers[index];
            consumer.published = Progress {
                cursors: *cursors,
                read: *cursors,
                ..Progress::default()
            };
            if !gone.is_empty() {
                consumer.gone += gone.len() as u64;
                let progress = Progress {
                    retries: gone.into_iter().map(|seq| (seq, false)).collect(),
                    ..consumer.published.clone()
                };
                self.source.publish(self.opening, index, &progress);
            }
        }
        Ok(())
    }

    fn publish(&mut self) {
        for (index, consumer) in self.consumers.iter_mut().enumerate() {
            let progress = Progress {
                cursors: Lane::ALL.map(|lane| consumer.queue.cursor(lane)),
                read: Lane::ALL.map(|lane| consumer.queue.read(lane)),
                retries: consumer.queue.take_changes(),
            };
            if progress != consumer.published {
                self.source.publish(self.opening, index, &progress);
                consumer.published = Progress {
                    retries: BTreeMap::new(),
                    ..progress
                };
            }
        }
    }

    fn tell(&mut self, now: Moment) {
        let missed = self.source.missed();
        let mut counters = Vec::with_capacity(self.consumers.len());
        for (consumer, missed) in self.consumers.iter_mut().zip(missed) {
            let read = Lane::ALL.map(|lane| consumer.queue.read(lane));
            let behind = self.source.behind(read);
            counters.push(consumer.count(behind, missed, now));
        }
        self.shared.tell(&counters);
    }

    /// Waits for the end of the process before this one, so that its commands are not
    /// overtaken.
    fn look_at_predecessor(&mut self, now: Moment) {
        let Some((predecessor, until)) = &self.predecessor else {
            return;
        };
        let mut sources = [PollFd::new(&predecessor.end, PollFlags::IN)];
        let has_ended = poll(&mut sources, Some(&Timespec::default())).unwrap_or(1) > 0;
        if !has_ended && now < *until {
            return;
        }
        if !has_ended {
            log::warn!(
                "the process before this one has not ended; commands of this process may \
                 overtake its commands"
            );
        }
        self.predecessor = None;
    }

    /// Waits until an event comes, a command ends, or it is time for something.
    fn wait(&self, orders: Orders, may_start: bool, now: Moment) -> io::Result<()> {
        let calls = self.consumers.iter().flat_map(|one| &one.running);
        let kills = calls.clone().filter_map(|call| call.running.kill_at());
        let queues = self.consumers.iter().filter(|_| may_start);
        let starts = queues.filter_map(|one| one.next_at(now));
        let predecessor = self.predecessor.as_ref();
        let next = kills
            .chain(starts)
            .chain(orders.stop.map(|stop| stop.by))
            .chain(self.read_again_at)
            .chain(predecessor.map(|(_, until)| *until))
            .min();
        // Longer than the kernel can count is for ever.
        let timeout = next.and_then(|next| Timespec::try_from(next.since(Moment::now())).ok());
        let mut sources: Vec<_> = std::iter::once(self.shared.bell())
            .chain(calls.map(|call| call.running.end()))
            .chain(predecessor.map(|(predecessor, _)| predecessor.end.as_fd()))
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills what runs and leaves what waits.
    fn give_up(&mut self) {
        let is_lasting = self.source.is_lasting();
        let mut counters = Vec::new();
        for consumer in &mut self.consumers {
            for call in &mut consumer.running {
                // It is not waited for, whether or not it could be killed.
                call.running.kill().ok();
            }
            let killed = consumer.running.len();
            let read = Lane::ALL.map(|lane| consumer.queue.read(lane));
            let waiting = consumer.queue.waiting() + self.source.behind(read);
            let name = consumer.calls.name();
            if is_lasting && killed > 0 {
                log::warn!(
                    "{name} commands given up: {killed} are killed; their events are delivered \
                     again after the next start"
                );
            } else if !is_lasting && killed + waiting > 0 {
                log::warn!(
                    "{name} commands given up: {killed} are killed, for {waiting} events more \
                     none is run"
                );
            }
            counters.push(HookCounters {
                running: 0,
                ..consumer.counters
            });
        }
        self.shared.tell(&counters);
        self.source.close();
    }
}

impl Consumer {
    fn tally(&self) -> Tally {
        self.before.plus(self.queue.tally())
    }

    fn next_at(&self, now: Moment) -> Option<Moment> {
        match self.has_strays() {
            true => None,
            false => self.queue.next_at(now),
        }
    }

    /// Whether commands run for events of another sequence: the same agents may be in this
    /// one.
    fn has_strays(&self) -> bool {
        self.running.iter().any(|call| call.job.is_none())
    }

    /// Starts what may start.
    fn start_some(&mut self, is_lasting: bool, now: Moment, wall: UnixNanos) {
        while !self.has_strays()
            && let Some(job) = self.queue.start(now, wall)
        {
            let mut input = Vec::new();
            for event in &job.events {
                event.write_line(is_lasting, &mut input);
            }
            let what = What::of(self.calls, &job);
            match Running::start(&self.shell, &input, now) {
                Ok(running) => self.running.push(Call {
                    running,
                    job: Some(job.number),
                    what,
                }),
                Err(failure) => self.end(Some(job.number), &what, Err(failure), now),
            }
        }
    }

    /// Looks which commands have ended, and leaves none of them a zombie.
    fn reap(&mut self, now: Moment) {
        let mut index = 0;
        while let Some(call) = self.running.get_mut(index) {
            match call.running.outcome(self.shell.timeout) {
                None => index += 1,
                Some(outcome) => {
                    let Call { job, what, .. } = self.running.swap_remove(index);
                    self.end(job, &what, outcome, now);
                }
            }
        }
    }

    /// Kills commands that exceed their timeout.
    fn kill_late(&mut self, now: Moment) {
        for call in &mut self.running {
            if call.running.kill_at().is_some_and(|kill_at| kill_at <= now)
                && let Err(error) = call.running.kill()
            {
                log_limited!(warn, self.complaints.timed_out, now, left_out =>
                    "the {} command takes too long and cannot be killed: {error} {} \
                     left_out={left_out}",
                    self.calls.name(),
                    call.what);
            }
        }
    }

    /// A command has ended, or was not started.
    fn end(&mut self, job: Option<u64>, what: &What, ended: Result<(), Failure>, now: Moment) {
        self.counters.run += 1;
        let outcome = match &ended {
            Ok(()) => Outcome::Delivered,
            Err(Failure::TimedOut(_)) => {
                self.counters.timed_out += 1;
                Outcome::Failed
            }
            Err(_) => {
                self.counters.failed += 1;
                Outcome::Failed
            }
        };
        if let Err(failure) = ended {
            log_limited!(warn, self.complaints.about(&failure), now, left_out =>
                "the {} command {failure} {what} left_out={left_out}",
                self.calls.name());
        }
        if let Some(job) = job {
            self.queue.end(job, outcome, now);
        }
    }

    /// Its counters, with `behind` events that it has not read and `missed` ones. Logs what
    /// is not delivered.
    fn count(&mut self, behind: usize, missed: u64, now: Moment) -> HookCounters {
        let Tally {
            delivered,
            retried,
            skipped,
        } = self.tally();
        let name = self.calls.name();
        let newly_skipped = skipped.saturating_sub(self.counters.skipped);
        if newly_skipped > 0 {
            log_limited!(warn, self.complaints.skipped, now, left_out =>
                "events skipped, the {name} command has failed for too long: {newly_skipped} \
                 left_out={left_out}");
        }
        let missed = missed + self.gone;
        let newly_missed = missed.saturating_sub(self.counters.missed);
        if newly_missed > 0 {
            log_limited!(warn, self.complaints.missed, now, left_out =>
                "events were removed from the store before the {name} command was run for them: \
                 {newly_missed} left_out={left_out}");
        }
        self.counters = HookCounters {
            running: self.running.len(),
            waiting: self.queue.waiting() + behind,
            delivered,
            retried,
            skipped,
            missed,
            ..self.counters
        };
        self.counters
    }
}

impl Complaints {
    /// Returns the throttle of log lines about failures of this kind.
    const fn about(&mut self, failure: &Failure) -> &mut Throttle {
        match failure {
            Failure::Start(_) => &mut self.start,
            Failure::Status(_) | Failure::Lost(_) => &mut self.status,
            Failure::TimedOut(_) => &mut self.timed_out,
        }
    }
}

/// A queue for such calls.
fn queue(calls: Calls, at_least_once: bool, cursors: [i64; 2]) -> Box<dyn Queue> {
    let seed = Moment::now().as_nanos();
    match calls {
        Calls::Each => Box::new(Each::new(at_least_once, cursors, seed)),
        Calls::Gathered(window) => Box::new(Gathered::new(at_least_once, window, cursors, seed)),
    }
}
