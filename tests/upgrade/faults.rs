//! One of the two processes fails, at each step and in every way. Before the commit the
//! first goes on as if nothing had happened; after it, the second.

use crate::witnesses::{Scene, Store};

/// Where a successor can fail before it has taken the token, and the step that this ends.
const BEFORE_THE_COMMIT: [(&str, &str); 7] = [
    ("greeted", "hello"),
    ("ready", "prepare"),
    ("shared", "pre-copy"),
    ("batch", "pre-copy"),
    ("ack", "pre-copy"),
    ("freeze", "freeze"),
    ("commit", "freeze"),
];

/// What it does there, and what is told of it.
const FAULTS: [(&str, &str); 4] = [
    ("abort", "the successor ended (signal: 6 (SIGABRT)"),
    (
        "kill",
        "the successor was killed (SIGKILL), or said no more",
    ),
    ("rubbish", "a message from the other process makes no sense"),
    ("untimely", "the message Ack is not due"),
];

#[test]
fn a_successor_that_fails_before_the_commit_changes_nothing() {
    expect_rollbacks(Store::None);
}

#[test]
fn a_successor_that_fails_before_the_commit_changes_nothing_in_a_store() {
    expect_rollbacks(Store::File);
}

fn expect_rollbacks(store: Store) {
    let mut scene = Scene::set(store);
    for (point, step) in BEFORE_THE_COMMIT {
        for (fault, why) in FAULTS {
            scene.have(&format!("successor:{point} {fault}"));
            scene.expect_rollback(&format!("rolled back at {step}: "), why);
        }
    }
    scene.end();
}

#[test]
fn a_predecessor_that_talks_nonsense_is_refused() {
    let mut scene = Scene::set(Store::File);
    for point in ["greeted", "batch", "freeze"] {
        for (fault, why) in [
            ("rubbish", "a message from the other process makes no sense"),
            ("untimely", "the message Stop is not due"),
        ] {
            scene.have(&format!("predecessor:{point} {fault}"));
            scene.expect_rollback("rolled back at ", why);
        }
    }
    scene.end();
}

#[test]
fn a_successor_that_hangs_before_the_commit_is_ended() {
    let mut scene = Scene::set(Store::File);
    for (point, step) in BEFORE_THE_COMMIT {
        // Each is ended in its time, which nobody waits for here. Only the last one does
        // the successor need for what is before the fault.
        let (late, deadline) = match step {
            "freeze" => ("the successor did not take over in time", ""),
            "pre-copy" => ("copying took too long", "deadline:pre-copy 100"),
            _ => (
                "the successor was not ready in time",
                "deadline:prepare 100",
            ),
        };
        scene.have(&format!("successor:{point} hang\n{deadline}"));
        // Where it is slow before the fault, it is the same as if it hung there already.
        scene.expect_rollback("rolled back at ", late);
    }
    scene.end();
}

#[test]
fn a_predecessor_that_is_killed_before_the_freeze_leaves_nobody() {
    for point in ["spawned", "greeted", "ready", "batch", "quiesce", "freeze"] {
        let scene = Scene::set(Store::File);
        scene.have(&format!("predecessor:{point} kill"));
        scene.expect_end_of_all();
    }
}

#[test]
fn a_successor_serves_whatever_becomes_of_a_predecessor_that_gave_the_token_away() {
    for store in [Store::None, Store::File] {
        for (point, fault) in [
            ("frozen", "kill"),
            ("frozen", "abort"),
            ("frozen", "hang"),
            ("handed-over", "kill"),
            ("handed-over", "hang"),
        ] {
            let mut scene = Scene::set(store);
            scene.have(&format!("predecessor:{point} {fault}"));
            scene.expect_succession_without_a_word();
            scene.end();
        }
    }
}

/// The token is taken, and so nobody goes back to the first: that would be two servers if
/// the second was only slow.
#[test]
fn a_successor_that_fails_after_the_commit_is_told_as_a_loss() {
    for (fault, why) in [
        ("abort", "ended (signal: 6 (SIGABRT)"),
        ("kill", "ended (signal: 9 (SIGKILL)); nobody serves"),
        ("hang", "said nothing for 5 s; see whether it serves"),
        ("rubbish", "went astray; see whether it serves"),
    ] {
        let scene = Scene::set(Store::File);
        scene.have(&format!("successor:taken {fault}"));
        scene.expect_loss(why);
    }
}
