//! The guest's output as figures.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context as _;
use serde::Deserialize;

use crate::guest::Section;

/// All figures of a run.
pub(crate) struct Account {
    /// The kernel and its limits, a line each.
    pub(crate) machine: Vec<String>,
    /// Before the first connection.
    pub(crate) start: Sample,
    /// After each stage.
    pub(crate) stages: Vec<Sample>,
    /// Before all have their second heartbeat, and after it.
    pub(crate) before: Sample,
    pub(crate) second: Sample,
    /// After the silent connections were closed.
    pub(crate) held: Statistics,
    /// After all connections were closed.
    pub(crate) left: Sample,
    /// The figures of each load client.
    pub(crate) tables: Vec<Table>,
    /// How the clients and the server ended.
    pub(crate) ends: Vec<String>,
    /// Warnings and errors of the server's log.
    pub(crate) log: Vec<String>,
}

/// The machine at one moment. Memory is in bytes.
pub(crate) struct Sample {
    pub(crate) statistics: Statistics,
    /// The server's resident memory, and its own part, without the binary and libraries.
    pub(crate) resident: f64,
    pub(crate) own: f64,
    /// Nanoseconds that the event loop has run.
    pub(crate) cpu: f64,
    /// The kernel's memory.
    pub(crate) kernel: f64,
    pub(crate) available: f64,
    /// The kernel's objects by the name of their cache.
    pub(crate) objects: BTreeMap<String, Objects>,
}

/// Objects of one kind.
#[derive(Clone, Copy, Default)]
pub(crate) struct Objects {
    pub(crate) count: f64,
    /// Bytes of one object, with its share of the unused part of its page.
    pub(crate) size: f64,
}

/// The server's statistics.
pub(crate) struct Statistics(Vec<String>);

/// The fields used here of the file that `hawk load --json` writes.
#[derive(Deserialize)]
pub(crate) struct Table {
    pub(crate) idle: u64,
    pub(crate) sent: Frames,
    pub(crate) answered: u64,
    pub(crate) errors: Vec<ErrorCount>,
    pub(crate) client: Client,
    pub(crate) passed: bool,
}

#[derive(Deserialize)]
pub(crate) struct Frames {
    pub(crate) heartbeats: u64,
}

#[derive(Deserialize)]
pub(crate) struct ErrorCount {
    fault: String,
    cause: String,
    count: u64,
}

#[derive(Deserialize)]
pub(crate) struct Client {
    pub(crate) peak_memory_bytes: f64,
}

impl fmt::Display for ErrorCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.count, self.fault, self.cause)
    }
}

impl Account {
    /// Parses the figures from the guest's output.
    ///
    /// # Errors If a part is missing or invalid.
    pub(crate) fn read(sections: &[Section]) -> anyhow::Result<Self> {
        let lines = |title: &str| {
            let section = sections.iter().find(|section| section.title == title);
            section
                .map(|section| section.lines.clone())
                .with_context(|| format!("the guest does not tell: {title}"))
        };
        let sample = |name: &str| -> anyhow::Result<Sample> {
            let statistics = lines(&format!("statistics {name}"))?;
            Sample::read(&lines(&format!("sample {name}"))?, statistics)
                .with_context(|| format!("sample {name}"))
        };
        let titles = |start: &'static str| {
            let titles = sections.iter().map(|section| section.title.as_str());
            titles.filter_map(move |title| title.strip_prefix(start))
        };
        let stages = titles("sample ").filter(|name| name.parse::<u64>().is_ok());
        let table = |name: &str| -> anyhow::Result<Table> {
            let text = lines(&format!("table {name}"))?.join("\n");
            serde_json::from_str(&text).with_context(|| format!("table {name}"))
        };
        let ends = titles("load ended ").map(|end| format!("load ended {end}"));
        let ends = ends.chain(titles("server ended ").map(|end| format!("server ended {end}")));
        Ok(Self {
            machine: lines("machine")?,
            start: sample("start")?,
            stages: stages.map(sample).collect::<Result<_, _>>()?,
            before: sample("before")?,
            second: sample("second")?,
            held: Statistics(lines("statistics held")?),
            left: sample("left")?,
            tables: titles("table ").map(table).collect::<Result<_, _>>()?,
            ends: ends.collect(),
            log: lines("log")?,
        })
    }
}

impl Sample {
    fn read(lines: &[String], statistics: Vec<String>) -> anyhow::Result<Self> {
        let amount = |name: &str| {
            let mut values = lines.iter().filter_map(|line| line.strip_prefix(name));
            let value = values
                .next()
                .and_then(|rest| rest.split_whitespace().next());
            value
                .and_then(|value| value.parse::<f64>().ok())
                .with_context(|| format!("no {name}"))
        };
        let memory = |name: &str| amount(name).map(|kibibytes| kibibytes * 1024.0);
        let user = memory("AnonPages:")? + memory("Cached:")? + memory("Buffers:")?;
        Ok(Self {
            statistics: Statistics(statistics),
            resident: memory("VmRSS:")?,
            own: memory("RssAnon:")?,
            cpu: amount("cpu ")?,
            kernel: memory("MemTotal:")? - memory("MemFree:")? - user,
            available: memory("MemAvailable:")?,
            objects: lines.iter().filter_map(|line| objects(line)).collect(),
        })
    }

    /// Connections that the server has.
    pub(crate) fn connections(&self) -> f64 {
        self.statistics.figure("connections")
    }
}

/// A line of `/proc/slabinfo`: name, objects in use, objects, size, objects in a slab,
/// pages of a slab.
fn objects(line: &str) -> Option<(String, Objects)> {
    let (name, rest) = line.split_once(char::is_whitespace)?;
    let numbers: Vec<f64> = rest
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    let [count, _, _, in_slab, pages] = numbers[..] else {
        return None;
    };
    let size = pages * 4096.0 / in_slab;
    Some((name.to_owned(), Objects { count, size }))
}

impl Statistics {
    /// Returns a number; 0 if it is not listed, like causes that did not occur.
    pub(crate) fn get(&self, key: &str) -> u64 {
        let line = self.0.iter().find(|line| line.contains("] stats "));
        let words = line.into_iter().flat_map(|line| line.split(' '));
        let mut values = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        values.find_map(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Returns the same as a float.
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    pub(crate) fn figure(&self, key: &str) -> f64 {
        self.get(key) as f64
    }

    /// Receive buffers in use.
    pub(crate) fn buffers(&self) -> u64 {
        let lines = self.0.iter().filter(|line| line.contains("] pool class="));
        let words = lines.flat_map(|line| line.split(' '));
        let values = words.filter_map(|word| word.strip_prefix("in_use=")?.parse::<u64>().ok());
        values.sum()
    }

    /// Known agents.
    pub(crate) fn agents(&self) -> u64 {
        let words = self.0.iter().flat_map(|line| line.split(' '));
        let mut known = words.filter_map(|word| word.strip_prefix("known="));
        known.find_map(|value| value.parse().ok()).unwrap_or(0)
    }
}
