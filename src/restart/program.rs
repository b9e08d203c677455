//! The program of a successor, and its process.
//!
//! `/proc/self/exe` names the file that this process runs, even if another file lies at its
//! path now. An upgrade must run the other file. So the path is resolved at the start: the name
//! by which the program was called, made absolute. Symbolic links are kept, so that an upgrade
//! can be installed by pointing a link to another file.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use rustix::fs::{Access, access};

use super::channel::wait_readable;
use crate::children::Child;
use hawk_time::Moment;

/// The file that this process runs: for comparison only.
const RUNNING: &str = "/proc/self/exe";

/// A program at an absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary(PathBuf);

impl Binary {
    /// Returns the program that this process was started from. Call it at the start, before
    /// a file is moved.
    ///
    /// If the name by which the program was called belongs to another file, which a caller can
    /// arrange, this is the file that the process runs.
    ///
    /// # Errors
    /// The error of `stat(2)` or `readlink(2)`, as without /proc.
    pub fn running() -> io::Result<Self> {
        let running = fs::metadata(RUNNING)?;
        let called_by = std::env::args_os().next().unwrap_or_default();
        let search = std::env::var_os("PATH").unwrap_or_default();
        // The folder may be removed: then a relative path is not found.
        let folder = std::env::current_dir().unwrap_or_default();
        match find(&called_by, &search, &folder, &running) {
            Some(path) => Ok(Self(path)),
            None => std::env::current_exe().map(Self),
        }
    }

    /// Returns the program at `path`, relative to the current folder.
    /// `check` tests whether the file exists.
    ///
    /// # Errors
    /// That the path is empty, or that there is no current folder.
    pub fn at(path: &Path) -> io::Result<Self> {
        std::path::absolute(path).map(Self)
    }

    /// Checks that the file exists and is executable.
    ///
    /// # Errors
    /// The reason in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let path = self.0.display();
        let metadata = fs::metadata(&self.0);
        let metadata =
            metadata.map_err(|error| format!("there is no binary at {path}: {error}"))?;
        if !metadata.is_file() {
            return Err(format!("{path} is not a file"));
        }
        access(&self.0, Access::EXEC_OK).map_err(|_| format!("{path} is not executable"))
    }

    /// Returns the absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

/// Returns the path for `called_by` in `folder`, if the file there is the `running` one.
/// Searches the folders of `search` for a name without a slash, as `execvp(3)` does.
fn find(called_by: &OsStr, search: &OsStr, folder: &Path, running: &Metadata) -> Option<PathBuf> {
    let is_running = |path: &PathBuf| {
        let is_it = |file: Metadata| (file.dev(), file.ino()) == (running.dev(), running.ino());
        path.is_absolute() && fs::metadata(path).is_ok_and(is_it)
    };
    if called_by.is_empty() {
        return None;
    }
    if called_by.as_encoded_bytes().contains(&b'/') {
        // Removes the dot of `./hawk`, for readers.
        let path = folder.join(called_by).components().collect();
        return Some(path).filter(is_running);
    }
    // An empty entry is the current folder: `join` returns `folder`.
    let folders = std::env::split_paths(search);
    folders
        .map(|entry| folder.join(entry).join(called_by))
        .find(is_running)
}

/// Set to 1 in the environment of a successor. Its stdin is the channel to its predecessor.
pub const SUCCESSOR: &str = "HAWK_SUCCESSOR";

/// The process of a successor. A drop kills it, unless it was [released](Self::release).
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    released: bool,
}

impl Process {
    /// Starts `binary` with these arguments, this process's environment without the `hidden`
    /// variables, its stdout and stderr, and `stdin`. The process inherits no other descriptor:
    /// all are close-on-exec.
    ///
    /// # Errors
    /// The error of [`Child::spawn`].
    pub(super) fn spawn(
        binary: &Binary,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        hidden: &[&str],
        stdin: OwnedFd,
    ) -> io::Result<Self> {
        let mut command = Command::new(binary.path());
        for name in hidden {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .env(SUCCESSOR, "1")
            .stdin(Stdio::from(stdin));
        Ok(Self {
            child: Child::spawn(&mut command)?,
            released: false,
        })
    }

    /// Returns the process id.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the process's end. Returns its status, or `None` at the deadline `until`. Then
    /// the process continues alone.
    ///
    /// # Errors
    /// The error of `poll(2)` or `waitpid(2)`.
    pub(super) fn wait(mut self, until: Moment) -> io::Result<Option<ExitStatus>> {
        self.released = true;
        wait_readable(&self.child, until)?;
        self.child.try_wait()
    }

    /// Kills the process, as [`Child::kill_and_wait`] does.
    ///
    /// # Errors
    /// The error of `kill(2)` or `waitpid(2)`.
    pub(super) fn kill(mut self) -> io::Result<ExitStatus> {
        self.child.kill_and_wait()
    }

    /// Lets the process continue alone after it has taken over.
    pub(super) fn release(mut self) {
        self.released = true;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.released {
            // An error has no receiver here.
            let _status = self.child.kill_and_wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::process::ExitStatusExt as _;
    use std::time::Duration;

    use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};

    use super::super::channel::{MessageSocket, ReceiveError};
    use super::*;

    /// A folder with a program in `bin/`, a link to it beside that, and something else.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["bin", "other"] {
            fs::create_dir(at(name)).unwrap();
        }
        for name in ["bin/hawk", "other/hawk"] {
            fs::write(at(name), name).unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("bin/hawk", at("current")).unwrap();
        folder
    }

    /// What is found, counted from the folder, when `bin/hawk` runs.
    fn found(called_by: &str, search: &str) -> Option<String> {
        let folder = folder();
        let expand = |text: &str| text.replace('@', folder.path().to_str().unwrap());
        let running = fs::metadata(folder.path().join("bin/hawk")).unwrap();
        let (called_by, search) = (expand(called_by), expand(search));
        let path = find(
            OsStr::new(&called_by),
            OsStr::new(&search),
            folder.path(),
            &running,
        )?;
        assert!(path.is_absolute() && !path.to_str().unwrap().contains("/./"));
        let path = path.strip_prefix(folder.path()).unwrap();
        Some(path.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_path_is_made_absolute() {
        assert_eq!(found("@/bin/hawk", "").as_deref(), Some("bin/hawk"));
        assert_eq!(found("bin/hawk", "").as_deref(), Some("bin/hawk"));
        assert_eq!(found("./bin/hawk", "").as_deref(), Some("bin/hawk"));
    }

    #[test]
    fn a_name_is_looked_for_as_the_shell_did() {
        assert_eq!(
            found("hawk", "/nowhere:@/bin:/usr").as_deref(),
            Some("bin/hawk")
        );
        assert_eq!(found("hawk", "bin").as_deref(), Some("bin/hawk"));
        // An empty entry is the current folder.
        assert_eq!(found("current", "/nowhere:").as_deref(), Some("current"));
        assert_eq!(found("hawk", "/nowhere"), None);
        assert_eq!(found("hawk", ""), None);
    }

    #[test]
    fn a_link_is_kept_so_that_it_can_be_pointed_elsewhere() {
        assert_eq!(found("@/current", "").as_deref(), Some("current"));
        assert_eq!(found("./current", "").as_deref(), Some("current"));
    }

    #[test]
    fn another_file_than_the_running_one_is_not_meant() {
        assert_eq!(found("@/other/hawk", ""), None);
        assert_eq!(found("-hawk", "@/bin"), None);
        assert_eq!(found("", "@/bin"), None);
        // One of the same name that comes first in PATH is not it.
        assert_eq!(found("hawk", "@/other:@/bin").as_deref(), Some("bin/hawk"));
    }

    #[test]
    fn this_very_process_is_found() {
        let binary = Binary::running().unwrap();
        assert!(binary.path().is_absolute());
        assert_ne!(binary.path(), Path::new(RUNNING));
        binary.check().unwrap();
    }

    #[test]
    fn the_error_names_the_fault_of_a_binary() {
        let folder = folder();
        let refused = |name: &str| {
            let path = folder.path().join(name);
            let refused = Binary::at(&path).unwrap().check().unwrap_err();
            refused.replace(path.to_str().unwrap(), "@")
        };
        assert_eq!(
            refused("missing"),
            "there is no binary at @: No such file or directory (os error 2)"
        );
        assert_eq!(refused("bin"), "@ is not a file");
        let plain = fs::Permissions::from_mode(0o644);
        fs::set_permissions(folder.path().join("bin/hawk"), plain).unwrap();
        assert_eq!(refused("bin/hawk"), "@ is not executable");
        Binary::at(&folder.path().join("other/hawk"))
            .unwrap()
            .check()
            .unwrap();
        assert_eq!(
            Binary::at(Path::new("")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(Binary::at(Path::new("hawk")).unwrap().path().is_absolute());
    }

    fn spawn(script: &str) -> io::Result<(Process, MessageSocket)> {
        let (channel, theirs) = MessageSocket::pair()?;
        let shell = Binary::at(Path::new("/bin/sh"))?;
        Ok((
            Process::spawn(&shell, ["-c", script], &["HOME"], theirs)?,
            channel,
        ))
    }

    fn wait(process: &Process) {
        let late = Moment::now().after(Duration::from_secs(20));
        assert!(wait_readable(&process.child, late).unwrap());
    }

    #[test]
    fn the_end_of_a_process_is_an_event() {
        let (mut process, channel) = spawn("[ $HAWK_SUCCESSOR = 1 ] && exit 7").unwrap();
        wait(&process);
        assert_eq!(process.child.try_wait().unwrap().unwrap().code(), Some(7));
        let end = channel.receive().unwrap_err();
        assert!(matches!(end, ReceiveError::Ended));
        assert_eq!(process.kill().unwrap().code(), Some(7));
    }

    #[test]
    fn the_successor_has_the_environment_without_hidden_variables() {
        assert!(std::env::var_os("HOME").is_some() && std::env::var_os("PATH").is_some());
        let (process, _channel) = spawn("exit ${PATH:+1}${HOME:+2}").unwrap();
        wait(&process);
        assert_eq!(process.kill().unwrap().code(), Some(1));
    }

    #[test]
    fn one_that_is_waited_for_is_not_ended() {
        let (process, _channel) = spawn("exit 7").unwrap();
        let long = Moment::now().after(Duration::from_secs(20));
        assert_eq!(process.wait(long).unwrap().unwrap().code(), Some(7));

        let (process, _channel) = spawn("exec sleep 1000").unwrap();
        let id = Pid::from_child(&process.child);
        assert!(process.wait(Moment::now()).unwrap().is_none());
        test_kill_process(id).expect("it is there");
        kill_process(id, Signal::KILL).unwrap();
        waitpid(Some(id), WaitOptions::empty()).unwrap();
    }

    #[test]
    fn one_that_hangs_is_ended_and_reaped() {
        let (mut process, channel) = spawn("exec sleep 1000").unwrap();
        assert!(process.child.try_wait().unwrap().is_none());
        assert_eq!(process.kill().unwrap().signal(), Some(9));
        assert!(channel.wait(Moment::now()).unwrap());

        let (process, _channel) = spawn("exec sleep 1000").unwrap();
        let proc = format!("/proc/{}", process.id());
        assert!(Path::new(&proc).exists());
        drop(process);
        assert!(!Path::new(&proc).exists());
    }

    #[test]
    fn a_binary_that_is_not_there_is_an_error() {
        let (_channel, theirs) = MessageSocket::pair().unwrap();
        let missing = Binary::at(Path::new("/nowhere/hawk")).unwrap();
        let error = Process::spawn(&missing, ["serve"], &[], theirs).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
