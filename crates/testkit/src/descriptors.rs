//! The open files of a server, and of the test itself.

use std::collections::HashSet;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::Server;

/// Descriptors that the test program needs beside those of its agents: pipes of
/// servers, and the agents of tests that run beside it.
const OTHERS: usize = 900;

/// Leave to have so many agents as take nearly all descriptors that this process
/// may have. One test at a time has it.
#[derive(Debug)]
pub struct ManyAgents {
    _turn: MutexGuard<'static, ()>,
    /// How many there may be.
    pub most: usize,
}

impl ManyAgents {
    /// Waits for it. `wanted` agents, or fewer if the limit of open files does not
    /// allow for as many.
    pub fn wait(wanted: usize) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        // A test that failed has left nothing behind.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = usize::try_from(hawk::descriptors::raise_limit()).unwrap();
        let most = wanted.min(limit.saturating_sub(OTHERS));
        #[allow(clippy::print_stderr)] // The skipped test is to be seen.
        if most < wanted {
            eprintln!("{most} agents instead of {wanted}, for want of open files (ulimit -Hn)");
        }
        Self { _turn: turn, most }
    }
}

/// The numbers of all descriptors that a process has.
pub fn descriptors_of(pid: Pid) -> HashSet<usize> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    let names = descriptors.map(|entry| entry.unwrap().file_name());
    names
        .map(|name| name.to_string_lossy().parse().unwrap())
        .collect()
}

/// Raises the limit to the largest that the system permits.
pub fn most_descriptors() -> usize {
    usize::try_from(getrlimit(Resource::Nofile).maximum.unwrap()).unwrap()
}

/// The limit that leaves room for `free` more descriptors: it bounds the number
/// of a new one, and the kernel gives out the lowest.
pub fn limit_for(server: &Server, free: usize) -> usize {
    let used = descriptors_of(server.pid());
    let mut unused = (0..).filter(|number| !used.contains(number));
    unused.nth(free).unwrap()
}

/// Sets the limit of a server that runs.
pub fn set_descriptor_limit(server: &Server, current: usize) {
    let limit = Rlimit {
        current: Some(current as u64),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    prlimit(Some(server.pid()), Resource::Nofile, limit).unwrap();
}
