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

#[test]
fn one_with_other_sockets_or_another_store_changes_nothing() {
    let mut dynasty = Dynasty::start(&[]);
    let mut agent = dynasty.connect();
    agent.expect_alive();
    let binary = dynasty.folder().join("hawk");
    let hawk = env!("CARGO_BIN_EXE_hawk");
    let store = dynasty.store();
    for (environment, why) in [
        (
            "unset HAWK_CONTROL".to_owned(),
            "rolled back at pre-copy: the predecessor has a control socket, and this process \
             has none",
        ),
        (
            format!(
                "for it; do shift; [ \"$it\" = none ] && it={}; set -- \"$@\" \"$it\"; done",
                store.display()
            ),
            "rolled back at prepare: cannot use the store",
        ),
    ] {
        let script = format!("#!/bin/sh\n{environment}\nexec {hawk} \"$@\"\n");
        fs::write(&binary, script).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        dynasty.expect_refusal(&["--binary", binary.to_str().unwrap()], why);
        agent.expect_alive();
    }
    assert!(!store.exists(), "nobody makes a store before the commit");
    dynasty.upgrade(&[]);
    agent.expect_alive();
    dynasty.stop();
}
