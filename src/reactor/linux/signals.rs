//! The signals that the server catches.
//!
//! Each signal whose default action ends a process (signal(7)) is in one of these groups:
//!
//! | signals | what happens |
//! |---|---|
//! | TERM, INT, QUIT | stop; a second one stops at once |
//! | USR1, USR2, HUP | statistics, hand-over, reload |
//! | ALRM, VTALRM, PROF, IO, XCPU, XFSZ, STKFLT, PWR, real-time | caught and logged |
//! | PIPE | ignored by Rust's runtime, and reset in commands that the server starts |
//! | ABRT, BUS, FPE, ILL, SEGV, SYS, TRAP | default action: they report a fault of the program (systemd's watchdog sends ABRT) |
//! | KILL | cannot be caught |
//!
//! Caught and not ignored (`SIG_IGN`): a command that the server starts would inherit an
//! ignored signal, while a caught one is reset to its default action by execve(2).

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::Signal as Number;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM,
    SIGXCPU, SIGXFSZ,
};
use signal_hook::flag;
use signal_hook::low_level::signal_name;
use signal_hook_mio::v1_0::Signals;

use crate::reactor::kernel::Signal;

/// Signals that stop the server.
const STOP: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];

/// Signals that ask for something else.
const REQUESTS: [i32; 3] = [SIGUSR1, SIGUSR2, SIGHUP];

/// Signals that ask for nothing and would end the process.
const MEANINGLESS: [i32; 8] = [
    SIGALRM,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    SIGXCPU,
    SIGXFSZ,
    Number::STKFLT.as_raw(),
    Number::POWER.as_raw(),
];

/// Real-time signals. The C library keeps the first two or three for itself.
const REAL_TIME: RangeInclusive<i32> = 34..=64;

/// Catches and discards every signal except the signals that stop the server. From now on
/// no caught signal ends the process, however long the start takes.
///
/// # Errors
/// Errors of sigaction(2).
pub fn catch_signals() -> io::Result<()> {
    let discard = Arc::new(AtomicBool::new(false));
    for signal in REQUESTS.into_iter().chain(MEANINGLESS) {
        flag::register(signal, Arc::clone(&discard))?;
    }
    for signal in REAL_TIME {
        // Fails for a signal that the C library keeps for itself.
        let _kept = flag::register(signal, Arc::clone(&discard));
    }
    Ok(())
}

/// Catches every signal, to be read from the result.
pub(super) fn catch() -> io::Result<Signals> {
    let signals = Signals::new(STOP.into_iter().chain(REQUESTS).chain(MEANINGLESS))?;
    for signal in REAL_TIME {
        let _kept = signals.add_signal(signal);
    }
    Ok(signals)
}

/// What the signal of this number asks for.
pub(super) const fn meaning(number: i32) -> Signal {
    match number {
        SIGTERM | SIGINT | SIGQUIT => Signal::Stop,
        SIGUSR1 => Signal::Statistics,
        SIGUSR2 => Signal::Upgrade,
        SIGHUP => Signal::Reload,
        other => Signal::Meaningless(other),
    }
}

/// Logs a signal that asks for nothing.
pub(in crate::reactor) fn log_meaningless(number: i32) {
    // The store logs a file that has reached its limit.
    let level = if number == SIGXFSZ {
        log::Level::Debug
    } else {
        log::Level::Warn
    };
    let name = signal_name(number).unwrap_or("unknown");
    log::log!(
        level,
        "signal {number} ({name}) has no meaning here and is ignored"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_ends_a_process_is_accounted_for() {
        // KILL, PIPE, and the signals that report a fault.
        let left = [
            Number::KILL,
            Number::PIPE,
            Number::ABORT,
            Number::BUS,
            Number::FPE,
            Number::ILL,
            Number::SEGV,
            Number::SYS,
            Number::TRAP,
        ];
        // Signals with the default action to ignore, stop or continue.
        let harmless = [
            Number::CHILD,
            Number::CONT,
            Number::STOP,
            Number::TSTP,
            Number::TTIN,
            Number::TTOU,
            Number::URG,
            Number::WINCH,
        ];
        let not_caught: Vec<i32> = [&left[..], &harmless]
            .concat()
            .iter()
            .map(|n| n.as_raw())
            .collect();
        for number in 1..32 {
            let caught = [&STOP[..], &REQUESTS, &MEANINGLESS]
                .concat()
                .contains(&number);
            assert_ne!(caught, not_caught.contains(&number), "{number}");
        }
    }
}
