//! Quorate storage.
