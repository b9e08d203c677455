//! How much one phase of a turn does before the next has its turn.

/// What the connections of a phase may do before the others wait for the next turn.
/// Nothing of it may be 0, or nobody ever had a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseBudget {
    /// Bytes that they may read.
    pub bytes: usize,
    /// Frames that may be recognised; a turn counts as some by itself.
    pub frames: u32,
    /// Alarms that may be seen to.
    pub alarms: u32,
}

impl Default for PhaseBudget {
    fn default() -> Self {
        Self {
            // Some 4 ms of work with the usual reports (0.5 µs each, see
            // docs/performance.md), so that newcomers, commits and deadlines never
            // wait long.
            bytes: 1 << 20,
            // Likewise, for where they are short: some 8 ms.
            frames: 16 * 1024,
            // Of a crowd that came together all ring together, and each may close its
            // connection: some 15 µs, most of it in the kernel, so that others wait a
            // millisecond and not a tenth of a second.
            alarms: 64,
        }
    }
}

/// Frames that a connection's turn counts as, for its calls to the kernel: 4 µs in all
/// with one frame in it, where each of sixteen takes 0.5 µs.
const TURN_COST: u32 = 8;

/// Bytes that all who are in the queue may read between two turns of any of them, if
/// that leaves each a fair share: 64 who answer hundreds of frames in one go still
/// have one read and one write for all of them. A round is some 8 ms with the usual
/// reports.
const ROUND_BYTES: usize = 8 << 20;

/// Bytes that a connection may read in its turn: four of the longest frames. With
/// shares of one, frames of 64 KiB took the kernel twice the time: each time the agent was
/// woken to send one more. A turn with the usual reports ends sooner, after as many frames
/// as it may answer.
pub(super) const MOST_SHARE: usize = 256 * 1024;

/// Where many want theirs, they are fewer, down to these. When 1,500 agents had 300 kB
/// each to be read, newcomers then waited 0.2 to 0.4 s for their first reply, where it
/// had been 1.5 s, and the whole took a third more CPU. With 4 KiB it was 0.1 s, but 2.4
/// times the CPU: each share ends with a write.
pub(super) const LEAST_SHARE: usize = 16 * 1024;

/// What the phase at hand may still do. It is counted and not timed, so that the same
/// input always does the same.
#[derive(Debug)]
pub(super) struct Work {
    budget: PhaseBudget,
    left: PhaseBudget,
    share: usize,
}

impl Work {
    pub(super) const fn new(budget: PhaseBudget) -> Self {
        Self {
            budget,
            left: budget,
            share: MOST_SHARE,
        }
    }

    /// A phase begins, in which so many connections want a turn.
    pub(super) fn begin(&mut self, connections: usize) {
        self.left = self.budget;
        self.share = (ROUND_BYTES / connections.max(1)).clamp(LEAST_SHARE, MOST_SHARE);
    }

    /// Whether the next connection has its turn in this phase, and if so, counts it.
    pub(super) fn goes_on(&mut self) -> bool {
        let goes_on = self.left.bytes > 0 && self.left.frames > 0;
        self.left.frames = self.left.frames.saturating_sub(TURN_COST);
        goes_on
    }

    /// As [`goes_on`](Self::goes_on), for a connection whose alarm rings.
    pub(super) fn sees_to_alarm(&mut self) -> bool {
        let sees_to_it = self.left.alarms > 0 && self.goes_on();
        self.left.alarms = self.left.alarms.saturating_sub(1);
        sees_to_it
    }

    /// Bytes that a connection may read in its turn.
    pub(super) const fn share(&self) -> usize {
        self.share
    }

    /// So many bytes were read.
    pub(super) fn read(&mut self, bytes: usize) {
        self.left.bytes = self.left.bytes.saturating_sub(bytes);
    }

    /// So many frames were recognised.
    pub(super) fn recognised(&mut self, frames: u32) {
        self.left.frames = self.left.frames.saturating_sub(frames);
    }
}
