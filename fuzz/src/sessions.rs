//! A session that moves through its exported state, at any byte and in any state,
//! against one that stays.

use std::num::NonZeroU32;
use std::time::Duration;

use hawk::session::{Limits, OutputRoom, Rate, StopReason};
use hawk_time::Moment;

use super::conversation::{Conversation, LIMITS, START};
use super::pieces::{Bytes, SHORT, stream};

/// The first bytes of the input are what happens, two for each event; behind them
/// is the description of the stream.
pub fn sessions(input: &[u8]) {
    let mut input = Bytes(input);
    let how = input.byte();
    let events: Vec<(u8, u8)> = (0..how % 32)
        .map(|_| (input.byte(), input.byte()))
        .collect();
    let stream = stream(input, SHORT);
    let limits = Limits {
        rate: NonZeroU32::new(u32::from(how >> 5)).map(Rate::per_second),
        ..LIMITS
    };

    let mut pair = Pair {
        stays: Conversation::new(3),
        moves: Conversation::new(5),
        limits,
        now: START,
    };
    let mut rest = stream.as_slice();
    for (event, value) in events {
        let value = usize::from(value);
        match event % 6 {
            0 => {
                // Short steps as well as long ones.
                let length = value.max(value.pow(2) / 2).min(rest.len());
                let (chunk, later) = rest.split_at(length);
                rest = later;
                pair.receive(chunk);
            }
            1 => pair.now = pair.now.after(Duration::from_millis(100 * value as u64)),
            2 => pair.stop_or_resume(value),
            3 => pair.send(value),
            4 => pair.drop_candidate(),
            _ => pair.move_house(),
        }
        pair.compare();
    }
    pair.receive(rest);
    pair.move_house();
    let [stays, moves] = pair.both().map(|conversation| conversation.end(START));
    assert_eq!(stays, moves);
    pair.compare();
}

struct Pair {
    stays: Conversation,
    moves: Conversation,
    limits: Limits,
    now: Moment,
}

impl Pair {
    fn both(&mut self) -> [&mut Conversation; 2] {
        [&mut self.stays, &mut self.moves]
    }

    fn receive(&mut self, chunk: &[u8]) {
        let (now, limits) = (self.now, self.limits);
        let [stays, moves] = self.both().map(|conversation| {
            let said = conversation.receive(chunk, now);
            let session = &mut conversation.session;
            session.queue(&said.lines, &conversation.context.unsent);
            let lines = said.lines.iter().filter(|byte| **byte == b'\n').count();
            let left = session.frames_left(now, &limits);
            session.count_frames(left.min(u32::try_from(lines).unwrap()), now, &limits);
            said
        });
        assert_eq!(stays, moves);
    }

    fn stop_or_resume(&mut self, which: usize) {
        let now = self.now;
        for conversation in self.both() {
            let session = &mut conversation.session;
            match which % 5 {
                0 => session.stop_reading(StopReason::Buffer, now),
                1 => session.stop_reading(StopReason::Store, now),
                2 => session.stop_reading(StopReason::Rate, now),
                3 => session.stop_reading(StopReason::Output, now),
                _ => drop(session.resume_reading(now)),
            }
        }
    }

    /// The socket takes some of what is unsent.
    fn send(&mut self, bytes: usize) {
        for conversation in self.both() {
            let session = &mut conversation.session;
            let bytes = bytes.min(session.unsent().len());
            session.dequeue(bytes);
        }
    }

    fn drop_candidate(&mut self) {
        let now = self.now;
        let [stays, moves] = self.both().map(|conversation| match conversation.given_up {
            true => Default::default(),
            false => conversation.drop_candidate(now),
        });
        assert_eq!(stays, moves);
    }

    fn move_house(&mut self) {
        self.moves.move_house();
    }

    /// Both show the same from outside.
    fn compare(&self) {
        let (stays, moves) = (&self.stays, &self.moves);
        assert_eq!(
            stays.session.export(stays.window()),
            moves.session.export(moves.window())
        );
        assert_eq!(stays.context.counters, moves.context.counters);
        for conversation in [stays, moves] {
            let unsent = conversation.session.unsent().len();
            assert_eq!(conversation.context.unsent.get(), unsent);
        }
        assert_eq!(
            (stays.consumed, stays.given_up),
            (moves.consumed, moves.given_up)
        );
        let (one, other) = (&stays.session, &moves.session);
        assert_eq!(one.deadline(&self.limits), other.deadline(&self.limits));
        for room in [OutputRoom::Enough, OutputRoom::None] {
            assert_eq!(one.output_is_full(room), other.output_is_full(room));
        }
        for seconds in [0, 10, 90] {
            let then = self.now.after(Duration::from_secs(seconds));
            assert_eq!(
                one.expire(then, &self.limits),
                other.expire(then, &self.limits)
            );
        }
    }
}
