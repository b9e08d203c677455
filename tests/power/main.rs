//! Power cuts: a guest in an emulator, with a disk that loses unflushed writes, loses its
//! power at random moments. `make test-power` runs it; docs/testing.md describes it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod cuts;
mod disk;
mod emulator;
mod guest;
mod load;
mod nbd;
mod table;
