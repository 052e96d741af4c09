//! What stands behind a point is not in a program that is not armed.
#![cfg(not(feature = "armed"))]

use quorate_sabotage::{rarely, sabotage};

// Known when this is compiled, so that nothing is left to decide when a program runs.
const _: () = assert!(!sabotage!(WalSyncSkipped) && !rarely!(WalRoll));

#[test]
fn a_point_does_nothing() {
    assert!(!sabotage!(ReadWithoutQuorum));
}
