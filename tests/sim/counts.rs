//! Counts of what happened in worlds.

use hawk_testkit::worlds::{self, Tally};

hawk_testkit::events! {
    steps:
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
        SecondStop;
    observations:
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

/// The counts of one world, or the sums over several.
#[derive(Clone)]
pub struct Counts {
    pub events: worlds::Counts<Event>,
    /// Connections that ended for each cause, by its place in `Cause::ALL`.
    pub closed: [u64; hawk::stats::Cause::ALL.len()],
    pub bytes: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            events: worlds::Counts::default(),
            closed: [0; hawk::stats::Cause::ALL.len()],
            bytes: 0,
        }
    }
}

impl Counts {
    pub fn saw(&mut self, event: Event) {
        self.events.saw(event);
    }
}

impl Tally for Counts {
    fn steps(&self) -> u64 {
        self.events.steps()
    }

    fn add(&mut self, other: &Self) {
        self.events.add(&other.events);
        for (sum, more) in self.closed.iter_mut().zip(other.closed) {
            *sum += more;
        }
        self.bytes += other.bytes;
    }

    fn print(&self) {
        self.events.print();
        for (cause, count) in hawk::stats::Cause::ALL.into_iter().zip(self.closed) {
            println!("{count:>12} closed: {}", cause.name());
        }
    }
}
