//! The store, from outside: the real server, real sockets, a real file.

#![allow(clippy::unwrap_used, clippy::panic)]

mod clock;
mod documented;
mod faults;
mod files;
mod following;
mod handover;
mod hostile;
mod keeping;
mod kill;
mod killed;
mod liveness;
mod owners;
mod pages;
mod reading;
mod replaced;
mod retention;
mod shown;
mod startup;
mod tmpfs;
mod turns;
mod waiting;
