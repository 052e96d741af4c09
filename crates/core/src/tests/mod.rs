//! Tests of the state machine: transcripts, a naive model to compare with, golden bytes.

mod auth;
mod check;
mod codec;
mod model;
mod random;
mod samples;
mod script;
mod transcript;
