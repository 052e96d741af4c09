//! Handshakes that are under way: a bounded number. Knows only how long each has waited.
//!
//! Guarantee: a newcomer always gets a place. At the bound the one that has waited longest loses its own: those who stall
//! pay, not those who come.

use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::oneshot;

pub(crate) struct Pending {
    max: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    /// In the order in which they came, so by id.
    places: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// A place; given back when dropped.
pub(crate) struct Place<'a> {
    pending: &'a Pending,
    id: u64,
    lost: oneshot::Receiver<()>,
}

impl Pending {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, waiting: Mutex::default() }
    }

    pub(crate) fn enter(&self) -> Place<'_> {
        let (sender, lost) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.places.len() >= self.max {
            // Dropping the sender tells the place's owner.
            waiting.places.pop_front();
        }
        let id = waiting.next_id;
        waiting.next_id += 1;
        waiting.places.push_back((id, sender));
        Place { pending: self, id, lost }
    }
}

impl Place<'_> {
    /// Resolves when the place is lost.
    pub(crate) async fn lost(&mut self) {
        // Nothing is ever sent: the channel only closes.
        let _ = (&mut self.lost).await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.pending.waiting.lock();
        if let Ok(at) = waiting.places.binary_search_by_key(&self.id, |(id, _)| *id) {
            waiting.places.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Duration, timeout};

    #[tokio::test]
    async fn the_oldest_loses_its_place_to_a_newcomer() {
        let pending = Pending::new(2);
        let (mut first, mut second) = (pending.enter(), pending.enter());
        assert!(timeout(Duration::from_millis(10), first.lost()).await.is_err());
        let third = pending.enter();
        timeout(Duration::from_secs(10), first.lost()).await.unwrap();
        assert!(timeout(Duration::from_millis(10), second.lost()).await.is_err());
        drop(third);
        let _fourth = pending.enter();
        assert!(timeout(Duration::from_millis(10), second.lost()).await.is_err(), "a place was free");
        drop((first, second));
        assert_eq!(pending.waiting.lock().places.len(), 1);
    }
}
