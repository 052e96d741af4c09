//! Where the time of one request goes. Whoever runs a request puts it into a [`scope`]; on its way through the node the
//! stages note how long they took, and [`taken`] tells. Outside of a scope nothing is kept.
//!
//! Knows durations, not requests. A request's stages follow each other; what is between them (waking up, converting) is
//! nobody's.

use std::cell::Cell;
use std::time::Duration;

/// A part of the way of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A write waits until the proposer takes it up and sends it, because others are under way.
    Queue,
    /// The log entry with it waits for this member's disk. Only on the leader.
    Wal,
    /// A quorum puts the entry on disk, and this member learns of it. On a follower, with the way to the leader.
    Replicate,
    /// A read asks the leader, and the leader a quorum.
    ReadIndex,
    /// The state machine applies the entry. A read: waits until that much is applied here.
    Apply,
    /// A read of index, caches and engine. A write: apply waits until the engine has taken up what was written before.
    Engine,
}

impl Stage {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 6] = [Self::Queue, Self::Wal, Self::Replicate, Self::ReadIndex, Self::Apply, Self::Engine];

    /// The name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Wal => "wal",
            Self::Replicate => "replicate",
            Self::ReadIndex => "read_index",
            Self::Apply => "apply",
            Self::Engine => "engine",
        }
    }
}

/// How long each stage took, in microseconds, up to an hour or so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages([u32; Stage::ALL.len()]);

impl Stages {
    /// Adds to a stage. What takes less than a microsecond counts as one, so that a stage that was passed is seen.
    pub fn add(&mut self, stage: Stage, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let sum = &mut self.0[stage as usize];
        *sum = sum.saturating_add(micros);
    }

    /// The stages that were passed, with their durations, in the order of [`Stage::ALL`].
    pub fn passed(&self) -> impl Iterator<Item = (Stage, Duration)> {
        let micros = self.0;
        Stage::ALL
            .into_iter()
            .map(move |stage| (stage, micros[stage as usize]))
            .filter(|(_, micros)| *micros > 0)
            .map(|(stage, micros)| (stage, Duration::from_micros(micros.into())))
    }

    /// Adds all stages of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (stage, took) in other.passed() {
            self.add(stage, took);
        }
    }
}

tokio::task_local! {
    static CURRENT: Cell<Stages>;
}

/// Runs a request so that its stages are noted.
pub fn scope<F: Future>(request: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(Cell::default(), request)
}

/// What was noted so far in the scope that this runs in.
pub fn taken() -> Stages {
    CURRENT.try_with(Cell::get).unwrap_or_default()
}

/// Notes a stage.
pub(crate) fn note(stage: Stage, took: Duration) {
    update(|stages| stages.add(stage, took));
}

/// Notes several.
pub(crate) fn note_all(stages: &Stages) {
    update(|sum| sum.merge(stages));
}

fn update(change: impl FnOnce(&mut Stages)) {
    // An error means that nobody asked for it.
    let _ = CURRENT.try_with(|cell| {
        let mut stages = cell.get();
        change(&mut stages);
        cell.set(stages);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_are_noted_in_their_own_scope_and_nowhere_else() {
        note(Stage::Apply, Duration::from_secs(1));
        assert_eq!(taken(), Stages::default());
        let one = scope(async {
            note(Stage::Queue, Duration::from_millis(2));
            tokio::task::yield_now().await;
            note(Stage::Queue, Duration::from_millis(3));
            note(Stage::Engine, Duration::ZERO);
            taken().passed().collect::<Vec<_>>()
        });
        let other = scope(async {
            tokio::task::yield_now().await;
            taken()
        });
        let (one, other) = tokio::join!(one, other);
        assert_eq!(one, [(Stage::Queue, Duration::from_millis(5)), (Stage::Engine, Duration::from_micros(1))]);
        assert_eq!(other, Stages::default());
    }

    #[test]
    fn all_is_in_the_order_of_the_discriminants() {
        for (place, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, place);
        }
    }
}
