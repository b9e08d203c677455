//! The server loses its power: a guest in an emulator, whose disk forgets what
//! was not flushed, is cut off at random moments. `make test-power` runs it;
//! docs/testing.md says what it shows.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod cuts;
mod disk;
mod emulator;
mod guest;
mod load;
mod nbd;
mod table;
