//! Deterministic simulation of whole clusters: real nodes, with a disk, a network and clocks that fail by plan.
//!
//! In mode `fast` clients call the nodes; in mode `full` the client library calls the front of the members over gRPC.
//!
//! One seed is one history, bit for bit. A [`Plan`] draws members, load and faults from the seed; a [`World`] runs it,
//! each machine on a paused tokio runtime of its own, all on one thread; the [`oracle`] judges what clients saw.
//! One process runs one seed: see [`determinism`].
#![deny(unsafe_code)]

mod client;
mod clock;
pub mod determinism;
mod gateway;
pub mod history;
mod library;
mod machine;
mod model;
mod network;
pub mod oracle;
mod plan;
mod random;
mod reduce;
mod replacement;
pub mod story;
mod workers;
mod world;

pub use plan::{Fault, Load, Mode, Plan};
pub use random::Random;
pub use reduce::Less;
pub use world::{Report, World};
