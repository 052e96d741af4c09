//! Tests of the state machine: transcripts, a naive model to compare with, golden bytes.

mod script;
mod transcript;
