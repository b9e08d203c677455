//! Hand-overs of this process to successors, one at a time, and the predecessor of this
//! process.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::EffectiveSettings;
use super::runtime::CHANNEL;
use crate::restart::channel::BUILD;
use crate::restart::{
    Binary, HandOver, HandOverFailure, Progress, ServerReactor, TakeOver, TakeOverFigures,
};
use crate::service;
use crate::stats::{RestartStatistics, TakeOverStatistics};
use hawk_time::Moment;

/// The longest wait for the predecessor's end. After it the service manager is notified that
/// this process serves, whether the predecessor has named this process or not.
const PREDECESSOR_END: Duration = Duration::from_secs(5);

pub(super) struct Upgrades {
    /// The default program of a successor, or why it is unknown.
    binary: Result<Binary, String>,
    /// The limit of open files.
    descriptors: u64,
    /// The number of this process in its line of processes; the first is 1.
    generation: u32,
    /// The statistics of this process's own take-over.
    took_over: Option<TakeOverStatistics>,
    /// The predecessor and the end of the wait for it, until it has named this process to the
    /// service manager.
    predecessor: Option<(TakeOver, Moment)>,
    hand_over: Option<HandOver>,
    /// Hand-overs that were rolled back.
    rolled_back: u64,
}

impl Upgrades {
    pub(super) fn new(descriptors: u64) -> Self {
        Self {
            // Fails without /proc, which is no reason not to serve.
            binary: Binary::running().map_err(|error| error.to_string()),
            descriptors,
            generation: 1,
            took_over: None,
            predecessor: None,
            hand_over: None,
            rolled_back: 0,
        }
    }

    /// Logs this process's take-over.
    pub(super) fn took_over(
        &mut self,
        figures: TakeOverFigures,
        predecessor: TakeOver,
        effective: &EffectiveSettings,
    ) {
        let generation = figures.freeze.generation;
        let statistics = figures.statistics();
        log::info!("took over version={BUILD} generation={generation} {statistics} {effective}");
        self.generation = generation;
        self.took_over = Some(statistics);
        self.predecessor = Some((predecessor, Moment::now().after(PREDECESSOR_END)));
    }

    /// Whether this process waits for its predecessor to name it to the service manager.
    pub(super) const fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Whether a hand-over is under way.
    pub(super) const fn has_successor(&self) -> bool {
        self.hand_over.is_some()
    }

    /// Returns the predecessor when the wait for its end is over.
    pub(super) fn predecessor_end(&mut self, now: Moment) -> Option<TakeOver> {
        let (predecessor, until) = self.predecessor.as_mut()?;
        if !predecessor.is_over() && now < *until {
            return None;
        }
        self.predecessor.take().map(|(predecessor, _)| predecessor)
    }

    /// Begins a hand-over to a process that runs `binary`, by default the program that this
    /// process was started from.
    ///
    /// # Errors
    /// The reason in one line, also logged.
    pub(super) fn begin(
        &mut self,
        server: &mut ServerReactor,
        binary: Option<&Path>,
    ) -> Result<(), String> {
        if let Some(hand_over) = &self.hand_over {
            let successor = hand_over.successor();
            return Err(refused(&format!(
                "another one is under way, to process {successor}; wait for its end"
            )));
        }
        if server.is_stopping() {
            return Err(refused("the server is stopping"));
        }
        if self.has_predecessor() {
            return Err(refused(
                "the process before this one has not ended yet; try again",
            ));
        }
        if std::process::id() == 1 {
            // Its end kills all processes of its namespace (pid_namespaces(7)).
            return Err(refused(
                "this server is process 1 of its container, which would end with it; start \
                 another container instead",
            ));
        }
        let binary = match binary {
            Some(path) => Binary::at(path).map_err(|error| refused(&error.to_string()))?,
            None => self.binary.clone().map_err(|error| {
                refused(&format!(
                    "cannot tell what this process was started from: {error}; name the binary"
                ))
            })?,
        };
        let generation = self.generation.saturating_add(1);
        let hidden = &service::VARIABLES_OF_THIS_PROCESS;
        let hand_over = HandOver::begin(&binary, generation, self.descriptors, hidden)
            .map_err(|failure| self.failed(&failure, server))?;
        log::info!(
            "handing over to process {} generation={generation} binary={:?}",
            hand_over.successor(),
            binary.path(),
        );
        if let Err(error) = server.kernel().watch_other(hand_over.as_fd(), CHANNEL) {
            return Err(refused(&error.to_string()));
        }
        self.hand_over = Some(hand_over);
        Ok(())
    }

    /// Advances the hand-over that is under way.
    pub(super) fn advance(
        &mut self,
        server: &mut ServerReactor,
        control: Option<BorrowedFd<'_>>,
    ) -> Progress {
        let Some(hand_over) = &mut self.hand_over else {
            return Progress::Going;
        };
        let progress = hand_over.advance(server, control);
        match &progress {
            // The process ends with an error for that.
            Progress::Going | Progress::Lost(_) => {}
            Progress::RolledBack(failure) => {
                self.hand_over = None;
                self.failed(failure, server);
            }
            Progress::HandedOver(figures) => {
                log::info!("handed over to process {} {figures}", figures.successor);
            }
        }
        progress
    }

    /// Closes the channel to the successor, and passes on the stop that this process received
    /// too late, if `was_stopped`.
    pub(super) fn release_successor(&mut self, was_stopped: bool) {
        if let Some(mut hand_over) = self.hand_over.take()
            && was_stopped
        {
            log::info!("told to stop: process {} is to", hand_over.successor());
            hand_over.pass_stop_on();
        }
    }

    /// The next deadline of the hand-over or of the wait for the predecessor.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let predecessor = self.predecessor.as_ref().map(|(_, until)| *until);
        let hand_over = self.hand_over.as_ref().map(HandOver::deadline);
        hand_over.or(predecessor)
    }

    /// Returns the statistics of hand-overs.
    pub(super) fn statistics(&self) -> RestartStatistics {
        RestartStatistics {
            version: BUILD,
            generation: self.generation,
            rolled_back: self.rolled_back,
            take_over: self.took_over,
        }
    }

    /// Counts and logs a hand-over that was rolled back. Returns it for the client.
    fn failed(&mut self, failure: &HandOverFailure, server: &ServerReactor) -> String {
        self.rolled_back += 1;
        let step = failure.step;
        if server.is_stopping() {
            // The operator stopped the server meanwhile.
            log::info!("upgrade rolled back step={step}: {failure}");
        } else {
            let id = std::process::id();
            log::error!("upgrade rolled back step={step}: {failure}; process {id} serves on");
        }
        rolled_back(failure)
    }
}

/// The failure, for the client that requested the hand-over.
pub(super) fn rolled_back(failure: &HandOverFailure) -> String {
    format!("rolled back at {}: {failure}", failure.step)
}

fn refused(why: &str) -> String {
    log::warn!("upgrade refused: {why}");
    format!("refused: {why}")
}
