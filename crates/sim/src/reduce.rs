//! The same plan with less in it: fewer faults, clients and members, and a shorter time. For whoever looks for what a failure needs.

use crate::plan::{Fault, Load, Plan};
use std::time::Duration;

/// What to leave out of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Less {
    /// These faults, by their place in the plan.
    pub without: Vec<usize>,
    /// All clients of a kind but so many.
    pub clients_max: Option<usize>,
    /// All members but so many voters, and what would happen to the others.
    pub members: Option<usize>,
    /// What would happen later than this many milliseconds after the begin.
    pub length_ms: Option<u64>,
}

impl Less {
    /// The words of the command line that say so.
    pub fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut say = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        say("--members", self.members.map(|members| members.to_string()));
        say("--clients-max", self.clients_max.map(|most| most.to_string()));
        say("--length-ms", self.length_ms.map(|length| length.to_string()));
        let places: Vec<String> = self.without.iter().map(usize::to_string).collect();
        say("--without", (!places.is_empty()).then(|| places.join(",")));
        words
    }
}

impl Plan {
    /// The plan without what `less` leaves out.
    #[must_use]
    pub fn reduced(mut self, less: &Less) -> Plan {
        let mut place = 0;
        self.faults.retain(|_| {
            place += 1;
            !less.without.contains(&(place - 1))
        });
        if let Some(most) = less.clients_max {
            self.load.clients_of_each_kind().into_iter().for_each(|count| *count = most.min(*count));
        }
        if let Some(members) = less.members.filter(|members| (1..=self.members).contains(members)) {
            self.keep_members(members);
        }
        if let Some(length) = less.length_ms.map(Duration::from_millis) {
            self.length = self.length.min(length);
            self.faults.retain(|(at, _)| *at < length);
        }
        self
    }

    fn keep_members(&mut self, members: usize) {
        let clients = self.members + self.learners;
        // The clients' place is behind the members'.
        let place = |old: usize| if old == clients { Some(members) } else { Some(old).filter(|old| *old < members) };
        let faults = std::mem::take(&mut self.faults);
        self.faults = faults.into_iter().filter_map(|(at, fault)| Some((at, fault.moved(place)?))).collect();
        (self.members, self.learners) = (members, 0);
        self.self_rebuild &= members > 2;
    }
}

impl Load {
    fn clients_of_each_kind(&mut self) -> [&mut usize; 13] {
        [
            &mut self.clients,
            &mut self.lease_clients,
            &mut self.watchers,
            &mut self.account_clients,
            &mut self.list_clients,
            &mut self.set_clients,
            &mut self.lock_clients,
            &mut self.object_clients,
            &mut self.step_clients,
            &mut self.election_clients,
            &mut self.slow_readers,
            &mut self.quiet_watchers,
            &mut self.recipe_clients,
        ]
    }
}

impl Fault {
    /// The same fault where machines have other places; `None` if it is about one that has none.
    fn moved(mut self, place: impl Fn(usize) -> Option<usize>) -> Option<Fault> {
        match &mut self {
            Fault::Kill { machine, .. }
            | Fault::PowerCut { machine, .. }
            | Fault::PowerCutAtWrite { machine, .. }
            | Fault::PowerCutAtTerm { machine, .. }
            | Fault::Pause { machine, .. }
            | Fault::Drift { machine, .. }
            | Fault::FailSync { machine }
            | Fault::Replace { machine }
            | Fault::Defragment { machine }
            | Fault::Restart { machine }
            | Fault::FullDisk { machine, .. }
            | Fault::WallClock { machine, .. }
            | Fault::LoseDisk { machine, .. }
            | Fault::Damage { machine, .. }
            | Fault::SlowDisk { machine, .. }
            | Fault::SlowClients { machine, .. }
            | Fault::CrashLoop { machine, .. }
            | Fault::EndsInCompaction { machine }
            | Fault::ReturnRemoved { machine } => *machine = place(*machine)?,
            Fault::Reset { one, other } | Fault::Slow { one, other, .. } => {
                (*one, *other) = (place(*one)?, place(*other)?);
            }
            Fault::Partition { cut, .. } => {
                *cut = cut.iter().filter_map(|(from, to)| Some((place(*from)?, place(*to)?))).collect();
                if cut.is_empty() {
                    return None;
                }
            }
            Fault::Promote => return None,
            Fault::KillAll { .. }
            | Fault::PowerCutAll { .. }
            | Fault::MoveLeader
            | Fault::IsolateLeader { .. }
            | Fault::StallLeader { .. } => {}
        }
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Mode;

    #[test]
    fn fewer_members_have_only_faults_of_their_own() {
        for seed in 1..200 {
            let plan = Plan::new(seed, Mode::Full);
            let clients_before = plan.members + plan.learners;
            let reduced = plan.clone().reduced(&Less { members: Some(1), ..Less::default() });
            assert_eq!((reduced.members, reduced.learners), (1, 0));
            for (_, fault) in &reduced.faults {
                let text = format!("{fault:?}");
                assert!(!text.contains("machine: ") || text.contains("machine: 0"), "{text}");
                // The clients are at place 1 now.
                if let Fault::Reset { one, other } | Fault::Slow { one, other, .. } = fault {
                    assert_eq!((*one, *other), (0, 1), "{text}, where clients were {clients_before}");
                }
            }
        }
    }

    #[test]
    fn what_is_left_out_can_be_said_on_the_command_line() {
        let less = Less { without: vec![0, 3], clients_max: Some(2), members: Some(3), length_ms: Some(900) };
        assert_eq!(less.words().join(" "), "--members 3 --clients-max 2 --length-ms 900 --without 0,3");
        let plan = Plan::new(7, Mode::Full);
        let reduced = plan.clone().reduced(&less);
        assert!(reduced.length <= Duration::from_millis(900) && reduced.load.clients <= 2);
        assert!(reduced.faults.iter().all(|(at, _)| *at < Duration::from_millis(900)));
        assert!(Less::default().words().is_empty());
        assert_eq!(format!("{:?}", plan.clone().reduced(&Less::default())), format!("{plan:?}"));
    }
}
