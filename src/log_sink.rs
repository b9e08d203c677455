//! The queue of log lines on their way to stderr.
//!
//! A slow reader of stderr, such as a paused pager or a hanging log shipper, must not block the
//! event loop. So lines are put into a bounded queue, and a thread writes them. Lines that do
//! not fit are left out and counted, and a line in their place has their number.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Maximum size of the queued lines in bytes: some 50,000 lines of the usual length, so that
/// neither a reader that pauses for seconds nor a burst of `--log-packets` costs a line. As many
/// bytes may be with the writing thread at the same time.
const QUEUE: usize = 8 << 20;

/// Bytes of one write: the capacity of a pipe (pipe(7)). The end of a write shows that stderr is
/// being read.
const PIECE: usize = 64 * 1024;

/// Maximum wait for the end of one write when the sink is dropped.
const PATIENCE: Duration = Duration::from_secs(1);

/// Maximum wait for the end of all writes when the sink is dropped.
const MOST_PATIENCE: Duration = Duration::from_secs(3);

/// The number of lines that were left out since the start.
#[derive(Clone, Debug, Default)]
pub struct LeftOut(Arc<AtomicU64>);

impl LeftOut {
    /// Returns the number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The queue and its thread. Dropping it waits until the queued lines are written, unless stderr
/// is not read.
#[derive(Debug)]
pub struct LogSink {
    shared: Arc<Shared>,
}

/// Puts one line into the queue with each call of `write`, and never blocks.
#[derive(Debug)]
pub struct LogWriter(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled when lines are queued and when a piece was written.
    moved: Condvar,
    left_out: LeftOut,
}

#[derive(Default)]
struct Queue {
    lines: Vec<u8>,
    /// Number of lines left out after them.
    left_out: u64,
    /// Number of pieces written.
    pieces: u64,
    /// The thread has lines to write.
    writing: bool,
    closed: bool,
}

impl LogSink {
    /// Starts a thread that writes to `out`.
    ///
    /// # Errors
    /// The error of `pthread_create(3)`.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned());
        // Never joined: a write may block for ever.
        let _thread = thread.spawn(move || of_thread.write_to(out))?;
        Ok(Self { shared })
    }

    /// Returns a writer that puts lines into the queue.
    #[must_use]
    pub fn writer(&self) -> LogWriter {
        LogWriter(Arc::clone(&self.shared))
    }

    /// Returns the count of lines that were left out.
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
        // A shorter line may still fit, but would precede the lines left out.
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
    /// Locks the queue, also after a panic: it is consistent after each statement.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes queued lines until the sink is dropped.
    fn write_to(&self, mut out: impl Write) {
        let mut lines = Vec::new();
        while self.take(&mut lines) {
            for piece in lines.chunks(PIECE) {
                let written = out.write_all(piece).and_then(|()| out.flush());
                if written.is_err() {
                    // Another program may have made stderr non-blocking.
                    let lines = piece.iter().filter(|byte| **byte == b'\n').count() as u64;
                    self.left_out.0.fetch_add(lines, Ordering::Relaxed);
                }
                self.lock().pieces += 1;
                self.moved.notify_all();
            }
        }
    }

    /// Waits for lines and swaps them with the buffer of the previous lines. Returns false once
    /// the sink is dropped and no line is left.
    fn take(&self, lines: &mut Vec<u8>) -> bool {
        lines.clear();
        // Returns the memory of a burst.
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
