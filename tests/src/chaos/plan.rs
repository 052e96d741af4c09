//! What happens when, drawn from a seed: the same seed and options are the same plan. What comes of it is not the same
//! twice, because processes are real.

use std::fmt;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::fault::Fault;
use crate::engines::Engines;

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Whoever leads when it happens.
    Leader,
    /// A member by number.
    Member(usize),
    /// All.
    All,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Victim::Leader => write!(f, "the leader"),
            Victim::Member(member) => write!(f, "m{member}"),
            Victim::All => write!(f, "all"),
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How long nothing happens before it.
    pub quiet: Duration,
    /// Its kind.
    pub fault: Fault,
    /// Whom it hits.
    pub victim: Victim,
    /// How long it lasts.
    pub hold: Duration,
    /// Whether members are defragmented and copied meanwhile.
    pub maintenance: bool,
    /// Whether the leader is killed in the midst of a change of the membership.
    pub and_kill: bool,
    /// Chooses among what the kind leaves open.
    pub variant: usize,
}

/// A cluster, and what happens to it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Members: 1, 3 or 5.
    pub members: usize,
    /// Storage engines.
    pub engines: Engines,
    /// In this order.
    pub steps: Vec<Step>,
}

impl Plan {
    /// Draws a plan of about `length`, with the kinds of fault that are given. What is `None` is drawn, too.
    pub fn draw(
        seed: u64,
        length: Duration,
        kinds: &[Fault],
        members: Option<usize>,
        engines: Option<Engines>,
    ) -> Plan {
        let mut random = SmallRng::seed_from_u64(seed);
        let drawn = *[3, 3, 3, 5, 1].choose(&mut random).expect("not empty");
        let members = members.unwrap_or(drawn);
        let drawn =
            *[Engines::Mixed, Engines::Mixed, Engines::Redb, Engines::Sled].choose(&mut random).expect("not empty");
        let engines = engines.unwrap_or(drawn);
        let kinds: Vec<Fault> = kinds.iter().copied().filter(|kind| members > 1 || !kind.needs_peers()).collect();
        let mut steps = Vec::new();
        let mut bag: Vec<Fault> = Vec::new();
        let mut planned = Duration::ZERO;
        while planned < length && !kinds.is_empty() {
            // Each kind once before any comes again, in an order of its own: a short run has as many kinds as fit.
            if bag.is_empty() {
                bag.clone_from(&kinds);
            }
            let fault = bag.swap_remove(random.random_range(0..bag.len()));
            let step = draw_step(&mut random, fault, members);
            // What it takes to heal, as experience has it.
            planned += step.quiet + step.hold + Duration::from_secs(1);
            steps.push(step);
        }
        Plan { members, engines, steps }
    }
}

fn draw_step(random: &mut SmallRng, fault: Fault, members: usize) -> Step {
    let victim = match random.random_range(0..10) {
        0..4 => Victim::Leader,
        4..8 => Victim::Member(random.random_range(0..members)),
        _ if fault.can_hit_all() => Victim::All,
        _ => Victim::Leader,
    };
    let between =
        |random: &mut SmallRng, least_ms, most_ms| Duration::from_millis(random.random_range(least_ms..most_ms));
    Step {
        quiet: between(random, 300, 1500),
        fault,
        victim,
        hold: match fault {
            Fault::Kill | Fault::PowerCut => between(random, 0, 2000),
            Fault::Maintenance | Fault::Learner | Fault::Replace | Fault::RollingRestart => between(random, 500, 1500),
            Fault::Pause
            | Fault::Isolate
            | Fault::OneWay
            | Fault::Chain
            | Fault::SlowLink
            | Fault::LossyLink
            | Fault::ClockJump
            | Fault::ClockDrift
            | Fault::DiskFull
            | Fault::SyncError
            | Fault::SlowDisk => between(random, 2000, 6000),
        },
        maintenance: random.random_range(0..4) == 0,
        and_kill: random.random_range(0..2) == 0,
        variant: random.random_range(0..1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(seed: u64) -> Plan {
        let kinds: Vec<Fault> = Fault::all().collect();
        Plan::draw(seed, Duration::from_secs(600), &kinds, None, None)
    }

    #[test]
    fn a_seed_is_one_plan() {
        assert_eq!(draw(7).steps, draw(7).steps);
        assert_ne!(draw(7).steps, draw(8).steps);
    }

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        let plan = (0..20).map(draw).find(|plan| plan.members == 3).expect("most seeds have three members");
        let kinds: std::collections::BTreeSet<Fault> = plan.steps.iter().map(|step| step.fault).collect();
        assert_eq!(kinds.len(), Fault::all().count());
        let first: Vec<Fault> = plan.steps.iter().take(kinds.len()).map(|step| step.fault).collect();
        assert_eq!(first.iter().collect::<std::collections::BTreeSet<_>>().len(), kinds.len(), "{first:?}");
    }

    #[test]
    fn one_member_has_no_faults_of_several() {
        let kinds: Vec<Fault> = Fault::all().collect();
        let plan = Plan::draw(3, Duration::from_secs(600), &kinds, Some(1), None);
        assert!(plan.steps.iter().all(|step| !step.fault.needs_peers()));
        assert!(!plan.steps.is_empty());
    }
}
