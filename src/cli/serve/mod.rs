//! `hawk serve`: the server.

mod args;
mod driver;
mod take_over;

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context as _, bail};
use env_logger::{DEFAULT_WRITE_STYLE_ENV as STYLE, Target, WriteStyle};

use self::args::AckArg;
pub(super) use self::args::ServeArgs;
use self::driver::{Driver, End};
use super::control_args::default_for_server;
use super::output;
use super::settings::Settings;
use super::values::{self, StorePath};
use super::wire_args::DEFAULT_ADDRESS;
use crate::admission;
use crate::children;
use crate::control;
use crate::descriptors;
use crate::handler::{self, Ack, Keeper};
use crate::log_sink::{LeftOut, LogSink};
use crate::notify::{self, Calls, Consumer, Notifier, Predecessor};
use crate::reactor::{
    Config, Error, Linux, MIN_POOL_LIMIT, PhaseBudget, RESERVED_DESCRIPTORS, Reactor, Stop,
    catch_signals,
};
use crate::restart::channel::{BUILD, SUCCESSOR};
use crate::restart::give_way;
use crate::roster;
use crate::service;
use crate::session::{Limits, Rate};
use crate::store::{self, Delivery, OpenError, Retention, Store};

/// When agents have used up all of the drain timeout, the store still has this long
/// to commit what it was given: many times what that takes, unless the disk hangs.
const STORE_TIME: Duration = Duration::from_secs(3);

impl ServeArgs {
    /// Serves, and logs by way of a queue: whoever reads stderr must not hold up the
    /// event loop, nor the end.
    ///
    /// `settings` are those of the line `started`; `notes` are logged first.
    pub(in crate::cli) fn main(
        &self,
        mut logger: env_logger::Builder,
        settings: Settings,
        notes: &[String],
    ) -> ExitCode {
        // Before anything else is opened, as it has to be.
        let passed = match service::listener() {
            Ok(passed) => passed,
            Err(error) => return output::conclude(Err(error.into())),
        };
        let sink = match LogSink::start(io::stderr()) {
            Ok(sink) => sink,
            Err(error) => {
                let failure = anyhow::Error::new(error).context("cannot start the log's thread");
                return output::conclude(Err(failure));
            }
        };
        let is_auto = matches!(std::env::var(STYLE).as_deref(), Err(_) | Ok("auto"));
        if is_auto && AutoStream::choice(&io::stderr()) != ColorChoice::Never {
            // The logger sees a queue and not what is behind it.
            logger.write_style(WriteStyle::Always);
        }
        logger.target(Target::Pipe(Box::new(sink.writer()))).init();
        notes.iter().for_each(|note| log::warn!("{note}"));
        let caught = catch_signals().context("cannot catch signals");
        let outcome = caught.and_then(|()| match std::env::var_os(SUCCESSOR) {
            Some(_) => self.take_over(sink.left_out()),
            None => self.start(passed, settings, sink.left_out()),
        });
        output::conclude_on(sink.writer(), outcome)
    }

    /// Begins to serve, on the socket that was passed, if one was.
    fn start(
        &self,
        passed: Option<TcpListener>,
        mut settings: Settings,
        log_left_out: LeftOut,
    ) -> anyhow::Result<()> {
        children::reap_orphans().context("cannot start the thread that waits for orphans")?;
        let open_files = descriptors::soft_limit();
        let descriptors = descriptors::raise_limit();
        let config = self.config(descriptors, log_left_out)?;
        if passed.is_none() {
            // Better known before a store is made for nothing.
            let address = config.listen;
            Linux::try_bind(address).map_err(|error| Error::Listen(address, error))?;
        }
        let (keeper, kernel) = self.keeper_with_store(open_files)?;
        let socket = passed.as_ref().map_or("own", |_| "passed");
        let max_connections = config.max_connections;
        let reactor = reactor(config, keeper, kernel, passed)?;
        let address = reactor.local_addr().context("cannot tell the address")?;
        if socket == "passed"
            && let Some(listen) = self.listen
            && listen != address
        {
            log::warn!(
                "the service manager passes a socket on {address}: --listen {listen} is not used"
            );
        }
        let control = self.listen_for_control()?;
        if let Some(control) = &control {
            settings.resolve("control", &control.path().display());
        }
        self.log_start(settings, address, socket, max_connections);
        let driver = Driver::new(reactor, control, address, descriptors)?;
        let announced = output::print(&format!("listening on {address}\n"));
        self.serve(driver, announced)
    }

    /// Serves until the end.
    fn serve(&self, mut driver: Driver, announced: anyhow::Result<()>) -> anyhow::Result<()> {
        match announced.and_then(|()| Ok(driver.run()?)) {
            Ok(End::Stopped(stop)) => self.finish(driver.into_reactor(), stop),
            Ok(End::HandedOver) => {
                let (keeper, connections) = driver.leave();
                give_way();
                drop(connections);
                keeper.leave(self.drain_timeout);
                Ok(())
            }
            Ok(End::Lost(failure)) => {
                // A supervisor is to know at once.
                let (keeper, _connections) = driver.leave();
                keeper.leave(Duration::ZERO);
                bail!("lost: {failure}")
            }
            Err(error) => {
                drop(driver.into_reactor());
                Err(error)
            }
        }
    }

    /// Sees to the end of a server that was told to stop.
    fn finish(&self, reactor: Reactor<Keeper, Linux>, stop: Stop) -> anyhow::Result<()> {
        log::info!("served {}", reactor.served());
        match stop {
            Stop::Drained => {
                let left = reactor.drain_left();
                let for_store = left.max(self.drain_timeout.min(STORE_TIME));
                Ok(reactor.into_handler().finish(for_store, left)?)
            }
            Stop::Interrupted => bail!("stopped at once by a second signal; replies may be lost"),
        }
    }

    /// How the event loop is to run.
    fn config(&self, descriptors: u64, log_left_out: LeftOut) -> anyhow::Result<Config> {
        let max_connections = self.max_connections(descriptors)?;
        anyhow::ensure!(
            self.pool_limit >= MIN_POOL_LIMIT,
            "a pool limit of {} bytes is too little; give --pool-limit {MIN_POOL_LIMIT} (136KiB) \
             or more",
            self.pool_limit
        );
        Ok(Config {
            listen: self.listen_address()?,
            max_connections,
            admission: self.rules(max_connections),
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

    /// Which connections are accepted, of `max_connections`.
    fn rules(&self, max_connections: usize) -> admission::Rules {
        let rules = admission::Rules {
            allow: self.allow.clone(),
            deny: self.deny.clone(),
            ..admission::Rules::default()
        };
        rules.share(max_connections, self.max_connections_per_ip)
    }

    /// The control socket that is given, or that of the systemd unit where its folder is there
    /// for this user. Without the latter the server does as well.
    fn listen_for_control(&self) -> anyhow::Result<Option<control::Server>> {
        if let Some(path) = &self.control {
            return Ok(Some(control::Server::listen(path)?));
        }
        let Some(path) = default_for_server() else {
            return Ok(None);
        };
        match control::Server::listen(&path) {
            Ok(control) => Ok(Some(control)),
            Err(error) => {
                log::warn!("no control socket: {error}");
                Ok(None)
            }
        }
    }

    /// Logs how the server runs: each option's effective value.
    fn log_start(
        &self,
        mut settings: Settings,
        address: SocketAddr,
        socket: &str,
        max_connections: usize,
    ) {
        match socket {
            "passed" => settings.replace("listen", &address, "service-manager"),
            _ => settings.resolve("listen", &address),
        }
        settings.resolve("max_connections", &max_connections);
        if let Some(per_ip) = self.rules(max_connections).per_ip {
            settings.resolve("max_connections_per_ip", &per_ip);
        }
        if self.allow.is_empty() {
            settings.resolve("allow", &"all");
        }
        if self.offline_after.is_none() {
            settings.resolve("offline_after", &"learnt");
        }
        log::info!("started version={BUILD} socket={socket} {settings}");
    }

    fn listen_address(&self) -> anyhow::Result<SocketAddr> {
        match self.listen {
            Some(address) => Ok(address),
            None => values::listen_address(DEFAULT_ADDRESS).map_err(anyhow::Error::msg),
        }
    }

    /// What takes the packets, with its store open, and the kernel with every signal caught.
    ///
    /// Until the store is open, a signal to stop ends the process by its default action:
    /// opening may take a while, for example to recover a long log.
    fn keeper_with_store(&self, open_files: Option<u64>) -> anyhow::Result<(Keeper, Linux)> {
        let mut keeper = self.keeper();
        let config = self.notification(open_files, None);
        let delivery = self.notify(&mut keeper, config)?;
        let opened = match &self.store {
            StorePath::Nowhere => None,
            StorePath::File(path) => {
                let opened = self.trusted(path).and_then(Store::open);
                let store = opened.context("cannot use the store")?;
                Some(store.with_delivery(delivery))
            }
        };
        let kernel = Linux::new().context("cannot make the event loop")?;
        if let Some(mut store) = opened {
            store.agents(self.max_agents as usize, |agent| keeper.remember(agent))?;
            let producer = store
                .start(self.retention())
                .context("cannot start the store's thread")?;
            keeper.store_in(producer);
        }
        Ok((keeper, kernel))
    }

    /// The path of the store without symbolic links, if its owner can be trusted.
    fn trusted(&self, path: &Path) -> Result<PathBuf, OpenError> {
        let path = store::resolve(path)?;
        if !self.store_owner_ok {
            store::check_owner(&path)?;
        }
        Ok(path)
    }

    fn retention(&self) -> Retention {
        Retention {
            age: self.retain,
            size: self.retain_size as u64,
            free: self.retain_free,
        }
    }

    /// What takes the packets, and stores nothing.
    fn keeper(&self) -> Keeper {
        Keeper::new(handler::Config {
            ack: match self.ack {
                AckArg::Committed => Ack::Committed,
                AckArg::Received => Ack::Received,
            },
            roster: roster::Config {
                offline_after: self.offline_after,
                start_grace: self.start_grace,
                capacity: self.max_agents as usize,
            },
            remember: self.retain,
            log_packets: self.log_packets,
        })
    }

    /// Makes `keeper` deliver events as configured. Returns the progress of delivery, for the
    /// writer of the store.
    fn notify(
        &self,
        keeper: &mut Keeper,
        config: Option<notify::Config>,
    ) -> anyhow::Result<Arc<Delivery>> {
        let names = config.as_ref().map(notify::Config::names);
        let delivery = Arc::new(Delivery::new(names.unwrap_or_default()));
        if let Some(config) = config {
            let notifier = match &self.store {
                StorePath::Nowhere => Notifier::in_memory(config),
                StorePath::File(path) => Notifier::stored(config, path.clone(), &delivery),
            };
            let notifier = notifier.context("cannot start the thread for notification")?;
            keeper.notify_with(notifier);
        }
        Ok(delivery)
    }

    /// What is run for events, and how; `None`: nothing.
    fn notification(
        &self,
        open_files: Option<u64>,
        predecessor: Option<Predecessor>,
    ) -> Option<notify::Config> {
        let each = (self.on_event.clone(), Calls::Each);
        let gathered = (
            self.on_events.clone(),
            Calls::Gathered(self.on_events_window),
        );
        let consumer = |(command, calls): (Option<OsString>, Calls)| {
            command.map(|command| Consumer { command, calls })
        };
        let consumers: Vec<_> = [each, gathered].into_iter().filter_map(consumer).collect();
        (!consumers.is_empty()).then_some(notify::Config {
            consumers,
            timeout: self.on_event_timeout,
            open_files,
            predecessor,
        })
    }

    /// How many connections there may be, given the limit of open files.
    fn max_connections(&self, descriptors: u64) -> anyhow::Result<usize> {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let most = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
        anyhow::ensure!(
            most > 0,
            "this process may have {descriptors} files open, and {RESERVED_DESCRIPTORS} are needed \
             before the first connection; raise the limit (ulimit -n, or LimitNOFILE= in the unit)"
        );
        let Some(wanted) = self.max_connections else {
            return Ok(most);
        };
        let wanted = wanted as usize;
        anyhow::ensure!(
            wanted <= most,
            "cannot serve {wanted} connections: this process may have {descriptors} files open, \
             {RESERVED_DESCRIPTORS} of which are needed otherwise; raise the limit \
             (ulimit -n, or LimitNOFILE= in the unit) or give --max-connections {most} or less"
        );
        Ok(wanted)
    }
}

/// An event loop on a socket that was passed, or on one of its own.
fn reactor(
    config: Config,
    keeper: Keeper,
    kernel: Linux,
    passed: Option<TcpListener>,
) -> Result<Reactor<Keeper, Linux>, Error> {
    match passed {
        None => Reactor::new(config, keeper, kernel),
        Some(listener) => {
            listener.set_nonblocking(true)?;
            Reactor::with_listener(config, keeper, kernel, Linux::listener(listener.into()))
        }
    }
}
