//! Each of the two processes fails at each step in every way. Before the commit the predecessor
//! continues to serve; after it the successor serves.

use crate::witnesses::{Scene, Store};

/// The points of the successor before it takes the token, and the step that fails.
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

/// Faults that end the successor, and the message.
const ENDS: [(&str, &str); 2] = [
    ("abort", "the successor ended (signal: 6 (SIGABRT)"),
    (
        "kill",
        "the successor was killed (SIGKILL), or said no more",
    ),
];

/// Other faults of the successor, and the message.
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
fn invalid_messages_of_the_predecessor_are_refused() {
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
            "the file with the state lacks a seal",
        ),
    ] {
        for point in points {
            scene.have(&format!("predecessor:{point} {fault}"));
            scene.expect_rollback("rolled back at ", why);
        }
    }
    scene.end();
}

/// The successor ends by itself, or the predecessor kills it.
#[test]
fn a_predecessor_continues_after_its_channel_is_shut() {
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
        // The limit of each step is short. Only before the last point the successor needs time.
        let (late, deadline) = match step {
            "freeze" => ("the successor did not take over in time", ""),
            "pre-copy" => ("the state was not copied in time", "deadline:pre-copy 100"),
            _ => (
                "the successor was not ready in time",
                "deadline:prepare 100",
            ),
        };
        scene.have(&format!("successor:{point} hang\n{deadline}"));
        // A successor that is slow before the fault fails in the same way.
        scene.expect_rollback("rolled back at ", late);
    }
    scene.end();
}

/// The points from the start of the successor to the message with the token.
const BEFORE_THE_TOKEN: [&str; 9] = [
    "spawn", "spawned", "greeted", "ready", "shared", "batch-1", "batch-2", "quiesce", "freeze",
];

#[test]
fn a_predecessor_that_is_killed_before_the_freeze_leaves_no_process() {
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
fn a_successor_with_the_token_serves_after_any_fault_of_the_predecessor() {
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

/// The token is taken, so the predecessor does not serve again: if the successor was only slow,
/// there would be two servers.
#[test]
fn a_successor_that_fails_after_the_commit_is_reported_as_lost() {
    for (fault, why) in [
        ("abort", "ended (signal: 6 (SIGABRT)"),
        ("kill", "ended (signal: 9 (SIGKILL)); no process serves"),
        ("close", "closed the channel; check whether it serves"),
        // Long enough for a take-over, and short for the test.
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

/// The successor has confirmed that it serves: this is like a crash a day later.
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
