//! One of the two processes fails, at each step and in every way. Before the commit the
//! first goes on as if nothing had happened; after it, the second.

use crate::witnesses::{Scene, Store};

/// Where a successor can fail before it has taken the token, and the step that this ends.
const BEFORE_THE_COMMIT: [(&str, &str); 10] = [
    ("greeted", "hello"),
    ("hello", "prepare"),
    ("ready", "prepare"),
    ("shared", "pre-copy"),
    ("batch-1", "pre-copy"),
    ("ack-1", "pre-copy"),
    ("batch-2", "pre-copy"),
    ("ack-2", "pre-copy"),
    ("freeze", "freeze"),
    ("commit", "freeze"),
];

/// How it ends there, and what is told of it.
const ENDS: [(&str, &str); 2] = [
    ("abort", "the successor ended (signal: 6 (SIGABRT)"),
    (
        "kill",
        "the successor was killed (SIGKILL), or said no more",
    ),
];

/// What it does there instead of what is due, and what is told of it.
const WORDS: [(&str, &str); 3] = [
    ("rubbish", "a message from the other process is invalid"),
    ("untimely", "the message Ack is not allowed"),
    (
        "close",
        "the successor was killed (SIGKILL), or said no more",
    ),
];

#[test]
fn a_successor_that_ends_before_the_commit_changes_nothing() {
    expect_rollbacks(Store::None, &ENDS);
}

#[test]
fn a_successor_that_ends_before_the_commit_changes_nothing_in_a_store() {
    expect_rollbacks(Store::File, &ENDS);
}

#[test]
fn a_successor_that_talks_nonsense_changes_nothing() {
    expect_rollbacks(Store::None, &WORDS);
}

#[test]
fn a_successor_that_talks_nonsense_changes_nothing_in_a_store() {
    expect_rollbacks(Store::File, &WORDS);
}

fn expect_rollbacks(store: Store, faults: &[(&str, &str)]) {
    let mut scene = Scene::set(store);
    for (point, step) in BEFORE_THE_COMMIT {
        for (fault, why) in faults {
            scene.have(&format!("successor:{point} {fault}"));
            scene.expect_rollback(&format!("rolled back at {step}: "), why);
        }
    }
    scene.end();
}

#[test]
fn a_predecessor_that_talks_nonsense_is_refused() {
    let mut scene = Scene::set(Store::File);
    for (points, fault, why) in [
        (
            ["greeted", "batch-2", "freeze"],
            "rubbish",
            "a message from the other process is invalid",
        ),
        (
            ["greeted", "batch-2", "freeze"],
            "untimely",
            "the message Stop is not allowed",
        ),
        (
            ["batch-1", "batch-2", "freeze"],
            "damaged",
            "a snapshot is damaged: it is no snapshot",
        ),
        (
            ["batch-1", "batch-2", "freeze"],
            "unsealed",
            "the file with the state has not the seals it should have",
        ),
    ] {
        for point in points {
            scene.have(&format!("predecessor:{point} {fault}"));
            scene.expect_rollback("rolled back at ", why);
        }
    }
    scene.end();
}

/// Its own successor knows nothing better than to end, by itself or by it.
#[test]
fn a_predecessor_whose_line_is_shut_goes_on() {
    let mut scene = Scene::set(Store::File);
    for point in ["greeted", "ready", "batch-2", "quiesce", "freeze"] {
        scene.have(&format!("predecessor:{point} close"));
        scene.expect_rollback("rolled back at ", "the successor ");
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
            "pre-copy" => ("the state was not copied in time", "deadline:pre-copy 100"),
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

/// From the start of the successor to the message that gives the token away.
const BEFORE_THE_TOKEN: [&str; 9] = [
    "spawn", "spawned", "greeted", "ready", "shared", "batch-1", "batch-2", "quiesce", "freeze",
];

#[test]
fn a_predecessor_that_is_killed_before_the_freeze_leaves_nobody() {
    for store in [Store::None, Store::File] {
        for point in BEFORE_THE_TOKEN {
            let scene = Scene::set(store);
            scene.have(&format!("predecessor:{point} kill"));
            scene.expect_end_of_all();
        }
    }
}

#[test]
fn a_predecessor_that_hangs_is_left() {
    let scene = Scene::set(Store::File);
    scene.have("predecessor:spawned hang\ndeadline:patience 100");
    scene.expect_to_be_given_up("the predecessor has sent nothing for 90 s");
}

#[test]
fn a_successor_serves_whatever_becomes_of_a_predecessor_that_gave_the_token_away() {
    for store in [Store::None, Store::File] {
        for (point, fault) in [
            ("frozen", "kill"),
            ("frozen", "abort"),
            ("frozen", "hang"),
            ("token", "kill"),
            ("token", "hang"),
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
        ("kill", "ended (signal: 9 (SIGKILL)); no process serves"),
        ("close", "closed the channel; check whether it serves"),
        // That is long enough to take over, and short enough to wait for.
        (
            "hang\ndeadline:freeze 5000",
            "did not confirm within 5 s; check whether it serves",
        ),
        ("rubbish", "sent an invalid answer; check whether it serves"),
        (
            "untimely",
            "sent an invalid answer; check whether it serves",
        ),
    ] {
        let scene = Scene::set(Store::File);
        scene.have(&format!("successor:taken {fault}"));
        scene.expect_loss(why);
    }
}

/// It has said that it serves, and so it is told: this is as if it failed a day later.
#[test]
fn a_successor_that_fails_before_its_first_turn_has_succeeded() {
    for store in [Store::None, Store::File] {
        for fault in ["kill", "abort"] {
            let scene = Scene::set(store);
            scene.have(&format!("successor:committed {fault}"));
            scene.expect_a_short_reign();
        }
    }
}
