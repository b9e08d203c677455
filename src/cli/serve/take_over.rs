//! A server that takes over from the one that has started it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::ServeArgs;
use super::driver::Driver;
use crate::cli::control_args::default_for_server;
use crate::cli::values::StorePath;
use crate::control;
use crate::descriptors;
use crate::handler::Keeper;
use crate::log_sink::LeftOut;
use crate::notify::Predecessor;
use crate::reactor::{Config, Linux, Reactor};
use crate::restart::{Inherited, Succeeded, Succession};
use crate::store::{Lock, StandbyStore, Store};

/// Time for the predecessor to end after the timeout of its commands.
const PREDECESSOR: Duration = Duration::from_secs(10);

impl ServeArgs {
    /// Takes over, and serves. Prints nothing on stdout: the predecessor has printed the
    /// address.
    pub(super) fn take_over(&self, log_left_out: LeftOut) -> anyhow::Result<()> {
        let descriptors = descriptors::raise_limit();
        let mut succession = Succession::begin(descriptors).context("cannot take over")?;
        let taken = self.config(descriptors, log_left_out).and_then(|config| {
            let max_connections = config.max_connections;
            let taken = self.succeed(&mut succession, config, descriptors);
            taken.map(|(driver, how)| (driver, how, max_connections))
        });
        match taken {
            Ok((mut driver, how, max_connections)) => {
                driver.has_succeeded(how, succession, max_connections);
                self.serve(driver, Ok(()))
            }
            Err(error) => {
                succession.refuse(&format!("{error:#}"));
                Err(error.context("did not take over"))
            }
        }
    }

    /// Everything up to the commit, behind which nothing can fail but the server itself.
    /// What can fail does so before this process says that it is ready, as far as possible.
    fn succeed(
        &self,
        succession: &mut Succession,
        config: Config,
        descriptors: u64,
    ) -> anyhow::Result<(Driver, Succeeded)> {
        let mut keeper = self.keeper();
        let predecessor = Predecessor {
            end: succession.predecessor()?,
            patience: self.drain_timeout.saturating_add(PREDECESSOR),
        };
        // The limit of open files comes with the predecessor's state.
        let notification = self.notification(None, Some(predecessor));
        let delivery = self.notify(&mut keeper, notification)?;
        let store = match &self.store {
            StorePath::Nowhere => None,
            StorePath::File(path) => {
                let examined = self
                    .trusted(path)
                    .and_then(|path| Store::open_standby(&path));
                let store = examined.context("cannot use the store")?;
                Some(store.with_delivery(delivery))
            }
        };
        let kernel = Linux::new().context("cannot make the event loop")?;
        let Inherited { lock, listeners } = succession.ready()?;
        let keeper = self.with_inherited_store(keeper, store, lock)?;
        let mut listeners = listeners.into_iter();
        let listener = listeners
            .next()
            .context("the predecessor does not listen")?;
        let control = self.inherited_control(listeners.next())?;
        let listener = Linux::listener(listener);
        let server = Reactor::with_listener(config, keeper, kernel, listener)?;
        let address = server.local_addr().context("cannot tell the address")?;
        let mut driver = Driver::new(server, control, address, descriptors)?;
        let how = driver.succeed(succession)?;
        Ok((driver, how))
    }

    /// The keeper with a store that it writes once it takes packets.
    fn with_inherited_store(
        &self,
        mut keeper: Keeper,
        store: Option<StandbyStore>,
        lock: Option<OwnedFd>,
    ) -> anyhow::Result<Keeper> {
        match (store, lock) {
            (None, None) => {}
            (Some(store), Some(lock)) => {
                let lock = Lock::adopt(lock, store.path()).context("cannot use the store")?;
                let producer = store
                    .start(lock, self.retention())
                    .context("cannot start the store's thread")?;
                keeper.store_in(producer);
            }
            (Some(_), None) => bail!("the predecessor has no store, and this process has one"),
            (None, Some(_)) => bail!("the predecessor has a store, and this process has none"),
        }
        Ok(keeper)
    }

    /// The control socket, if there is one. It is never made anew here: that would be left
    /// behind if this process did not take over after all.
    fn inherited_control(
        &self,
        listener: Option<OwnedFd>,
    ) -> anyhow::Result<Option<control::Server>> {
        let control = match listener {
            Some(_) => self.control.clone().or_else(default_for_server),
            None => self.control.clone(),
        };
        match (&control, listener) {
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
