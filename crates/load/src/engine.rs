//! The event loop of a run and its phases.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

use super::chaos::{Crowd, Setting};
use super::dial::Dialler;
use super::fleet::Fleet;
use super::summary::{Figures, Frames, Progress, Summary, Tick};
use super::traffic::Source;
use super::{Config, LoadError};
use hawk_client::unreachable;
use hawk_time::Moment;

/// Runs the load that `config` describes and returns its figures. Shows the progress on stderr once
/// a second. Once `stop` is set, the run stops sending, waits for the pending replies and ends.
///
/// # Errors
/// [`LoadError`] if the run could not take place. Faults during the run are in the summary.
pub fn run(config: &Config, stop: &AtomicBool) -> Result<Summary, LoadError> {
    let mut engine = Engine::new(config, stop)?;
    let mut events = Events::with_capacity(EVENTS);
    while engine.turn(&mut events)? {
        engine.show_progress();
    }
    Ok(engine.summary())
}

/// Events taken from the system at once.
const EVENTS: usize = 1024;

/// Connections dialled in one turn of the loop, so that dialling does not delay the connections
/// that are established.
const DIALS_A_TURN: usize = 256;

/// New connections that wait for the server at a time, for the handshake or for the reply to their
/// first packet: half of the usual backlog (`net.core.somaxconn`). With more, a server that is
/// slower than this client would lose handshakes, and the kernel repeats each after a second.
const MOST_WAITING: u64 = 2048;

/// How long a connection may take to be established: the system's third attempt
/// at a lost handshake comes after 7 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Token of the timer; connections have their number.
const TIMER: Token = Token(usize::MAX);

/// Time between two lines of progress.
const SECOND: Duration = Duration::from_secs(1);

struct Engine<'a> {
    config: &'a Config,
    stop: &'a AtomicBool,
    poll: Poll,
    timer: Timer,
    fleet: Fleet,
    source: Source<'a>,
    /// The chaotic agents, from the first frame to the end; `None` without them.
    crowd: Option<Crowd>,
    progress: Progress,
    phase: Phase,
    opened_from: Moment,
    /// What idle connections sent while others were opened.
    sent_before: Frames,
    /// Whether the server took too long over new connections, so that dialling no longer waits.
    overrun: bool,
    /// When the measurement began, and this thread's CPU time then.
    started: Moment,
    cpu_at_start: Duration,
    /// For how long frames were sent, and the CPU time that took.
    ran: Option<(Duration, Duration)>,
    next_tick: Moment,
    answered_at_tick: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Connections are being opened; idle ones send their first packet. `until` is the time
    /// limit of the last connection that was dialled.
    Opening { until: Moment },
    /// Frames are being sent.
    Running,
    /// No more frames are sent; replies are pending.
    Draining { until: Moment },
    /// This side of all streams has ended; the server's end is pending.
    Closing { until: Moment },
}

impl<'a> Engine<'a> {
    fn new(config: &'a Config, stop: &'a AtomicBool) -> Result<Self, LoadError> {
        let poll = Poll::new().map_err(LoadError::system("open an event queue"))?;
        let registry = poll.registry().try_clone();
        let registry = registry.map_err(LoadError::system("share the event queue"))?;
        let timer =
            Timer::new(poll.registry(), TIMER).map_err(LoadError::system("make a timer"))?;
        let dialler = Dialler::new(config.target, config.sources)?;
        let now = Moment::now();
        Ok(Self {
            config,
            stop,
            poll,
            timer,
            fleet: Fleet::new(registry, dialler, config.reply_timeout),
            source: Source::new(config)?,
            crowd: None,
            progress: Progress::on_stderr(),
            phase: Phase::Opening {
                until: now.after(opening_timeout(config)),
            },
            opened_from: now,
            sent_before: Frames::default(),
            overrun: false,
            started: now,
            cpu_at_start: Duration::ZERO,
            ran: None,
            next_tick: now.after(SECOND),
            answered_at_tick: 0,
        })
    }

    /// One turn of the loop; false when the run is over.
    fn turn(&mut self, events: &mut Events) -> Result<bool, LoadError> {
        self.wait(events)?;
        for event in &*events {
            let Token(connection) = event.token();
            if event.token() == TIMER {
                self.timer.expired();
                continue;
            }
            let (established, completed) = self.fleet.on_event(connection, event)?;
            if established {
                self.source.greet(&mut self.fleet, connection);
            }
            self.source.top_up(&mut self.fleet, connection, completed);
        }
        for unread in std::mem::take(&mut self.fleet.unread) {
            let completed = self.fleet.read(unread);
            self.source
                .top_up(&mut self.fleet, unread.connection, completed);
        }
        let now = Moment::now();
        self.source.send_due(&mut self.fleet, now);
        self.fleet.flush_dirty();
        self.advance(now)
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), LoadError> {
        let set = self.timer.set(self.next_wake());
        set.map_err(LoadError::system("set the timer"))?;
        let timeout = (!self.fleet.unread.is_empty()).then_some(Duration::ZERO);
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            outcome => outcome.map_err(LoadError::system("wait for events")),
        }
    }

    /// Returns when the loop has work to do without an event.
    fn next_wake(&self) -> Moment {
        let own = match self.phase {
            Phase::Opening { until } => match self.next_dial() {
                Some(moment) if self.has_room() => moment,
                _ => until,
            },
            Phase::Running => self.source.end,
            Phase::Draining { until } | Phase::Closing { until } => until,
        };
        let due = match self.phase {
            Phase::Opening { .. } | Phase::Running => self.source.next_due(),
            Phase::Draining { .. } | Phase::Closing { .. } => None,
        };
        own.min(self.next_tick).min(due.unwrap_or(own))
    }

    /// Enters the next phase if this one is over. Returns false after the last.
    fn advance(&mut self, now: Moment) -> Result<bool, LoadError> {
        match self.phase {
            Phase::Opening { .. } if self.is_stopped() => {
                let interrupted = "interrupted before all connections were open";
                return Err(LoadError(interrupted.into()));
            }
            Phase::Opening { until } => {
                self.overrun |= now >= until && !self.has_room();
                if self.dial_due(now)? {
                    let until = now.after(opening_timeout(self.config));
                    self.phase = Phase::Opening { until };
                    return Ok(true);
                }
                let all = self.fleet.dialled() == self.planned();
                let completed = self.fleet.connecting == 0 && self.fleet.outstanding == 0;
                if all && (completed || now >= until) {
                    self.begin()?;
                }
            }
            Phase::Running => {
                let over = self.source.is_finished(now) || self.fleet.open == 0;
                if over || self.is_stopped() {
                    self.source.stop();
                    if let Some(crowd) = &self.crowd {
                        crowd.stop();
                    }
                    self.ran = Some(self.usage());
                    let until = now.after(self.config.reply_timeout);
                    self.phase = Phase::Draining { until };
                    return self.advance(now);
                }
            }
            Phase::Draining { until } => {
                if self.fleet.outstanding == 0 || now >= until {
                    self.fleet.shut_down();
                    let until = now.after(self.config.reply_timeout);
                    self.phase = Phase::Closing { until };
                    return self.advance(now);
                }
            }
            Phase::Closing { until } => {
                if now >= until {
                    self.fleet.close_rest();
                }
                return Ok(self.fleet.open > 0);
            }
        }
        Ok(true)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn planned(&self) -> usize {
        self.config.connections as usize + self.config.idle as usize
    }

    /// Returns when the next connection is to be dialled.
    fn next_dial(&self) -> Option<Moment> {
        let number = u32::try_from(self.fleet.dialled()).ok()?;
        let planned = u32::try_from(self.planned()).ok()?;
        (number < planned).then(|| {
            let share = f64::from(number) / f64::from(planned);
            self.opened_from.after(self.config.ramp.mul_f64(share))
        })
    }

    /// Dials the connections that are due, at most [`DIALS_A_TURN`]. Returns whether there were any.
    fn dial_due(&mut self, now: Moment) -> Result<bool, LoadError> {
        let before = self.fleet.dialled();
        for _ in 0..DIALS_A_TURN {
            if !self.has_room() || self.next_dial().is_none_or(|moment| moment > now) {
                break;
            }
            self.fleet.dial()?;
        }
        Ok(self.fleet.dialled() > before)
    }

    /// Returns whether one more new connection may wait for the server.
    fn has_room(&self) -> bool {
        let waiting = self.fleet.connecting as u64 + self.fleet.outstanding;
        self.overrun || waiting < MOST_WAITING
    }

    /// Begins the measurement with the connections that are open.
    fn begin(&mut self) -> Result<(), LoadError> {
        self.fleet.close_connecting()?;
        if self.fleet.open == 0 {
            let mut faults = self.fleet.tally.faults.iter();
            let reason = faults.next().map_or("", |(_, cause, _)| cause);
            return Err(unreachable(self.config.target, reason).into());
        }
        self.sent_before = self.fleet.tally.restart();
        // Started last, so that the connections that measure are admitted first.
        if let Some(chaos) = self.config.chaos {
            self.crowd = Some(Crowd::start(Setting {
                chaos,
                dialler: self.fleet.dialler.clone(),
                first: self.planned(),
                content: self.config.content,
                patience: self.config.reply_timeout,
            })?);
        }
        self.phase = Phase::Running;
        self.cpu_at_start = cpu_time();
        self.started = Moment::now();
        self.next_tick = self.started.after(SECOND);
        self.answered_at_tick = 0;
        self.source.begin(&mut self.fleet, self.started);
        Ok(())
    }

    fn show_progress(&mut self) {
        let now = Moment::now();
        if now < self.next_tick {
            return;
        }
        let past = now.since(self.next_tick) + SECOND;
        self.next_tick = now.after(SECOND);
        let tally = &mut self.fleet.tally;
        let answered = tally.answered - self.answered_at_tick;
        self.answered_at_tick = tally.answered;
        self.progress.show(&Tick {
            opening: matches!(self.phase, Phase::Opening { .. }),
            open: self.fleet.open,
            elapsed: now.since(self.started),
            sent: tally.sent.total(),
            answered: tally.answered,
            rate: rate(answered, past),
            p99: tally.turn(),
            faults: tally.faults.count(),
        });
    }

    /// Returns the time since the measurement began, and the CPU time spent in it.
    fn usage(&self) -> (Duration, Duration) {
        let cpu = cpu_time().saturating_sub(self.cpu_at_start);
        (Moment::now().since(self.started), cpu)
    }

    fn summary(mut self) -> Summary {
        let opened_in = self.started.since(self.opened_from);
        let (running, cpu) = self.ran.unwrap_or_else(|| self.usage());
        let chaos = self.crowd.take().map(Crowd::finish);
        for (fault, cause, count) in chaos.iter().flat_map(|totals| totals.faults.iter()) {
            self.fleet.tally.faults.add(fault, cause, count);
        }
        Summary::new(
            self.config,
            &mut self.fleet.tally,
            Figures {
                opened_in,
                sent_before: self.sent_before,
                started: self.started,
                running,
                cpu,
                peak_memory: peak_memory(),
                chaos: chaos.map(|totals| totals.counts()),
            },
        )
    }
}

/// Returns the time limit for the handshake of the last connection dialled and the reply to its
/// first packet.
fn opening_timeout(config: &Config) -> Duration {
    CONNECT_TIMEOUT.max(config.reply_timeout)
}

/// Events per second.
pub(super) fn rate(count: u64, span: Duration) -> f64 {
    // Counts stay far below 2^52, where an f64 stops being exact.
    #[allow(clippy::cast_precision_loss)]
    let count = count as f64;
    count / span.as_secs_f64().max(1e-9)
}

/// A timer that wakes the event loop to the microsecond: its token is readable at the moment it is
/// set to.
///
/// The timeout of a poll counts in milliseconds, many times what a reply takes: frames would leave
/// late, and their latency from the intended send time would be that of this client.
#[derive(Debug)]
struct Timer {
    descriptor: OwnedFd,
    set_to: Option<Moment>,
}

impl Timer {
    /// Creates a timer that is not set.
    fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(
            &mut SourceFd(&descriptor.as_raw_fd()),
            token,
            Interest::READABLE,
        )?;
        Ok(Self {
            descriptor,
            set_to: None,
        })
    }

    /// Wakes the loop at `moment` only; at once if that is past.
    ///
    /// This also revokes an expiry that was not read, so that the next one is a new edge for the
    /// poll.
    fn set(&mut self, moment: Moment) -> io::Result<()> {
        if self.set_to == Some(moment) {
            return Ok(());
        }
        // Zero would switch the timer off.
        let nanoseconds = moment.as_nanos().max(1);
        let value = Timespec {
            tv_sec: i64::try_from(nanoseconds / NANOS_PER_SEC).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(nanoseconds % NANOS_PER_SEC).unwrap_or(0),
        };
        let once = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::ABSTIME, &once)?;
        self.set_to = Some(moment);
        Ok(())
    }

    /// Marks the timer as not set, after its event.
    fn expired(&mut self) {
        self.set_to = None;
    }
}

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// Returns the peak resident memory of this process in bytes (`VmHWM`, `proc_pid_status(5)`).
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Returns the CPU time of this thread, in user and kernel mode.
fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(spent.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_wakes_once_it_is_due() {
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let mut timer = Timer::new(poll.registry(), Token(7)).unwrap();
        for span in [0, 2, 1] {
            let due = Moment::now().after(Duration::from_millis(span));
            timer.set(due).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(20)))
                .unwrap();
            assert_eq!(
                events.iter().map(|e| e.token()).collect::<Vec<_>>(),
                [Token(7)]
            );
            assert!(Moment::now() >= due);
            timer.expired();
        }
        // A moment that is past wakes again and again.
        let past = Moment::now();
        for _ in 0..2 {
            timer.set(past).unwrap();
            poll.poll(&mut events, Some(Duration::from_secs(20)))
                .unwrap();
            assert!(!events.is_empty());
            timer.expired();
        }
    }
}
