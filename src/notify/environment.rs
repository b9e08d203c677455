//! What commands are started with: what hawk itself was started with.

use std::env;
use std::ffi::{OsStr, OsString};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, getrlimit};

/// Beginnings of the names of variables that stand between the service manager and this
/// process, or between this process and its successor, or that are options of this server. A
/// command may be a hawk itself.
const HIDDEN: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", "HAWK_"];

/// No limit, and no known limit.
const UNKNOWN: u64 = 0;

/// The environment and the limits of commands.
///
/// Signals need nothing: a handler ends with `exec`, std gives SIGPIPE its default action
/// back, and no signal is blocked or ignored here.
#[derive(Debug)]
pub(super) struct Environment {
    variables: Vec<(OsString, OsString)>,
    open_files: AtomicU64,
}

impl Environment {
    /// As of now, with this soft limit of open files.
    pub(super) fn new(open_files: Option<u64>) -> Self {
        Self {
            variables: env::vars_os()
                .filter(|(name, _)| !is_hidden(name))
                .collect(),
            open_files: AtomicU64::new(open_files.unwrap_or(UNKNOWN)),
        }
    }

    /// The soft limit of open files of commands; `None` if it is this process's.
    pub(super) fn open_files(&self) -> Option<u64> {
        let limit = self.open_files.load(Ordering::Relaxed);
        (limit != UNKNOWN).then_some(limit)
    }

    /// Sets the soft limit of open files of commands.
    pub(super) fn set_open_files(&self, limit: u64) {
        self.open_files.store(limit, Ordering::Relaxed);
    }

    /// `sh -c command`.
    pub(super) fn shell(&self, command: &OsStr) -> Command {
        let mut shell = Command::new("sh");
        shell
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        let current = getrlimit(Resource::Nofile).current;
        match self.open_files() {
            // A shell sets the limit and becomes the shell: to set it between fork and exec
            // takes unsafe code, and to set it from outside is a race.
            Some(limit) if Some(limit) != current => shell
                .args(["-c", r#"ulimit -Sn "$1"; exec sh -c "$0""#])
                .arg(command)
                .arg(limit.to_string()),
            _ => shell.arg("-c").arg(command),
        };
        shell
    }
}

fn is_hidden(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    HIDDEN.iter().any(|hidden| match hidden.ends_with('_') {
        true => name.starts_with(hidden.as_bytes()),
        false => name == hidden.as_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_the_service_is_hidden_and_nothing_else() {
        let names = crate::service::VARIABLES;
        let more = ["HAWK_LISTEN", "HAWK_SUCCESSOR", "WATCHDOG_X", "LISTEN_X"];
        assert!(
            names
                .iter()
                .chain(&more)
                .all(|name| is_hidden(OsStr::new(name)))
        );
        for name in ["PATH", "HAWKEYE", "NOTIFY_SOCKETS", "LISTENER", ""] {
            assert!(!is_hidden(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn a_command_has_the_limit_that_it_is_given() {
        let environment = Environment::new(None);
        let limit = || {
            let mut shell = environment.shell(OsStr::new("ulimit -Sn; echo \"$0 $#\""));
            String::from_utf8(shell.output().unwrap().stdout).unwrap()
        };
        let as_it_is = limit();
        environment.set_open_files(57);
        assert_eq!(limit(), "57\nsh 0\n");
        assert!(as_it_is.ends_with("\nsh 0\n"), "{as_it_is}");
    }
}
