//! The kernel's state of a connection over IPv4, and its count of dropped connections.
//!
//! Also on the loopback, bytes may take a moment to reach the other end. A test that needs
//! them there queries the kernel.

use std::fs;
use std::net::SocketAddr;

use rustix::process::Pid;

use super::eventually;

/// Newcomers that found no place in a backlog, since the network namespace began.
/// Both count: each full backlog is an overflow, and each overflow a drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenDrops {
    pub overflows: u64,
    pub drops: u64,
}

impl ListenDrops {
    /// In the namespace of this process: all of its listening sockets together.
    pub fn of(pid: Pid) -> Self {
        let table = fs::read_to_string(format!("/proc/{}/net/netstat", pid.as_raw_nonzero()));
        let table = table.unwrap();
        // A line of names and one of numbers, in the same order.
        let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
        let mut words = || lines.next().unwrap().split_whitespace();
        let (names, numbers) = (words(), words());
        let columns: Vec<_> = names.zip(numbers).collect();
        let get = |name| {
            let found = columns.iter().find(|(other, _)| *other == name);
            found.unwrap().1.parse().unwrap()
        };
        Self {
            overflows: get("ListenOverflows"),
            drops: get("ListenDrops"),
        }
    }
}

/// Waits until all that `from` has sent lies at the other end, `to`.
#[track_caller]
pub(crate) fn wait_delivered(from: SocketAddr, to: SocketAddr) {
    let arrived = eventually(|| (unacknowledged(from, to)? == 0).then_some(()));
    arrived.expect("what was sent arrives");
}

/// Waits until `from` has no connection to `to` any more.
#[track_caller]
pub(crate) fn wait_gone(from: SocketAddr, to: SocketAddr) {
    let gone = eventually(|| unacknowledged(from, to).is_none().then_some(()));
    gone.expect("a reset arrives");
}

/// Bytes that `from` has sent to `to` and that are not acknowledged; `None` if
/// the two are not connected.
fn unacknowledged(from: SocketAddr, to: SocketAddr) -> Option<u64> {
    let ports = [from, to].map(|address| format!(":{:04X}", address.port()));
    // Of the thread: it may be in a network namespace of its own.
    let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("Linux has it");
    // Machines with thousands of connections are no reason to split each line.
    let lines = table.lines();
    let mut candidates = lines.filter(|line| ports.iter().all(|port| line.contains(port)));
    // sl local_address rem_address st tx_queue:rx_queue ...
    candidates.find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, _, queues, ..] = columns[..] else {
            return None;
        };
        let fits = local.ends_with(&ports[0]) && remote.ends_with(&ports[1]);
        let (sent, _) = queues.split_once(':').filter(|_| fits)?;
        u64::from_str_radix(sent, 16).ok()
    })
}
