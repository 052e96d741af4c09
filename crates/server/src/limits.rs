//! Admission: how many requests and how many of their bytes are under way at once. Beyond a bound a request is refused
//! before anything of it is kept. Knows numbers, not protocols.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A number that must stay at or below a bound.
#[derive(Debug)]
pub struct Gauge {
    used: AtomicUsize,
    max: usize,
}

impl Gauge {
    /// Starts at 0.
    pub fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    /// How much is taken now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Takes `amount`, unless that goes beyond the bound.
    pub fn take<G: Deref<Target = Self>>(this: G, amount: usize) -> Option<Taken<G>> {
        // Adding first and looking then is one atomic step; too much is given back at once.
        let before = this.used.fetch_add(amount, Relaxed);
        let taken = Taken { gauge: this, amount };
        (before.saturating_add(amount) <= taken.gauge.max).then_some(taken)
    }
}

/// An amount that was taken; given back when it is dropped.
#[derive(Debug)]
pub struct Taken<G: Deref<Target = Gauge>> {
    gauge: G,
    amount: usize,
}

impl<G: Deref<Target = Gauge>> Drop for Taken<G> {
    fn drop(&mut self) {
        self.gauge.used.fetch_sub(self.amount, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_what_is_dropped_is_free_again() {
        let gauge = Gauge::new(10);
        let first = Gauge::take(&gauge, 6).unwrap();
        assert!(Gauge::take(&gauge, 5).is_none());
        assert_eq!(gauge.used(), 6);
        let second = Gauge::take(&gauge, 4).unwrap();
        drop(first);
        assert_eq!(gauge.used(), 4);
        drop(second);
        assert!(Gauge::take(&gauge, usize::MAX).is_none());
        assert_eq!(gauge.used(), 0);
    }
}
