//! The server process: assembles store, handler and reactor from [`Settings`] and runs them.
//!
//! Owns the start, the main loop around the reactor's turns (control socket, seamless
//! restart, service manager), and the end. Knows no command line: `cli` converts options to
//! [`Settings`]. Start reading at [`run`].
//!
//! ```text
//! settings   plain values, and the configuration of each module that follows from them
//! assembly   a start, or a take-over from a predecessor
//! runtime    the main loop
//! upgrades   hand-overs to successors, and the predecessor of this process
//! ```

mod assembly;
mod runtime;
mod settings;
mod upgrades;

pub use assembly::run;
pub use settings::{CONTROL_SOCKET, DEFAULT_LISTEN, EffectiveSettings, Settings};
