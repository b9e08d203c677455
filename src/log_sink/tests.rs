//! The queue, written to a place that takes lines only when it is told to.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use super::*;

/// Takes a piece for each permit, and hands it on.
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

/// A sink behind a gate: its permits, and what came through.
fn gated() -> (LogSink, SyncSender<()>, Receiver<Vec<u8>>) {
    let (permit, permits) = sync_channel(1);
    let (pieces, came) = channel();
    let sink = LogSink::start(Gate { permits, pieces }).unwrap();
    (sink, permit, came)
}

/// Lets everything through from now on.
fn open(permit: SyncSender<()>) -> JoinHandle<()> {
    std::thread::spawn(move || while permit.send(()).is_ok() {})
}

/// Everything that came, once the sink is done.
fn all(came: &Receiver<Vec<u8>>) -> String {
    let pieces: Vec<Vec<u8>> = came.iter().collect();
    String::from_utf8(pieces.concat()).unwrap()
}

#[test]
fn what_does_not_fit_is_left_out_counted_and_told_at_its_place() {
    let (sink, permit, came) = gated();
    let mut writer = sink.writer();
    let line = [&[b'x'; 1023][..], b"\n"].concat();
    // Nobody reads: one line is on its way, and behind it the queue fills.
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
    // Short as it is, it would stand before what is missing.
    writer.write_all(b"short\n").unwrap();
    assert_eq!(sink.left_out().get(), left_out + 1);

    // Somebody reads again.
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
fn what_is_queued_is_written_before_the_end_in_its_order() {
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
fn a_reader_that_hangs_does_not_hold_up_the_end() {
    let (sink, _permit, _came) = gated();
    sink.writer().write_all(b"line\n").unwrap();
    let start = Instant::now();
    drop(sink);
    assert!(start.elapsed() >= PATIENCE, "it was given time");
}
