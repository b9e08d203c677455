//! The successor's process, as its predecessor has it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Binary;
use super::socket::wait_readable;
use hawk_time::Moment;

/// Set to 1 in the environment of a process that is started to take over: its stdin is
/// the line to its predecessor.
pub const SUCCESSOR: &str = "HAWK_SUCCESSOR";

/// A process that was started and is not reaped yet. One that is dropped is ended,
/// unless it was [released](Self::release).
#[derive(Debug)]
pub struct Process {
    child: Child,
    watch: OwnedFd,
    released: bool,
}

impl Process {
    /// Starts `binary` with these arguments, this process's environment but for the
    /// `hidden` variables, its stdout and stderr, and `stdin`. It inherits no other
    /// descriptor, since all are made to be closed on `exec`.
    ///
    /// # Errors
    /// What starting it said, such as that there is no such file.
    pub fn spawn(
        binary: &Binary,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        hidden: &[&str],
        stdin: OwnedFd,
    ) -> io::Result<Self> {
        let mut command = Command::new(binary.path());
        for name in hidden {
            command.env_remove(name);
        }
        let mut child = command
            .args(arguments)
            .env(SUCCESSOR, "1")
            .stdin(Stdio::from(stdin))
            .spawn()?;
        // Not reaped yet, so the number is still its own.
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(watch) => Ok(Self {
                child,
                watch,
                released: false,
            }),
            Err(error) => {
                end(&mut child)?;
                Err(error.into())
            }
        }
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// What `waitpid(2)` says.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end until then; how it ended, if it has. If not, it goes on alone.
    ///
    /// # Errors
    /// What `poll(2)` and `waitpid(2)` say.
    pub fn wait(mut self, until: Moment) -> io::Result<Option<ExitStatus>> {
        self.released = true;
        wait_readable(&self.watch, until)?;
        self.ended()
    }

    /// Ends it, and waits until it has: it cannot catch the signal, and so that takes no
    /// longer than the kernel needs, some 20 ms with 15,000 sockets. One that waits for a
    /// disk that hangs (`D` in `ps`) is waited for as long. How it ended, which may have
    /// been before.
    ///
    /// # Errors
    /// What `kill(2)` and `waitpid(2)` say.
    pub fn end(mut self) -> io::Result<ExitStatus> {
        end(&mut self.child)
    }

    /// Lets it go on alone, now that it has taken over.
    pub fn release(mut self) {
        self.released = true;
    }
}

/// To be watched: readable once the process has ended (`pidfd_open(2)`).
impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.released {
            // There is nobody to tell.
            let _ended = end(&mut self.child);
        }
    }
}

fn end(child: &mut Child) -> io::Result<ExitStatus> {
    // One that has been reaped is not signalled again: std remembers.
    child.kill()?;
    child.wait()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::Path;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::super::Channel;
    use super::*;

    fn spawn(script: &str) -> io::Result<(Process, Channel)> {
        let (channel, theirs) = Channel::pair()?;
        let shell = Binary::at(Path::new("/bin/sh"))?;
        Ok((
            Process::spawn(&shell, ["-c", script], &["HOME"], theirs)?,
            channel,
        ))
    }

    fn wait(process: &Process) {
        let patience = Timespec::try_from(Duration::from_secs(20)).unwrap();
        let mut watched = [PollFd::new(process, PollFlags::IN)];
        assert_eq!(poll(&mut watched, Some(&patience)).unwrap(), 1);
    }

    #[test]
    fn the_end_of_a_process_is_an_event() {
        let (mut process, channel) = spawn("[ $HAWK_SUCCESSOR = 1 ] && exit 7").unwrap();
        wait(&process);
        assert_eq!(process.ended().unwrap().unwrap().code(), Some(7));
        let end = channel.receive().unwrap_err();
        assert!(matches!(end, super::super::ReceiveError::Ended));
        assert_eq!(process.end().unwrap().code(), Some(7));
    }

    #[test]
    fn it_has_our_environment_but_for_what_is_hidden() {
        assert!(std::env::var_os("HOME").is_some() && std::env::var_os("PATH").is_some());
        let (process, _channel) = spawn("exit ${PATH:+1}${HOME:+2}").unwrap();
        wait(&process);
        assert_eq!(process.end().unwrap().code(), Some(1));
    }

    #[test]
    fn one_that_is_waited_for_is_not_ended() {
        let (process, _channel) = spawn("exit 7").unwrap();
        let long = Moment::now().after(Duration::from_secs(20));
        assert_eq!(process.wait(long).unwrap().unwrap().code(), Some(7));

        let (process, _channel) = spawn("exec sleep 1000").unwrap();
        let id = Pid::from_child(&process.child);
        assert!(process.wait(Moment::now()).unwrap().is_none());
        rustix::process::test_kill_process(id).expect("it is there");
        rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
        rustix::process::waitpid(Some(id), rustix::process::WaitOptions::empty()).unwrap();
    }

    #[test]
    fn one_that_hangs_is_ended_and_reaped() {
        let (mut process, channel) = spawn("exec sleep 1000").unwrap();
        assert!(process.ended().unwrap().is_none());
        assert_eq!(process.end().unwrap().signal(), Some(9));
        assert!(channel.wait(hawk_time::Moment::now()).unwrap());

        let (process, _channel) = spawn("exec sleep 1000").unwrap();
        let proc = format!("/proc/{}", process.id());
        assert!(Path::new(&proc).exists());
        drop(process);
        assert!(!Path::new(&proc).exists());
    }

    #[test]
    fn a_binary_that_is_not_there_is_an_error() {
        let (_channel, theirs) = Channel::pair().unwrap();
        let missing = Binary::at(Path::new("/nowhere/hawk")).unwrap();
        let error = Process::spawn(&missing, ["serve"], &[], theirs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
