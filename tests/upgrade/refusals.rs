//! Hand-overs that do not come about, after which the server serves on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::dynasty::Dynasty;

#[test]
fn a_binary_that_cannot_take_over_changes_nothing() {
    let mut dynasty = Dynasty::start(&[]);
    let mut agent = dynasty.connect();
    agent.expect_alive();
    let binary = dynasty.folder().join("hawk");
    let args = ["--binary", binary.to_str().unwrap()];
    dynasty.expect_refusal(&args, "rolled back at preflight: there is no binary at");
    fs::write(&binary, "#!/bin/sh\nexit 3\n").unwrap();
    dynasty.expect_refusal(&args, "is not executable");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    dynasty.expect_refusal(
        &args,
        "rolled back at hello: the successor ended (exit status: 3)",
    );
    fs::write(&binary, "no program at all").unwrap();
    dynasty.expect_refusal(&args, "rolled back at spawn: cannot start");
    agent.expect_alive();
    // None of them stands in the way of the next.
    dynasty.upgrade(&[]);
    agent.expect_alive();
    dynasty.stop();
}
