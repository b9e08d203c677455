//! `hawk send`: sends reports and waits until they are taken.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use rand::RngExt as _;
use rustix::io::Errno;

use super::output;
use super::values::duration;
use super::wire_args::{EncodingArg, ServerOption};
use hawk_client::{Outcome, Pipeline, Stopped};
use hawk_wire::{AgentName, Encoding, MAX_DATA, Packet, PacketKind, Report, encode_packet};

/// Send reports and wait until each is taken
///
/// Each CONTENT is one report; without any, each line of standard input is one.
/// The first line that cannot be sent ends it.
///
/// The input may pause for as long as it likes: a connection that the server ends meanwhile
/// is replaced. What was sent on a connection that broke, and was not answered, is sent again,
/// so the server may store it twice, with the same rand and timestamp.
///
/// Exits with 0 only if every report was taken.
#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// What to report
    #[arg(value_name = "CONTENT")]
    contents: Vec<String>,

    /// The name under which to report; by its IP address otherwise
    #[arg(long, value_name = "NAME", value_parser = agent_name)]
    agent: Option<AgentName<'static>>,

    #[command(flatten)]
    server: ServerOption,

    /// How packets are written into frames
    #[arg(long, value_enum, default_value_t = EncodingArg::Classic)]
    encoding: EncodingArg,

    /// How long the first connection may take, and then each reply, with new connections
    /// that are needed for it
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

/// Bytes of standard input read at once.
const INPUT_BUFFER: usize = 64 * 1024;

/// Bytes of a line beyond which it fits no frame: its end included.
const LONGEST_LINE: usize = MAX_DATA + 3;

impl SendArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.point_out_a_likely_slip();
        let address = self.server.address();
        let mut sending = Sending {
            pipeline: Pipeline::connect(address, self.timeout)?,
            agent: self.agent.clone(),
            encoding: self.encoding.into(),
            frame: Vec::new(),
            sent: 0,
        };
        let input = if self.contents.is_empty() {
            sending.lines(rustix::stdio::stdin())
        } else {
            sending.contents(&self.contents)
        };
        let sent = sending.sent;
        let outcome = sending.pipeline.finish();
        conclude(address, sent, outcome, input)
    }
}

impl SendArgs {
    /// The other clients take the server as an argument; here it is an option.
    fn point_out_a_likely_slip(&self) {
        if let Some(content) = self.contents.first()
            && content.parse::<SocketAddr>().is_ok()
        {
            let hint = "is sent as content; the server is given with --address";
            output::note(&format!("{content:?} {hint}"));
        }
    }
}

/// Reports on their way.
struct Sending {
    pipeline: Pipeline,
    agent: Option<AgentName<'static>>,
    encoding: Encoding,
    frame: Vec<u8>,
    sent: u64,
}

/// Why no more reports are read: the pipeline has stopped, or the input is bad.
enum Halt {
    Stopped,
    Input(anyhow::Error),
}

impl From<Stopped> for Halt {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl Sending {
    fn contents(&mut self, contents: &[String]) -> Result<(), Halt> {
        for (number, content) in contents.iter().enumerate() {
            self.report(content, || format!("CONTENT {}", number + 1))?;
        }
        Ok(())
    }

    /// Sends each line of `input`. While there is none, replies are read and the connection
    /// is watched.
    fn lines(&mut self, input: BorrowedFd<'_>) -> Result<(), Halt> {
        let mut buffer = vec![0; INPUT_BUFFER];
        let mut begun = Vec::new();
        let mut number = 1_u64;
        loop {
            self.pipeline.wait_for(input)?;
            let read = match rustix::io::read(input, &mut *buffer) {
                Err(Errno::INTR | Errno::AGAIN) => continue,
                read => read.context("cannot read standard input"),
            };
            let count = read.map_err(Halt::Input)?;
            if count == 0 {
                break;
            }
            begun.extend_from_slice(&buffer[..count]);
            let mut rest = begun.as_slice();
            while let Some(end) = memchr::memchr(b'\n', rest) {
                let (line, behind) = (&rest[..end], &rest[end + 1..]);
                rest = behind;
                self.line(line, number)?;
                number += 1;
            }
            if rest.len() > LONGEST_LINE {
                let error = anyhow!("line {number} is too long for a report");
                return Err(Halt::Input(error));
            }
            begun = rest.to_vec();
        }
        match begun.is_empty() {
            true => Ok(()),
            false => self.line(&begun, number),
        }
    }

    fn line(&mut self, line: &[u8], number: u64) -> Result<(), Halt> {
        let name = || format!("line {number}");
        let content = line.strip_suffix(b"\r").unwrap_or(line);
        let content = std::str::from_utf8(content)
            .map_err(|_| Halt::Input(anyhow!("{} is not UTF-8 text", name())))?;
        self.report(content, name)
    }

    fn report(&mut self, content: &str, name: impl Fn() -> String) -> Result<(), Halt> {
        let report = Packet::Report(Report {
            content: content.into(),
            rand: rand::rng().random_range(0..=i64::MAX),
            timestamp: unix_seconds(),
            agent: self.agent.clone(),
        });
        self.frame.clear();
        encode_packet(&report, self.encoding, &mut self.frame)
            .with_context(|| format!("{} is too long for a report", name()))
            .map_err(Halt::Input)?;
        // A frame that is not answered counts as sent.
        self.sent += 1;
        Ok(self.pipeline.send(PacketKind::Report, &self.frame)?)
    }
}

fn conclude(
    address: &str,
    sent: u64,
    outcome: Outcome,
    input: Result<(), Halt>,
) -> anyhow::Result<()> {
    let taken = outcome.taken;
    let so_far = format!("{taken} of {sent} reports were taken");
    if let Some(failure) = outcome.failure {
        return Err(failure).context(so_far);
    }
    if !outcome.refused.is_empty() {
        let refused = outcome.refused.iter();
        let causes: Vec<_> = refused
            .map(|(text, count)| format!("{count} × {text}"))
            .collect();
        bail!("{so_far}; {address} answered: {}", causes.join("; "));
    }
    match input {
        Err(Halt::Input(error)) => {
            return Err(error.context(format!("stopped, with {taken} reports taken before")));
        }
        Err(Halt::Stopped) => bail!("{so_far}; the connection to {address} broke"),
        Ok(()) => {}
    }
    if taken != sent {
        bail!("{so_far}; no reply to the others came from {address}");
    }
    let reports = if sent == 1 { "report" } else { "reports" };
    output::print(&format!("{sent} {reports} taken by {address}\n"))
}

fn agent_name(text: &str) -> Result<AgentName<'static>, String> {
    AgentName::new(text.to_owned()).map_err(|error| error.to_string())
}

/// The time as agents tell it.
pub(super) fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |span| i64::try_from(span.as_secs()).unwrap_or(i64::MAX))
}
