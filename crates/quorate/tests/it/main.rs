//! Tests of the built binary.

mod demo;
mod programs;
mod service_manager;
mod tour;
