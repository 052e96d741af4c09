//! What has happened, in the order of time, and when the cluster was disturbed.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A time during which something was wrong, until the cluster had recovered from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disturbance {
    /// When it began.
    pub start: Duration,
    /// When all was well again.
    pub end: Duration,
}

/// The timeline of one episode. Prints each line as it comes.
#[derive(Debug)]
pub struct Timeline {
    epoch: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    disturbances: Vec<Disturbance>,
    violations: Vec<String>,
}

impl Timeline {
    /// An empty one that starts now.
    pub fn start() -> Timeline {
        Timeline { epoch: Instant::now(), state: Mutex::default() }
    }

    /// When it began.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// The present time.
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Writes a line.
    pub fn say(&self, text: &str) {
        let line = format!("{:8.2} s  {text}", self.now().as_secs_f64());
        println!("{line}");
        self.locked(|state| state.lines.push(line));
    }

    /// Says that something is wrong with the server.
    pub fn violation(&self, text: String) {
        self.say(&format!("VIOLATION: {text}"));
        self.locked(|state| state.violations.push(text));
    }

    /// The cluster was disturbed since `start`, until now.
    pub fn disturbed(&self, start: Duration) {
        let end = self.now();
        self.locked(|state| state.disturbances.push(Disturbance { start, end }));
    }

    /// All disturbances, in order.
    pub fn disturbances(&self) -> Vec<Disturbance> {
        self.locked(|state| state.disturbances.clone())
    }

    /// Everything that was wrong.
    pub fn violations(&self) -> Vec<String> {
        self.locked(|state| state.violations.clone())
    }

    /// All lines.
    pub fn text(&self) -> String {
        self.locked(|state| state.lines.join("\n"))
    }

    fn locked<T>(&self, what: impl FnOnce(&mut State) -> T) -> T {
        // What is written down is worth reading even if somebody panicked meanwhile.
        what(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
