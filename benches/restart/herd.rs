//! Connected and quiet agents, some of them in the middle of a frame.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hawk_wire::{AgentName, Encoding, Heartbeat, Packet, Report, encode_packet};

use hawk_testkit::bench::dial::dial;

/// How long a reply may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Of fifteen agents two are in the middle of a frame.
const ALL: usize = 15;
const IN_MID_FRAME: usize = 2;

/// Bytes of the frame that are sent at first.
const BEGUN: usize = 40;

const HEARTBEAT_REPLY: &[u8] = b"heartBeat\n";
const REPORT_REPLY: &[u8] = b"Report data has recive\n";

/// Each has a name of its own and has sent a heartbeat, which was answered.
pub(crate) struct Herd {
    agents: Vec<Agent>,
}

struct Agent {
    stream: TcpStream,
    name: String,
    /// Bytes of a report that are still to be sent, if one is begun.
    rest: Vec<u8>,
}

impl Herd {
    pub(crate) fn gather(target: SocketAddr, size: usize) -> anyhow::Result<Self> {
        let agents = (0..size).map(|number| Agent::connect(target, number));
        let agents = agents.collect::<anyhow::Result<_>>()?;
        Ok(Self { agents })
    }

    /// Completes the frame of each agent, or sends a heartbeat, and checks the reply: no
    /// connection has broken, no byte is lost and none was read twice.
    ///
    /// Returns the number of completed reports.
    pub(crate) fn check(self) -> anyhow::Result<usize> {
        let in_mid_frame = self.agents.iter().filter(|it| !it.rest.is_empty()).count();
        for mut agent in self.agents {
            let rest = std::mem::take(&mut agent.rest);
            let (bytes, reply) = match rest.is_empty() {
                true => (heartbeat(&agent.name)?, HEARTBEAT_REPLY),
                false => (rest, REPORT_REPLY),
            };
            let answered = agent.ask(&bytes, reply);
            answered.with_context(|| format!("agent {}", agent.name))?;
            agent.stream.set_nonblocking(true)?;
            let more = agent.stream.read(&mut [0]);
            ensure!(more.is_err(), "agent {} hears more: {more:?}", agent.name);
        }
        Ok(in_mid_frame)
    }
}

impl Agent {
    fn connect(target: SocketAddr, number: usize) -> anyhow::Result<Self> {
        let stream = dial(number, target, None).context("an agent cannot connect")?;
        let stream = TcpStream::from(stream);
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut agent = Self {
            stream,
            name: format!("quiet-{number}"),
            rest: Vec::new(),
        };
        agent.ask(&heartbeat(&agent.name)?, HEARTBEAT_REPLY)?;
        if number % ALL < IN_MID_FRAME {
            let mut frame = report(&agent.name)?;
            agent.rest = frame.split_off(BEGUN);
            agent.stream.write_all(&frame)?;
        }
        Ok(agent)
    }

    fn ask(&mut self, bytes: &[u8], reply: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes)?;
        let mut said = vec![0; reply.len()];
        self.stream.read_exact(&mut said)?;
        let said = String::from_utf8_lossy(&said);
        ensure!(said.as_bytes() == reply, "it was answered {said:?}");
        Ok(())
    }
}

fn heartbeat(name: &str) -> anyhow::Result<Vec<u8>> {
    encoded(&Packet::Heartbeat(Heartbeat {
        version: "1.0".into(),
        timestamp: 1_475_249_220,
        agent: Some(AgentName::new(name).context("a bad name")?),
        probe: false,
    }))
}

fn report(name: &str) -> anyhow::Result<Vec<u8>> {
    encoded(&Packet::Report(Report {
        content: "begun in one process and ended in another".into(),
        rand: 0,
        timestamp: 1_475_249_220,
        agent: Some(AgentName::new(name).context("a bad name")?),
    }))
}

fn encoded(packet: &Packet<'_>) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    encode_packet(packet, Encoding::Classic, &mut out).context("it does not fit a frame")?;
    Ok(out)
}
