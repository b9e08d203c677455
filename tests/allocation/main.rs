//! In the steady state the event loop allocates no memory for a frame, from its bytes on
//! the socket to its reply, for any cut of the stream. The whole server runs in this
//! process, with real sockets and an allocator that counts for each thread.
//!
//! Only the event loop's thread is counted; the writer's thread runs a transaction for each
//! batch.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows them in tests, but does not see helpers as such"
)]

mod rig;
mod script;

use std::hint::black_box;
use std::time::Duration;

use hawk::session::{Answer, Handler, Sender, Tag};
use hawk::store::{Retention, Store};
use hawk_wire::{Packet, Reply};

use hawk_testkit::PATIENCE;
use hawk_testkit::in_process::packet_handler;
use rig::Rig;
use script::{COSTLY, Script};

#[test]
fn no_frame_allocates() {
    let script = Script::of_all_kinds();
    let mut rig = Rig::new(packet_handler());
    // Until all buffers have their final size.
    rig.play(&script);
    for _ in 0..3 {
        let played = rig.play(&script);
        assert_eq!(played.frames, script.frames() as u64);
        assert_eq!(played.allocations, 0, "{played:?}");
    }
}

/// The number of reports in a batch, and so its size, depends on how long the disk took for
/// the last one. So the script is repeated until the counts are steady, at most this often.
/// A cost of one frame in a thousand would show each time.
const UNTIL_STEADY: usize = 30;

#[test]
fn no_frame_allocates_with_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("hawk.db")).unwrap();
    let retention = Retention {
        age: Duration::from_secs(3600),
        size: 1 << 30,
        ..Retention::UNLIMITED
    };
    let mut handler = packet_handler();
    handler.store_in(store.start(retention).unwrap());
    let script = Script::of_all_kinds();
    let mut rig = Rig::new(handler);
    let mut counts = Vec::new();
    while counts.last() != Some(&0) {
        assert!(counts.len() < UNTIL_STEADY, "never steady: {counts:?}");
        let played = rig.play(&script);
        assert_eq!(played.frames, script.frames() as u64);
        counts.push(played.allocations);
    }
    rig.into_handler().finish(PATIENCE, PATIENCE).unwrap();
}

/// Allocates once for each packet, and stores no report.
struct Wasteful;

impl Handler for Wasteful {
    fn handle(&mut self, _: Sender<'_>, _: &mut Option<Tag>, packet: &Packet<'_>) -> Answer {
        drop(black_box(Box::new(0_u8)));
        Answer::Now(match packet {
            Packet::Heartbeat(_) => Reply::Heartbeat,
            Packet::Report(_) => Reply::Report,
        })
    }
}

#[test]
fn an_allocation_for_each_packet_would_be_seen() {
    let script = Script::of_all_kinds();
    let mut rig = Rig::new(Wasteful);
    rig.play(&script);
    let played = rig.play(&script);
    assert_eq!(played.frames, script.frames() as u64);
    assert!(played.packets > 1_000, "{played:?}");
    assert_eq!(played.allocations, played.packets);
}

#[test]
fn only_text_that_must_be_copied_allocates_a_little() {
    let mut rig = Rig::new(packet_handler());
    for (name, frame, reply, most) in COSTLY {
        let script = Script::repeat(&(frame(), reply), 100);
        rig.play(&script);
        let played = rig.play(&script);
        let each = played.allocations / played.frames;
        assert_eq!(played.allocations, each * played.frames, "{name}");
        assert!((1..=most).contains(&each), "{each} for {name}");
    }
}
