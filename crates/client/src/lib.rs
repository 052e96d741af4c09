//! Quorate client.
