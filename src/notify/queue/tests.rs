//! Both queues under random events, failures and restarts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use proptest::prelude::*;

use super::each::{AT_ONCE, MAX_BEHIND, OTHERS_AT_ONCE, OUTAGE};
use super::gathered::MAX_EVENTS;
use super::*;
use crate::notify::event::tests::event;

const START: Moment = Moment::from_nanos(1);

const WALL: UnixNanos = UnixNanos::from_nanos(1_795_477_156_123_456_789);

const WINDOW_TIME: Duration = Duration::from_secs(1);

fn each() -> Each {
    Each::new(true, [0, 0], 7)
}

fn gathered() -> Gathered {
    Gathered::new(true, WINDOW_TIME, [0, 0], 7)
}

fn of(seq: i64, agent: &str, established: bool) -> Arc<Event> {
    Arc::new(Event {
        established,
        ..event(seq, agent)
    })
}

fn seqs(job: &Job) -> Vec<i64> {
    job.events.iter().map(|event| event.seq).collect()
}

fn start_all(queue: &mut dyn Queue, now: Moment) -> Vec<Job> {
    std::iter::from_fn(|| queue.start(now, WALL)).collect()
}

#[test]
fn events_of_one_agent_wait_for_each_other_and_for_no_other() {
    let mut queue = each();
    for (seq, agent) in [(1, "a"), (2, "a"), (3, "b"), (4, "a")] {
        queue.put(of(seq, agent, true), START);
    }
    let jobs = start_all(&mut queue, START);
    assert_eq!(jobs.iter().map(seqs).collect::<Vec<_>>(), [[1], [3]]);
    assert_eq!(queue.cursor(Lane::Established), 0);
    queue.end(jobs[0].number, JobOutcome::Delivered, START);
    assert_eq!(queue.cursor(Lane::Established), 1);
    let second = start_all(&mut queue, START);
    assert_eq!(seqs(&second[0]), [2]);
    queue.end(second[0].number, JobOutcome::Delivered, START);
    assert_eq!(queue.cursor(Lane::Established), 2, "3 is under way");
    queue.end(jobs[1].number, JobOutcome::Delivered, START);
    assert_eq!(queue.cursor(Lane::Established), 3);
}

#[test]
fn a_failing_event_holds_up_its_agent_and_not_the_cursor() {
    let mut queue = each();
    for (seq, agent) in [(1, "a"), (2, "a"), (3, "b")] {
        queue.put(of(seq, agent, true), START);
    }
    let jobs = start_all(&mut queue, START);
    queue.end(jobs[0].number, JobOutcome::Failed, START);
    queue.end(jobs[1].number, JobOutcome::Delivered, START);
    assert_eq!(queue.cursor(Lane::Established), 3);
    queue.put(of(4, "a", true), START);
    let changes = |queue: &mut Each| Vec::from_iter(queue.take_changes());
    assert_eq!(changes(&mut queue), [(1, true), (2, true), (4, true)]);
    assert!(queue.start(START, WALL).is_none(), "it is not due");
    let due = queue.next_at(START).unwrap();
    assert!(due > START);
    for expected in [1, 2, 4] {
        let job = queue.start(due, WALL).unwrap();
        assert_eq!(seqs(&job), [expected]);
        queue.end(job.number, JobOutcome::Delivered, due);
    }
    assert_eq!(changes(&mut queue), [(1, false), (2, false), (4, false)]);
    assert_eq!(queue.tally().retried, 1);
}

#[test]
fn established_agents_always_find_a_place() {
    let mut queue = each();
    for seq in 1..=100 {
        queue.put(of(seq, &seq.to_string(), false), START);
    }
    assert_eq!(start_all(&mut queue, START).len(), OTHERS_AT_ONCE);
    for seq in 101..=200 {
        queue.put(of(seq, &seq.to_string(), true), START);
    }
    let jobs = start_all(&mut queue, START);
    assert_eq!(jobs.len(), AT_ONCE - OTHERS_AT_ONCE);
    assert!(jobs.iter().all(|job| job.events[0].established));
}

#[test]
fn established_agents_alone_have_all_places_and_leave_one_to_others() {
    let mut queue = each();
    for seq in 1..=100 {
        queue.put(of(seq, &seq.to_string(), true), START);
    }
    let jobs = start_all(&mut queue, START);
    assert_eq!(jobs.len(), AT_ONCE);
    queue.put(of(101, "new", false), START);
    queue.end(jobs[0].number, JobOutcome::Delivered, START);
    assert_eq!(seqs(&start_all(&mut queue, START)[0]), [101]);
}

#[test]
fn an_event_that_is_too_old_is_skipped() {
    let mut queue = each();
    queue.put(of(1, "a", true), START);
    queue.put(of(2, "a", true), START);
    let late = WALL.after(MAX_AGE).after(Duration::from_nanos(1));
    assert!(queue.start(START, late).is_none());
    assert_eq!((queue.tally().skipped, queue.waiting()), (2, 0));
    assert_eq!(queue.cursor(Lane::Established), 2);
    let mut gathered = gathered();
    gathered.put(of(1, "a", true), START);
    assert!(gathered.start(START.after(WINDOW_TIME), late).is_none());
    assert_eq!((gathered.tally().skipped, gathered.waiting()), (1, 0));
}

#[test]
fn behind_a_failing_event_the_last_ones_are_kept() {
    let mut queue = each();
    queue.put(of(1, "a", true), START);
    let job = queue.start(START, WALL).unwrap();
    queue.end(job.number, JobOutcome::Failed, START);
    for seq in 2..=200 {
        queue.put(of(seq, "a", true), START);
    }
    assert_eq!(queue.waiting(), MAX_BEHIND);
    assert_eq!(queue.tally().skipped, 200 - MAX_BEHIND as u64);
    let due = queue.next_at(START).unwrap();
    let job = queue.start(due, WALL).unwrap();
    assert_eq!(seqs(&job), [201 - MAX_BEHIND.cast_signed() as i64]);
}

#[test]
fn a_command_that_always_fails_is_tried_ever_less_often() {
    let mut queue = each();
    for seq in 1..=1000 {
        queue.put(of(seq, &seq.to_string(), seq % 2 == 0), START);
    }
    let (mut now, mut begun) = (START, 0);
    let end = START.after(Duration::from_secs(3600));
    while now < end {
        let jobs = start_all(&mut queue, now);
        begun += jobs.len();
        assert!(begun <= AT_ONCE || jobs.len() <= 1);
        for job in jobs {
            queue.end(job.number, JobOutcome::Failed, now);
        }
        now = queue.next_at(now).unwrap().max(now);
    }
    assert!(begun < AT_ONCE + 3600 / 14, "{begun} in an hour");
    // At the first success all failed events are tried again at once.
    let begun = now;
    let mut delivered = 0;
    while let Some(job) = queue.start(now, WALL) {
        queue.end(job.number, JobOutcome::Delivered, now);
        delivered += 1;
    }
    assert_eq!((delivered, now), (1000, begun));
}

#[test]
fn a_few_failing_agents_hold_up_no_other() {
    let mut queue = each();
    for seq in 1..OUTAGE.cast_signed() as i64 {
        queue.put(of(seq, &seq.to_string(), true), START);
    }
    for _ in 0..20 {
        let now = queue.next_at(START).unwrap();
        for job in start_all(&mut queue, now) {
            queue.end(job.number, JobOutcome::Failed, now);
        }
    }
    queue.put(of(100, "good", true), START);
    assert_eq!(seqs(&queue.start(START, WALL).unwrap()), [100]);
}

#[test]
fn a_queue_without_retries_drops_a_failed_event() {
    let mut queue = Each::new(false, [0, 0], 7);
    queue.put(of(1, "a", true), START);
    let job = queue.start(START, WALL).unwrap();
    queue.end(job.number, JobOutcome::Failed, START);
    assert_eq!((queue.waiting(), queue.next_at(START)), (0, None));
    assert_eq!(queue.cursor(Lane::Established), 1);
}

#[test]
fn the_events_of_a_window_are_one_job() {
    let mut queue = gathered();
    for seq in 1..=300 {
        queue.put(of(seq, &seq.to_string(), true), START);
    }
    assert!(queue.start(START, WALL).is_none());
    let due = queue.next_at(START).unwrap();
    assert_eq!(due, START.after(WINDOW_TIME));
    let job = queue.start(due, WALL).unwrap();
    assert_eq!(job.events.len(), 300);
    queue.put(of(301, "301", true), due);
    let later = due.after(WINDOW_TIME);
    assert!(queue.start(later, WALL).is_none(), "the first job runs");
    queue.end(job.number, JobOutcome::Failed, later);
    let retry = queue.next_at(later).unwrap();
    let job = queue.start(retry, WALL).unwrap();
    assert_eq!((job.events.len(), queue.tally().retried), (150, 1));
    assert_eq!(queue.cursor(Lane::Established), 0);
    queue.end(job.number, JobOutcome::Delivered, retry);
    assert_eq!(queue.cursor(Lane::Established), 150);
    let job = queue.start(retry, WALL).unwrap();
    assert_eq!((job.events.len(), job.events[0].seq), (150, 151));
    queue.end(job.number, JobOutcome::Delivered, retry);
    assert_eq!(queue.cursor(Lane::Established), 300);
    assert_eq!(seqs(&queue.start(retry, WALL).unwrap()), [301]);
}

#[test]
fn a_job_has_its_bounds() {
    let mut queue = gathered();
    for seq in 1..=WINDOW.cast_signed() as i64 {
        queue.put(of(seq, "a", true), START);
    }
    assert_eq!(queue.room(Lane::Established), 0);
    assert_eq!(queue.room(Lane::Others), WINDOW);
    let job = queue.start(START, WALL).unwrap();
    assert_eq!(job.events.len(), MAX_EVENTS, "full before its window ends");
    let mut queue = gathered();
    let long: String = "x".repeat(10_000);
    for seq in 1..=WINDOW.cast_signed() as i64 {
        queue.put(of(seq, &long, true), START);
    }
    assert!(queue.start(START, WALL).unwrap().events.len() < 110);
}

#[test]
fn draining_waits_for_no_window_and_for_no_retry() {
    let mut queue = gathered();
    queue.put(of(1, "a", true), START);
    queue.drain();
    let job = queue.start(START, WALL).unwrap();
    queue.end(job.number, JobOutcome::Failed, START);
    assert!(queue.is_drained() && queue.next_at(START).is_none());
    let mut queue = each();
    queue.put(of(1, "a", true), START);
    queue.drain();
    let job = queue.start(START, WALL).unwrap();
    assert!(!queue.is_drained());
    queue.end(job.number, JobOutcome::Failed, START);
    assert!(queue.is_drained() && queue.next_at(START).is_none());
}

/// The store's tables, and the events that a receiver got.
struct World {
    table: Vec<Arc<Event>>,
    cursors: [i64; 2],
    retries: BTreeSet<i64>,
    delivered: Vec<i64>,
    now: Moment,
}

impl World {
    fn new(events: &[(u8, bool)]) -> Self {
        // The store's writer keeps an agent on its lane.
        let agent = |(agent, online): &(u8, bool), seq| {
            Arc::new(Event {
                online: *online,
                established: agent % 2 == 0,
                ..event(seq, &agent.to_string())
            })
        };
        Self {
            table: events
                .iter()
                .zip(1..)
                .map(|(e, seq)| agent(e, seq))
                .collect(),
            cursors: [0, 0],
            retries: BTreeSet::new(),
            delivered: Vec::new(),
            now: START,
        }
    }

    fn fill(&self, queue: &mut dyn Queue) {
        for lane in Lane::ALL {
            let after = queue.read(lane);
            let next = self.table.iter().filter(|event| event.lane() == lane);
            let next = next.filter(|event| event.seq > after);
            for event in next.take(queue.room(lane)) {
                queue.put(Arc::clone(event), self.now);
            }
        }
    }

    fn write_down(&mut self, queue: &mut dyn Queue) {
        for (seq, is_retry) in queue.take_changes() {
            match is_retry {
                true => self.retries.insert(seq),
                false => self.retries.remove(&seq),
            };
        }
        for lane in Lane::ALL {
            let cursor = queue.cursor(lane);
            assert!(cursor >= self.cursors[lane.index()]);
            self.cursors[lane.index()] = cursor;
        }
    }

    fn restore(&self, queue: &mut dyn Queue) {
        for seq in &self.retries {
            let event = self.table.iter().find(|event| event.seq == *seq);
            queue.restore(Arc::clone(event.unwrap()), self.now);
        }
    }

    /// Delivers until no event is left, with restarts at random.
    fn run(&mut self, make: &dyn Fn([i64; 2]) -> Box<dyn Queue>, chance: &mut dyn FnMut() -> u8) {
        let mut queue = make(self.cursors);
        let mut running: Vec<Job> = Vec::new();
        for _ in 0..100_000 {
            self.fill(&mut *queue);
            while let Some(job) = queue.start(self.now, WALL) {
                assert!(self.may_begin(&job, &running));
                running.push(job);
            }
            assert!(queue.waiting() <= 4 * WINDOW);
            match chance() {
                // A kill: progress that was not written down is lost, and running jobs end
                // before the next process begins.
                0..=4 => {
                    self.delivered
                        .extend(running.drain(..).flat_map(|job| seqs(&job)));
                    queue = make(self.cursors);
                    self.restore(&mut *queue);
                }
                5..=40 => self.write_down(&mut *queue),
                roll if !running.is_empty() => {
                    let job = running.swap_remove(usize::from(roll) % running.len());
                    let outcome = match roll % 3 {
                        0 => JobOutcome::Failed,
                        _ => JobOutcome::Delivered,
                    };
                    if outcome == JobOutcome::Delivered {
                        self.delivered.extend(seqs(&job));
                    }
                    queue.end(job.number, outcome, self.now);
                }
                _ => match queue.next_at(self.now) {
                    Some(at) => self.now = self.now.max(at),
                    None => {
                        assert_eq!(queue.waiting(), 0);
                        return self.write_down(&mut *queue);
                    }
                },
            }
        }
        panic!("the queue does not drain");
    }

    fn may_begin(&self, job: &Job, running: &[Job]) -> bool {
        let agents = |job: &Job| -> BTreeSet<_> {
            job.events.iter().map(|event| event.agent.clone()).collect()
        };
        let ours = agents(job);
        running.len() < AT_ONCE && running.iter().all(|other| ours.is_disjoint(&agents(other)))
    }

    fn check(&self) {
        let last = self.table.last().map_or(0, |event| event.seq);
        assert!(self.retries.is_empty(), "{:?}", self.retries);
        let mut of_agent: BTreeMap<_, Vec<i64>> = BTreeMap::new();
        for event in &self.table {
            of_agent.entry(&event.agent).or_default().push(event.seq);
        }
        let mut seen: HashMap<_, Vec<i64>> = HashMap::new();
        for seq in &self.delivered {
            let index = usize::try_from(seq - 1).unwrap();
            let agent = &self.table[index].agent;
            seen.entry(agent).or_default().push(*seq);
        }
        for (agent, events) in of_agent {
            let seen = &seen[agent];
            assert_eq!(
                seen.last(),
                events.last(),
                "the last event was delivered last"
            );
            let all: BTreeSet<_> = seen.iter().copied().collect();
            assert!(
                events.iter().all(|seq| all.contains(seq)),
                "each event was delivered"
            );
            // The first time that an event is seen is in order.
            let mut newest = 0;
            for seq in seen {
                let next = events.iter().find(|seq| **seq > newest);
                assert!(*seq <= newest || Some(seq) == next, "{seen:?}");
                newest = newest.max(*seq);
            }
        }
        assert!(self.cursors.iter().all(|cursor| *cursor <= last));
    }
}

#[test]
fn each_wait_is_up_to_twice_as_long_until_the_limit() {
    let (first, most) = (Duration::from_secs(1), Duration::from_secs(60));
    let now = Moment::from_nanos(1);
    let mut backoff = Backoff::new(first, most, 1);
    for failures in 1..100_u32 {
        let longest = (first * (1 << (failures - 1).min(10))).min(most);
        let wait = backoff.after(failures, now).since(now);
        assert!(
            (longest / 2..=longest).contains(&wait),
            "{failures} {wait:?}"
        );
    }
    backoff.after(u32::MAX, now);
}

/// Fails every job that holds a bad event, and ends the others at once.
fn deliver_but(queue: &mut dyn Queue, bad: &BTreeSet<i64>, world: &mut World, until: Moment) {
    while world.now < until {
        world.fill(queue);
        let wall = WALL.after(world.now.since(START));
        while let Some(job) = queue.start(world.now, wall) {
            let outcome = match seqs(&job).iter().any(|seq| bad.contains(seq)) {
                true => JobOutcome::Failed,
                false => JobOutcome::Delivered,
            };
            if outcome == JobOutcome::Delivered {
                world.delivered.extend(seqs(&job));
            }
            queue.end(job.number, outcome, world.now);
        }
        world.write_down(queue);
        world.now = queue.next_at(world.now).unwrap_or(until).max(world.now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_last_delivered_event_of_an_agent_is_its_last_event(
        events in prop::collection::vec((0_u8..12, any::<bool>()), 1..200),
        rolls in prop::collection::vec(any::<u8>(), 1..500),
        gather: bool,
    ) {
        let mut world = World::new(&events);
        let make = move |cursors| -> Box<dyn Queue> {
            match gather {
                true => Box::new(Gathered::new(true, WINDOW_TIME, cursors, 7)),
                false => Box::new(Each::new(true, cursors, 7)),
            }
        };
        let mut rolls = rolls.into_iter();
        // After the last roll no job fails.
        world.run(&make, &mut || rolls.next().unwrap_or(241));
        world.check();
    }

    /// Events that make each of their jobs fail delay their own agents until they are too old,
    /// and the events of other agents by minutes.
    #[test]
    fn events_that_always_fail_hold_up_no_other_agent(
        events in prop::collection::vec((0_u8..40, any::<bool>()), 1..400),
        bad in prop::collection::btree_set(1_i64..400, 0..6),
        gather: bool,
    ) {
        let mut world = World::new(&events);
        let bad_agents: BTreeSet<_> = world.table.iter()
            .filter(|event| bad.contains(&event.seq))
            .map(|event| event.agent.clone())
            .collect();
        let mut queue: Box<dyn Queue> = match gather {
            true => Box::new(gathered()),
            false => Box::new(each()),
        };
        deliver_but(&mut *queue, &bad, &mut world, START.after(Duration::from_secs(300)));
        for event in &world.table {
            let is_delivered = world.delivered.contains(&event.seq);
            prop_assert!(is_delivered || bad_agents.contains(&event.agent), "{}", event.seq);
        }
        for lane in Lane::ALL {
            let last = world.table.iter().rfind(|event| event.lane() == lane);
            prop_assert_eq!(queue.cursor(lane), last.map_or(0, |event| event.seq));
        }
        let day = START.after(MAX_AGE + Duration::from_secs(600));
        deliver_but(&mut *queue, &bad, &mut world, day);
        prop_assert_eq!((queue.waiting(), &world.retries), (0, &BTreeSet::new()));
        let delivered = world.delivered.len() as u64;
        prop_assert_eq!(queue.tally().delivered, delivered);
        prop_assert_eq!(queue.tally().skipped, events.len() as u64 - delivered);
    }
}
