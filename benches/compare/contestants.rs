//! The contestants, and how each is started.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;

use crate::peers;
use hawk_testkit::bench::child::{Running, Wanted};
use hawk_testkit::bench::files::fresh;
use hawk_testkit::bench::redis::Redis;
use hawk_testkit::bench::servers::{self, Server, announced};
use hawk_testkit::bench::{Setup, note};

/// A server with one way to run it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contestant {
    /// `hawk serve --store none`
    Hawk,
    /// `hawk serve` with its store on a file, its writer on the same core
    HawkStore,
    /// A goroutine for each connection and each packet, as the original
    Goroutine,
    /// A codec on tokio, with hawk's own decoding
    Tokio,
    /// Redis, which answers `PING` to its own client
    Redis,
    /// The least work of any server of the protocol
    Floor,
}

impl Contestant {
    /// In the order of their turns.
    pub(crate) const ALL: &[Self] = &[
        Self::Hawk,
        Self::HawkStore,
        Self::Goroutine,
        Self::Tokio,
        Self::Redis,
        Self::Floor,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Hawk => "hawk",
            Self::HawkStore => "hawk, its store on a file",
            Self::Goroutine => "goroutine per packet",
            Self::Tokio => "tokio codec",
            Self::Redis => "Redis `PING`",
            Self::Floor => "floor: no JSON",
        }
    }
}

/// Redis stores nothing either. Its backlog is as long as hawk's.
const REDIS_SETTINGS: &[&str] = &["--save", "", "--appendonly", "no", "--tcp-backlog", "4096"];
const REDIS_REQUEST: &[&str] = &["-t", "ping_mbulk"];

/// The contestants of a run that could be built.
pub(crate) struct Field {
    goroutine: Option<PathBuf>,
    tokio: Option<PathBuf>,
    floor: Option<PathBuf>,
    pub(crate) redis: Option<Redis>,
    present: Vec<Contestant>,
    /// Missing programs, with the package of each.
    pub(crate) skipped: Vec<String>,
    /// The folder for stores.
    files: PathBuf,
}

/// A running contestant, with the files that are removed at its end.
pub(crate) struct Started {
    pub(crate) server: Server,
    /// Kept until the server has ended.
    pub(crate) files: Option<TempDir>,
}

impl Field {
    /// Builds the contestants of `wanted` that can be built; stores go to `files`.
    pub(crate) fn prepare(wanted: &[Contestant], files: &Path) -> anyhow::Result<Self> {
        let wants = |contestant| wanted.contains(&contestant);
        let mut field = Self {
            goroutine: None,
            tokio: None,
            floor: None,
            redis: None,
            present: Vec::new(),
            skipped: Vec::new(),
            files: files.to_owned(),
        };
        if wants(Contestant::Goroutine) {
            let built = peers::goroutine()?;
            field.goroutine = field.or_skipped(built);
        }
        if wants(Contestant::Redis) {
            let found = Redis::find(REDIS_SETTINGS, REDIS_REQUEST);
            field.redis = field.or_skipped(found);
        }
        if wants(Contestant::Tokio) || wants(Contestant::Floor) {
            let built = peers::rust()?;
            if let Some(programs) = field.or_skipped(built) {
                field.tokio = Some(programs.tokio);
                field.floor = Some(programs.floor);
            }
        }
        let is_there = |contestant| match contestant {
            Contestant::Hawk | Contestant::HawkStore => true,
            Contestant::Goroutine => field.goroutine.is_some(),
            Contestant::Tokio => field.tokio.is_some(),
            Contestant::Redis => field.redis.is_some(),
            Contestant::Floor => field.floor.is_some(),
        };
        field.present = Contestant::ALL
            .iter()
            .copied()
            .filter(|&contestant| wants(contestant) && is_there(contestant))
            .collect();
        Ok(field)
    }

    fn or_skipped<T>(&mut self, found: Result<T, String>) -> Option<T> {
        found
            .inspect_err(|missing| {
                note!("skipped: {missing}");
                self.skipped.push(missing.clone());
            })
            .ok()
    }

    /// Returns the contestants that can be started, in the order of their turns.
    pub(crate) fn present(&self) -> impl Iterator<Item = Contestant> {
        self.present.iter().copied()
    }

    /// Starts a [present](Self::present) contestant.
    pub(crate) fn start(&self, setup: &Setup, contestant: Contestant) -> anyhow::Result<Started> {
        let mut files = None;
        let server = match contestant {
            Contestant::Hawk => servers::hawk(setup, servers::NO_STORE)?,
            Contestant::HawkStore => {
                let folder = files.insert(fresh(&self.files)?);
                let store = folder.path().join("hawk.db");
                let store = store.to_str().context("the folder's name is no UTF-8")?;
                // Bounds the store: long frames would fill a disk.
                servers::hawk(setup, &["--store", store, "--retain-size", "256MiB"])?
            }
            Contestant::Goroutine => {
                start(setup, self.goroutine.as_deref(), &["-listen", ANY_PORT])?
            }
            Contestant::Tokio => start(setup, self.tokio.as_deref(), &[ANY_PORT])?,
            Contestant::Floor => start(setup, self.floor.as_deref(), &[ANY_PORT])?,
            Contestant::Redis => {
                let redis = self.redis.as_ref().context("there is no Redis")?;
                redis.start(setup, &setup.scratch)?
            }
        };
        Ok(Started { server, files })
    }
}

const ANY_PORT: &str = "127.0.0.1:0";

fn start(setup: &Setup, program: Option<&Path>, arguments: &[&str]) -> anyhow::Result<Server> {
    let program = program.context("this contestant is not built")?;
    announced(Running::start(
        setup.server_core,
        program,
        arguments,
        Wanted::Errors,
    )?)
}
