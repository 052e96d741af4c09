//! What the world looks at after each tick: processes that end by themselves, disks that have failed, who leads.

use super::{Later, SYNC_FAILURE_MAX, World};
use crate::oracle::Rule;
use quorate_node::Node;
use std::time::Duration;

impl World {
    /// Notices processes that end by themselves, and who leads.
    pub(super) fn look(&mut self) {
        self.go_on_replacing();
        for index in 0..self.machines.len() {
            if !self.machines[index].is_up() {
                self.known[index].sync_failed_at = None;
                self.known[index].failed_syncs = self.machines[index].disk.failed_syncs();
                continue;
            }
            let door = self.doors[index].clone();
            let ended =
                door.fatal().map(|text| ("fatal", text)).or_else(|| door.failure().map(|text| ("stopped", text)));
            if let Some((how, text)) = ended {
                self.ended(index, how, &text, door.node().is_some());
                continue;
            }
            self.look_at_disk(index);
            if let Some(node) = door.node() {
                self.look_at_node(index, &node);
            }
        }
    }

    /// A process has ended by itself. It is started again, as a supervisor does.
    fn ended(&mut self, index: usize, how: &str, text: &str, was_up: bool) {
        self.log(format!("m{index} {how}: {text}"));
        let was_told = self.tell_removed(index, text);
        let known = &mut self.known[index];
        // Whoever joins and asks a member that has not heard of it yet is told so, and starts again.
        let early = known.has_joined
            && ["has no member with the peer URLs", "has already been bootstrapped", "reaches no leader"]
                .iter()
                .any(|words| text.contains(words));
        // Two faults may end one process, and then the later one is still to come.
        let injected = text.contains("injected sync failure");
        // Without room nothing can be started. An engine that finds no room in the midst of a write has to be opened again; one
        // on real files looks ahead, this one cannot.
        let no_room = known.is_full && (!was_up || text.contains("no storage space"))
            // What redb says of itself after that, also when there is room again.
            || text.contains("Previous I/O error occurred");
        // It goes, to come back with the data of the others.
        let rebuilds = known.rebuilds
            && ["rebuilds itself from the others", "is corrupt"].iter().any(|words| text.contains(words));
        let expected = known.may_die > 0 || early || injected || no_room || known.is_damaged || rebuilds || was_told;
        known.may_die = known.may_die.saturating_sub(1);
        let is_damaged = known.is_damaged;
        if !expected && !self.is_leaving(index) {
            self.violation(Rule::Process, format!("m{index} ended by itself ({how}): {text}"));
        }
        // If it was the power that failed, the cache is gone with it.
        if self.machines[index].disk.is_off() {
            let chance = self.random.number();
            self.machines[index].power_cut(chance);
        } else {
            self.machines[index].kill();
        }
        if is_damaged {
            // It has found out. An operator gives it a new disk.
            self.replace(index);
        }
        self.later.push((self.now + Duration::from_millis(500), Later::Start(index)));
    }

    /// A process must not go on when an fsync has failed.
    fn look_at_disk(&mut self, index: usize) {
        let failed = self.machines[index].disk.failed_syncs();
        if self.known[index].rebuilds {
            // What it makes beside the damaged state it may throw away, and make again from the others.
            self.known[index].failed_syncs = failed;
        }
        if failed == self.known[index].failed_syncs || self.machines[index].is_paused() {
            return;
        }
        let since = *self.known[index].sync_failed_at.get_or_insert(self.now);
        if self.now > since + SYNC_FAILURE_MAX {
            self.known[index].failed_syncs = failed;
            self.known[index].sync_failed_at = None;
            self.violation(Rule::Process, format!("m{index} goes on though an fsync has failed"));
        }
    }

    /// At most one member leads in a term, no member goes back to an earlier one, and none takes part that must not.
    fn look_at_node(&mut self, index: usize, node: &Node) {
        let (header, leads) = (node.header(), node.leads());
        let (term, is_off) = (header.raft_term.get(), self.machines[index].disk.is_off());
        let known = &mut self.known[index];
        known.member = Some(node.member_id());
        known.revision = header.revision.get();
        if known.rebuilds && node.out_of_service().is_none() && !known.damaged_live {
            // It does not come up before it has read all that it has, and compared it.
            known.rebuilds = false;
        }
        let (before, kept) = (known.term, known.term_kept);
        if !is_off {
            known.term = term;
            known.term_kept = kept.max(before.min(term));
        }
        if before > 0
            && term > before
            && let Some((down, chance)) = known.cut_at_term.take()
        {
            let ticks = self.random.between(1, 3) as u32;
            self.later.push((self.now + self.plan.tick * ticks, Later::Cut(index, down, chance)));
        }
        // Right after its start a member has said nothing of any term yet.
        if term > 0 && term < kept {
            self.known[index].term_kept = 0;
            self.violation(Rule::Leadership, format!("m{index} is in term {term}, but was in {kept} before"));
        }
        if self.must_not_take_part(index) && node.has_leader() {
            self.violation(Rule::Membership, format!("m{index} has lost its disk, and takes part"));
        }
        if !leads {
            return;
        }
        if self.has_returned(index) {
            self.violation(Rule::Membership, format!("m{index} is removed, and leads in term {term}"));
        }
        let name = format!("m{index}");
        match self.leaders.get(&term) {
            None => {
                self.log(format!("{name} leads in term {term}"));
                self.leaders.insert(term, name);
            }
            Some(other) if *other != name => {
                let text = format!("{name} and {other} both lead in term {term}");
                self.violation(Rule::Leadership, text);
            }
            Some(_) => {}
        }
    }
}
