//! An agent as plain data.

use std::net::IpAddr;

use crate::time::{Moment, UnixNanos};

/// All there is to know of an agent: enough to go on with it in another process of
/// the same machine as if nothing had happened.
///
/// It goes by its slot, which is the same there: the tags that sessions keep hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentState {
    /// The name it gave itself.
    pub name: Option<String>,
    /// The address it was last heard from; without a name, who it is.
    pub address: IpAddr,
    /// The version in its last heartbeat, of [`MAX_VERSION`](super::MAX_VERSION)
    /// bytes at most.
    pub version: String,
    /// When it was first heard.
    pub first_seen: UnixNanos,
    /// When it was last heard.
    pub last_seen: UnixNanos,
    /// Whether it is online.
    pub online: bool,
    /// Since when it is online or offline.
    pub changed_at: UnixNanos,
    /// The number of its row in the store.
    pub id: Option<i64>,
    /// Heartbeats that no row has counted yet.
    pub uncounted: u32,
    /// Sessions that speak for it: they move as well.
    pub sessions: u32,
    /// When it was last heard, on the clock on which its silence is counted.
    pub heard_at: Moment,
    /// Its last heartbeat, unless it was away since.
    pub last_heartbeat: Option<Moment>,
    /// The last two intervals between its heartbeats, in milliseconds, latest first.
    pub intervals: [u32; 2],
}
