//! How far the start of a member is, for whoever waits for it: a start may take as long as the others are away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// What a member does before it takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum StartStage {
    /// It reads what it has on disk.
    Opening,
    /// It has nothing on disk, and asks the others who it is.
    AskingOthers,
    /// It takes the state of another member in place of its own.
    Rebuilding,
    /// It compares its data with the others'.
    Comparing,
}

impl StartStage {
    const ALL: [Self; 4] = [Self::Opening, Self::AskingOthers, Self::Rebuilding, Self::Comparing];

    /// In words, as the reason why the member does not serve.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Opening => "starting: reading what is on disk",
            Self::AskingOthers => "starting: asking the other members",
            Self::Rebuilding => "rebuilding from the others",
            Self::Comparing => "starting: comparing its data with the others'",
        }
    }
}

/// The stage of a start. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct StartProgress(Arc<AtomicU8>);

impl StartProgress {
    /// Where it is; when the start is through, where it was last.
    pub fn stage(&self) -> StartStage {
        // Only `enter` writes.
        StartStage::ALL[usize::from(self.0.load(Relaxed))]
    }

    pub(crate) fn enter(&self, stage: StartStage) {
        self.0.store(stage as u8, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_is_the_one_that_was_entered_last() {
        let (progress, seen) = (StartProgress::default(), StartProgress::default());
        assert_eq!(seen.stage(), StartStage::Opening, "that is what a start begins with");
        let seen = progress.clone();
        for stage in StartStage::ALL {
            progress.enter(stage);
            assert_eq!(seen.stage(), stage);
        }
    }
}
