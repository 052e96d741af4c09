//! Tests of the built binary.

mod demo;
mod programs;
mod tour;
