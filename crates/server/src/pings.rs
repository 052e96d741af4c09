//! How often a client may ping: `--grpc-keepalive-min-time`, as Go's gRPC server polices it. The HTTP/2 library answers pings
//! by itself and tells nobody of them, so that they are counted on the bytes that pass. Knows the heads of frames alone.
//!
//! A ping that comes sooner than the time allows after the one before is a strike, unless data or headers were sent to the
//! client in between: clients measure the connection by pings while answers flow. The third strike in a row is one too many:
//! the client is told GOAWAY with ENHANCE_YOUR_CALM and `too_many_pings`, upon which Go's clients double their interval, and
//! the connection ends.

#[cfg(test)]
mod tests;

use crate::authority::{HEAD_BYTES, Head, TYPE_HEADERS};
use std::time::Duration;
use tokio::time::Instant;

const TYPE_DATA: u8 = 0;
const TYPE_PING: u8 = 6;
const TYPE_GOAWAY: u8 = 7;
const FLAG_ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";
/// More strikes than these end the connection.
const STRIKES_MAX: u8 = 2;
/// Head, last stream, error code, text.
const FAREWELL_BYTES: usize = HEAD_BYTES + 8 + TOO_MANY_PINGS.len();

/// What a client is told that has pinged too often: a frame.
pub type Farewell = [u8; FAREWELL_BYTES];

/// That the connection ends, and why. Streams beyond `last_stream` were not looked at.
fn goaway(last_stream: u32) -> Farewell {
    let mut frame = [0; FAREWELL_BYTES];
    frame[2] = (FAREWELL_BYTES - HEAD_BYTES) as u8;
    frame[3] = TYPE_GOAWAY;
    frame[9..13].copy_from_slice(&last_stream.to_be_bytes());
    frame[13..17].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame[17..].copy_from_slice(TOO_MANY_PINGS);
    frame
}

/// When pings came.
#[derive(Debug)]
pub struct Pings {
    min_time: Duration,
    last: Option<Instant>,
    strikes: u8,
    /// Whether the client has been sent data or headers since the last ping.
    answered: bool,
    /// The newest stream that the client has begun.
    last_stream: u32,
}

impl Pings {
    /// With a `min_time` of 0 a client may ping as it likes.
    pub fn new(min_time: Duration) -> Self {
        Self { min_time, last: None, strikes: 0, answered: false, last_stream: 0 }
    }

    /// A frame of the client. What to tell it, if that is one ping too many.
    pub fn received(&mut self, head: Head) -> Option<Farewell> {
        match head.kind {
            TYPE_HEADERS => self.last_stream = head.stream.max(self.last_stream),
            TYPE_PING if head.flags & FLAG_ACK == 0 && self.one_too_many(Instant::now()) => {
                return Some(goaway(self.last_stream));
            }
            _ => {}
        }
        None
    }

    /// A frame to the client.
    pub fn sent(&mut self, head: Head) {
        self.answered |= matches!(head.kind, TYPE_DATA | TYPE_HEADERS);
    }

    /// Counts a ping; whether that was one too many.
    fn one_too_many(&mut self, now: Instant) -> bool {
        let too_soon = self.last.replace(now).is_some_and(|last| now.duration_since(last) < self.min_time);
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
        } else if too_soon {
            self.strikes = self.strikes.saturating_add(1);
        }
        self.strikes > STRIKES_MAX
    }
}
