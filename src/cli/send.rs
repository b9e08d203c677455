//! `hawk send`: sends reports and waits until they are taken.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use rand::RngExt as _;

use super::output;
use super::values::duration;
use super::wire_args::{DEFAULT_ADDRESS, EncodingArg};
use crate::client::{Client, Outcome, Pipeline, Stopped};
use crate::wire::{AgentName, Encoding, MAX_DATA, Packet, PacketKind, Report, encode_packet};

/// Send reports and wait until each is taken
///
/// Each CONTENT is one report; without any, each line of standard input is one.
/// The first line that cannot be sent ends it.
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

    /// The server
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_ADDRESS)]
    address: String,

    /// How packets are written into frames
    #[arg(long, value_enum, default_value_t = EncodingArg::Classic)]
    encoding: EncodingArg,

    /// How long the connection, and then each reply, may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
}

/// Bytes of standard input read at once.
const INPUT_BUFFER: usize = 64 * 1024;

impl SendArgs {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        self.point_out_a_likely_slip();
        let client = Client::connect(&self.address, self.timeout)?;
        let mut sending = Sending {
            pipeline: client.pipeline()?,
            agent: self.agent.clone(),
            encoding: self.encoding.into(),
            frame: Vec::new(),
            sent: 0,
        };
        let input = if self.contents.is_empty() {
            sending.lines(&mut BufReader::with_capacity(
                INPUT_BUFFER,
                io::stdin().lock(),
            ))
        } else {
            sending.contents(&self.contents)
        };
        let sent = sending.sent;
        let outcome = sending.pipeline.finish();
        conclude(&self.address, sent, outcome, input)
    }
}

impl SendArgs {
    /// The other clients take the server as an argument; here it is an option.
    fn point_out_a_likely_slip(&self) {
        if let Some(content) = self.contents.first()
            && content.parse::<SocketAddr>().is_ok()
        {
            let hint = "is sent as content; the server is given with --address";
            // Without stderr there is nobody to tell.
            writeln!(io::stderr(), "hawk: \"{content}\" {hint}").ok();
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

    fn lines(&mut self, input: &mut BufReader<impl Read>) -> Result<(), Halt> {
        let mut line = Vec::new();
        for number in 1_u64.. {
            let name = || format!("line {number}");
            // The next read may have to wait: nothing may wait with it.
            if input.buffer().is_empty() {
                self.pipeline.flush()?;
            }
            line.clear();
            // One byte more than any frame takes, and a line break.
            let most = MAX_DATA as u64 + 3;
            let read = input.by_ref().take(most).read_until(b'\n', &mut line);
            let read = read.context("cannot read standard input");
            if read.map_err(Halt::Input)? == 0 {
                break;
            }
            let content = line.strip_suffix(b"\n").unwrap_or(&line);
            let content = content.strip_suffix(b"\r").unwrap_or(content);
            let content = std::str::from_utf8(content)
                .map_err(|_| Halt::Input(anyhow!("{} is not UTF-8 text", name())))?;
            self.report(content, name)?;
        }
        Ok(())
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
        // A frame that the pipeline does not get rid of has been sent in vain,
        // but sent: it is to be accounted for.
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
