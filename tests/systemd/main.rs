//! hawk under the real systemd, as process 1 of an emulated machine: that of Debian 12,
//! with the unit for systemd before 253, and that of Debian 13, with the other. `make
//! test-systemd` runs it; docs/testing.md says what it shows.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod guest;

use std::time::Duration;

use self::guest::Guest;

/// How long a guest may take for all of it. Less than a minute on a machine that does nothing
/// else; only a failure ever takes as long.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// The checks that it makes: those of `tests/systemd/check`, with four for each reload.
const CHECKS: usize = 59;

/// What the guest says last.
const DONE: &str = "check: done";

#[test]
#[ignore = "takes minutes, and an emulator: make test-systemd"]
fn debian_12_has_the_unit_for_older_ones() {
    check("bookworm", "hawk-notify.service");
}

#[test]
#[ignore = "takes minutes, and an emulator: make test-systemd"]
fn debian_13_has_the_unit_that_waits_for_a_reload() {
    check("trixie", "hawk.service");
}

/// Boots a machine with the systemd of `release` and hawk as the service `unit`.
fn check(release: &str, unit: &str) {
    let guest = Guest::new(release, unit);
    let said = guest.run(DONE, PATIENCE);
    let (held, failed): (Vec<_>, Vec<_>) = said
        .iter()
        .filter(|line| line.starts_with("ok: ") || line.starts_with("failed: "))
        .partition(|line| line.starts_with("ok: "));
    eprintln!(
        "{release}: {} checks held, {} failed",
        held.len(),
        failed.len()
    );
    assert!(failed.is_empty(), "{}", said.join("\n"));
    // One that is left out says nothing.
    assert_eq!(held.len(), CHECKS, "{}", said.join("\n"));
}
