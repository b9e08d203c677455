//! hawk, the TCP server to which a company's machines report.
//!
//! The binary is a thin shell around this library; [`cli`] is where it starts.
//!
//! # Which crate and module may depend on which
//!
//! The manifests of the workspace state the rule for crates, and the compiler holds it:
//!
//! ```text
//! hawk-pool    → nothing                  (receive buffers)
//! hawk-time    → nothing                  (moments, timer wheel, limits of log lines)
//! hawk-wire    → nothing                  (frames, packets, encodings, replies; no I/O)
//! hawk-client  → wire                     (a blocking connection, for send and ping)
//! hawk-load    → client, time, wire       (the load generator)
//! hawk         → all of them              (the server and the command line)
//! hawk-testkit → hawk, pool, time, wire   (what tests, benchmarks and the simulator share)
//! ```
//!
//! Within this crate, `tests/dependency_rule.rs` holds it:
//!
//! ```text
//! transfer    → nothing                   (a part of the state that moves to another process)
//! dirty_set   → nothing                   (what changed since it was copied to another process)
//! interval    → nothing                   (the interval between an agent's packets)
//! log_sink    → nothing                   (log lines on their way to stderr)
//! network     → nothing                   (the unit in which addresses are counted)
//! admission   → network                   (which connections are accepted)
//! children    → nothing                   (processes that were started here; orphans)
//! notify      → children, stats, store's events, throttle, time (a command for changes; JSON, processes)
//! session     → interval, stats, wire, time      (time comes in as an argument)
//! roster      → dirty_set, interval, network, time, transfer, wheel (which agents are alive)
//! handler     → wire, session's traits, notify, network, roster, stats, store, throttle, time, transfer (packets; no sockets)
//! store       → stats, throttle, time          (records; no connections, no packets)
//! stats       → hawk-pool, wire, time   (counters and statistics as plain data, and their lines)
//! reactor     → hawk-pool, admission, dirty_set, log_sink's count, network, session, stats, throttle, time, transfer, wheel, wire's replies (sockets, buffers; no JSON)
//! restart     → children, peer_credentials, session, stats, reactor, handler, roster, store, time, transfer, wire (a new process takes over)
//! restart/snapshot → the plain data of those (state to bytes and back; no I/O)
//! restart/channel  → peer_credentials, restart/snapshot, time   (two processes: sockets, descriptors, files in memory)
//! descriptors → nothing                   (the limit of open files)
//! peer_credentials → nothing              (the process at the other end of a Unix socket)
//! control     → peer_credentials, throttle, time            (a Unix socket: a request in a line, an answer in lines)
//! service     → time                      (systemd: the messages to it, the socket that it passes)
//! server      → everything but the command line (settings, assembly, the main loop)
//! cli         → everything
//! ```

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::unreachable))]

pub mod admission;
pub mod children;
pub mod cli;
pub mod control;
pub mod descriptors;
mod dirty_set;
pub mod handler;
pub mod interval;
pub mod log_sink;
pub mod network;
pub mod notify;
pub mod peer_credentials;
pub mod reactor;
pub mod restart;
pub mod roster;
pub mod server;
pub mod service;
pub mod session;
pub mod stats;
pub mod store;
pub mod transfer;
