//! `quorate`: the one binary.
fn main() {}
