//! A bar that shows how far something long is. On standard error, and only if that is a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::golang::human_bytes;

/// How often the bar is drawn at most.
const INTERVAL: Duration = Duration::from_millis(100);

const WIDTH: u64 = 30;

/// A bar. Dropped, it ends its line.
pub struct Progress {
    what: &'static str,
    on_terminal: bool,
    drawn: Option<Instant>,
}

impl Progress {
    /// A bar that says `what` is done. Draws nothing yet.
    pub fn new(what: &'static str) -> Self {
        Self { what, on_terminal: io::stderr().is_terminal(), drawn: None }
    }

    /// Shows that `done` of `total` bytes are done. The total may change: it may be an estimate.
    pub fn show(&mut self, done: u64, total: u64) {
        if !self.on_terminal || (done < total && self.drawn.is_some_and(|drawn| drawn.elapsed() < INTERVAL)) {
            return;
        }
        self.drawn = Some(Instant::now());
        // A terminal that is gone is no reason to stop the work.
        let _ = write!(io::stderr(), "\r{}\x1b[K", bar(self.what, done, total));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = writeln!(io::stderr());
        }
    }
}

fn bar(what: &str, done: u64, total: u64) -> String {
    let share = |of: u64| u64::try_from(u128::from(done.min(total)) * u128::from(of) / u128::from(total.max(1)));
    // A share of a number is at most that number.
    let (filled, percent) = (share(WIDTH).unwrap_or(WIDTH), share(100).unwrap_or(100));
    let bar: String = (0..WIDTH).map(|at| if at < filled { '=' } else { ' ' }).collect();
    format!("{what} [{bar}] {percent:3} %  {} of {}", human_bytes(done), human_bytes(total))
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn bars() {
        assert_eq!(bar("saving", 0, 2000), "saving [                              ]   0 %  0 B of 2.0 kB");
        assert_eq!(bar("saving", 1000, 2000), "saving [===============               ]  50 %  1.0 kB of 2.0 kB");
        assert_eq!(bar("saving", 3000, 2000), "saving [==============================] 100 %  3.0 kB of 2.0 kB");
        assert_eq!(bar("saving", 0, 0), "saving [                              ]   0 %  0 B of 0 B");
    }
}
