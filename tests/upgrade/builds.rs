//! Other builds of hawk, made by the tests from the same source, with another version and other
//! formats of snapshots.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// A build that is not the one under test.
#[derive(Debug)]
pub(crate) struct Build {
    /// The version.
    pub(crate) stamp: &'static str,
    /// The formats of snapshots, as in the variable.
    formats: &'static str,
    binary: OnceLock<PathBuf>,
}

/// The next build: it has the format of the build under test, and another.
pub(crate) static NEXT: Build = Build::new("test-next", "1-2");

/// The build after that, without the format of the build under test.
pub(crate) static AFTER_NEXT: Build = Build::new("test-after-next", "2");

impl Build {
    const fn new(stamp: &'static str, formats: &'static str) -> Self {
        Self {
            stamp,
            formats,
            binary: OnceLock::new(),
        }
    }

    /// Its program, which is made when it is asked for. It has a target folder of its own
    /// that is kept, so that the next run of the tests makes anew what has changed and no
    /// more. Of several processes that make it at once, cargo lets one wait for the other.
    #[track_caller]
    pub(crate) fn binary(&self) -> &str {
        let binary = self.binary.get_or_init(|| self.make());
        binary.to_str().unwrap()
    }

    #[track_caller]
    fn make(&self) -> PathBuf {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(self.stamp);
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let made = Command::new(cargo)
            .args(["build", "--bin", "hawk", "--locked", "--offline"])
            .arg("--target-dir")
            .arg(&folder)
            .env("HAWK_TEST_BUILD_STAMP", self.stamp)
            .env("HAWK_TEST_SNAPSHOT_VERSION", self.formats)
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("cargo starts");
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{} is not made:\n{said}", self.stamp);
        folder.join("debug/hawk")
    }
}
