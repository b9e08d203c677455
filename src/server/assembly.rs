//! Assembles a server, for a start or for a take-over, and runs it to its end.

use std::env;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::runtime::{End, Runtime};
use super::{EffectiveSettings, Settings};
use crate::children;
use crate::control;
use crate::descriptors;
use crate::handler::PacketHandler;
use crate::log_sink::LeftOut;
use crate::notify::{self, Notifier, Predecessor};
use crate::reactor::kernel::ListenerTag;
use crate::reactor::{Config, Error, Linux, Reactor, Stop, catch_signals};
use crate::restart::channel::BUILD;
use crate::restart::{
    SUCCESSOR, ServerReactor, SharedDescriptors, TakeOver, TakeOverFigures, lower_priority,
};
use crate::store::{Delivery, Lock, OpenError, Store};

/// The least time that the store has to commit its last batches at a stop: many times what
/// that takes, unless the disk hangs.
const STORE_TIME: Duration = Duration::from_secs(3);

/// Time for the predecessor to end, after the drain timeout.
const PREDECESSOR: Duration = Duration::from_secs(10);

const NO_STORE_THREAD: &str = "cannot start the store's thread";

/// Runs a server to its end. It takes over from a predecessor if that started this process.
/// Otherwise it starts, on the `passed` socket if there is one, and calls `announce` with its
/// address when agents can connect.
///
/// `effective` are the settings to log.
///
/// # Errors
/// That the server could not start or take over, or did not end gently.
pub fn run(
    settings: &Settings,
    effective: EffectiveSettings,
    passed: Option<TcpListener>,
    log_left_out: LeftOut,
    announce: impl FnOnce(SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    catch_signals().context("cannot catch signals")?;
    let assembly = Assembly {
        settings,
        effective,
        log_left_out,
    };
    match env::var_os(SUCCESSOR) {
        Some(_) => assembly.take_over(),
        None => assembly.start(passed, announce),
    }
}

struct Assembly<'a> {
    settings: &'a Settings,
    effective: EffectiveSettings,
    log_left_out: LeftOut,
}

impl Assembly<'_> {
    fn start(
        mut self,
        passed: Option<TcpListener>,
        announce: impl FnOnce(SocketAddr) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        children::reap_orphans().context("cannot start the thread that waits for orphans")?;
        let open_files = descriptors::soft_limit();
        let descriptors = descriptors::raise_limit();
        let config = self.config(descriptors)?;
        if passed.is_none() {
            // An address in use is reported before a store is created.
            let address = config.listen;
            Linux::try_bind(address).map_err(|error| Error::Listen(address, error))?;
        }
        let notification = self.settings.notification(open_files, None);
        let (mut handler, store) = self.handler(notification, |path, delivery| {
            Ok(Store::open(path)?.with_delivery(delivery))
        })?;
        // From here on signals are caught. Until the store is open, a signal to stop ends the
        // process by its default action: opening may take a while, for example to recover a
        // long log.
        let kernel = Linux::new().context("cannot make the event loop")?;
        if let Some(mut store) = store {
            let most = self.settings.max_agents as usize;
            store.agents(most, |agent| handler.remember(agent))?;
            let producer = store.start(self.settings.retention());
            handler.store_in(producer.context(NO_STORE_THREAD)?);
        }
        let is_passed = passed.is_some();
        let reactor = reactor(config, handler, kernel, passed)?;
        let control = self.listen_for_control()?;
        let runtime = self.runtime(reactor, control, descriptors)?;
        let address = runtime.address();
        if is_passed {
            self.effective.set_origin("listen", "service-manager");
            if let Some(listen) = self.settings.listen
                && listen != address
            {
                log::warn!(
                    "the service manager passes a socket on {address}: --listen {listen} is not \
                     used"
                );
            }
        }
        let socket = if is_passed { "passed" } else { "own" };
        let effective = &self.effective;
        log::info!("started version={BUILD} socket={socket} {effective}");
        self.serve(runtime, announce(address))
    }

    /// Takes over from the process that started this one. Prints nothing on stdout: the
    /// predecessor has printed the address.
    fn take_over(mut self) -> anyhow::Result<()> {
        let descriptors = descriptors::raise_limit();
        let mut take_over = TakeOver::begin(descriptors).context("cannot take over")?;
        match self.adopt(&mut take_over, descriptors) {
            Ok((mut runtime, figures)) => {
                runtime.took_over(figures, take_over, &self.effective);
                self.serve(runtime, Ok(()))
            }
            Err(error) => {
                take_over.refuse(&format!("{error:#}"));
                Err(error.context("did not take over"))
            }
        }
    }

    /// Everything up to the commit of the hand-over. As far as possible, what can fail does
    /// so before this process reports that it is ready.
    fn adopt(
        &mut self,
        take_over: &mut TakeOver,
        descriptors: u64,
    ) -> anyhow::Result<(Runtime, TakeOverFigures)> {
        let config = self.config(descriptors)?;
        let predecessor = Predecessor {
            end: take_over.predecessor()?,
            patience: self.settings.drain_timeout.saturating_add(PREDECESSOR),
        };
        // The limit of open files for commands is part of the predecessor's state.
        let notification = self.settings.notification(None, Some(predecessor));
        let (mut handler, store) = self.handler(notification, |path, delivery| {
            Ok(Store::open_standby(path)?.with_delivery(delivery))
        })?;
        let kernel = Linux::new().context("cannot make the event loop")?;
        let SharedDescriptors { lock, listeners } = take_over.ready()?;
        match (store, lock) {
            (None, None) => {}
            (Some(store), Some(lock)) => {
                let lock = Lock::adopt(lock, store.path()).context("cannot use the store")?;
                let producer = store.start(lock, self.settings.retention());
                handler.store_in(producer.context(NO_STORE_THREAD)?);
            }
            (Some(_), None) => bail!("the predecessor has no store, and this process has one"),
            (None, Some(_)) => bail!("the predecessor has a store, and this process has none"),
        }
        let mut listeners = listeners.into_iter();
        let listener = listeners
            .next()
            .context("the predecessor does not listen")?;
        let control = self.inherited_control(listeners.next())?;
        let listeners = [(ListenerTag::AGENTS, Linux::listener(listener))];
        let reactor = Reactor::with_listeners(config, handler, kernel, listeners)?;
        let mut runtime = self.runtime(reactor, control, descriptors)?;
        let figures = runtime.take_over(take_over)?;
        Ok((runtime, figures))
    }

    /// Runs the main loop, if the server was announced, and then the end that it came to.
    fn serve(&self, mut runtime: Runtime, announced: anyhow::Result<()>) -> anyhow::Result<()> {
        match announced.and_then(|()| Ok(runtime.run()?)) {
            Ok(End::Stopped(stop)) => self.finish(runtime.into_reactor(), stop),
            Ok(End::HandedOver) => {
                let (handler, connections) = runtime.leave();
                lower_priority();
                drop(connections);
                handler.leave(self.settings.drain_timeout);
                Ok(())
            }
            Ok(End::Lost(failure)) => {
                // Without delay, so that a supervisor can restart the service.
                let (handler, _connections) = runtime.leave();
                handler.leave(Duration::ZERO);
                bail!("lost: {failure}")
            }
            Err(error) => {
                drop(runtime.into_reactor());
                Err(error)
            }
        }
    }

    /// Commits what the store has, after a stop.
    fn finish(&self, reactor: ServerReactor, stop: Stop) -> anyhow::Result<()> {
        log::info!("served {}", reactor.figures());
        match stop {
            Stop::Drained => {
                let left = reactor.drain_left();
                let for_store = left.max(self.settings.drain_timeout.min(STORE_TIME));
                Ok(reactor.into_handler().finish(for_store, left)?)
            }
            Stop::Interrupted => bail!("stopped at once by a second signal; replies may be lost"),
        }
    }

    /// The reactor's configuration. Replaces the effective settings by its values.
    fn config(&mut self, descriptors: u64) -> anyhow::Result<Config> {
        let config = self
            .settings
            .reactor(descriptors, self.log_left_out.clone())?;
        self.effective.resolve_all(self.settings, &config);
        Ok(config)
    }

    /// A handler that delivers events as configured, and the store as `open` opens it; `None`
    /// without a store.
    fn handler<S>(
        &self,
        notification: Option<notify::Config>,
        open: impl FnOnce(&Path, Arc<Delivery>) -> Result<S, OpenError>,
    ) -> anyhow::Result<(PacketHandler, Option<S>)> {
        let mut handler = PacketHandler::new(self.settings.handler());
        let names = notification.as_ref().map(notify::Config::names);
        let delivery = Arc::new(Delivery::new(names.unwrap_or_default()));
        if let Some(config) = notification {
            let notifier = match &self.settings.store {
                None => Notifier::in_memory(config),
                Some(path) => Notifier::stored(config, path.clone(), &delivery),
            };
            let notifier = notifier.context("cannot start the thread for notification")?;
            handler.notify_with(notifier);
        }
        let path = self.settings.trusted_store()?;
        let store = path.map(|path| open(&path, delivery)).transpose();
        Ok((handler, store.context("cannot use the store")?))
    }

    /// The main loop of `reactor`. Replaces the effective settings by its addresses.
    fn runtime(
        &mut self,
        reactor: ServerReactor,
        control: Option<control::Server>,
        descriptors: u64,
    ) -> anyhow::Result<Runtime> {
        let address = reactor.local_addr().context("cannot tell the address")?;
        self.effective.resolve("listen", &address);
        if let Some(control) = &control {
            self.effective.resolve("control", &control.path().display());
        }
        Ok(Runtime::new(reactor, control, address, descriptors)?)
    }

    /// The control socket. A failure at the default path is a warning.
    fn listen_for_control(&self) -> anyhow::Result<Option<control::Server>> {
        let Some(path) = self.settings.control_path() else {
            return Ok(None);
        };
        match control::Server::listen(&path) {
            Ok(control) => Ok(Some(control)),
            Err(error) if self.settings.control.is_none() => {
                log::warn!("no control socket: {error}");
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The predecessor's control socket, if it has one. This process creates none of its own:
    /// the file would be left behind if it did not take over.
    fn inherited_control(
        &self,
        listener: Option<OwnedFd>,
    ) -> anyhow::Result<Option<control::Server>> {
        let path = match listener {
            Some(_) => self.settings.control_path(),
            None => self.settings.control.clone(),
        };
        match (&path, listener) {
            (Some(path), Some(listener)) => {
                let control = control::Server::adopt(listener, path);
                let cannot = || format!("cannot go on with the control socket {}", path.display());
                control.map(Some).with_context(cannot)
            }
            (None, None) => Ok(None),
            (Some(_), None) => {
                bail!("the predecessor has no control socket, and this process has one")
            }
            (None, Some(_)) => {
                bail!("the predecessor has a control socket, and this process has none")
            }
        }
    }
}

/// A reactor on a socket that was passed, or on one of its own.
fn reactor(
    config: Config,
    handler: PacketHandler,
    kernel: Linux,
    passed: Option<TcpListener>,
) -> Result<ServerReactor, Error> {
    match passed {
        None => Reactor::new(config, handler, kernel),
        Some(listener) => {
            listener.set_nonblocking(true)?;
            let listeners = [(ListenerTag::AGENTS, Linux::listener(listener.into()))];
            Reactor::with_listeners(config, handler, kernel, listeners)
        }
    }
}
