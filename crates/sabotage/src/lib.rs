//! Points in the code at which the simulation can interfere: deliberate bugs that it must find, and rare paths that it takes
//! more often than they come by themselves.
//!
//! Without the feature `armed`, which nothing but the simulation turns on, `on` and `rarely` are constants, and the
//! compiler removes what stands behind them: no program that serves anybody contains a single point. With it, one build has
//! all bugs, and one of them is chosen when the program runs (`choose`); without a choice there is none.
//!
//! Knows names only. What a bug does is where it stands; that is found by its name.
#![no_std]

#[cfg(feature = "armed")]
mod armed;
mod bugs;

#[cfg(feature = "armed")]
pub use armed::{always, choose, has_taken, on, rarely, seed_rare_paths};
pub use bugs::{Bug, Rare};

/// Whether a bug was chosen: never.
#[cfg(not(feature = "armed"))]
#[inline(always)]
pub const fn on(_bug: Bug) -> bool {
    false
}

/// Whether to take a rare path now: never.
#[cfg(not(feature = "armed"))]
#[inline(always)]
pub const fn rarely(_path: Rare) -> bool {
    false
}

/// There are no paths to take.
#[cfg(not(feature = "armed"))]
#[inline(always)]
pub const fn always(_paths: &[Rare]) {}

/// Whether a path was taken of which [`always`] says that it is: never.
#[cfg(not(feature = "armed"))]
#[inline(always)]
pub const fn has_taken(_path: Rare) -> bool {
    false
}

/// Whether this bug was chosen: `if sabotage!(ReadWithoutQuorum) { .. }`.
#[macro_export]
macro_rules! sabotage {
    ($bug:ident) => {
        $crate::on($crate::Bug::$bug)
    };
}

/// Whether to take a rare path now, though nothing asks for it: `if full() || rarely!(ProposerFull) { .. }`.
#[macro_export]
macro_rules! rarely {
    ($path:ident) => {
        $crate::rarely($crate::Rare::$path)
    };
}
