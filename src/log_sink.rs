//! Where the server's log lines go: to a queue, and from there to stderr.
//!
//! Whoever reads stderr, a pager that is paused or a log shipper that hangs, must not
//! hold up the event loop. So lines are put into a bounded queue, and a thread of
//! their own writes them. What does not fit is left out and counted, and a line says
//! so at the very place.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that may wait: some 50,000 of the usual length, so that neither a
/// reader that pauses for some seconds nor a burst of `--log-packets` costs a line.
/// As many may be on their way out at the same time.
const QUEUE: usize = 8 << 20;

/// Bytes that are written at once: what a pipe takes (pipe(7)). That one more piece is
/// gone shows that somebody reads.
const PIECE: usize = 64 * 1024;

/// At the end, how long to wait for the next piece to go,
const PATIENCE: Duration = Duration::from_secs(1);

/// and how long for all of them: a reader may be slow, and a stop is to end.
const MOST_PATIENCE: Duration = Duration::from_secs(3);

/// Lines that were left out since the start.
#[derive(Clone, Debug, Default)]
pub struct LeftOut(Arc<AtomicU64>);

impl LeftOut {
    /// How many that is.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The queue and its thread. When it is dropped, what is queued is written first,
/// unless nobody reads it.
#[derive(Debug)]
pub struct LogSink {
    shared: Arc<Shared>,
}

/// Puts lines into the queue, one with each call, and never blocks.
#[derive(Debug)]
pub struct LogWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or something was written.
    moved: Condvar,
    left_out: LeftOut,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    /// Lines that were left out behind those.
    left_out: u64,
    /// Pieces that were written.
    pieces: u64,
    /// Whether some are on their way out.
    writing: bool,
    closed: bool,
}

impl LogSink {
    /// Starts a thread that writes to `out`.
    ///
    /// # Errors
    /// Whatever `pthread_create(3)` has to say.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned());
        // Nobody joins it: it may stand in a write that never ends.
        let _thread = thread.spawn(move || theirs.write_to(out))?;
        Ok(Self { shared })
    }

    /// What puts lines into the queue.
    #[must_use]
    pub fn writer(&self) -> LogWriter {
        LogWriter(Arc::clone(&self.shared))
    }

    /// The count of lines that were left out.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        self.shared.left_out.clone()
    }
}

impl Drop for LogSink {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.moved.notify_all();
        let end = Instant::now() + MOST_PATIENCE;
        while queue.writing || queue.has_some() {
            let before = queue.pieces;
            let patience = PATIENCE.min(end.saturating_duration_since(Instant::now()));
            let waited = self
                .shared
                .moved
                .wait_timeout_while(queue, patience, |queue| {
                    queue.pieces == before && (queue.writing || queue.has_some())
                });
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                return;
            }
            queue = now;
        }
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let length = line.len();
        let safe = without_blanks(line);
        let line = safe.as_ref();
        let mut queue = self.0.lock();
        // A shorter line may still fit, but would stand before those left out.
        if queue.left_out > 0 || queue.lines.len() + line.len() > QUEUE {
            queue.left_out += 1;
            self.0.left_out.0.fetch_add(1, Ordering::Relaxed);
        } else {
            queue.lines.extend_from_slice(line);
        }
        self.0.moved.notify_all();
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the line with its blank characters escaped. Names and other text from agents are
/// logged with Rust's escapes, which leave these.
fn without_blanks(line: &[u8]) -> Cow<'_, [u8]> {
    let text = if line.is_ascii() {
        None
    } else {
        std::str::from_utf8(line).ok()
    };
    match text.map(|text| escape(text, is_blank)) {
        Some(Cow::Owned(safe)) => Cow::Owned(safe.into_bytes()),
        _ => Cow::Borrowed(line),
    }
}

/// Whether a character that Unicode counts as a letter or symbol has no shape: the fillers of
/// Hangul, and the blank pattern of Braille.
#[must_use]
pub const fn is_blank(character: char) -> bool {
    matches!(
        character,
        '\u{115F}' | '\u{1160}' | '\u{3164}' | '\u{FFA0}' | '\u{2800}'
    )
}

/// Returns the text with each character for which `is_bad` is true written as `\u{…}`.
#[must_use]
pub fn escape(text: &str, is_bad: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match is_bad(character) {
            // Writing to a string does not fail.
            true => drop(write!(safe, "{}", character.escape_unicode())),
            false => safe.push(character),
        }
    }
    Cow::Owned(safe)
}

impl Shared {
    /// A panic elsewhere leaves the queue as it was: it is whole after each statement.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes what is queued, until there is no more to come.
    fn write_to(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        while self.take(&mut lines) {
            for piece in lines.chunks(PIECE) {
                let written = out.write_all(piece).and_then(|()| out.flush());
                if written.is_err() {
                    // Nobody to tell, or a stderr that somebody has made non-blocking.
                    let lines = piece.iter().filter(|byte| **byte == b'\n').count() as u64;
                    self.left_out.0.fetch_add(lines, Ordering::Relaxed);
                }
                self.lock().pieces += 1;
                self.moved.notify_all();
            }
        }
    }

    /// Waits for lines and takes all there are, in exchange for the space of those
    /// before; no if none will come any more.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        lines.clear();
        // What a burst took is given back.
        lines.shrink_to(PIECE);
        let mut queue = self.lock();
        queue.writing = false;
        self.moved.notify_all();
        let waited = self
            .moved
            .wait_while(queue, |queue| !queue.has_some() && !queue.closed);
        queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.writing = queue.has_some();
        std::mem::swap(&mut queue.lines, lines);
        let left_out = std::mem::take(&mut queue.left_out);
        if left_out > 0 {
            let notice = format!("log: {left_out} lines left out: stderr was not read in time\n");
            lines.extend_from_slice(notice.as_bytes());
        }
        queue.writing
    }
}

impl Queue {
    fn has_some(&self) -> bool {
        !self.lines.is_empty() || self.left_out > 0
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
