//! Hand-overs to another process, one at a time, and the one that this process came from.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use super::LINE;
use crate::restart::channel::{BUILD, Binary};
use crate::restart::{Attempt, Failure, Progress, Server, Succeeded, Succession};
use crate::service;
use hawk_time::Moment;

/// A predecessor that takes longer to end than this is not waited for: the service
/// manager is told that this process serves, whether it knows of it or not.
const INTRODUCTION: Duration = Duration::from_secs(5);

/// What the predecessor has left behind when it was gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Legacy {
    /// Nothing: all that came to it is done.
    Nothing,
    /// It was told to stop, and could not any more.
    Stop,
}

/// What there is to know about hand-overs.
pub(super) struct Upgrades {
    /// What a successor is made of, unless it is told; or why that is not known.
    binary: Result<Binary, String>,
    /// The limit of open files.
    descriptors: u64,
    /// Which of the processes, one after the other, this is; the first is 1.
    generation: u32,
    /// How this process took over, if it did.
    succeeded: Option<Succeeded>,
    /// The predecessor, until it has told the service manager of this process.
    introduction: Option<(Succession, Moment)>,
    attempt: Option<Attempt>,
    rolled_back: u64,
}

impl Upgrades {
    pub(super) fn new(descriptors: u64) -> Self {
        Self {
            // It takes /proc, without which there is as much reason to serve.
            binary: Binary::running().map_err(|error| error.to_string()),
            descriptors,
            generation: 1,
            succeeded: None,
            introduction: None,
            attempt: None,
            rolled_back: 0,
        }
    }

    /// This process took over from another, which has not told the service manager yet.
    pub(super) fn has_succeeded(
        &mut self,
        how: Succeeded,
        succession: Succession,
        max_connections: usize,
    ) {
        tell(&how, max_connections);
        self.generation = how.freeze.generation;
        self.succeeded = Some(how);
        self.introduction = Some((succession, Moment::now().after(INTRODUCTION)));
    }

    /// Whether the service manager may not have been told yet who this process is.
    pub(super) const fn is_still_introduced(&self) -> bool {
        self.introduction.is_some()
    }

    /// Whether another process is about to take over.
    pub(super) const fn is_handing_over(&self) -> bool {
        self.attempt.is_some()
    }

    /// What the predecessor leaves, if the service manager has been told just now.
    pub(super) fn was_introduced(&mut self, now: Moment) -> Option<Legacy> {
        let (succession, until) = self.introduction.as_mut()?;
        if !succession.is_over() && now < *until {
            return None;
        }
        let legacy = match succession.told_to_stop() {
            true => Legacy::Stop,
            false => Legacy::Nothing,
        };
        self.introduction = None;
        Some(legacy)
    }

    /// Begins to hand over to a process made of `binary`, or of what this one was
    /// started from.
    ///
    /// # Errors
    /// Why not, in a line.
    pub(super) fn begin(
        &mut self,
        server: &mut Server,
        binary: Option<&Path>,
    ) -> Result<(), String> {
        if let Some(attempt) = &self.attempt {
            let successor = attempt.successor();
            return Err(refused(&format!(
                "another one is under way, to process {successor}; wait for its end"
            )));
        }
        if server.is_stopping() {
            return Err(refused("the server is stopping"));
        }
        if self.is_still_introduced() {
            return Err(refused(
                "the process before this one has not ended yet; try again",
            ));
        }
        if std::process::id() == 1 {
            // With it the kernel ends all others of its namespace (pid_namespaces(7)).
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
        let begun = Attempt::begin(&binary, generation, self.descriptors, hidden);
        let attempt = begun.map_err(|failure| self.failed(&failure, server))?;
        log::info!(
            "handing over to process {} generation={generation} binary={:?}",
            attempt.successor(),
            binary.path(),
        );
        if let Err(error) = server.kernel().watch_other(attempt.as_fd(), LINE) {
            return Err(refused(&error.to_string()));
        }
        self.attempt = Some(attempt);
        Ok(())
    }

    /// Goes on with what is under way.
    pub(super) fn go_on(
        &mut self,
        server: &mut Server,
        control: Option<BorrowedFd<'_>>,
    ) -> Progress {
        let Some(attempt) = &mut self.attempt else {
            return Progress::Going;
        };
        let progress = attempt.go_on(server, control);
        match &progress {
            // Whoever ends for that says so.
            Progress::Going | Progress::Lost(_) => {}
            Progress::RolledBack(failure) => {
                self.attempt = None;
                self.failed(failure, server);
            }
            Progress::HandedOver(report) => {
                log::info!("handed over to process {} {report}", report.successor);
            }
        }
        progress
    }

    /// The successor need not wait for anything any more. It is to stop if this process
    /// was `told_to_stop`.
    pub(super) fn let_go(&mut self, told_to_stop: bool) {
        if let Some(mut attempt) = self.attempt.take()
            && told_to_stop
        {
            log::info!("told to stop: process {} is to", attempt.successor());
            attempt.pass_stop_on();
        }
    }

    /// When there is something to do at the latest.
    pub(super) fn deadline(&self) -> Option<Moment> {
        let introduction = self.introduction.as_ref().map(|(_, until)| *until);
        self.attempt
            .as_ref()
            .map(Attempt::deadline)
            .or(introduction)
    }

    /// What has become of hand-overs, as a line of the statistics.
    pub(super) fn statistics(&self) -> String {
        let mut line = format!(
            "restart version={BUILD} generation={} rolled_back={}",
            self.generation, self.rolled_back
        );
        if let Some(how) = &self.succeeded {
            line += &figures(how);
        }
        line
    }

    /// Logs that an attempt has failed, which has changed nothing; the same in short.
    fn failed(&mut self, failure: &Failure, server: &Server) -> String {
        self.rolled_back += 1;
        let Failure { step, .. } = failure;
        if server.is_stopping() {
            // It is what was asked for last.
            log::info!("upgrade rolled back step={step}: {failure}");
        } else {
            let id = std::process::id();
            log::error!("upgrade rolled back step={step}: {failure}; process {id} serves on");
        }
        rolled_back(failure)
    }
}

/// For whoever asked.
pub(super) fn rolled_back(failure: &Failure) -> String {
    format!("rolled back at {}: {failure}", failure.step)
}

/// Logs how this process took over.
fn tell(how: &Succeeded, max_connections: usize) {
    log::info!(
        "took over version={BUILD} generation={} max_connections={max_connections}{}",
        how.freeze.generation,
        figures(how),
    );
}

fn figures(how: &Succeeded) -> String {
    format!(
        " connections={} state_bytes={} precopy_us={} quiesce_us={} pause_us={}",
        how.connections,
        how.bytes,
        how.freeze.precopy.as_micros(),
        how.freeze.quiesce.as_micros(),
        how.pause.as_micros(),
    )
}

fn refused(why: &str) -> String {
    log::warn!("upgrade refused: {why}");
    format!("refused: {why}")
}
