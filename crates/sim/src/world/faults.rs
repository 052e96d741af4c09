//! What goes wrong, and its end.

use super::{Later, World, peer_url};
use crate::oracle::Rule;
use crate::plan::{Fault, Mode};
use crate::replacement::{Next, Replacement, Stage};
use quorate_core::MemberId;
use quorate_node::{InitialClusterState, Node};
use std::path::PathBuf;
use std::time::Duration;

/// How long a new member is not counted on: it does not know yet that it does not vote.
const JOINING: Duration = Duration::from_secs(5);

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        self.log(format!("FAULT {fault:?}"));
        match fault {
            Fault::Kill { machine, down } => self.kill(machine, down),
            Fault::KillAll { down } => (0..self.machines.len()).for_each(|machine| self.kill(machine, down)),
            Fault::PowerCut { machine, down, chance } => self.cut(machine, down, chance),
            Fault::PowerCutAll { down, chance } => {
                (0..self.machines.len()).for_each(|m| self.cut(m, down, chance.wrapping_add(m as u64)));
            }
            Fault::PowerCutAtWrite { machine, operations } => {
                let disk = &self.machines[machine].disk;
                disk.cut_power_at(disk.operations() + operations);
                self.known[machine].may_die += 1;
            }
            Fault::Pause { machine, length } => {
                let now = self.now;
                self.machines[machine].pause(now, length);
            }
            Fault::Partition { cut, length } => {
                for (from, to) in &cut {
                    self.network.set_link(*from, *to, |link| link.blocked = true);
                }
                self.later.push((self.now + length, Later::Open(cut)));
            }
            Fault::Reset { one, other } => self.network.reset(one, other),
            Fault::Slow { one, other, delay_ms, length } => {
                for (from, to) in [(one, other), (other, one)] {
                    self.network.set_link(from, to, |link| link.delay_ms = (delay_ms / 2, delay_ms));
                }
                self.later.push((self.now + length, Later::Fast(one, other)));
            }
            Fault::Drift { machine, rate } => self.machines[machine].set_rate(rate),
            Fault::FailSync { machine } => {
                let disk = &self.machines[machine].disk;
                disk.fail_sync_at(disk.syncs());
                self.known[machine].may_die += 1;
            }
            Fault::MoveLeader => self.move_leader(),
            // Nobody replaces one member while another is beyond help.
            Fault::Replace { machine } if self.known.iter().all(|known| !known.is_damaged) => self.replace(machine),
            Fault::Replace { .. } => {}
            Fault::Defragment { machine } => self.ask(machine, |node| async move { node.defragment().await.is_ok() }),
            Fault::Restart { machine } => self.restart(machine),
            Fault::FullDisk { machine, free_bytes, length } => {
                let disk = &self.machines[machine].disk;
                disk.set_capacity(Some(disk.used_bytes() + free_bytes));
                self.known[machine].is_full = true;
                self.later.push((self.now + length, Later::Room(machine)));
            }
            Fault::WallClock { machine, by_ms } => self.machines[machine].move_wall_clock(by_ms),
            Fault::LoseDisk { machine } => self.lose_disk(machine),
            Fault::Flip { machine, place } => self.flip(machine, place),
            Fault::Promote => self.promote(),
        }
    }

    /// Asks a process to stop, gives it a second, and starts it again.
    fn restart(&mut self, machine: usize) {
        if self.doors[machine].node().is_none() {
            return;
        }
        self.known[machine].may_die += 1;
        match self.plan.mode {
            Mode::Fast => self.ask(machine, |node| async move {
                node.shutdown().await;
                true
            }),
            Mode::Full => drop(self.doors[machine].ask_to_stop()),
        }
        self.later.push((self.now + Duration::from_secs(2), Later::Start(machine)));
    }

    /// Whether the others are a quorum without `machine`: nobody else is being replaced or damaged, and whoever has joined
    /// votes by now.
    fn can_spare(&self, machine: usize) -> bool {
        // A member that was added as a voter, and is still catching up, says so in its figures alone.
        let is_voter = |node: &Node| node.metrics_text().lines().any(|line| line == "etcd_server_is_learner 0");
        let votes = |index: usize| {
            let joined = self.known[index].has_joined && self.now < self.known[index].joined_at + JOINING;
            !joined && self.doors[index].node().is_some_and(|node| is_voter(&node))
        };
        self.replacement.is_none()
            && !self.known.iter().any(|known| known.is_damaged)
            && (0..self.plan.members).all(|index| index == machine || votes(index))
    }

    /// The machine starts with an empty disk, as if nothing were amiss, and is replaced once somebody knows.
    fn lose_disk(&mut self, machine: usize) {
        let Some(old) = self.known[machine].member.filter(|_| self.can_spare(machine)) else { return };
        self.machines[machine].wipe();
        self.known[machine].forget();
        self.machines[machine].start(self.now);
        let stage = self.remove(machine, old);
        self.replacement = Some(Replacement { machine, old, stage, lost_disk: true });
    }

    /// Turns a bit in a file of a machine that is down, in its log or its engine. Not in the newest part of the log, whose end is what was last
    /// written: there damage cannot be told from a write that the power cut off.
    fn flip(&mut self, machine: usize, place: u64) {
        if !self.can_spare(machine) || self.known[machine].member.is_none() {
            return;
        }
        self.kill(machine, Duration::from_millis(200));
        let disk = &self.machines[machine].disk;
        let mut files = disk.files();
        files.retain(|file| disk.content(file).len() >= 8 && file.extension().is_some());
        let is_log = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "wal");
        let newest = files.iter().filter(|file| is_log(file)).max().cloned();
        files.retain(|file| Some(file) != newest.as_ref());
        let Some(file) = files.get(place as usize % files.len().max(1)).cloned() else { return };
        // In the engine's file only within what clients have written: redb ends the process when its own pages are wrong.
        let content = disk.content(&file);
        let bit = if is_log(&file) {
            (place >> 8) % (content.len() as u64 * 8)
        } else {
            let values: Vec<usize> =
                content.windows(3).enumerate().filter(|(_, w)| is_value(w)).map(|(at, _)| at).collect();
            let Some(at) = values.get((place >> 8) as usize % values.len().max(1)) else { return };
            *at as u64 * 8
        };
        disk.flip_bit(&file, bit);
        self.known[machine].is_damaged = true;
        self.log(format!("m{machine}: bit {bit} of {} turns", file.display()));
    }

    fn promote(&mut self) {
        let learner = self.known.get(self.plan.members).and_then(|known| known.member);
        if let Some(learner) = learner {
            let member = self.via(self.plan.members);
            self.ask(member, move |node| async move { node.member_promote(learner).await.is_ok() });
        }
    }

    fn kill(&mut self, machine: usize, down: Duration) {
        if self.machines[machine].is_up() {
            self.machines[machine].kill();
            self.down(machine, down);
        }
    }

    fn cut(&mut self, machine: usize, down: Duration, chance: u64) {
        if self.machines[machine].is_up() {
            self.machines[machine].power_cut(chance);
            self.down(machine, down);
        }
    }

    /// Has a node do something, whatever comes of it.
    fn ask<F: Future<Output = bool> + Send + 'static>(
        &self,
        machine: usize,
        act: impl FnOnce(Node) -> F + Send + 'static,
    ) {
        let rpc = self.rpc();
        self.clients.spawn(async move { rpc.call(machine, act).await });
    }

    fn move_leader(&mut self) {
        let nodes: Vec<(usize, Node)> =
            self.doors.iter().enumerate().filter_map(|(index, door)| Some((index, door.node()?))).collect();
        let heir = nodes.get(self.random.below(nodes.len() as u64) as usize).map(|(_, node)| node.member_id());
        let leader = nodes.iter().find(|(_, node)| node.leads()).map(|(index, _)| *index);
        if let (Some(leader), Some(heir)) = (leader, heir) {
            self.ask(leader, move |node| async move { node.move_leader(heir).await.is_ok() });
        }
    }

    /// Begins to replace a member, if no other is being replaced.
    pub(super) fn replace(&mut self, machine: usize) {
        let Some(old) = self.known[machine].member.filter(|_| self.replacement.is_none()) else { return };
        let stage = self.remove(machine, old);
        self.replacement = Some(Replacement { machine, old, stage, lost_disk: false });
    }

    /// A member to ask for what concerns `machine`.
    fn via(&self, machine: usize) -> usize {
        let turn = (self.now.as_millis() / 700) as usize;
        let others: Vec<usize> = (0..self.plan.members).filter(|member| *member != machine).collect();
        others.get(turn % others.len().max(1)).copied().unwrap_or(0)
    }

    /// Takes a replacement one step on.
    pub(super) fn go_on_replacing(&mut self) {
        let Some(mut replacement) = self.replacement.take() else { return };
        let machine = replacement.machine;
        let url = peer_url(machine);
        replacement.stage = match replacement.next(&url) {
            Next::Wait => replacement.stage,
            // The removal may still be on its way: only asking again settles it.
            Next::Remove => self.remove(machine, replacement.old),
            Next::Ask => {
                let members = self.fetch(self.via(machine), |node| async move {
                    node.members(true).await.map(|answer| answer.body).unwrap_or_default()
                });
                match replacement.stage {
                    Stage::Removing(_) | Stage::AskingRemoved(_) => Stage::AskingRemoved(members),
                    Stage::Adding(_) | Stage::AskingAdded(_) => Stage::AskingAdded(members),
                }
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

    fn remove(&self, machine: usize, old: MemberId) -> Stage {
        Stage::Removing(self.fetch(self.via(machine), move |node| async move { node.member_remove(old).await.is_ok() }))
    }

    fn add(&self, machine: usize) -> Stage {
        let urls = vec![peer_url(machine)];
        Stage::Adding(
            self.fetch(self.via(machine), move |node| async move { node.member_add(urls, false).await.is_ok() }),
        )
    }

    /// Whether a machine is off because its new member is not added yet.
    pub(super) fn waits_to_join(&self, machine: usize) -> bool {
        self.replacement.as_ref().is_some_and(|replacement| {
            replacement.machine == machine && matches!(replacement.stage, Stage::Adding(_) | Stage::AskingAdded(_))
        })
    }

    /// Whether a machine's member is or may be removed, so that it may stop by itself.
    pub(super) fn is_leaving(&self, machine: usize) -> bool {
        self.replacement.as_ref().is_some_and(|replacement| {
            replacement.machine == machine && matches!(replacement.stage, Stage::Removing(_) | Stage::AskingRemoved(_))
        })
    }

    /// The end of all faults.
    pub(super) fn heal(&mut self) {
        self.log("all faults end".into());
        let later = std::mem::take(&mut self.later);
        later.into_iter().for_each(|(_, later)| self.come_back(later));
        let places = self.machines.len();
        for from in 0..=places {
            for to in 0..=places {
                let link = self.plan.link.clone();
                self.network.set_link(from, to, |now| *now = link);
            }
        }
        for index in 0..self.machines.len() {
            self.machines[index].pause(self.now, Duration::ZERO);
            self.machines[index].set_rate(1.0);
            self.machines[index].disk.set_capacity(None);
            self.known[index].is_full = false;
            if self.known[index].may_die > 0 && self.machines[index].disk.is_off() {
                self.machines[index].power_cut(1);
            }
            if !self.machines[index].is_up() && !self.waits_to_join(index) {
                self.machines[index].start(self.now);
            }
        }
        // A member that is being replaced has to come first of all, and one whose data were changed is replaced at the latest now.
        self.wait_until(Duration::from_secs(60), |world| world.replacement.is_none());
        if let Some(damaged) = self.known.iter().position(|known| known.is_damaged) {
            self.replace(damaged);
        }
        if !self.wait_until(Duration::from_secs(60), |world| world.replacement.is_none()) {
            self.violation(Rule::Recovery, "a member could not be replaced within 60 s".into());
        }
    }
}

/// The beginning of a value: `c` and the number of a client.
fn is_value(bytes: &[u8]) -> bool {
    bytes[0] == b'c' && bytes[1].is_ascii_digit() && (bytes[2] == b'.' || bytes[2].is_ascii_digit())
}
