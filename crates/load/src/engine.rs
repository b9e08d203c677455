//! The event loop of a run and its phases.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::{Events, Poll, Token};

use super::chaos::{Crowd, Setting};
use super::dial::Dialler;
use super::fleet::Fleet;
use super::progress::Tick;
use super::source::Source;
use super::summary::{Figures, Frames, Summary};
use super::timer::Timer;
use super::{Config, LoadError};
use hawk_client::DialError;
use hawk_time::Moment;

/// Runs the load that `config` describes and returns its figures. Calls `progress` once a
/// second meanwhile. When `stop` is set, the run ends early, with all replies received.
///
/// # Errors
/// [`LoadError`] when the run could not take place. What goes wrong during the
/// run is in the summary.
pub fn run(
    config: &Config,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Tick),
) -> Result<Summary, LoadError> {
    let mut engine = Engine::new(config, stop)?;
    let mut events = Events::with_capacity(EVENTS);
    while engine.turn(&mut events)? {
        engine.report_progress(progress);
    }
    Ok(engine.summary())
}

/// Events taken from the system at once.
const EVENTS: usize = 1024;

/// Connections dialled in one turn of the loop, so that those already there are
/// not kept waiting.
const DIALS_A_TURN: usize = 256;

/// Newcomers that wait for the server at a time, to be connected or to have their first
/// packet answered: half of the usual backlog (`net.core.somaxconn`). With more of them
/// than that, a server that is slower than this client would lose handshakes, each of
/// which comes again after a second.
const MOST_WAITING: u64 = 2048;

/// How long a connection may take to be established: the system's third attempt
/// at a lost handshake comes after 7 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Token of the timer; connections have their number.
const TIMER: Token = Token(usize::MAX);

/// The interval of progress reports.
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
    phase: Phase,
    opened_from: Moment,
    /// What idle connections sent while others were opened.
    sent_before: Frames,
    /// Whether the server took too long over newcomers, and is not waited for.
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
    /// Connections are being opened; idle ones say their first words. The last one
    /// that was dialled is waited for until then.
    Opening { until: Moment },
    /// Frames are being sent.
    Running,
    /// No more frames are sent, replies are waited for.
    Draining { until: Moment },
    /// Our side has ended, the server's end is waited for.
    Closing { until: Moment },
}

impl<'a> Engine<'a> {
    fn new(config: &'a Config, stop: &'a AtomicBool) -> Result<Self, LoadError> {
        let system = |what| move |source| LoadError::System { what, source };
        let poll = Poll::new().map_err(system("open an event queue"))?;
        let registry = poll.registry().try_clone();
        let registry = registry.map_err(system("share the event queue"))?;
        let timer = Timer::new(poll.registry(), TIMER).map_err(system("make a timer"))?;
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
            let outcome = self.fleet.on_event(connection, event)?;
            if outcome.established {
                self.source.greet(&mut self.fleet, connection);
            }
            self.source
                .top_up(&mut self.fleet, connection, outcome.completed);
        }
        for unread in self.fleet.take_unread() {
            let completed = self.fleet.read(unread.connection, unread.to_the_end);
            self.source
                .top_up(&mut self.fleet, unread.connection, completed);
        }
        let now = Moment::now();
        self.source.send_due(&mut self.fleet, now);
        self.fleet.flush_dirty();
        self.advance(now)
    }

    fn wait(&mut self, events: &mut Events) -> Result<(), LoadError> {
        self.timer
            .set(self.next_wake())
            .map_err(|source| LoadError::System {
                what: "set the timer",
                source,
            })?;
        let timeout = self.fleet.has_unread().then_some(Duration::ZERO);
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            outcome => outcome.map_err(|source| LoadError::System {
                what: "wait for events",
                source,
            }),
        }
    }

    /// Returns when the next work is due without an event.
    fn next_wake(&self) -> Moment {
        let own = match self.phase {
            Phase::Opening { until } => match self.next_dial() {
                Some(moment) if self.has_room() => moment,
                _ => until,
            },
            Phase::Running => self.source.end(),
            Phase::Draining { until } | Phase::Closing { until } => until,
        };
        let due = match self.phase {
            Phase::Opening { .. } | Phase::Running => self.source.next_due(),
            Phase::Draining { .. } | Phase::Closing { .. } => None,
        };
        own.min(self.next_tick).min(due.unwrap_or(own))
    }

    /// Begins the next phase if the present phase is over. Returns false after the last.
    fn advance(&mut self, now: Moment) -> Result<bool, LoadError> {
        match self.phase {
            Phase::Opening { .. } if self.is_stopped() => return Err(LoadError::Interrupted),
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

    /// When the next connection is to be dialled.
    fn next_dial(&self) -> Option<Moment> {
        let number = u32::try_from(self.fleet.dialled()).ok()?;
        let planned = u32::try_from(self.planned()).ok()?;
        (number < planned).then(|| {
            let share = f64::from(number) / f64::from(planned);
            self.opened_from.after(self.config.ramp.mul_f64(share))
        })
    }

    /// Dials as many as a turn may; whether there were any.
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

    /// Whether one more newcomer may wait for the server.
    fn has_room(&self) -> bool {
        let waiting = self.fleet.connecting as u64 + self.fleet.outstanding;
        self.overrun || waiting < MOST_WAITING
    }

    /// All connections are there: the measurement begins.
    fn begin(&mut self) -> Result<(), LoadError> {
        self.fleet.close_connecting()?;
        if self.fleet.open == 0 {
            let mut faults = self.fleet.tally.faults();
            let reason = faults.next().map_or("", |(_, cause, _)| cause).to_owned();
            let address = self.config.target.to_string();
            return Err(DialError::Unreachable { address, reason }.into());
        }
        self.sent_before = self.fleet.tally.restart();
        // Started last, so that they take no place from the connections that measure.
        self.crowd = self.let_loose()?;
        self.phase = Phase::Running;
        self.cpu_at_start = cpu_time();
        self.started = Moment::now();
        self.next_tick = self.started.after(SECOND);
        self.answered_at_tick = 0;
        self.source.begin(&mut self.fleet, self.started);
        Ok(())
    }

    fn let_loose(&self) -> Result<Option<Crowd>, LoadError> {
        let setting = |chaos| Setting {
            chaos,
            dialler: self.fleet.dialler().clone(),
            first: self.planned(),
            content: self.config.content,
            patience: self.config.reply_timeout,
        };
        self.config
            .chaos
            .map(|it| Crowd::start(setting(it)))
            .transpose()
    }

    fn report_progress(&mut self, progress: &mut dyn FnMut(&Tick)) {
        let now = Moment::now();
        if now < self.next_tick {
            return;
        }
        let past = now.since(self.next_tick) + SECOND;
        self.next_tick = now.after(SECOND);
        let tally = &mut self.fleet.tally;
        let answered = tally.answered - self.answered_at_tick;
        self.answered_at_tick = tally.answered;
        progress(&Tick {
            opening: matches!(self.phase, Phase::Opening { .. }),
            open: self.fleet.open,
            elapsed: now.since(self.started),
            sent: tally.reports + tally.heartbeats,
            answered: tally.answered,
            rate: rate(answered, past),
            p99: tally.turn(),
            faults: tally.fault_count(),
        });
    }

    /// Time since the measurement began, and CPU time spent in it.
    fn usage(&self) -> (Duration, Duration) {
        let cpu = cpu_time().saturating_sub(self.cpu_at_start);
        (Moment::now().since(self.started), cpu)
    }

    fn summary(mut self) -> Summary {
        let opened_in = self.started.since(self.opened_from);
        let (running, cpu) = self.ran.unwrap_or_else(|| self.usage());
        let chaos = self.crowd.take().map(Crowd::finish);
        for (fault, cause, count) in chaos.iter().flat_map(|totals| totals.faults.iter()) {
            self.fleet.tally.fault(fault, cause, count);
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

/// How long the last connection that was dialled may take to be established and to have
/// its first packet answered.
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

/// The most memory that this process had resident at once, in bytes, as
/// `proc_pid_status(5)` has it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Processor time that this thread has used, in user and kernel mode.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(spent.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanoseconds)
}
