//! The bundled clients, as the real binary, against correct and faulty servers.

// Everything in here is a test or a test's helper: it may fail loudly.
#![allow(clippy::unwrap_used, clippy::panic)]

mod chaos;
mod documented;
mod load;
mod send_and_ping;
mod support;
