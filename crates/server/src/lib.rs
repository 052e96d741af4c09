//! Quorate server.
