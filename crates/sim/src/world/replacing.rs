//! Members that leave: such as are replaced, such as have lost their disk, and such as come back although they were removed.

use super::operator::Order;
use super::{RECOVERY, World, peer_url, state};
use crate::oracle::Rule;
use crate::replacement::{Next, Reason, Replacement, Stage};
use quorate_core::MemberId;
use quorate_node::{InitialClusterState, Node};
use std::time::Duration;

/// How long a new member is not counted on: it does not know yet that it does not vote.
const JOINING: Duration = Duration::from_secs(5);

impl World {
    /// Whether the others are a quorum without `machine`: nobody else is being replaced or damaged, and whoever has joined
    /// votes by now.
    pub(super) fn can_spare(&self, machine: usize) -> bool {
        self.replacement.is_none()
            && !self.known.iter().any(|known| known.is_damaged || known.rebuilds)
            && (0..self.plan.members).all(|index| index == machine || self.votes(index))
    }

    /// Whether a member is up, and votes.
    pub(super) fn votes(&self, index: usize) -> bool {
        let joins = self.known[index].has_joined && self.now < self.known[index].joined_at + JOINING;
        !joins && self.says_that_it_votes(index)
    }

    fn says_that_it_votes(&self, index: usize) -> bool {
        // A member that was added as a voter, and is still catching up, says so in its figures alone.
        let is_voter = |node: &Node| node.metrics_text().lines().any(|line| line == "etcd_server_is_learner 0");
        self.doors[index].node().is_some_and(|node| is_voter(&node))
    }

    /// The machine starts with an empty disk, as if nothing were amiss, and is replaced once somebody knows.
    pub(super) fn lose_disk(&mut self, machine: usize, unnoticed: Duration) {
        let Some(old) = self.known[machine].member.filter(|_| self.can_spare(machine)) else { return };
        // One that has never voted may begin anew under its id.
        let voted = self.says_that_it_votes(machine);
        self.machines[machine].wipe();
        self.known[machine].forget();
        self.machines[machine].start(self.now);
        let stage = Stage::Unnoticed(self.now + unnoticed);
        self.replacement = Some(Replacement { machine, old, stage, reason: Reason::LostDisk { voted } });
    }

    /// The member is removed while its process is down, and its process is started again with the disk that it had.
    pub(super) fn return_removed(&mut self, machine: usize) {
        let Some(old) = self.known[machine].member.filter(|_| self.can_spare(machine)) else { return };
        self.machines[machine].kill();
        let stage = self.remove(machine, old);
        self.replacement = Some(Replacement { machine, old, stage, reason: Reason::ComesBack });
    }

    /// Begins to replace a member, if no other is being replaced.
    pub(super) fn replace(&mut self, machine: usize) {
        let Some(old) = self.known[machine].member.filter(|_| self.replacement.is_none()) else { return };
        let stage = self.remove(machine, old);
        self.replacement = Some(Replacement { machine, old, stage, reason: Reason::Asked });
    }

    /// A member to ask for what concerns `machine`.
    pub(super) fn via(&self, machine: usize) -> usize {
        let turn = (self.now.as_millis() / 700) as usize;
        let others: Vec<usize> = (0..self.plan.members).filter(|member| *member != machine).collect();
        others.get(turn % others.len().max(1)).copied().unwrap_or(0)
    }

    /// Takes a replacement one step on.
    pub(super) fn go_on_replacing(&mut self) {
        let Some(mut replacement) = self.replacement.take() else { return };
        let machine = replacement.machine;
        let url = peer_url(machine);
        replacement.stage = match replacement.next(&url, self.now) {
            Next::Wait => self.must_have_been_told(machine, replacement.stage),
            // The removal may still be on its way: only asking again settles it.
            Next::Remove => self.remove(machine, replacement.old),
            Next::Ask => {
                let members = self.fetch(self.via(machine), |node| async move {
                    node.members(true).await.map(|answer| answer.body).unwrap_or_default()
                });
                match replacement.stage {
                    Stage::Adding(_) | Stage::AskingAdded(_) => Stage::AskingAdded(members),
                    Stage::Unnoticed(_) | Stage::Removing(_) | Stage::AskingRemoved(_) | Stage::Returned { .. } => {
                        Stage::AskingRemoved(members)
                    }
                }
            }
            Next::Return => {
                self.log(format!("m{machine} is removed, and comes back"));
                if !self.machines[machine].is_up() {
                    self.machines[machine].start(self.now);
                }
                Stage::Returned { since: self.now, told: false }
            }
            Next::Wipe => {
                self.log(format!("m{machine} is removed: its disk is wiped"));
                self.machines[machine].wipe();
                self.known[machine].forget();
                self.machines[machine].config_mut().initial_cluster_state = InitialClusterState::Existing;
                self.add(machine)
            }
            Next::Add => self.add(machine),
            Next::Start => {
                self.log(format!("m{machine} starts as a new member"));
                self.known[machine].has_joined = true;
                self.known[machine].joined_at = self.now;
                return self.machines[machine].start(self.now);
            }
        };
        self.replacement = Some(replacement);
    }

    /// A member that was removed learns it from the first that it reaches, at the latest when all faults have ended.
    fn must_have_been_told(&mut self, machine: usize, stage: Stage) -> Stage {
        let Stage::Returned { since, told: false } = stage else { return stage };
        if self.healed.is_none_or(|healed| self.now < healed.max(since) + RECOVERY) {
            return stage;
        }
        let how = state(&self.doors[machine]);
        let text = format!("m{machine} was removed, and has not stopped {RECOVERY:?} after it came back: {how}");
        self.violation(Rule::Membership, text);
        Stage::Returned { since, told: true }
    }

    /// A process has ended with these words. Whether that is because its member was removed and has been told.
    pub(super) fn tell_removed(&mut self, index: usize, text: &str) -> bool {
        if !self.has_returned(index) || !text.contains("removed") {
            return false;
        }
        if let Some(Replacement { stage: Stage::Returned { told, .. }, .. }) = &mut self.replacement {
            *told = true;
        }
        true
    }

    fn remove(&self, machine: usize, old: MemberId) -> Stage {
        Stage::Removing(self.order(self.via(machine), Order::Remove(old)))
    }

    fn add(&self, machine: usize) -> Stage {
        let urls = vec![peer_url(machine)];
        Stage::Adding(self.order(self.via(machine), Order::Add { urls, learner: false }))
    }

    fn stage(&self, machine: usize) -> Option<&Stage> {
        self.replacement.as_ref().filter(|going| going.machine == machine).map(|going| &going.stage)
    }

    /// Whether a machine is off because its new member is not added yet.
    pub(super) fn waits_to_join(&self, machine: usize) -> bool {
        matches!(self.stage(machine), Some(Stage::Adding(_) | Stage::AskingAdded(_)))
    }

    /// Whether a machine's member is or may be removed, so that it may stop by itself.
    pub(super) fn is_leaving(&self, machine: usize) -> bool {
        matches!(self.stage(machine), Some(Stage::Unnoticed(_) | Stage::Removing(_) | Stage::AskingRemoved(_)))
    }

    /// Whether a machine has lost its disk, with which it has voted, and is started under its old name.
    pub(super) fn must_not_take_part(&self, machine: usize) -> bool {
        let lost = self.replacement.as_ref().is_some_and(|going| going.reason == Reason::LostDisk { voted: true });
        lost && self.is_leaving(machine)
    }

    /// Whether a machine's member is removed, and its process was started again.
    pub(super) fn has_returned(&self, machine: usize) -> bool {
        matches!(self.stage(machine), Some(Stage::Returned { .. }))
    }
}
