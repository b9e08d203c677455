//! How far a hand-over has come.

use std::fmt;

/// The steps up to the commit. One that fails is named in the log and in the answer to
/// who asked for the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The predecessor looks whether it can begin at all.
    Preflight,
    /// The successor is started.
    Spawn,
    /// Both say which versions they understand.
    Hello,
    /// The successor sets itself up: its limits, a look at the store, the event loop.
    Prepare,
    /// Connections and agents are copied while the predecessor serves.
    PreCopy,
    /// What is in the store's hands is committed, and nothing more goes there.
    Quiesce,
    /// The predecessor stands still; what has changed is copied, and the successor takes
    /// the token.
    Freeze,
}

impl Step {
    /// Every step, in their order.
    pub const ALL: [Self; 7] = [
        Self::Preflight,
        Self::Spawn,
        Self::Hello,
        Self::Prepare,
        Self::PreCopy,
        Self::Quiesce,
        Self::Freeze,
    ];

    /// The step as one word, for the log and for operators.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Spawn => "spawn",
            Self::Hello => "hello",
            Self::Prepare => "prepare",
            Self::PreCopy => "pre-copy",
            Self::Quiesce => "quiesce",
            Self::Freeze => "freeze",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
