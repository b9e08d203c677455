//! The store: every report on disk, in one SQLite file.

mod lock;
pub mod schema;

pub use lock::{Lock, LockError};
