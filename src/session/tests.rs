//! Sessions driven without a socket.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use hawk_wire::{
    AgentName, Encoding, FRAME_OVERHEAD, Heartbeat, JUNK_LIMIT, Report, encode_frame, encode_packet,
};

const LIMITS: Limits = Limits {
    idle: Duration::from_secs(90),
    frame: Duration::from_secs(10),
    rate: None,
};

/// Takes every packet, and records its agent.
#[derive(Debug, Default)]
struct Recorder {
    agents: Vec<Option<String>>,
    /// What reports wait for, if anything.
    commit: Option<CommitId>,
}

impl Handler for Recorder {
    fn handle(
        &mut self,
        sender: Sender<'_>,
        _tag: &mut Option<Tag>,
        packet: &Packet<'_>,
    ) -> Answer {
        self.agents.push(sender.agent.map(ToString::to_string));
        match (packet, self.commit) {
            (Packet::Heartbeat(_), _) => Answer::Now(Reply::Heartbeat),
            (Packet::Report(_), None) => Answer::Now(Reply::Report),
            (Packet::Report(_), Some(commit)) => Answer::AfterCommit(commit),
        }
    }
}

/// A session, the bytes it has not consumed, and all it has answered.
struct Driver {
    session: Session,
    window: Vec<u8>,
    context: SessionContext<Recorder>,
    now: Moment,
    /// What the agent would have read by now.
    answered: Vec<u8>,
    given_up: bool,
}

impl Driver {
    fn new() -> Self {
        let now = at(0);
        Self {
            session: Session::new("127.0.0.1:5000".parse().unwrap(), now),
            window: Vec::new(),
            context: SessionContext::new(Recorder::default()),
            now,
            answered: Vec::new(),
            given_up: false,
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.window.extend_from_slice(bytes);
        self.take(Input::Open);
    }

    fn take(&mut self, input: Input) {
        while !self.given_up {
            let mut frames = 3;
            let received = self.session.receive(
                &self.window,
                input,
                self.now,
                &mut frames,
                &mut self.context,
            );
            self.window.drain(..received.consumed);
            self.answered.append(&mut self.context.replies);
            match received.progress {
                Progress::NeedsInput => break,
                Progress::BudgetSpent => {}
                Progress::JunkLimit => self.given_up = true,
            }
        }
    }

    fn expire(&self) -> Expiry {
        self.session.expire(self.now, &LIMITS)
    }

    /// Moves the session through its exported state.
    fn move_house(&mut self) {
        let state = self.session.export(&self.window);
        let (session, window) = Session::rebuild(state.clone(), &mut self.context);
        assert_eq!(session.export(&window), state);
        (self.session, self.window) = (session, window);
    }
}

fn at(seconds: u64) -> Moment {
    Moment::from_nanos(1_000_000_000 * (1000 + seconds))
}

fn heartbeat(agent: Option<&'static str>) -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = Packet::Heartbeat(Heartbeat {
        version: "1.0".into(),
        timestamp: 1,
        agent: agent.map(|name| AgentName::new(name).unwrap()),
        probe: false,
    });
    encode_packet(&packet, Encoding::Compact, &mut frame).unwrap();
    frame
}

fn report() -> Vec<u8> {
    let mut frame = Vec::new();
    let packet = Packet::Report(Report::default());
    encode_packet(&packet, Encoding::Classic, &mut frame).unwrap();
    frame
}

fn frame(data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_frame(data, &mut frame).unwrap();
    frame
}

fn wrong_sum() -> Vec<u8> {
    let mut frame = frame(b"\x00{}");
    frame[5] ^= 1;
    frame
}

#[test]
fn every_recognized_frame_is_answered_in_order() {
    let mut driver = Driver::new();
    let stream = [
        report(),
        heartbeat(None),
        frame(b""),
        b"junk".to_vec(),
        wrong_sum(),
        heartbeat(None),
    ];
    driver.receive(&stream.concat());
    assert_eq!(
        String::from_utf8_lossy(&driver.answered),
        "Report data has recive\nheartBeat\nerror: empty data\nerror: checksum mismatch\nheartBeat\n"
    );
    let tally = &driver.context.counters;
    assert_eq!((tally.heartbeats, tally.reports), (2, 1));
    assert_eq!(tally.refused_total(), 2);
    assert_eq!(tally.junk_bytes, 4 + wrong_sum().len() as u64);
    assert_eq!(driver.session.frames(), 4);
}

#[test]
fn a_name_sticks_to_the_connection_until_another_is_given() {
    let mut driver = Driver::new();
    for agent in [None, Some("web-01"), None, Some("web-02"), None] {
        driver.receive(&heartbeat(agent));
    }
    let agents: Vec<_> = driver
        .context
        .handler
        .agents
        .iter()
        .map(Option::as_deref)
        .collect();
    let expected = [
        None,
        Some("web-01"),
        Some("web-01"),
        Some("web-02"),
        Some("web-02"),
    ];
    assert_eq!(agents, expected);
}

#[test]
fn a_probe_changes_no_name_and_no_rhythm() {
    let mut driver = Driver::new();
    driver.receive(&heartbeat(Some("web-01")));
    let clocks = driver.session.clocks();
    driver.now = at(30);
    let probe = frame(b"\x00{\"version\":\"9\",\"agent\":\"ping\",\"probe\":true}");
    driver.receive(&probe);
    assert_eq!(driver.answered, b"heartBeat\nheartBeat\n");
    assert_eq!(driver.session.sender().agent, Some(&"web-01".into()));
    assert_eq!(
        driver.session.clocks().last_heartbeat,
        clocks.last_heartbeat
    );
    assert_eq!(
        driver.session.deadline(&LIMITS),
        Some(at(120)),
        "it is no silence"
    );
}

#[test]
fn the_frame_budget_ends_a_turn_in_the_middle_of_a_read() {
    let mut session = Session::new("127.0.0.1:5000".parse().unwrap(), at(0));
    let mut context = Driver::new().context;
    let stream = heartbeat(None).repeat(5);
    let mut frames = 2;
    let received = session.receive(&stream, Input::Open, at(0), &mut frames, &mut context);
    assert_eq!(received.progress, Progress::BudgetSpent);
    assert_eq!(received.consumed, 2 * stream.len() / 5);
    assert_eq!(context.replies, b"heartBeat\nheartBeat\n");
    assert_eq!(session.deadline(&LIMITS), Some(at(90)), "no frame is begun");
}

#[test]
fn too_much_junk_closes_after_the_replies_before_it() {
    let mut driver = Driver::new();
    driver.receive(&heartbeat(None));
    driver.receive(&vec![b'j'; JUNK_LIMIT as usize - 1]);
    assert!(!driver.given_up);
    driver.receive(&[&b"j"[..], &heartbeat(None)].concat());
    assert!(driver.given_up);
    assert_eq!(driver.answered, b"heartBeat\n");
}

#[test]
fn a_frame_begun_at_a_boundary_must_end_in_time() {
    let mut driver = Driver::new();
    let frame = heartbeat(None);
    driver.receive(&frame);
    driver.now = at(1);
    driver.receive(&frame[..10]);
    driver.now = at(6);
    driver.receive(&frame[10..12]);
    assert_eq!(driver.session.deadline(&LIMITS), Some(at(11)));
    assert_eq!(driver.expire(), Expiry::NotYet);
    driver.now = at(11);
    assert_eq!(driver.expire(), Expiry::Close(Timeout::Frame));
    driver.receive(&frame[12..]);
    assert_eq!(driver.expire(), Expiry::NotYet);
}

#[test]
fn an_unfinished_candidate_elsewhere_is_dropped_and_the_search_continues() {
    let mut driver = Driver::new();
    // Refused at its end marker; a candidate that claims 1,000 bytes follows.
    driver.receive(b"\xFF\xFF\x00\x01a\x00\x00\xFF\xFF\x03\xE8");
    driver.receive(b"text");
    driver.now = at(10);
    assert_eq!(driver.expire(), Expiry::DropCandidate);
    let dropped = driver
        .session
        .drop_candidate(&driver.window, &mut driver.context.counters);
    driver.window.drain(..dropped);
    driver.receive(&heartbeat(None));
    assert_eq!(driver.answered, b"heartBeat\n");
    assert_eq!(driver.context.counters.candidates_dropped, 1);
    assert_eq!(driver.context.counters.junk_bytes, 15);
    assert_eq!(driver.expire(), Expiry::NotYet);
}

#[test]
fn trickled_junk_does_not_keep_a_session_alive() {
    let mut driver = Driver::new();
    for second in 0..90 {
        driver.now = at(second);
        assert_eq!(driver.expire(), Expiry::NotYet);
        driver.receive(b"j");
    }
    driver.now = at(90);
    assert_eq!(driver.expire(), Expiry::Close(Timeout::Idle));
    // A frame that passes does, even where its content is unusable.
    driver.receive(&frame(b"nonsense"));
    assert_eq!(driver.expire(), Expiry::NotYet);
}

#[test]
fn unsent_replies_above_the_high_water_mark_stop_reading_down_to_the_low_one() {
    let mut driver = Driver::new();
    let (session, total) = (&mut driver.session, driver.context.unsent);
    session.queue(&[b'x'; OUTPUT_HIGH_WATER], &total);
    assert!(!session.output_is_full(OutputRoom::Enough));
    session.queue(b"x", &total);
    assert!(session.output_is_full(OutputRoom::Enough));
    session.stop_reading(StopReason::Output, at(0));
    session.dequeue(OUTPUT_HIGH_WATER - OUTPUT_LOW_WATER);
    assert!(session.output_is_full(OutputRoom::Enough));
    assert_eq!(
        session.expire(at(90), &LIMITS),
        Expiry::Close(Timeout::Output)
    );
    session.dequeue(1);
    assert!(!session.output_is_full(OutputRoom::Enough));
    session.resume_reading(at(60));
    assert!(!session.output_is_full(OutputRoom::Enough));
    assert_eq!(session.deadline(&LIMITS), Some(at(150)));
}

#[test]
fn without_room_only_sessions_without_unsent_replies_are_read_from() {
    let mut driver = Driver::new();
    let (session, total) = (&mut driver.session, driver.context.unsent);
    assert!(!session.output_is_full(OutputRoom::None));
    session.queue(b"xy", &total);
    assert!(session.output_is_full(OutputRoom::None));
    session.stop_reading(StopReason::Output, at(0));
    session.dequeue(1);
    assert!(session.output_is_full(OutputRoom::None));
    assert!(!session.output_is_full(OutputRoom::Enough));
    session.dequeue(1);
    assert!(!session.output_is_full(OutputRoom::None));
    assert_eq!(total.get(), 0);
}

#[test]
fn unsent_replies_and_deadlines_move_along() {
    let mut driver = Driver::new();
    driver.receive(&[heartbeat(Some("web-01")), b"\xFF\xFF\x00".to_vec()].concat());
    driver.session.queue(b"heartBeat\n", &driver.context.unsent);
    driver.now = at(2);
    for reason in [
        StopReason::Output,
        StopReason::Buffer,
        StopReason::Store,
        StopReason::Rate,
    ] {
        driver.session.stop_reading(reason, at(1));
        let state = driver.session.export(&driver.window);
        let (mut moved, window) = Session::rebuild(state, &mut driver.context);
        assert_eq!(moved.unsent(), b"heartBeat\n");
        assert_eq!(moved.sender().agent, Some(&"web-01".into()));
        assert_eq!(window, b"\xFF\xFF\x00");
        let deadline = moved.deadline(&LIMITS);
        match reason {
            // The agent's doing: its time runs on, and what moved is the mark.
            StopReason::Output => assert_eq!(deadline, Some(at(91))),
            // Ours: no time runs.
            StopReason::Buffer | StopReason::Store | StopReason::Rate => {
                assert_eq!(deadline, None);
            }
        }
        moved.resume_reading(at(5));
        assert_eq!(moved.deadline(&LIMITS), Some(at(14)));
        driver.session.resume_reading(at(1));
    }
}

#[test]
fn a_session_beyond_its_rate_is_read_again_in_time_and_not_closed() {
    let limits = Limits {
        rate: NonZeroU32::new(10).map(Rate::per_second),
        ..LIMITS
    };
    let mut session = Session::new("127.0.0.1:5000".parse().unwrap(), at(0));
    assert_eq!(session.frames_left(at(0), &LIMITS), u32::MAX);
    assert_eq!(session.frames_left(at(0), &limits), 10);
    session.count_frames(10, at(0), &limits);
    assert_eq!(session.frames_left(at(0), &limits), 0);
    session.stop_reading(StopReason::Rate, at(0));
    let soon = at(0).after(Duration::from_millis(100));
    assert_eq!(session.deadline(&limits), Some(soon));
    assert_eq!(session.expire(at(0), &limits), Expiry::NotYet);
    assert_eq!(session.expire(soon, &limits), Expiry::Resume);
    // However late the call is.
    assert_eq!(session.expire(at(1000), &limits), Expiry::Resume);
    session.resume_reading(at(1000));
    assert_eq!(session.deadline(&limits), Some(at(1090)));
}

#[test]
fn a_new_connection_begins_with_one_frame() {
    let limits = Limits {
        rate: NonZeroU32::new(10).map(Rate::per_second),
        ..LIMITS
    };
    let mut session = Session::new("127.0.0.1:5000".parse().unwrap(), at(0));
    session.begin_rate(at(0), &LIMITS);
    assert_eq!(session.frames_left(at(0), &limits), 10);
    session.begin_rate(at(0), &limits);
    assert_eq!(session.frames_left(at(0), &limits), 1);
    assert_eq!(session.frames_left(at(1), &limits), 10);
    session.hold_until(at(2), &limits);
    assert_eq!(session.frames_left(at(1), &limits), 0);
    session.stop_reading(StopReason::Rate, at(1));
    assert_eq!(session.deadline(&limits), Some(at(2)));
}

#[test]
fn no_reply_overtakes_a_pending_one() {
    let [first, second] = [1, 2].map(|number| CommitId(NonZeroU64::new(number).unwrap()));
    let mut driver = Driver::new();
    driver.context.handler.commit = Some(first);
    let heartbeat = || heartbeat(None);
    driver.receive(&[heartbeat(), report(), heartbeat(), wrong_sum()].concat());
    driver.context.handler.commit = Some(second);
    driver.receive(&[heartbeat(), report(), heartbeat()].concat());

    assert_eq!(driver.answered, Reply::Heartbeat.line());
    let mismatch = Reply::Error(Refusal::ChecksumMismatch);
    let expected = [
        (first, Reply::Report),
        (first, Reply::Heartbeat),
        (first, mismatch),
        (first, Reply::Heartbeat),
        (second, Reply::Report),
        (second, Reply::Heartbeat),
    ];
    assert_eq!(driver.context.pending, expected);

    // A reply counts once it is answered, and the session is not idle meanwhile.
    assert_eq!(driver.context.counters.reports, 0);
    assert_eq!(driver.session.deadline(&LIMITS), None);
    driver.session.complete_replies(4, at(1000));
    assert!(driver.session.has_pending_replies());
    driver.session.complete_replies(2, at(1000));
    assert_eq!(driver.session.deadline(&LIMITS), Some(at(1090)));

    driver.context.pending.clear();
    driver.receive(&heartbeat());
    assert_eq!(driver.context.pending, []);
}

#[test]
fn a_session_with_many_pending_replies_is_not_read_from() {
    let mut driver = Driver::new();
    driver.context.handler.commit = Some(CommitId(NonZeroU64::MIN));
    assert!(!driver.session.has_too_many_pending(OutputRoom::Enough));
    let some = OUTPUT_HIGH_WATER / MAX_REPLY_LINE + 1;
    driver.receive(&report().repeat(some));
    assert!(driver.session.has_too_many_pending(OutputRoom::Enough));
    assert!(
        !driver.session.output_is_full(OutputRoom::Enough),
        "it may read all it is sent"
    );
}

#[test]
fn a_session_is_small() {
    // Idle connections are counted by the ten thousand.
    assert!(size_of::<Session>() <= 168, "{}", size_of::<Session>());
}

#[test]
fn an_address_survives_the_compact_form() {
    for text in [
        "192.0.2.7:41216",
        "[2001:db8::7]:65535",
        "[::ffff:192.0.2.7]:1",
        "[fe80::7%4294967295]:41216",
    ] {
        let address: SocketAddr = text.parse().unwrap();
        let out = SocketAddr::from(Peer::from(address));
        assert_eq!((out, out.to_string().as_str()), (address, text));
    }
}

proptest! {
    /// A session that is exported and rebuilt, any number of times at any bytes, answers its
    /// agent as before.
    #[test]
    fn a_session_that_moves_answers_as_one_that_stays(
        pieces in prop::collection::vec(0..6_u8, 1..20),
        moves in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
    ) {
        let stream: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| match piece {
                0 => report(),
                1 => heartbeat(Some("web-01")),
                2 => wrong_sum(),
                3 => b"junk \xFF\xFF\x00\x09".to_vec(),
                4 => frame(b"unusable"),
                _ => heartbeat(None),
            })
            .collect();
        let mut stays = Driver::new();
        let mut moved = Driver::new();
        stays.receive(&stream);

        let mut cuts: Vec<usize> = moves.iter().map(|at| at.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let mut from = 0;
        for cut in cuts.into_iter().chain([stream.len()]) {
            moved.receive(&stream[from..cut]);
            moved.move_house();
            from = cut;
        }
        for driver in [&mut stays, &mut moved] {
            driver.take(Input::Ended);
        }
        prop_assert_eq!(&stays.answered, &moved.answered);
        prop_assert_eq!(&stays.context.handler.agents, &moved.context.handler.agents);
        prop_assert_eq!(&stays.context.counters, &moved.context.counters);
        let frames = stays.session.frames();
        prop_assert_eq!(frames, moved.session.frames());
        prop_assert!(stream.len() >= FRAME_OVERHEAD || frames == 0);
    }
}
