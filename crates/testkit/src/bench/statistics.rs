//! The statistics that a server logs on SIGUSR1.

use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::child::Running;

/// All statistics, as lines of `key=value`.
pub struct Statistics(Vec<String>);

impl Statistics {
    /// Requests the statistics. Discards earlier lines of the server.
    pub fn ask(process: &mut Running) -> anyhow::Result<Self> {
        process.forget_lines();
        let id = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        kill_process(id.context("a process id of zero")?, Signal::USR1)?;
        let is_pool = |line: &str| line.contains("] pool class=").then_some(());
        process.wait_for("how its pool stands", is_pool)?;
        // The lines of the other classes come right behind the first.
        thread::sleep(Duration::from_millis(300));
        Ok(Self(process.lines()))
    }

    /// A number of the server's own line; 0 if it is not listed, as with causes that
    /// did not occur.
    pub fn get(&self, key: &str) -> u64 {
        let line = self.0.iter().rfind(|line| line.contains("] stats "));
        line.and_then(|line| number(line, key)).unwrap_or(0)
    }

    /// A number of each of the pool's classes, shortest first.
    pub fn pool(&self, key: &str) -> Vec<u64> {
        let lines = self.0.iter().filter(|line| line.contains("] pool class="));
        lines.filter_map(|line| number(line, key)).collect()
    }

    /// A number of the longest class, on which connections wait.
    pub fn longest(&self, key: &str) -> u64 {
        self.pool(key).last().copied().unwrap_or(0)
    }
}

/// `3` for `in_use` in a line such as `… in_use=3 free=1 …`.
fn number(line: &str, key: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}
