//! What was tried, and what came of it.

/// Something that happens to the server: a step; or something that is seen of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    // Steps.
    Delivery,
    Take,
    HalfClose,
    Reset,
    Hangup,
    Urgent,
    Connect,
    NoDescriptors,
    WatchFailure,
    CommitKept,
    CommitLost,
    StoreStall,
    TimePasses,
    ClockJump,
    SpuriousWake,
    StatisticsSignal,
    UpgradeSignal,
    OtherReady,
    StopSignal,
    SecondStop,
    // What was seen.
    Turn,
    DamagedFrame,
    ChecksumMismatch,
    BufferWait,
    BufferStop,
    OutputStop,
    OutputShort,
    StoreStop,
    RateStop,
    FrameBudgetSpent,
    PhaseBudgetSpent,
    FrameBeforeQueue,
    CandidateDropped,
    HiddenFrame,
    StoreRefusal,
    HandOver,
    AbortedNewcomer,
    Interrupted,
    MidTurnArrival,
    DrainCut,
    UpgradeBegun,
    NotQuiet,
    AdoptUnwatched,
    AdoptWithoutRoom,
    Upgraded,
    RolledBack,
    WorldStopped,
    WorldLeft,
}

impl Event {
    pub const ALL: [Self; 48] = [
        Self::Delivery,
        Self::Take,
        Self::HalfClose,
        Self::Reset,
        Self::Hangup,
        Self::Urgent,
        Self::Connect,
        Self::NoDescriptors,
        Self::WatchFailure,
        Self::CommitKept,
        Self::CommitLost,
        Self::StoreStall,
        Self::TimePasses,
        Self::ClockJump,
        Self::SpuriousWake,
        Self::StatisticsSignal,
        Self::UpgradeSignal,
        Self::OtherReady,
        Self::StopSignal,
        Self::SecondStop,
        Self::Turn,
        Self::DamagedFrame,
        Self::ChecksumMismatch,
        Self::BufferWait,
        Self::BufferStop,
        Self::OutputStop,
        Self::OutputShort,
        Self::StoreStop,
        Self::RateStop,
        Self::FrameBudgetSpent,
        Self::PhaseBudgetSpent,
        Self::FrameBeforeQueue,
        Self::CandidateDropped,
        Self::HiddenFrame,
        Self::StoreRefusal,
        Self::HandOver,
        Self::AbortedNewcomer,
        Self::Interrupted,
        Self::MidTurnArrival,
        Self::DrainCut,
        Self::UpgradeBegun,
        Self::NotQuiet,
        Self::AdoptUnwatched,
        Self::AdoptWithoutRoom,
        Self::Upgraded,
        Self::RolledBack,
        Self::WorldStopped,
        Self::WorldLeft,
    ];

    /// Whether it is a step.
    pub fn is_step(self) -> bool {
        (self as usize) < Self::Turn as usize
    }
}

/// How often each was seen, and how often connections ended for each cause.
#[derive(Clone)]
pub struct Counts {
    events: [u64; Event::ALL.len()],
    steps: u64,
    pub closed: [u64; hawk::stats::Cause::ALL.len()],
    pub bytes: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            events: [0; Event::ALL.len()],
            steps: 0,
            closed: [0; hawk::stats::Cause::ALL.len()],
            bytes: 0,
        }
    }
}

impl Counts {
    pub fn saw(&mut self, event: Event) {
        self.events[event as usize] += 1;
        self.steps += u64::from(event.is_step());
    }

    pub fn of(&self, event: Event) -> u64 {
        self.events[event as usize]
    }

    pub fn steps(&self) -> u64 {
        self.steps
    }

    pub fn add(&mut self, other: &Self) {
        let sums = [
            (&mut self.events[..], &other.events[..]),
            (&mut self.closed, &other.closed),
        ];
        for (sums, more) in sums {
            sums.iter_mut()
                .zip(more)
                .for_each(|(sum, more)| *sum += more);
        }
        self.steps += other.steps;
        self.bytes += other.bytes;
    }
}
