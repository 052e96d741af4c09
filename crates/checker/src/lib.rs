//! Decides whether a store with revisions can have given a history: is it linearizable?
//!
//! Knows calls, times and revisions; nothing of Quorate. The simulation and the tests of whole clusters judge by it, so it
//! has to be judged itself: its tests feed it histories with known faults, and compare it with a search that knows nothing of
//! revisions (Wing and Gong's, with Lowe's cache) on thousands of random ones.
//!
//! - [`real_time`]: calls take place between their start and their end,
//! - [`register`]: the whole judgement, for histories of puts, compare-and-sets and reads of single keys ([`history`]).

pub mod history;
pub mod real_time;
pub mod register;
