//! The replicated state machine, and nothing else.
//!
//! One door leads into the state: [`apply`] takes a [`View`] of what is and one [`Command`], and returns [`Effects`]: the
//! reply, and the [`Delta`] that storage writes and watchers see. They come out together or not at all.
//! [`range`] is the one way to read.
//!
//! What this crate does not know: clocks, random numbers, sockets, files, tasks, hash map order. It is `no_std`, so that
//! the compiler guards determinism. Everything that could differ between replicas is in the log entry.
//!
//! Source of the rules: etcd v3's API contract. Text and meaning of every [`Rejection`] are etcd's.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod command;
mod effects;
mod reply;
mod types;
mod view;

pub use command::*;
pub use effects::*;
pub use reply::*;
pub use types::*;
pub use view::*;
