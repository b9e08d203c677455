//! The server's statistics, read back from its log.

use super::lines::{Fields, Lines};

/// Sizes of the pool's buffers, shortest first.
pub const CLASSES: [u64; 5] = [256, 1024, 4096, 16_384, 69_632];

/// One dump of the statistics: the server's line and one per class.
#[derive(Clone, Debug)]
pub struct Stats {
    pub server: Fields,
    pub agents: Fields,
    /// `None`: the server stores nothing.
    pub store: Option<Fields>,
    /// `None`: it runs no command on events.
    pub hook: Option<Fields>,
    /// `None`: it runs no command on gathered events.
    pub events: Option<Fields>,
    pub pool: Vec<Fields>,
}

impl Stats {
    /// Waits for a whole dump after `mark`.
    #[track_caller]
    pub fn wait_for(log: &Lines, mark: usize) -> Self {
        let (line, mut mark) = log.wait_for(mark, is_server_line);
        let (agents, behind) = log.wait_for(mark, |line| line.contains("] agents known="));
        let mut pool = Vec::new();
        for size in CLASSES {
            let (line, behind) = log.wait_for(mark, |line| is_class_line(line, size));
            pool.push(Fields::parse(&line));
            mark = behind;
        }
        let rest = log.since(behind);
        let find = |head| rest.iter().find(|line| line.contains(head));
        let parse = |line: &String| Fields::parse(line);
        Self {
            server: Fields::parse(&line),
            agents: Fields::parse(&agents),
            store: find("] store state=").map(parse),
            hook: find("] hook running=").map(parse),
            events: find("] events running=").map(parse),
            pool,
        }
    }

    /// A number from the server's line.
    #[track_caller]
    pub fn get(&self, key: &str) -> u64 {
        self.server.get(key)
    }

    /// A number from the store's line.
    #[track_caller]
    pub fn store(&self, key: &str) -> u64 {
        self.store.as_ref().expect("it has a store").get(key)
    }

    /// A number from the line about commands on events.
    #[track_caller]
    pub fn hook(&self, key: &str) -> u64 {
        self.hook.as_ref().expect("it runs a command").get(key)
    }

    /// A number from the line about commands on gathered events.
    #[track_caller]
    pub fn events(&self, key: &str) -> u64 {
        self.events.as_ref().expect("it runs a command").get(key)
    }

    /// Buffers in use, per class.
    pub fn in_use(&self) -> Vec<u64> {
        self.pool.iter().map(|class| class.get("in_use")).collect()
    }

    /// A number of the longest class, which is the one with waiters.
    pub fn longest(&self, key: &str) -> u64 {
        self.pool.last().map_or(0, |class| class.get(key))
    }

    /// Connections that ended, whatever the cause.
    pub fn closed(&self) -> u64 {
        self.server.sum("closed_")
    }
}

/// Whether a log line is the server's line of the statistics.
pub(crate) fn is_server_line(line: &str) -> bool {
    line.contains("] stats connections=")
}

fn is_class_line(line: &str, size: u64) -> bool {
    line.contains(&format!("] pool class={size} "))
}
