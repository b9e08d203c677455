//! The sequences from which consumers read events, and to which they report their progress.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Event, EventAgent};
use crate::store::{Delivery, Lane, Notice, OpenError, Opening, Progress, Reader};

/// Maximum number of events that wait in memory on each lane.
pub(super) const MAX_WAITING: usize = 10_000;

/// Maximum size of the waiting events on each lane, in bytes. An event of a well-behaved agent
/// takes some 300 bytes, so [`MAX_WAITING`] is reached first.
pub(super) const MAX_WAITING_BYTES: usize = 16 << 20;

/// The next events of a lane.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) events: Vec<Arc<Event>>,
    /// The lane has no other events up to this number.
    pub(super) upto: i64,
}

/// Why events cannot be read. The runner tries again.
pub(super) type Unreadable = Box<dyn std::error::Error>;

/// A sequence of events.
pub(super) trait EventSource: Send {
    /// Returns whether the sequence keeps events until they are delivered, so that failed
    /// deliveries are repeated.
    fn keeps_events(&self) -> bool;

    /// Returns the progress stored with the sequence, if it is another than `known`.
    fn opening(&mut self, known: u64) -> Option<Opening>;

    /// Returns up to `most` events of a lane after the number `after`.
    fn read(&mut self, lane: Lane, after: i64, most: usize) -> Result<Found, Unreadable>;

    /// Returns the events of these numbers that still exist.
    fn fetch(&mut self, seqs: &[i64]) -> Result<Vec<Arc<Event>>, Unreadable>;

    /// Reports a consumer's progress in the sequence of that number.
    fn publish(&mut self, opening: u64, consumer: usize, progress: &Progress);

    /// Returns the number of events after `read` on each lane; 0 if counting would read the
    /// store.
    fn behind(&self, read: [i64; 2]) -> usize;

    /// Returns, for each consumer, the number of events that were removed before it read them.
    fn missed(&self) -> Vec<u64>;

    /// Releases what reading needs.
    fn close(&mut self) {}
}

/// Events in memory.
#[derive(Default)]
pub(super) struct Memory {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    lanes: [Waiting; 2],
    last: i64,
    /// The cursors of each consumer.
    cursors: Vec<[i64; 2]>,
}

#[derive(Default)]
struct Waiting {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Memory {
    pub(super) fn new(consumers: usize) -> Self {
        let slots = Slots {
            cursors: vec![[0; 2]; consumers],
            ..Slots::default()
        };
        Self {
            slots: Mutex::new(slots),
        }
    }

    /// Appends an event with the next number. Returns false if there is no room.
    pub(super) fn put(&self, mut event: Event) -> bool {
        let mut slots = self.slots();
        let lane = event.lane().index();
        let waiting = &slots.lanes[lane];
        if waiting.events.len() >= MAX_WAITING || waiting.bytes >= MAX_WAITING_BYTES {
            return false;
        }
        slots.last += 1;
        event.seq = slots.last;
        slots.lanes[lane].bytes += event.size();
        slots.lanes[lane].events.push_back(Arc::new(event));
        true
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSource for Arc<Memory> {
    fn keeps_events(&self) -> bool {
        false
    }

    fn opening(&mut self, known: u64) -> Option<Opening> {
        let consumers = self.slots().cursors.len();
        (known == 0).then(|| Opening {
            number: 1,
            consumers: vec![([0; 2], Vec::new()); consumers],
        })
    }

    fn read(&mut self, lane: Lane, after: i64, most: usize) -> Result<Found, Unreadable> {
        let slots = self.slots();
        let events = &slots.lanes[lane.index()].events;
        let from = events.partition_point(|event| event.seq <= after);
        let events: Vec<_> = events.range(from..).take(most).cloned().collect();
        let upto = match events.last() {
            Some(last) if events.len() == most => last.seq,
            _ => slots.last,
        };
        Ok(Found { events, upto })
    }

    fn fetch(&mut self, _seqs: &[i64]) -> Result<Vec<Arc<Event>>, Unreadable> {
        Ok(Vec::new())
    }

    fn publish(&mut self, _opening: u64, consumer: usize, progress: &Progress) {
        let mut slots = self.slots();
        slots.cursors[consumer] = progress.cursors;
        for lane in Lane::ALL.map(Lane::index) {
            let all = slots.cursors.iter().map(|cursors| cursors[lane]);
            let done = all.min().unwrap_or(i64::MAX);
            let waiting = &mut slots.lanes[lane];
            while waiting
                .events
                .front()
                .is_some_and(|first| first.seq <= done)
                && let Some(first) = waiting.events.pop_front()
            {
                waiting.bytes -= first.size();
            }
        }
    }

    fn behind(&self, read: [i64; 2]) -> usize {
        let slots = self.slots();
        let of_lane = |(lane, read): (&Waiting, i64)| {
            lane.events.len() - lane.events.partition_point(|event| event.seq <= read)
        };
        slots.lanes.iter().zip(read).map(of_lane).sum()
    }

    fn missed(&self) -> Vec<u64> {
        vec![0; self.slots().cursors.len()]
    }
}

/// Events in the store's table.
pub(super) struct Stored {
    path: PathBuf,
    delivery: Arc<Delivery>,
    /// `None` before the first read and after an error.
    reader: Option<Reader>,
}

impl Stored {
    pub(super) const fn new(path: PathBuf, delivery: Arc<Delivery>) -> Self {
        Self {
            path,
            delivery,
            reader: None,
        }
    }

    /// Reads the store over a connection that is closed after an error.
    fn with<T>(
        &mut self,
        read: impl FnOnce(&Reader) -> Result<T, OpenError>,
    ) -> Result<T, Unreadable> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => Reader::open(self.path.clone())?,
        };
        let found = read(&reader)?;
        self.reader = Some(reader);
        Ok(found)
    }
}

impl EventSource for Stored {
    fn keeps_events(&self) -> bool {
        true
    }

    fn opening(&mut self, known: u64) -> Option<Opening> {
        let opening = self.delivery.opening(known)?;
        self.reader = None;
        Some(opening)
    }

    fn read(&mut self, lane: Lane, after: i64, most: usize) -> Result<Found, Unreadable> {
        let (events, upto) = self.with(|reader| reader.notices(lane, after, most))?;
        let events = events.into_iter().map(event).collect();
        Ok(Found { events, upto })
    }

    fn fetch(&mut self, seqs: &[i64]) -> Result<Vec<Arc<Event>>, Unreadable> {
        if seqs.is_empty() {
            return Ok(Vec::new());
        }
        let events = self.with(|reader| reader.notices_numbered(seqs))?;
        Ok(events.into_iter().map(event).collect())
    }

    fn publish(&mut self, opening: u64, consumer: usize, progress: &Progress) {
        self.delivery.publish(opening, consumer, progress);
    }

    fn behind(&self, _read: [i64; 2]) -> usize {
        0
    }

    fn missed(&self) -> Vec<u64> {
        self.delivery.missed()
    }

    fn close(&mut self) {
        self.reader = None;
    }
}

fn event(notice: Notice) -> Arc<Event> {
    let named = notice.name.is_some();
    let address = || notice.address.to_string().into();
    Arc::new(Event {
        seq: notice.seq,
        at: notice.at,
        agent: EventAgent {
            text: notice.name.clone().unwrap_or_else(address),
            named,
        },
        address: notice.address,
        version: notice.version,
        online: notice.online,
        last_seen: notice.last_seen,
        established: notice.established,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::event::tests::event;

    fn progress(cursor: i64) -> Progress {
        Progress {
            cursors: [cursor; 2],
            ..Progress::default()
        }
    }

    #[test]
    fn events_are_refused_until_all_consumers_are_done_with_some() {
        let mut memory = Arc::new(Memory::new(2));
        assert!((0..MAX_WAITING).all(|_| memory.put(event(0, "a"))));
        assert!(!memory.put(event(0, "a")));
        let other = Event {
            established: false,
            ..event(0, "b")
        };
        assert!(memory.put(other), "each lane has its own bound");
        memory.publish(1, 0, &progress(1));
        assert!(
            !memory.put(event(0, "a")),
            "the other consumer has not delivered it"
        );
        memory.publish(1, 1, &progress(1));
        assert!(memory.put(event(0, "a")));
        let found = memory.read(Lane::Established, 9_998, 9).unwrap();
        let seqs: Vec<_> = found.events.iter().map(|event| event.seq).collect();
        assert_eq!((seqs, found.upto), (vec![9_999, 10_000, 10_002], 10_002));
        let found = memory.read(Lane::Established, 0, 2).unwrap();
        assert_eq!((found.events.len(), found.upto), (2, 3));
    }

    #[test]
    fn long_events_are_bounded_by_their_bytes() {
        let memory = Memory::new(1);
        let long = Event {
            version: "x".repeat(1 << 20).into(),
            ..event(0, "a")
        };
        let taken = (0..100).filter(|_| memory.put(long.clone()));
        assert_eq!(taken.count(), MAX_WAITING_BYTES >> 20);
    }
}
