//! The queue, in front of a writer that waits for permits.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// Takes a piece for each permit, and sends it to a channel.
struct Gate {
    permits: Receiver<()>,
    pieces: Sender<Vec<u8>>,
}

impl Write for Gate {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.permits.recv().map_err(gone)?;
        self.pieces.send(piece.to_vec()).ok();
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns a sink, the permits of its gate, and the pieces that pass the gate.
fn gated() -> (LogSink, SyncSender<()>, Receiver<Vec<u8>>) {
    let (permit, permits) = sync_channel(1);
    let (pieces, came) = channel();
    let sink = LogSink::start(Gate { permits, pieces }).unwrap();
    (sink, permit, came)
}

/// Opens the gate.
fn open(permit: SyncSender<()>) -> JoinHandle<()> {
    std::thread::spawn(move || while permit.send(()).is_ok() {})
}

/// Returns all that passed the gate, once the sink is done.
fn all(came: &Receiver<Vec<u8>>) -> String {
    let pieces: Vec<Vec<u8>> = came.iter().collect();
    String::from_utf8(pieces.concat()).unwrap()
}

#[test]
fn lines_that_do_not_fit_are_left_out_counted_and_logged_in_their_place() {
    let (sink, permit, came) = gated();
    let mut writer = sink.writer();
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    // The gate is closed: the thread has one line, and the queue fills.
    writer.write_all(&line).unwrap();
    while sink.shared.lock().has_some() {
        std::thread::yield_now();
    }
    let fits = QUEUE / line.len();
    for _ in 0..2 * fits {
        writer.write_all(&line).unwrap();
    }
    let left_out = sink.left_out().get();
    assert_eq!(left_out, fits as u64);
    // A short line would precede the missing lines.
    writer.write_all(b"short\n").unwrap();
    assert_eq!(sink.left_out().get(), left_out + 1);

    // The gate opens.
    let reading = open(permit);
    while sink.shared.lock().has_some() {
        std::thread::yield_now();
    }
    writer.write_all(b"after\n").unwrap();
    drop(sink);
    let text = all(&came);
    reading.join().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let [kept @ .., notice, after] = lines.as_slice() else {
        panic!("{} lines", lines.len());
    };
    assert_eq!(kept.len(), 1 + fits);
    assert!(kept.iter().all(|line| line.starts_with('x')));
    let missing = left_out + 1;
    let expected = format!("log: {missing} lines left out: stderr was not read in time");
    assert_eq!((*notice, *after), (expected.as_str(), "after"));
}

#[test]
fn queued_lines_are_written_in_order_before_the_end() {
    let (sink, permit, came) = gated();
    let mut writer = sink.writer();
    let lines: Vec<_> = (0..1000).map(|number| format!("{number}\n")).collect();
    for line in &lines {
        writer.write_all(line.as_bytes()).unwrap();
    }
    let reading = open(permit);
    drop((sink, writer));
    assert_eq!(all(&came), lines.concat());
    reading.join().unwrap();
}

#[test]
fn a_hanging_reader_does_not_block_the_end() {
    let (sink, _permit, _came) = gated();
    sink.writer().write_all(b"line\n").unwrap();
    let start = Instant::now();
    drop(sink);
    assert!(start.elapsed() >= PATIENCE, "the sink waits");
}

const BLANKS: [char; 5] = ['\u{115F}', '\u{1160}', '\u{3164}', '\u{FFA0}', '\u{2800}'];

/// Text as agents may send it, with many blank characters.
fn text() -> impl Strategy<Value = String> {
    let character = prop_oneof![any::<char>(), prop::sample::select(&BLANKS[..])];
    prop::collection::vec(character, 0..20).prop_map(String::from_iter)
}

proptest! {
    /// A line has no character that a reader does not see, and is not changed otherwise.
    #[test]
    fn invisible_characters_of_a_name_are_escaped(name in text()) {
        let line = format!("agent={name:?}\n");
        let written = without_blanks(line.as_bytes());
        let written = std::str::from_utf8(&written).unwrap();
        let is_plain = |c: char| c == '"' || c == '\\' || c == '\'' || c.escape_debug().len() == 1;
        prop_assert!(!written.trim_end().contains(|c| is_blank(c) || !is_plain(c)), "{written}");
        let mut expected = line.clone();
        for blank in line.chars().filter(|c| is_blank(*c)) {
            expected = expected.replace(blank, &blank.escape_unicode().to_string());
        }
        prop_assert_eq!(written, expected);
    }
}

#[test]
fn a_line_that_is_no_text_is_left_as_it_is() {
    assert_eq!(*without_blanks(b"\xff\xe3\x85\xa4"), *b"\xff\xe3\x85\xa4");
    assert_eq!(*without_blanks("a\u{3164}b".as_bytes()), *b"a\\u{3164}b");
}
