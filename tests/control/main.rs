//! The control socket: the real server, asked by the real client.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows them in tests, but does not see helpers as such"
)]

mod socket;
mod statistics;

use std::path::PathBuf;

use tempfile::TempDir;

use hawk_testkit::*;

/// A folder for a control socket.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// `hawk serve` with `args` and its control socket here.
    fn launch(&self, args: &[&str]) -> Launch {
        Launch::serve(args).env("HAWK_CONTROL", self.path().to_str().unwrap())
    }

    #[track_caller]
    fn serve(&self, args: &[&str]) -> Server {
        self.launch(args).start()
    }

    /// `hawk stats` with `args`, asking here.
    fn stats(&self, args: &[&str]) -> Launch {
        let path = self.path();
        let ask = ["stats", "--control", path.to_str().unwrap()];
        Launch::hawk(&[&ask, args].concat())
    }
}
