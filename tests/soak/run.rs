//! One run: the server, its agents, its readers, and the results.

use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::samples::Sample;
use hawk_testkit::bench::process;
use hawk_testkit::store_file::*;
use hawk_testkit::*;

/// The settings of a run.
pub(crate) struct Plan {
    /// How long the agents send frames.
    pub(crate) length: Duration,
    /// Reports a second of all good agents together.
    pub(crate) rate: &'static str,
    /// Further options of the server.
    pub(crate) limits: &'static [&'static str],
}

/// Connections of all agents, and of those that misbehave.
const CONNECTIONS: &str = "60";
const CHAOTIC: &str = "40";

/// Connections that the server takes: half of those that misbehave.
pub(crate) const TAKEN: u64 = 40;

/// Memory for receive buffers: 14 of the longest class.
const POOL: &str = "1MiB";

/// How long a reply may take: only a hanging server takes longer.
const REPLY_TIMEOUT: &str = "60s";

/// Rows of the printed table.
const ROWS: u32 = 30;

/// The results of a run.
pub(crate) struct Soak {
    pub(crate) samples: Vec<Sample>,
    /// Files that the server has open before the first agent and after the last.
    pub(crate) files: [usize; 2],
    /// The server's statistics when all agents are gone.
    pub(crate) last: Stats,
    /// The figures of the load client.
    pub(crate) client: Client,
    /// Lines of the server's log without statistics, and its exit status.
    pub(crate) log: Vec<String>,
    pub(crate) exit: Option<i32>,
    pub(crate) stored: Stored,
    pub(crate) length: Duration,
}

/// Rows of the store.
pub(crate) struct Stored {
    pub(crate) reports: u64,
    /// Reports of agents without a name, the good agents.
    pub(crate) of_good_agents: u64,
}

/// The fields used here of the file that `hawk load --json` writes.
#[derive(Deserialize)]
pub(crate) struct Client {
    pub(crate) passed: bool,
    pub(crate) answered: u64,
    pub(crate) sent: Sent,
    pub(crate) chaos: Chaos,
}

#[derive(Deserialize)]
pub(crate) struct Sent {
    pub(crate) reports: u64,
    pub(crate) heartbeats: u64,
}

#[derive(Deserialize)]
pub(crate) struct Chaos {
    pub(crate) conducts: Vec<Conduct>,
}

#[derive(Deserialize)]
pub(crate) struct Conduct {
    pub(crate) lives: u64,
}

pub(crate) fn run(plan: &Plan) -> Soak {
    let store_file = StoreFile::new();
    let taken = TAKEN.to_string();
    let limits = ["--max-connections", &taken, "--pool-limit", POOL];
    let server = store_file.serve(&[&limits, plan.limits].concat());
    let pid = server.pid().as_raw_pid().unsigned_abs();
    let files_at_first = process::open_files(pid).unwrap();

    let figures = store_file.folder().join("load.json");
    let (address, length) = (server.address.to_string(), plan.length.as_millis());
    let length = format!("{length}ms");
    let mut client = Launch::hawk(&[
        "load",
        &address,
        "--connections",
        CONNECTIONS,
        "--chaos",
        CHAOTIC,
        // One address may have half of the places.
        "--sources",
        "16",
        "--rate",
        plan.rate,
        "--duration",
        &length,
        "--reply-timeout",
        REPLY_TIMEOUT,
        "--json",
        figures.to_str().unwrap(),
    ])
    .spawn();
    let samples = watch(plan, &store_file, &server, pid, &client);
    let ended = client.wait_exit();
    eprintln!("\n{}", ended.stdout.join("\n"));
    let client = std::fs::read(&figures).map(|text| serde_json::from_slice(&text).unwrap());
    let client = client.unwrap_or_else(|_| panic!("the load did not take place: {ended:#?}"));

    let last = server.wait_until(|stats| stats.get("connections") == 0 && no_buffer(stats));
    // A socket is closed a moment after it has left the table.
    let same = || Some(process::open_files(pid).unwrap()).filter(|files| *files == files_at_first);
    let files_at_last = eventually(same).unwrap_or_else(|| process::open_files(pid).unwrap());
    server.signal(rustix::process::Signal::TERM);
    let exit = server.wait_exit();
    store_file.expect_sound();
    let is_statistic = |line: &String| STATISTICS.iter().any(|head| line.contains(head));
    Soak {
        samples,
        files: [files_at_first, files_at_last],
        last,
        client,
        log: exit
            .stderr
            .into_iter()
            .filter(|it| !is_statistic(it))
            .collect(),
        exit: exit.code,
        stored: Stored::in_(&store_file),
        length: plan.length,
    }
}

/// Words by which lines of the statistics are recognised.
const STATISTICS: [&str; 4] = [
    "] stats connections=",
    "] agents known=",
    "] store state=",
    "] pool class=",
];

pub(crate) fn no_buffer(stats: &Stats) -> bool {
    stats.in_use().iter().all(|buffers| *buffers == 0)
}

/// Takes a sample at each progress line of the client, once a second, until its last.
fn watch(
    plan: &Plan,
    store_file: &StoreFile,
    server: &Server,
    pid: u32,
    client: &Process,
) -> Vec<Sample> {
    let start = Instant::now();
    let (mut samples, mut mark, mut next_row) = (Vec::new(), 0, Duration::ZERO);
    eprintln!("{}", Sample::HEAD);
    while let Some((_, behind)) = client.stderr.find(mark, |line| line.contains("answered ")) {
        mark = behind;
        let at = start.elapsed();
        let stats = server.stats();
        let sample = Sample::take(at, pid, stats, &store_file.store());
        if at >= next_row {
            next_row = at + plan.length / ROWS;
            eprintln!("{sample}");
            read_the_store(store_file);
        }
        samples.push(sample);
    }
    samples
}

/// Reads the store like other programs.
fn read_the_store(store_file: &StoreFile) {
    for command in [&["agents"][..], &["reports", "--last", "1000"]] {
        let exit = store_file.read(command).run();
        assert_eq!(exit.code, Some(0), "{exit:?}");
    }
}

impl Stored {
    fn in_(store_file: &StoreFile) -> Self {
        let count = |query| u64::try_from(store_file.column::<i64>(query)[0]).unwrap();
        Self {
            reports: count("SELECT count(*) FROM reports"),
            of_good_agents: count(
                "SELECT count(*) FROM reports JOIN agents ON id = agent WHERE name IS NULL",
            ),
        }
    }
}
