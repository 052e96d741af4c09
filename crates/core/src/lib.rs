//! The replicated state machine, and nothing else.
//!
//! One door leads into the state: [`apply`] takes a [`View`] of what is and one [`Command`], and returns [`Effects`]: the
//! reply, and the [`Delta`] that storage writes and watchers see. They come out together or not at all. What the caller
//! may not do is refused at that door: see [`auth`].
//!
//! [`range`] is the one way to read. What a client may ask is checked before anything is proposed: [`check_txn`].
//! The bytes in the log and in storage are those of [`codec`].
//!
//! What this crate does not know: clocks, random numbers, sockets, files, tasks, hash map order. It is `no_std`, so that
//! the compiler guards determinism. Everything that could differ between replicas is in the log entry.
//!
//! Source of the rules: etcd v3's API contract. Text and meaning of every [`Rejection`] are etcd's.
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod alarm;
mod apply;
pub mod auth;
mod check;
pub mod codec;
mod command;
mod effects;
mod lease;
mod overlay;
mod range;
mod reply;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod txn;
mod types;
mod versions;
mod view;

pub use apply::apply;
pub use auth::{AuthCommand, AuthState, Caller};
pub use check::*;
pub use command::*;
pub use effects::*;
pub use lease::LEASE_TTL_SECONDS_MAX;
pub use range::*;
pub use reply::*;
pub use types::*;
pub use versions::check_downgrade;
pub use view::*;
