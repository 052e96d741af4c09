//! Tests of the built binary.

mod demo;
mod process_options;
mod programs;
mod service_manager;
mod steps;
mod tour;
