//! Lines of another process, collected as they come.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// The lines that a pipe has brought so far.
#[derive(Clone, Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    /// The pipe is left alone.
    held: bool,
    ended: bool,
}

impl Lines {
    /// Reads `pipe` on a thread of its own, to its end.
    pub fn collect(pipe: impl Read + Send + 'static) -> Self {
        let lines = Self::collect_later(pipe);
        lines.go_on();
        lines
    }

    /// The same, but only from [`go_on`](Self::go_on) on.
    pub fn collect_later(pipe: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        shared.lock().held = true;
        let collector = Arc::clone(&shared);
        std::thread::spawn(move || {
            let held = collector
                .changed
                .wait_while(collector.lock(), |state| state.held);
            drop(held);
            for line in BufReader::new(pipe).lines() {
                let Ok(line) = line else { break };
                collector.lock().lines.push(line);
                collector.changed.notify_all();
            }
            collector.lock().ended = true;
            collector.changed.notify_all();
        });
        Self(shared)
    }

    /// Begins to read.
    pub fn go_on(&self) {
        self.0.lock().held = false;
        self.0.changed.notify_all();
    }

    /// How many there are by now: a mark from which to look on.
    pub fn count(&self) -> usize {
        self.0.lock().lines.len()
    }

    /// Returns the lines received after `mark` so far.
    pub fn since(&self, mark: usize) -> Vec<String> {
        self.0.lock().lines[mark..].to_vec()
    }

    /// Waits for a line after `mark` that fits, and returns it and the mark
    /// behind it.
    #[track_caller]
    pub fn wait_for(&self, mark: usize, fits: impl Fn(&str) -> bool) -> (String, usize) {
        self.wait_for_within(PATIENCE, mark, fits)
    }

    /// As [`wait_for`](Self::wait_for); `None` when the pipe has ended without it.
    #[track_caller]
    pub fn find(&self, mark: usize, fits: impl Fn(&str) -> bool) -> Option<(String, usize)> {
        let found = self.wait(PATIENCE, |state| find(state, mark, &fits));
        let ended = found.is_some() || self.0.lock().ended;
        assert!(
            ended,
            "neither the line that was waited for nor an end:\n{self}"
        );
        found
    }

    /// As [`wait_for`](Self::wait_for), with a patience of its own.
    #[track_caller]
    pub fn wait_for_within(
        &self,
        patience: Duration,
        mark: usize,
        fits: impl Fn(&str) -> bool,
    ) -> (String, usize) {
        let found = self.wait(patience, |state| find(state, mark, &fits));
        found.unwrap_or_else(|| panic!("the line that was waited for is not in:\n{self}"))
    }

    /// Waits for the pipe's end; all of its lines.
    #[track_caller]
    pub fn wait_end(&self) -> Vec<String> {
        let all = self.wait(PATIENCE, |state| state.ended.then(|| state.lines.clone()));
        all.unwrap_or_else(|| panic!("the process is still there; it said:\n{self}"))
    }

    /// Waits until `look` finds something, the pipe ends or `patience` does.
    fn wait<T>(&self, patience: Duration, look: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut state = self.0.lock();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match look(&state) {
                Some(found) => return Some(found),
                None if state.ended || left.is_zero() => return None,
                None => state = self.0.changed.wait_timeout(state, left).unwrap().0,
            }
        }
    }
}

/// The first line after `mark` that fits, and the mark behind it.
fn find(state: &State, mark: usize, fits: impl Fn(&str) -> bool) -> Option<(String, usize)> {
    let later = state.lines.iter().enumerate().skip(mark);
    let mut fitting = later.filter(|(_, line)| fits(line));
    fitting
        .next()
        .map(|(index, line)| (line.clone(), index + 1))
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.lock();
        state
            .lines
            .iter()
            .try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

/// The `key=value` pairs of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    pub fn parse(line: &str) -> Self {
        let pairs = line.split(' ').filter_map(|word| word.split_once('='));
        Self(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    /// The number under `key`. Causes that never occurred are not listed, so
    /// what is missing is zero.
    #[track_caller]
    pub fn get(&self, key: &str) -> u64 {
        self.0
            .get(key)
            .map_or(0, |value| value.parse().expect("a whole number"))
    }

    /// The text under `key`, which is there.
    #[track_caller]
    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).expect("the key is there")
    }

    /// Returns the sum of all numbers with a key that begins with `prefix`.
    pub fn sum(&self, prefix: &str) -> u64 {
        let keys = self.0.keys().filter(|key| key.starts_with(prefix));
        keys.map(|key| self.get(key)).sum()
    }

    /// Without the keys that end in `suffix`.
    pub fn without(mut self, suffix: &str) -> Self {
        self.0.retain(|key, _| !key.ends_with(suffix));
        self
    }
}
