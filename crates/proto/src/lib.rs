//! Quorate proto.
