//! Worlds in which neither agents, nor clocks, nor files are honest.
//!
//! The handler, the roster, the store's both halves and SQLite are the real ones, and so
//! are the files, in memory where the machine has such a folder. The clocks are manual. The
//! writer runs on the world's thread: a turn of the server happens where the writer would
//! wait for a batch. So a seed decides everything.
//!
//! Sockets and sessions are left out; the other worlds have them.

mod agents;
mod files;
mod ledger;
mod plan;
mod run;
mod server;
mod world;
