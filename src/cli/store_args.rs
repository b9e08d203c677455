//! What the commands that use a store have in common.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::values::{self, StorePath};
use crate::store::Reader;
use hawk_time::UnixNanos;

/// Where the store is, unless the command line says otherwise.
pub(super) const DEFAULT_STORE: &str = "hawk.db";

/// The store that a command reads.
#[derive(Debug, Args)]
pub(super) struct StoreArgs {
    /// The store; a server may be writing it
    #[arg(long, env = "HAWK_STORE", value_name = "PATH", default_value = DEFAULT_STORE, value_parser = values::store_path)]
    store: StorePath,
}

impl StoreArgs {
    /// Opens the store, and says so on stderr if no server is writing it.
    pub(super) fn open(&self) -> anyhow::Result<Reader> {
        let StorePath::File(path) = &self.store else {
            bail!("there is no store to read in \"none\"; give --store PATH");
        };
        let reader = Reader::open(path.clone()).context("cannot read the store")?;
        let note = match reader.is_written() {
            Ok(true) => return Ok(reader),
            Ok(false) => match reader.last_seen()? {
                Some(last) => {
                    let ago = ago(UnixNanos::now(), last);
                    let last = last.to_seconds();
                    format!("no server is writing it; what it knows is of {last}, {ago} ago")
                }
                None => "no server is writing it".to_owned(),
            },
            Err(error) => format!("cannot tell whether a server is writing it: {error}"),
        };
        // Without stderr there is nobody to tell.
        writeln!(io::stderr(), "hawk: {}: {note}", path.display()).ok();
        Ok(reader)
    }
}

/// How long before `now` something was, in its two greatest units.
pub(super) fn ago(now: UnixNanos, then: UnixNanos) -> String {
    let seconds = Duration::from_secs(now.since(then).as_secs());
    let units = humantime::format_duration(seconds).to_string();
    units.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let start = UnixNanos::from_nanos(1);
        let ago = |seconds| ago(start.after(Duration::from_secs(seconds)), start);
        assert_eq!(ago(0), "0s");
        assert_eq!(ago(61), "1m 1s");
        assert_eq!(ago(3_661), "1h 1m");
        assert_eq!(ago(90_061), "1day 1h");
        let ahead = start.after(Duration::from_secs(5));
        assert_eq!(super::ago(start, ahead), "0s");
    }
}
