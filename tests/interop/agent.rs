//! Builds the Go agent, once for all tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use hawk_testkit::skip;

/// Returns the path of the built agent. `None`, with a line on stderr: Go is not installed.
pub(crate) fn built() -> Option<&'static Path> {
    static AGENT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let agent = AGENT.get_or_init(|| has_go().then(build)).as_deref();
    if agent.is_none() {
        skip("Go is not installed, nothing was tested against it (Debian: golang-go)");
    }
    agent
}

fn has_go() -> bool {
    Command::new("go")
        .arg("version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn build() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/agent");
    let agent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop-agent");
    let output = Command::new("go")
        .args(["build", "-o"])
        .arg(&agent)
        .arg(".")
        .current_dir(source)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "go build: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    agent
}
