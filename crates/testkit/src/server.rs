//! The server as a process of its own.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use super::{Agent, HEARTBEAT, Lines, Stats, eventually, hidden_report};

/// A command line of the binary, about to be run.
#[derive(Debug)]
pub struct Launch {
    command: Command,
    /// Whether stderr is read from the start.
    reads_stderr: bool,
}

impl Launch {
    /// Returns a launch of `hawk serve` on a free port of the loopback, with `args`. By default it
    /// stores nothing, and logs statistics on request only.
    pub fn serve(args: &[&str]) -> Self {
        let mut launch = Self::hawk(&["serve"]);
        let defaults = [
            ("--listen", "127.0.0.1:0"),
            ("--stats-interval", "1h"),
            ("--store", "none"),
        ];
        for (option, value) in defaults {
            if !args.contains(&option) {
                launch.command.args([option, value]);
            }
        }
        launch.command.args(args);
        launch
    }

    /// `hawk` with `args` and nothing else.
    pub fn hawk(args: &[&str]) -> Self {
        let mut command = Command::new(crate::hawk_binary());
        command.args(args).stdin(Stdio::null());
        Self::of(command)
    }

    /// `program`, a copy of `hawk`, with `args` and nothing else.
    pub fn program(program: &std::path::Path, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null());
        Self::of(command)
    }

    /// `hawk serve` with `args` and nothing else, and `socket` passed as a service manager
    /// passes it.
    pub fn activated(socket: impl Into<Stdio>, args: &[&str]) -> Self {
        // The shell's number is that of what it becomes.
        let script = r#"WATCHDOG_PID=$$ LISTEN_PID=$$ LISTEN_FDS=${FDS-1} exec "$0" serve "$@" 3<&0 </dev/null"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, crate::hawk_binary()]);
        command.args(args).stdin(socket);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        // The tester's own environment must not reach the server.
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("HAWK_") || name.starts_with("RUST_LOG") {
                command.env_remove(&key);
            }
        }
        for key in hawk::service::VARIABLES {
            command.env_remove(key);
        }
        Self {
            command,
            reads_stderr: true,
        }
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.command.env(key, value);
        self
    }

    /// Has `program` run it, which is to make way for it: the process is the server's.
    pub fn under(mut self, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(args).arg(self.command.get_program());
        command.args(self.command.get_args()).stdin(Stdio::null());
        for (key, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        self.command = command;
        self
    }

    /// Leaves its stderr unread, a pipe that fills up, until [`Lines::go_on`].
    pub fn stderr_unread(mut self) -> Self {
        self.reads_stderr = false;
        self
    }

    /// Starts a server and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Server {
        let process = self.spawn();
        let (line, _) = process.stdout.wait_for(0, |line| {
            line.starts_with("listening on ") || panic!("not the line to be expected: {line}")
        });
        let address = line["listening on ".len()..].parse();
        Server {
            address: address.expect("an address and a port"),
            process,
        }
    }

    /// Runs to its end.
    #[track_caller]
    pub fn run(self) -> Exit {
        self.spawn().wait_exit()
    }

    /// Starts a process that runs until it is stopped. A drop kills it.
    pub fn spawn(mut self) -> Process {
        let pipes = self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().expect("the binary runs");
        let stderr = child.stderr.take().expect("piped");
        Process {
            stdout: Lines::collect(child.stdout.take().expect("piped")),
            stderr: match self.reads_stderr {
                true => Lines::collect(stderr),
                false => Lines::collect_later(stderr),
            },
            child,
        }
    }
}

/// A process that runs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pub stdout: Lines,
    pub stderr: Lines,
}

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Exit {
    /// `None`: a signal killed it.
    pub code: Option<i32>,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
}

impl Process {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    #[track_caller]
    pub fn wait_exit(&mut self) -> Exit {
        // The pipes end when the process does; those waits have a deadline.
        let (stdout, stderr) = (self.stdout.wait_end(), self.stderr.wait_end());
        let status = self.child.wait().expect("our child");
        Exit {
            code: status.code(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it was waited for already, and that is fine.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A server that listens; killed when dropped.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    process: Process,
}

impl Server {
    /// See [`Launch::serve`].
    #[track_caller]
    pub fn start(args: &[&str]) -> Self {
        Launch::serve(args).start()
    }

    #[track_caller]
    pub fn connect(&self) -> Agent {
        Agent::connect(self.address)
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.process.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("our child is there");
    }

    /// What it logs.
    pub fn log(&self) -> &Lines {
        &self.process.stderr
    }

    /// Waits until the process has ended; its exit code.
    #[track_caller]
    pub fn wait_end(&mut self) -> Option<i32> {
        let ended = eventually(|| self.process.child.try_wait().expect("our child"));
        ended.expect("it ends").code()
    }

    /// Waits for the end of its stdout, which is its own end.
    #[track_caller]
    pub fn wait_stdout_end(&self) {
        self.process.stdout.wait_end();
    }

    /// How many lines it has logged that contain `text`.
    pub fn count_logged(&self, text: &str) -> usize {
        let lines = self.log().since(0);
        lines.iter().filter(|line| line.contains(text)).count()
    }

    /// Its statistics, now.
    #[track_caller]
    pub fn stats(&self) -> Stats {
        let mark = self.log().count();
        self.signal(Signal::USR1);
        Stats::wait_for(self.log(), mark)
    }

    /// Waits until its statistics are as expected, and returns them.
    #[track_caller]
    pub fn wait_until(&self, expected: impl Fn(&Stats) -> bool) -> Stats {
        let found = eventually(|| Some(self.stats()).filter(&expected));
        found.unwrap_or_else(|| panic!("it never came to that:\n{:#?}", self.stats()))
    }

    /// Connects an agent and sends a [`hidden_report`] whole, so that the server holds the
    /// report behind a candidate.
    #[track_caller]
    pub fn connect_hiding_a_report(&self) -> Agent {
        let mut agent = self.connect();
        let hidden = hidden_report();
        agent.send(&hidden);
        let all = hidden.len() as u64;
        let stats = self.wait_until(|stats| stats.get("bytes_in") == all);
        assert_eq!(stats.get("reports"), 0, "more might come");
        agent
    }

    /// Suspends the process (SIGSTOP): it then receives all bytes of agents at once when it
    /// resumes.
    pub fn suspend(&self) -> Suspended<'_> {
        self.signal(Signal::STOP);
        waitpid(Some(self.pid()), WaitOptions::UNTRACED).expect("our child is there");
        Suspended(self)
    }

    /// Expects a heartbeat's answer to each agent, then stops the server and expects exit code 0.
    #[track_caller]
    pub fn expect_a_heartbeat_each_and_a_stop(self, mut agents: Vec<Agent>) {
        for agent in &mut agents {
            agent.expect_line(HEARTBEAT);
            agent.expect_eof();
        }
        drop(agents);
        assert_eq!(self.wait_exit().code, Some(0));
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait_exit(mut self) -> Exit {
        self.process.wait_exit()
    }
}

/// A server that stands still until this is dropped.
#[derive(Debug)]
#[must_use = "dropping this lets the server go on"]
pub struct Suspended<'a>(&'a Server);

impl Drop for Suspended<'_> {
    fn drop(&mut self) {
        self.0.signal(Signal::CONT);
    }
}
