//! The thread that runs commands.

use std::io;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::command::{Failure, Running};
use super::event::word;
use super::mailbox::{Ending, Mailbox};
use super::queue::{Agent, Queue};
use super::{AT_ONCE, Config};
use crate::throttle::Throttle;
use crate::time::Moment;

/// Runs a command for each event in the mailbox.
pub(super) struct Runner {
    config: Config,
    mailbox: Arc<Mailbox>,
    queue: Queue,
    running: Vec<Running>,
    complaints: Complaints,
}

/// Failures come as often as agents come and go: a line now and then, for each
/// kind of them.
#[derive(Default)]
struct Complaints {
    start: Throttle,
    status: Throttle,
    timed_out: Throttle,
}

impl Runner {
    pub(super) fn new(config: Config, mailbox: Arc<Mailbox>) -> Self {
        Self {
            config,
            mailbox,
            queue: Queue::default(),
            running: Vec::with_capacity(AT_ONCE),
            complaints: Complaints::default(),
        }
    }

    /// Runs commands until it is told to stop.
    pub(super) fn run(mut self) {
        if let Err(error) = self.serve() {
            log::error!("cannot wait for on-event commands, no more of them are run: {error}");
        }
        self.give_up();
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut jobs = Vec::new();
        loop {
            let give_up_at = self.mailbox.empty(&mut jobs);
            jobs.drain(..).for_each(|job| self.queue.push(job));
            let now = Moment::now();
            self.reap();
            self.kill_late(now);
            if give_up_at.is_some_and(|give_up_at| give_up_at <= now) {
                return Ok(());
            }
            self.start_some(now);
            if give_up_at.is_some() && self.queue.is_empty() {
                return Ok(());
            }
            self.wait(give_up_at)?;
        }
    }

    /// Starts what may start.
    fn start_some(&mut self, now: Moment) {
        while self.running.len() < AT_ONCE
            && let Some(job) = self.queue.next()
        {
            self.mailbox.started(&job);
            match Running::start(&self.config, &job, now) {
                Ok(running) => self.running.push(running),
                Err(failure) => self.conclude(job.agent, job.online, Err(failure)),
            }
        }
    }

    /// Waits until an event comes, a command ends, or the time of one is over.
    fn wait(&self, give_up_at: Option<Moment>) -> io::Result<()> {
        let kills = self.running.iter().filter_map(Running::kill_at);
        let next = kills.chain(give_up_at).min();
        // Longer than the kernel can count is for ever.
        let timeout = next.and_then(|next| Timespec::try_from(next.since(Moment::now())).ok());
        let ends = self.running.iter().map(Running::end);
        let mut sources: Vec<_> = std::iter::once(self.mailbox.bell())
            .chain(ends)
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        match poll(&mut sources, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks which commands have ended, and leaves none of them a zombie.
    fn reap(&mut self) {
        let mut index = 0;
        while let Some(running) = self.running.get_mut(index) {
            match running.outcome(self.config.timeout) {
                None => index += 1,
                Some(outcome) => {
                    let Running { agent, online, .. } = self.running.swap_remove(index);
                    self.conclude(agent, online, outcome);
                }
            }
        }
    }

    /// Kills those whose time is over.
    fn kill_late(&mut self, now: Moment) {
        for running in &mut self.running {
            if running.kill_at().is_some_and(|kill_at| kill_at <= now)
                && let Err(error) = running.kill()
                && let Some(left_out) = self.complaints.timed_out.allow(now)
            {
                let (agent, state) = (&running.agent, word(running.online));
                log::warn!(
                    "the on-event command takes too long and cannot be killed: {error} \
                     agent={agent} state={state} left_out={left_out}"
                );
            }
        }
    }

    /// An event is done with.
    fn conclude(&mut self, agent: Agent, online: bool, outcome: Result<(), Failure>) {
        let ending = match &outcome {
            Ok(()) => Ending::Well,
            Err(Failure::TimedOut(_)) => Ending::TimedOut,
            Err(_) => Ending::Failed,
        };
        self.mailbox.ended(ending);
        if let Err(failure) = outcome
            && let Some(left_out) = self.complaints.about(&failure)
        {
            let state = word(online);
            log::warn!(
                "the on-event command {failure} agent={agent} state={state} left_out={left_out}"
            );
        }
        self.queue.done(agent);
    }

    /// Kills what runs and drops what waits.
    fn give_up(&mut self) {
        for running in &mut self.running {
            // Nobody waits for it any more, whether or not it could be killed.
            running.kill().ok();
        }
        let (killed, waiting) = (self.running.len(), self.mailbox.close());
        if killed + waiting > 0 {
            log::warn!(
                "on-event commands given up: {killed} are killed, for {waiting} events more \
                 none is run"
            );
        }
    }
}

impl Complaints {
    /// Whether to log a failure; how many like it were left out, if so.
    fn about(&mut self, failure: &Failure) -> Option<u64> {
        let throttle = match failure {
            Failure::Start(_) => &mut self.start,
            Failure::Status(_) | Failure::Lost(_) => &mut self.status,
            Failure::TimedOut(_) => &mut self.timed_out,
        };
        throttle.allow(Moment::now())
    }
}
