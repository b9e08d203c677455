//! What a server can be set to, and the configuration of each module that follows from it.

use std::ffi::OsString;
use std::fmt::{self, Display};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use ipnet::IpNet;
use rustix::process::geteuid;

use crate::admission;
use crate::handler::{self, Ack};
use crate::log_sink::LeftOut;
use crate::notify::{self, Calls, Consumer, Predecessor};
use crate::reactor::{self, MIN_POOL_LIMIT, PhaseBudget, RESERVED_DESCRIPTORS};
use crate::roster;
use crate::session::{Limits, Rate};
use crate::store::{self, FreeSpace, Retention};

/// Where a server listens without a setting and without a passed socket.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9876);

/// The control socket of the systemd unit.
pub const CONTROL_SOCKET: &str = "/run/hawk/control";

/// The settings of one server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address to listen on; `None`: that of a passed socket, or [`DEFAULT_LISTEN`].
    pub listen: Option<SocketAddr>,
    /// The greatest number of connections; `None`: as many as the limit of open files allows.
    pub max_connections: Option<u32>,
    /// The greatest number of connections of one address; `None`: a share of all.
    pub max_connections_per_ip: Option<NonZeroU32>,
    /// Networks from which connections are accepted; empty: all.
    pub allow: Vec<IpNet>,
    /// Networks from which connections are turned away, even if they are in `allow`.
    pub deny: Vec<IpNet>,
    /// Frames a second that are read from a connection; `None`: no limit.
    pub rate_limit: Option<NonZeroU32>,
    /// Memory of all receive buffers, in bytes.
    pub pool_limit: usize,
    /// Unread replies of all connections, in bytes.
    pub output_limit: usize,
    /// The longest time without a frame on a connection.
    pub idle_timeout: Duration,
    /// The longest time from the first to the last byte of a frame.
    pub frame_timeout: Duration,
    /// The longest time for the last replies at a stop.
    pub drain_timeout: Duration,
    /// The time between two blocks of statistics in the log.
    pub stats_interval: Duration,
    /// The file of the store; `None`: reports are not stored.
    pub store: Option<PathBuf>,
    /// Whether the superuser may use a store in a folder that another user can write.
    pub store_owner_ok: bool,
    /// When a report is answered.
    pub ack: Ack,
    /// The greatest age of reports, events and silent agents.
    pub retain: Duration,
    /// The greatest size of all reports in the store, in bytes.
    pub retain_size: u64,
    /// Free space of the file system below which reports are removed.
    pub retain_free: FreeSpace,
    /// The greatest number of agents.
    pub max_agents: u32,
    /// The silence after which an agent is offline; `None`: learnt from its packets.
    pub offline_after: Option<Duration>,
    /// The time after the start in which no agent is declared offline.
    pub start_grace: Duration,
    /// The shell command for each event.
    pub on_event: Option<OsString>,
    /// The shell command for all events of a window.
    pub on_events: Option<OsString>,
    /// The length of that window.
    pub on_events_window: Duration,
    /// The longest time that a command for events may take.
    pub on_event_timeout: Duration,
    /// The control socket; `None`: [`CONTROL_SOCKET`] if its folder is this user's own.
    pub control: Option<PathBuf>,
    /// Whether each packet is logged.
    pub log_packets: bool,
}

impl Settings {
    /// The reactor's configuration, with `descriptors` as the limit of open files.
    pub(super) fn reactor(
        &self,
        descriptors: u64,
        log_left_out: LeftOut,
    ) -> anyhow::Result<reactor::Config> {
        let max_connections = self.max_connections(descriptors)?;
        ensure!(
            self.pool_limit >= MIN_POOL_LIMIT,
            "a pool limit of {} bytes is too little; give --pool-limit {MIN_POOL_LIMIT} (136KiB) \
             or more",
            self.pool_limit
        );
        let rules = admission::Rules {
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            ..admission::Rules::default()
        };
        Ok(reactor::Config {
            listen: self.listen.unwrap_or(DEFAULT_LISTEN),
            max_connections,
            admission: rules.share(max_connections, self.max_connections_per_ip),
            pool_limit: self.pool_limit,
            output_limit: self.output_limit,
            phase_budget: PhaseBudget::default(),
            limits: Limits {
                idle: self.idle_timeout,
                frame: self.frame_timeout,
                rate: self.rate_limit.map(Rate::per_second),
            },
            drain_timeout: self.drain_timeout,
            stats_interval: self.stats_interval,
            log_left_out,
        })
    }

    /// The greatest number of connections under a limit of `descriptors` open files.
    fn max_connections(&self, descriptors: u64) -> anyhow::Result<usize> {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let most = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        ensure!(
            most > 0,
            "this process may have {descriptors} files open, and {RESERVED_DESCRIPTORS} are needed \
             before the first connection; raise the limit (ulimit -n, or LimitNOFILE= in the unit)"
        );
        let wanted = self.max_connections.map_or(most, |wanted| wanted as usize);
        ensure!(
            wanted <= most,
            "cannot serve {wanted} connections: this process may have {descriptors} files open, \
             {RESERVED_DESCRIPTORS} of which are needed otherwise; raise the limit \
             (ulimit -n, or LimitNOFILE= in the unit) or give --max-connections {most} or less"
        );
        Ok(wanted)
    }

    pub(super) fn handler(&self) -> handler::Config {
        handler::Config {
            ack: self.ack,
            roster: roster::Config {
                offline_after: self.offline_after,
                start_grace: self.start_grace,
                capacity: self.max_agents as usize,
            },
            remember: self.retain,
            log_packets: self.log_packets,
        }
    }

    pub(super) const fn retention(&self) -> Retention {
        Retention {
            age: self.retain,
            size: self.retain_size,
            free: self.retain_free,
        }
    }

    /// The commands for events; `None` without a command. They start with the soft limit of
    /// `open_files`, after the end of the `predecessor`.
    pub(super) fn notification(
        &self,
        open_files: Option<u64>,
        predecessor: Option<Predecessor>,
    ) -> Option<notify::Config> {
        let consumer = |command: &Option<OsString>, calls| {
            let command = command.clone()?;
            Some(Consumer { command, calls })
        };
        let each = consumer(&self.on_event, Calls::Each);
        let gathered = consumer(&self.on_events, Calls::Gathered(self.on_events_window));
        let consumers: Vec<_> = each.into_iter().chain(gathered).collect();
        (!consumers.is_empty()).then_some(notify::Config {
            consumers,
            timeout: self.on_event_timeout,
            open_files,
            predecessor,
        })
    }

    /// The path of the store without symbolic links; fails if another user could replace the
    /// store's files.
    pub(super) fn trusted_store(&self) -> anyhow::Result<Option<PathBuf>> {
        let resolve = |path: &PathBuf| {
            let path = store::resolve(path)?;
            if !self.store_owner_ok {
                store::check_owner(&path)?;
            }
            Ok(path)
        };
        let path: Result<_, store::OpenError> = self.store.as_ref().map(resolve).transpose();
        path.context("cannot use the store")
    }

    /// The path of the control socket; `None` if it is not set and the folder of
    /// [`CONTROL_SOCKET`] is missing or another user's.
    pub(super) fn control_path(&self) -> Option<PathBuf> {
        if self.control.is_some() {
            return self.control.clone();
        }
        let path = Path::new(CONTROL_SOCKET);
        let folder = fs::symlink_metadata(path.parent()?).ok()?;
        (folder.is_dir() && folder.uid() == geteuid().as_raw()).then(|| path.to_owned())
    }
}

/// The settings as the log shows them: each with its effective value, and with its origin
/// unless it is the default.
#[derive(Clone, Debug, Default)]
pub struct EffectiveSettings(Vec<Setting>);

#[derive(Clone, Debug)]
struct Setting {
    key: String,
    /// One word, quoted if it has special characters.
    value: String,
    /// `None`: the default.
    origin: Option<&'static str>,
}

impl EffectiveSettings {
    /// Appends a setting; `origin` is `None` for a default.
    pub fn add(&mut self, key: &str, value: &str, origin: Option<&'static str>) {
        self.0.push(Setting {
            key: key.to_owned(),
            value: word(value),
            origin,
        });
    }

    /// Replaces the value of a setting by its effective one.
    pub fn resolve(&mut self, key: &str, value: &impl Display) {
        let setting = self.0.iter_mut().find(|setting| setting.key == key);
        debug_assert!(setting.is_some(), "there is no setting {key}");
        if let Some(setting) = setting {
            setting.value = word(&value.to_string());
        }
    }

    /// Replaces the origin of a setting.
    pub(super) fn set_origin(&mut self, key: &str, origin: &'static str) {
        if let Some(setting) = self.0.iter_mut().find(|setting| setting.key == key) {
            setting.origin = Some(origin);
        }
    }

    /// Replaces the values that follow from the limit of open files and from other settings.
    pub(super) fn resolve_all(&mut self, settings: &Settings, config: &reactor::Config) {
        self.resolve("max_connections", &config.max_connections);
        if let Some(per_ip) = config.admission.per_ip {
            self.resolve("max_connections_per_ip", &per_ip);
        }
        if settings.allow.is_empty() {
            self.resolve("allow", &"all");
        }
        if settings.offline_after.is_none() {
            self.resolve("offline_after", &"learnt");
        }
    }
}

/// The text as one word: quoted and escaped unless it is plain.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.,:;/%+@[]".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("{text:?}"),
    }
}

/// `key=value` pairs in the order in which they were added.
impl Display for EffectiveSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Setting { key, value, origin }) in self.0.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            write!(f, "{space}{key}={value}")?;
            if let Some(origin) = origin {
                write!(f, " {key}_from={origin}")?;
            }
        }
        Ok(())
    }
}
