//! The harness of the whole-cluster tests: real server processes, real faults, and a check of what clients saw.
//!
//! - [`cluster`] starts members as processes, and kills, pauses and restarts them; [`network`] puts each into a network
//!   namespace of its own, so that links can be cut; [`disk`] gives each a file system of its own, so that its power can.
//! - [`clock`] gives each a clock of the day of its own, [`memory`] a limit of memory; [`syncs`] makes disks fail or slow.
//! - [`secure`] starts members that speak TLS, each with certificates of its own.
//! - [`engines`] says which storage engines they run on; `engine_tests!` runs a test on several sets of them.
//! - [`client`] speaks etcd's API to one chosen member; [`load`] keeps many clients busy and writes down what each saw.
//! - [`http`] asks as browsers and `curl` do.
//! - [`history`] holds what they saw, and `quorate-checker` decides whether a linearizable store can have answered so.
//! - [`chaos`] is `cargo xtask chaos`: all of this together, by seed, for as long as one likes.
//! - [`manual`] has the recipes of the operations guide.
//! - [`quorate`] runs the command line of the binary under test, where that is not etcd.
//! - [`tools`] finds the programs of others that the tests drive, and [`programs`] speaks with scripts of theirs.
//!
//! The harness knows etcd's command line and wire API and nothing of how a server works, so the same tests run on etcd
//! itself: `QUORATE_BIN=/usr/bin/etcd cargo nextest run -p quorate-tests`. A test that etcd fails is a wrong test.

pub mod chaos;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod engines;
pub mod history;
pub mod http;
pub mod load;
pub mod manual;
pub mod memory;
pub mod network;
pub mod programs;
pub mod quorate;
pub mod secure;
pub mod server;
pub mod syncs;
pub mod tools;
