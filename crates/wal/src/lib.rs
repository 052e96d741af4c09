//! Quorate wal.
