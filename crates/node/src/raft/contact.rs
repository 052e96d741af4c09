//! [`Contact`]: when this member last had to do with a leader.
//!
//! Raft itself does not tell: with pre-votes a member that has lost its leader asks the others without a term of its own, and
//! goes on naming the old leader for as long as nobody answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Shared by all who hear from leaders.
#[derive(Clone)]
pub(super) struct Contact {
    start: Instant,
    /// Milliseconds since `start`, and one more; 0 for never.
    last: Arc<AtomicU64>,
}

impl Contact {
    /// Nothing was heard yet.
    pub fn new() -> Self {
        Self { start: Instant::now(), last: Arc::default() }
    }

    /// A leader was heard, or this member became one.
    pub fn note(&self) {
        self.last.fetch_max(self.now() + 1, Ordering::Relaxed);
    }

    /// How long ago that was; `None` if it never was.
    pub fn ago(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.now().saturating_sub(last)))
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tells_how_long_nothing_was_heard() {
        let contact = Contact::new();
        tokio::time::advance(Duration::from_millis(700)).await;
        assert_eq!(contact.ago(), None);
        contact.clone().note();
        assert_eq!(contact.ago(), Some(Duration::ZERO));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(contact.ago(), Some(Duration::from_secs(60)));
    }
}
