//! The store: reports, agents and events on disk, in one SQLite file.
//!
//! The reactor thread fills batches through a [`BatchProducer`]. The writer thread commits them,
//! one after the other, and completes each. Neither waits for the other.
//!
//! Owns the files of the store (`hawk.db`, its log, index and lock), their tables, retention and
//! the progress of delivery. Must not know packets, connections, sessions and the roster: it
//! sees records ([`AgentRecord`], [`EventRecord`], [`ReportRecord`]) and returns rows.
//!
//! Start reading at [`Batch`], then `writer.rs`: `Writer::serve` and `Writer::commit`. The way of
//! a report: [`Batch::add_report`], [`BatchProducer::submit`], `Writer::commit`,
//! `Statements::write`.
//!
//! | file | idea |
//! |---|---|
//! | `batch.rs` | the rows of one transaction |
//! | `producer.rs` | how batches pass between the two threads |
//! | `writer.rs` | the writer thread: commits, failures, recovery |
//! | `statements.rs` | the SQL that writes a batch |
//! | `retention.rs`, `clock_guard.rs` | what is removed, and when expiry by age pauses |
//! | `delivery.rs` | the progress of the delivery of events |
//! | `open.rs`, `schema.rs` | opening a store, its tables and their migration |
//! | `files.rs`, `lock.rs` | paths, permissions, changes by other programs; one writer at a time |
//! | `reader.rs` | reading, for the commands and for delivery |

mod batch;
mod clock_guard;
mod delivery;
mod files;
mod lock;
mod open;
mod producer;
mod reader;
mod retention;
pub mod schema;
mod statements;
mod writer;

pub use batch::{AgentIndex, AgentRecord, Batch, EventRecord, ReportRecord};
pub use delivery::{Delivery, Lane, Opening, Progress};
pub use files::{check_owner, resolve};
pub use lock::{Lock, LockError};
pub use open::{InlineWriter, OpenError, StandbyStore, Store};
pub use producer::{BatchProducer, Health};
pub use reader::{
    AgentFilter, AgentId, AgentIdentity, AgentQuery, AgentRow, Cursor, EventRow, Journal,
    JournalPage, Notice, Reader, ReportRow, Selection, State,
};
pub use retention::{FreeSpace, Retention};
