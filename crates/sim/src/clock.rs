//! The time of one machine. A machine runs in ticks of its own paused tokio runtime; its clock may run fast or slow.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Where a machine's own time stands against the world's.
#[derive(Debug)]
pub struct MachineClock {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// World time and own time at the begin of the present tick.
    tick_world: Duration,
    tick_own: Option<Instant>,
    /// Own time at its end. A tick may overshoot, since tokio's timers count whole milliseconds: the next one is shorter.
    tick_end: Option<Instant>,
    /// Own seconds that pass in a second of the world.
    rate: f64,
}

impl MachineClock {
    /// A clock that starts at world time `now`.
    pub fn new(now: Duration, rate: f64) -> MachineClock {
        MachineClock { inner: Mutex::new(Inner { tick_world: now, tick_own: None, tick_end: None, rate }) }
    }

    /// Tells that a tick begins at world time `now`, and returns the own time at which it ends. `missed` is world time that
    /// passed since the tick before without a tick. Within the machine's runtime.
    pub fn begin_tick(&self, now: Duration, tick: Duration, missed: Duration) -> Instant {
        let mut inner = self.inner.lock();
        let begin = inner.tick_end.unwrap_or_else(Instant::now) + missed.mul_f64(inner.rate);
        let end = begin + tick.mul_f64(inner.rate);
        inner.tick_world = now;
        inner.tick_own = Some(begin);
        inner.tick_end = Some(end);
        end
    }

    /// Lets the clock run faster or slower from now on.
    pub fn set_rate(&self, rate: f64) {
        self.inner.lock().rate = rate;
    }

    /// How much own time passes in `world`.
    pub fn own(&self, world: Duration) -> Duration {
        world.mul_f64(self.inner.lock().rate)
    }

    /// The world's time now. Within the machine's runtime; before its first tick, when that began.
    pub fn world_now(&self) -> Duration {
        let inner = self.inner.lock();
        match inner.tick_own {
            Some(own) => inner.tick_world + (Instant::now() - own).div_f64(inner.rate),
            None => inner.tick_world,
        }
    }
}
