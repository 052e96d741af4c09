//! What goes wrong, and its end.

use super::compaction::CompactionStep;
use super::operator::Order;
use super::{Later, World};
use crate::oracle::Rule;
use crate::plan::{Fault, Mode};
use quorate_node::Node;
use std::time::Duration;

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
            Fault::Replace { machine } if self.known.iter().all(|known| !known.is_damaged && !known.rebuilds) => {
                self.replace(machine);
            }
            Fault::Replace { .. } => {}
            Fault::Defragment { machine } => drop(self.order(machine, Order::Defragment)),
            Fault::Restart { machine } => self.restart(machine),
            Fault::FullDisk { machine, free_bytes, length } => {
                let disk = &self.machines[machine].disk;
                disk.set_capacity(Some(disk.used_bytes() + free_bytes));
                self.known[machine].is_full = true;
                self.later.push((self.now + length, Later::Room(machine)));
            }
            Fault::WallClock { machine, by_ms } => self.machines[machine].move_wall_clock(by_ms),
            Fault::LoseDisk { machine, unnoticed } => self.lose_disk(machine, unnoticed),
            Fault::Damage { machine, kind, place, live } => self.damage(machine, kind, place, live),
            Fault::Promote => self.promote(),
            Fault::SlowDisk { machine, delay_ms, length } => {
                self.machines[machine].set_sync_ms((delay_ms / 4, delay_ms));
                self.later.push((self.now + length, Later::FastDisk(machine)));
            }
            Fault::PowerCutAtTerm { machine, down, chance } => self.known[machine].cut_at_term = Some((down, chance)),
            Fault::IsolateLeader { clients, length } => drop(self.isolate_leader(clients, length)),
            Fault::SlowClients { machine, delay_ms, length } => {
                let clients = self.machines.len();
                self.network.set_link(machine, clients, |link| link.delay_ms = (delay_ms / 2, delay_ms));
                self.later.push((self.now + length, Later::Fast(machine, clients)));
            }
            Fault::ReturnRemoved { machine } => self.return_removed(machine),
            Fault::StallLeader { pause, alone } => {
                if let Some(leader) = self.isolate_leader(false, pause + alone) {
                    let now = self.now;
                    self.machines[leader].pause(now, pause);
                }
            }
            Fault::CrashLoop { machine, times, gap } => {
                self.later.extend((0..times).map(|time| (self.now + gap * time, Later::Kill(machine))));
            }
            Fault::EndsInCompaction { machine } => self.known[machine].ends_at = Some(CompactionStep::BeforeCheckpoint),
        }
    }

    /// The leader hears no other member any more, and they do not hear it. Who that is, if there is one.
    fn isolate_leader(&mut self, clients: bool, length: Duration) -> Option<usize> {
        let leads = |index: &usize| self.doors[*index].node().is_some_and(|node| node.leads());
        let leader = (0..self.machines.len()).find(leads)?;
        let others = (0..self.machines.len() + usize::from(clients)).filter(|other| *other != leader);
        let cut: Vec<(usize, usize)> = others.flat_map(|other| [(leader, other), (other, leader)]).collect();
        for (from, to) in &cut {
            self.network.set_link(*from, *to, |link| link.blocked = true);
        }
        self.later.push((self.now + length, Later::Open(cut)));
        Some(leader)
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

    fn promote(&mut self) {
        let learner = self.known.get(self.plan.members).and_then(|known| known.member);
        if let Some(learner) = learner {
            let member = self.via(self.plan.members);
            drop(self.order(member, Order::Promote(learner)));
        }
    }

    pub(super) fn kill(&mut self, machine: usize, down: Duration) {
        if self.machines[machine].is_up() {
            self.machines[machine].kill();
            self.down(machine, down);
        }
    }

    pub(super) fn cut(&mut self, machine: usize, down: Duration, chance: u64) {
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
            drop(self.order(leader, Order::MoveLeader(heir)));
        }
    }

    /// The end of all faults.
    pub(super) fn heal(&mut self) {
        self.log("all faults end".into());
        self.healed = Some(self.now);
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
            self.machines[index].set_sync_ms(self.plan.sync_ms);
            self.known[index].is_full = false;
            self.known[index].cut_at_term = None;
            self.known[index].ends_at = None;
            if self.known[index].may_die > 0 && self.machines[index].disk.is_off() {
                self.machines[index].power_cut(1);
            }
            if !self.machines[index].is_up() && !self.waits_to_join(index) {
                self.machines[index].start(self.now);
            }
        }
        self.restart_damaged();
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
