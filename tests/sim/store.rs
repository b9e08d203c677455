//! A store whose acknowledgements take as long as chance says: a handler that takes
//! packets as the real one does, and keeps nothing.

use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroU64};

use hawk::session::{Answer, CommitId, CompletedCommit, Fate, Handler, Sender, Tag, Wake};
use hawk_time::Moment;
use hawk_wire::{Busy, Packet, Reply};

use super::conversation::Fates;
use super::counts::Event;
use super::machine::Shared;
use super::samples::content_of;

/// How a store behaves.
#[derive(Clone, Copy)]
pub struct Manners {
    /// Reports are answered at once.
    pub acknowledges_receipt: bool,
    /// Reports of a batch; more are not taken before it is handed over.
    pub batch: usize,
    /// Batches that are written at the same time.
    pub depth: usize,
    /// How long a batch is filled before it is handed over.
    pub gather: u64,
    /// One batch in so many is lost.
    pub loses: u64,
    /// One report in so many is refused at once.
    pub refuses: u64,
}

/// The books of the store.
pub struct Store {
    pub manners: Manners,
    /// How each commit has ended, from the first one on, if it has.
    fates: Vec<Option<Fate>>,
    /// Commits that the server was told of.
    told: u64,
    /// Handed over, and not settled: until when they take.
    writing: VecDeque<u64>,
    /// Reports in the batch at hand, and since when it is filled.
    filled: usize,
    since: Option<u64>,
    now: u64,
    pub wake: Option<Wake>,
    next_tag: u32,
    /// Sessions that it knows.
    pub met: u64,
    pub departed: u64,
    in_turn: bool,
    /// Nothing is taken, because the server is to be replaced.
    pub quiesced: bool,
    pub heartbeats: u64,
    /// Reports of each batch, and those that are answered otherwise.
    sizes: Vec<u64>,
    pub received: u64,
    pub refused: u64,
}

impl Store {
    pub fn new(manners: Manners) -> Self {
        Self {
            manners,
            fates: Vec::new(),
            told: 0,
            writing: VecDeque::new(),
            filled: 0,
            since: None,
            now: 0,
            wake: None,
            next_tag: 0,
            met: 0,
            departed: 0,
            in_turn: false,
            quiesced: false,
            heartbeats: 0,
            sizes: Vec::new(),
            received: 0,
            refused: 0,
        }
    }

    /// Whether packets are taken.
    pub fn is_ready(&self) -> bool {
        self.filled < self.manners.batch && !self.quiesced
    }

    /// When the oldest batch that is being written is done, if there is one.
    pub fn due(&self) -> Option<u64> {
        self.writing.front().copied()
    }

    /// The oldest batch that is being written comes to its end.
    pub fn settle(&mut self, fate: Fate) {
        if self.writing.pop_front().is_some() {
            self.fates.push(Some(fate));
        }
    }

    /// It takes longer than was thought.
    pub fn stall(&mut self, until: u64) {
        for due in &mut self.writing {
            *due = (*due).max(until);
        }
    }

    /// Whether the server knows how this commit ended.
    pub fn is_told(&self, commit: u64) -> bool {
        commit <= self.told
    }

    /// Whether nothing waits for a commit.
    pub fn all_is_told(&self) -> bool {
        self.sizes.len() as u64 <= self.told
    }

    /// Whether all that was taken is settled.
    pub fn is_idle(&self) -> bool {
        self.filled == 0 && self.writing.is_empty() && self.told == self.fates.len() as u64
    }

    /// Reports that were kept, and those that were not.
    pub fn kept(&self) -> (u64, u64) {
        let mut sums = (self.received, self.refused);
        for (fate, size) in self.fates.iter().zip(&self.sizes) {
            match fate {
                Some(Fate::Kept) => sums.0 += size,
                _ => sums.1 += size,
            }
        }
        sums
    }

    /// The batch that is being filled, counted from one.
    fn batch(&self) -> u64 {
        (self.fates.len() + self.writing.len()) as u64 + 1
    }

    /// When the batch at hand is to be handed over, if it can be.
    pub fn hand_over_at(&self) -> Option<u64> {
        let since = self.since?;
        (self.writing.len() < self.manners.depth).then_some(since + self.manners.gather)
    }
}

impl Fates for Store {
    fn reply(&self, commit: u64) -> Option<Reply> {
        if !self.is_told(commit) {
            return None;
        }
        match self.fates[commit as usize - 1] {
            Some(Fate::Kept) => Some(Reply::Report),
            _ => Some(Reply::Busy(Busy::StoreUnavailable)),
        }
    }
}

/// The store's counter, as the reactor sees it.
pub struct Counter {
    machine: Shared,
    process: u32,
}

impl Counter {
    pub fn new(machine: Shared, process: u32) -> Self {
        Self { machine, process }
    }
}

impl Handler for Counter {
    fn start(&mut self, wake: Wake) {
        self.machine.borrow_mut().store.wake = Some(wake);
    }

    fn begin_turn(&mut self, now: Moment) {
        let machine = &mut *self.machine.borrow_mut();
        machine.demand(!machine.store.in_turn, 0, "a turn begins within a turn");
        machine.store.in_turn = true;
        machine.store.now = now.as_nanos();
    }

    fn handle(&mut self, sender: Sender<'_>, tag: &mut Option<Tag>, packet: &Packet<'_>) -> Answer {
        let machine = &mut *self.machine.borrow_mut();
        let content = content_of(packet);
        let slot = machine.slot_of(sender.peer);
        let is_next = machine.explain(slot, |conversation, _| conversation.is_next(content));
        let port = sender.peer.port();
        machine.demand(
            is_next,
            port,
            "the handler gets a packet that was not sent, or not yet",
        );
        machine.demand(
            machine.store.in_turn,
            port,
            "a packet is handed in between turns",
        );
        if !is_next {
            return Answer::Now(Reply::Heartbeat);
        }
        let now = machine.now;
        let link = &mut machine.links[slot];
        if let Some(name) = packet.agent()
            && link.name.as_deref() != Some(name.as_str())
        {
            link.name = Some(name.as_str().to_owned());
        }
        let named = link.name.as_deref() == sender.agent.map(AsRef::as_ref);
        let known = link.tag == tag.map(|Tag(number)| number.get());
        link.taken_now = true;
        let store = &mut machine.store;
        if link.tag.is_none() {
            store.next_tag += 1;
            store.met += 1;
            link.tag = Some(store.next_tag);
            *tag = NonZeroU32::new(store.next_tag).map(Tag);
        }
        let answer = match packet {
            Packet::Heartbeat(_) => {
                link.patience.heartbeat(now);
                store.heartbeats += 1;
                Answer::Now(Reply::Heartbeat)
            }
            Packet::Report(_) if store.manners.acknowledges_receipt => {
                store.received += 1;
                Answer::Now(Reply::Report)
            }
            Packet::Report(_)
                if store.manners.refuses > 0 && machine.dice.one_in(store.manners.refuses) =>
            {
                store.refused += 1;
                machine.counts.saw(Event::StoreRefusal);
                Answer::Now(Reply::Busy(Busy::StoreUnavailable))
            }
            Packet::Report(_) => {
                let batch = store.batch();
                store.filled += 1;
                store.since.get_or_insert(now);
                if store.sizes.len() < batch as usize {
                    store.sizes.push(0);
                }
                store.sizes[batch as usize - 1] += 1;
                Answer::AfterCommit(CommitId(NonZeroU64::new(batch).unwrap()))
            }
        };
        link.conversation.answer(match answer {
            Answer::Now(reply) => Ok(reply),
            Answer::AfterCommit(CommitId(commit)) => Err(commit.get()),
        });
        machine.demand(
            named,
            port,
            "a packet comes under another name than its agent's",
        );
        machine.demand(known, port, "a session comes with another's tag");
        answer
    }

    fn detach(&mut self, Tag(number): Tag) {
        let machine = &mut *self.machine.borrow_mut();
        if machine.process != self.process {
            // Sessions that ended in the predecessor were counted there.
            machine.demand(false, 0, "a session departs that goes on elsewhere");
            return;
        }
        machine.store.departed += 1;
        machine.departed.push(number.get());
    }

    fn is_ready(&self) -> bool {
        let machine = &mut *self.machine.borrow_mut();
        let ready = machine.store.is_ready();
        machine.unready_now |= !ready;
        ready
    }

    fn next_completed(&mut self) -> Option<CompletedCommit> {
        let machine = &mut *self.machine.borrow_mut();
        let store = &mut machine.store;
        let fate = (*store.fates.get(store.told as usize)?)?;
        store.told += 1;
        let commit = CommitId(NonZeroU64::new(store.told)?);
        let told = store.told;
        machine.owed = 0;
        machine.trace(0, "the server learns of commit", told);
        Some(CompletedCommit { commit, fate })
    }

    fn end_turn(&mut self) {
        let machine = &mut *self.machine.borrow_mut();
        machine.store.in_turn = false;
        let now = machine.store.now;
        if machine.store.hand_over_at().is_some_and(|at| at <= now) {
            let takes = machine.commit_takes();
            let store = &mut machine.store;
            let after = store.writing.back().copied().unwrap_or(0);
            store.writing.push_back(after.max(now + takes));
            store.filled = 0;
            store.since = None;
            machine.counts.saw(Event::HandOver);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let at = self.machine.borrow().store.hand_over_at();
        at.map(Moment::from_nanos)
    }
}
