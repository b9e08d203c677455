//! Whole frames through a session: bytes in, reply lines out, and the agent noted
//! as alive. It is all that hawk does for a frame but for system calls and store.

use std::hint::black_box;

use hawk::session::{Progress, Session, SessionContext};
use hawk_time::Moment;
use hawk_wire::{Encoding, Input, Packet};

use super::Operation;
use super::packets::{LONG_CONTENT, frame, heartbeat, report};
use crate::in_process::packet_handler;

pub(crate) fn operations() -> Vec<Operation> {
    use Encoding::{Classic, Compact};
    vec![
        receive(
            "classic report",
            REPORTS,
            || (0..50).map(report).collect(),
            Classic,
        ),
        receive(
            "compact report",
            REPORTS,
            || (0..50).map(report).collect(),
            Compact,
        ),
        receive(
            "classic heartbeat",
            REPORTS,
            || vec![heartbeat(); 50],
            Classic,
        ),
        receive(
            "compact heartbeat",
            REPORTS,
            || vec![heartbeat(); 50],
            Compact,
        ),
        receive(
            "classic report of 64 KiB",
            1,
            || vec![report(LONG_CONTENT)],
            Classic,
        ),
    ]
}

/// One for each length of content that the original's client has.
const REPORTS: u64 = 50;

/// The time of all that happens.
const NOW: Moment = Moment::from_nanos(1_000_000_000_000);

/// A window of frames, as a read brings them.
fn receive(
    name: &'static str,
    times: u64,
    packets: fn() -> Vec<Packet<'static>>,
    encoding: Encoding,
) -> Operation {
    Operation::new("session", name, times, move || {
        let frames = packets()
            .iter()
            .map(|packet| frame(packet, encoding))
            .collect::<Vec<_>>();
        let window = frames.concat();
        let mut context = SessionContext::new(packet_handler());
        let peer = ([127, 0, 0, 1], 40_000).into();
        let mut session = Session::new(peer, NOW);
        move || {
            context.replies.clear();
            let mut left = u32::MAX;
            let window = black_box(&window);
            let received = session.receive(window, Input::Open, NOW, &mut left, &mut context);
            assert_eq!(received.consumed, window.len());
            assert_eq!(received.progress, Progress::NeedsInput);
            black_box(&context.replies);
        }
    })
}
