//! Options of benchmarks that run servers on one core and load on another.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Setup, say, scratch};

/// What they have in common.
#[derive(Args)]
pub struct Pinned {
    /// How many turns each contestant or condition has [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Seconds of load in each turn, where nothing else is said [default: 4]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Two rounds of one second each: shows that everything runs, and no more
    #[arg(long)]
    quick: bool,
    /// The core that servers run on
    #[arg(long, default_value_t = 0)]
    server_core: u32,
    /// The core that load clients run on
    #[arg(long, default_value_t = 1)]
    load_core: u32,
    /// The build of hawk that serves
    #[arg(long, value_name = "PATH", default_value = crate::hawk_binary())]
    server: PathBuf,
    /// The build of hawk that generates the load
    #[arg(long, value_name = "PATH", default_value = crate::hawk_binary())]
    client: PathBuf,
    /// Write the figures to this file as well
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Given by `cargo bench`, and not by `cargo test`
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Pinned {
    /// Returns the setup of the benchmark of this name.
    pub fn setup(&self, name: &str) -> anyhow::Result<Setup> {
        Ok(Setup {
            rounds: self.rounds(),
            duration: Duration::from_secs(self.seconds().into()),
            server_core: Some(self.server_core),
            load_core: Some(self.load_core),
            server: self.server.clone(),
            client: self.client.clone(),
            scratch: scratch(name)?,
        })
    }

    /// Says what the figures of the report are.
    pub fn introduce(&self) {
        say!(
            "Median (least–greatest) of {} rounds of {} s; server on core {}, load on core {}.",
            self.rounds(),
            self.seconds(),
            self.server_core,
            self.load_core
        );
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { 1 } else { 4 })
    }
}
