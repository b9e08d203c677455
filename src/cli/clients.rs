//! The clients `hawk send` and `hawk ping`, and the options that they share with `hawk load`.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, ValueEnum};
use rand::RngExt as _;
use rustix::io::Errno;

use super::output;
use super::values::{duration, server_address};
use hawk_client::{Client, Outcome, Pipeline, Stopped};
use hawk_wire::{
    AgentName, Encoding, Heartbeat, MAX_DATA, Packet, PacketKind, Reply, Report, STORE_PROBE,
    encode_packet,
};

/// The address of the server without an option.
const DEFAULT_ADDRESS: &str = "127.0.0.1:9876";

/// The server that a client connects to.
#[derive(Debug, Args)]
pub(super) struct ServerOption {
    /// The server: a name or an IP address, with a port, such as web-01:9876 or [::1]:9876
    #[arg(long, env = "HAWK_ADDRESS", value_name = "ADDR:PORT", default_value = DEFAULT_ADDRESS, value_parser = server_address)]
    address: String,
}

impl ServerOption {
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

/// The server as an argument or an option.
#[derive(Debug, Args)]
pub(super) struct ServerArg {
    /// The server, as with --address, which it outranks
    #[arg(value_name = "ADDR:PORT", value_parser = server_address)]
    argument: Option<String>,

    #[command(flatten)]
    option: ServerOption,
}

impl ServerArg {
    pub(super) fn address(&self) -> &str {
        self.argument
            .as_deref()
            .unwrap_or_else(|| self.option.address())
    }
}

/// The encoding of packets.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum EncodingArg {
    /// A JSON envelope around a second JSON object in base64, as deployed agents do
    Classic,
    /// The packet's number as one byte, then the JSON object
    Compact,
}

/// The kinds of packet.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KindArg {
    Report,
    Heartbeat,
}

impl From<EncodingArg> for Encoding {
    fn from(argument: EncodingArg) -> Self {
        match argument {
            EncodingArg::Classic => Self::Classic,
            EncodingArg::Compact => Self::Compact,
        }
    }
}

impl From<KindArg> for PacketKind {
    fn from(argument: KindArg) -> Self {
        match argument {
            KindArg::Report => Self::Report,
            KindArg::Heartbeat => Self::Heartbeat,
        }
    }
}

/// Send reports and wait until each is taken
///
/// Each CONTENT is one report; without any, each line of standard input is one.
/// The first line that cannot be sent ends the command.
///
/// The input may pause without a limit: a connection that the server closes meanwhile is
/// replaced. A report without a reply on a broken connection is sent again, so the server may
/// store it twice, with the same rand and timestamp.
///
/// Exits with 0 only if every report was taken.
#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The content of a report
    #[arg(value_name = "CONTENT")]
    contents: Vec<String>,

    /// The name of the agent [default: none; the server uses the IP address]
    #[arg(long, value_name = "NAME", value_parser = agent_name)]
    agent: Option<AgentName<'static>>,

    #[command(flatten)]
    server: ServerOption,

    /// How packets are written into frames
    #[arg(long, value_enum, default_value_t = EncodingArg::Classic)]
    encoding: EncodingArg,

    /// The limit for the first connection, and then for each reply, including new connections
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

/// Bytes of standard input read at once.
const INPUT_BUFFER: usize = 64 * 1024;

/// The greatest length of a line that fits a frame, including its end.
const LONGEST_LINE: usize = MAX_DATA + 3;

impl SendArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.warn_of_address_as_content();
        let address = self.server.address();
        let mut sender = Sender {
            pipeline: Pipeline::connect(address, self.timeout)?,
            agent: self.agent.clone(),
            encoding: self.encoding.into(),
            frame: Vec::new(),
            sent: 0,
        };
        let input = if self.contents.is_empty() {
            sender.lines(rustix::stdio::stdin())
        } else {
            sender.contents(&self.contents)
        };
        let sent = sender.sent;
        let outcome = sender.pipeline.finish();
        summarize(address, sent, outcome, input)
    }

    /// Prints a note for an address as content: the other clients take the server as an argument.
    fn warn_of_address_as_content(&self) {
        if let Some(content) = self.contents.first()
            && content.parse::<SocketAddr>().is_ok()
        {
            let hint = "is sent as content; the server is given with --address";
            output::note(&format!("{content:?} {hint}"));
        }
    }
}

/// A pipeline of reports.
struct Sender {
    pipeline: Pipeline,
    agent: Option<AgentName<'static>>,
    encoding: Encoding,
    frame: Vec<u8>,
    sent: u64,
}

/// Why no more reports are read.
enum Halt {
    /// The pipeline has stopped.
    Stopped,
    /// The input is invalid.
    Input(anyhow::Error),
}

impl From<Stopped> for Halt {
    fn from(Stopped: Stopped) -> Self {
        Self::Stopped
    }
}

impl Sender {
    fn contents(&mut self, contents: &[String]) -> Result<(), Halt> {
        for (number, content) in contents.iter().enumerate() {
            self.report(content, || format!("CONTENT {}", number + 1))?;
        }
        Ok(())
    }

    /// Sends each line of `input`, and reads replies while there is no input.
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

fn summarize(
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

/// The time in seconds since 1970, as in packets.
fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |span| i64::try_from(span.as_secs()).unwrap_or(i64::MAX))
}

/// Send a heartbeat and print the round trip, as a health check
///
/// Exits with 0 only if the server sends the right reply in time.
#[derive(Debug, Args)]
pub(super) struct PingArgs {
    #[command(flatten)]
    server: ServerArg,

    /// Check the store, too: the server answers once a commit is on disk. Nothing is stored
    #[arg(long)]
    report: bool,

    /// The limit for the connection, and then for the reply
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

impl PingArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let (version, expected) = match self.report {
            true => (STORE_PROBE, Reply::Report),
            false => ("1.0", Reply::Heartbeat),
        };
        let mut frame = Vec::new();
        let heartbeat = Packet::Heartbeat(Heartbeat {
            version: version.into(),
            timestamp: unix_seconds(),
            agent: None,
            probe: true,
        });
        encode_packet(&heartbeat, Encoding::Classic, &mut frame)?;
        let address = self.server.address();
        let mut client = Client::connect(address, self.timeout)?;
        let (reply, elapsed) = client.ask(&frame)?;
        let text = reply.line().trim_ascii().escape_ascii();
        if self.report && reply == Reply::Heartbeat {
            bail!("{address} is alive, and too old for a check of its store");
        }
        if reply != expected {
            bail!("{address} answered a heartbeat with: {text}");
        }
        let elapsed = elapsed.as_secs_f64() * 1e3;
        output::print(&format!("{text} from {address}: {elapsed:.2} ms\n"))
    }
}
