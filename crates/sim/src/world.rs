//! One seed from start to end: machines, clients, faults, and the judgement.

use crate::client::{Rpc, event, seen};
use crate::clock::MachineClock;
use crate::determinism::TraceHash;
use crate::history::{Event, History, Outcome, SharedHistory, Span, Watched};
use crate::machine::{Door, Doors, Machine, paused_runtime};
use crate::network::Network;
use crate::oracle::{self, Ledger};
use crate::plan::{Fault, Plan};
use crate::random::Random;
use crate::replacement::{Answer, Next, Replacement, Stage};
use crate::workers::{Stop, Worker};
use parking_lot::Mutex;
use quorate_core::{KeyRange, MemberId, RangeRequest, Revision};
use quorate_node::{Config, InitialClusterState, Node, WatchCreate, WatchMessage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Within this time after the last fault every member must serve again.
const RECOVERY: Duration = Duration::from_secs(10);

/// What came of a seed.
pub struct Report {
    /// What must not be.
    pub violations: Vec<String>,
    /// Hash over all that happened.
    pub hash: u64,
    /// Calls, and how many were answered.
    pub calls: (usize, usize),
    /// The newest revision.
    pub revision: i64,
    /// Simulated time.
    pub simulated: Duration,
    /// What happened, for people.
    pub timeline: Vec<String>,
}

/// Everything of one seed.
pub struct World {
    plan: Plan,
    now: Duration,
    machines: Vec<Machine>,
    doors: Doors,
    network: Network,
    random: Random,
    clients: Runtime,
    client_clock: Arc<MachineClock>,
    history: SharedHistory,
    stop: Stop,
    recorder: Arc<Mutex<Watched>>,
    /// What happens by itself later.
    later: Vec<(Duration, Later)>,
    /// How often each machine's process may still end by itself, because faults make it.
    may_die: Vec<u32>,
    replacement: Option<Replacement>,
    /// Whether each machine's member joined a cluster that was there.
    has_joined: Vec<bool>,
    leaders: BTreeMap<u64, String>,
    violations: Vec<String>,
    timeline: Vec<String>,
    /// Prints the timeline while it grows.
    pub verbose: bool,
}

#[derive(Clone, Debug)]
enum Later {
    Start(usize),
    Open(Vec<(usize, usize)>),
    Fast(usize, usize),
}

impl World {
    /// The world of a plan, with all machines off.
    pub fn new(plan: Plan) -> World {
        let root = Random::new(plan.seed);
        let members = plan.members;
        let network = Network::new(members + 1, &plan.link, root.fork("network"));
        let doors: Doors = Arc::new((0..members).map(|_| Arc::new(Door::default())).collect());
        let machine = |index| {
            let mut seed = root.fork(&format!("machine {index}"));
            Machine::new(index, network.clone(), doors.clone(), config(&plan, index), seed.number())
        };
        let machines = (0..members).map(machine).collect();
        let recorder = Watched {
            name: "recorder".into(),
            span: Span { from: " ".into(), until: Some("~".into()) },
            from: 1,
            events: Vec::new(),
            complete_to: 0,
            violations: Vec::new(),
            gaps: Vec::new(),
        };
        World {
            now: Duration::ZERO,
            machines,
            doors,
            network,
            random: root.fork("world"),
            clients: paused_runtime(),
            client_clock: Arc::new(MachineClock::new(Duration::ZERO, 1.0)),
            history: Arc::new(Mutex::new(History::default())),
            stop: Stop::default(),
            recorder: Arc::new(Mutex::new(recorder)),
            later: Vec::new(),
            may_die: vec![0; members],
            replacement: None,
            has_joined: vec![false; members],
            leaders: BTreeMap::new(),
            violations: Vec::new(),
            timeline: Vec::new(),
            verbose: false,
            plan,
        }
    }

    /// Runs the whole seed.
    pub fn run(mut self) -> Report {
        (0..self.plan.members).for_each(|index| self.machines[index].start(Duration::ZERO));
        if !self.wait_until(Duration::from_secs(20), World::all_ready) {
            self.violation("the cluster did not come up within 20 s".into());
        }
        self.start_load();
        let mut faults = std::mem::take(&mut self.plan.faults);
        faults.reverse();
        let begin = self.now;
        while self.now < begin + self.plan.length {
            while faults.last().is_some_and(|(at, _)| begin + *at <= self.now) {
                if let Some((_, fault)) = faults.pop() {
                    self.strike(fault);
                }
            }
            self.tick();
        }
        self.heal();
        let healed = self.now;
        if !self.wait_until(RECOVERY, World::all_serve) {
            let states: Vec<String> = self.doors.iter().map(|door| state(door)).collect();
            self.violation(format!("not all members serve {RECOVERY:?} after the last fault: {states:?}"));
        }
        self.log(format!("all serve after {:?}", self.now - healed));
        self.run_for(Duration::from_secs(2));
        self.stop.stop();
        self.run_for(self.plan.load.deadline + Duration::from_secs(6));
        self.judge()
    }

    fn judge(mut self) -> Report {
        let ledger = self.read_ledger();
        let newest = ledger.newest;
        let history = self.history.lock();
        let mut violations = std::mem::take(&mut self.violations);
        violations.extend(oracle::check(&ledger, &history, 1.0 / self.plan.rate_max));
        let answered = history.entries.iter().filter(|entry| entry.outcome != Outcome::Unknown).count();
        let calls = (history.entries.len(), answered);
        let mut hash = TraceHash::default();
        hash.add_u64(self.network.wire_hash());
        for entry in &history.entries {
            hash.add(oracle::show(entry).as_bytes());
            hash.add(format!("{:?}", entry.outcome).as_bytes());
        }
        self.timeline.iter().for_each(|line| hash.add(line.as_bytes()));
        drop(history);
        Report { violations, hash: hash.value(), calls, revision: newest, simulated: self.now, timeline: self.timeline }
    }

    fn log(&mut self, text: String) {
        let line = format!("{:9.3} {text}", self.now.as_secs_f64());
        if self.verbose {
            println!("{line}");
        }
        self.timeline.push(line);
    }

    fn violation(&mut self, text: String) {
        self.log(format!("VIOLATION {text}"));
        self.violations.push(text);
    }

    fn rpc(&self) -> Rpc {
        Rpc {
            doors: self.doors.clone(),
            network: self.network.clone(),
            clock: self.client_clock.clone(),
            history: self.history.clone(),
            me: self.plan.members,
            deadline: self.plan.load.deadline,
        }
    }

    fn worker(&mut self, number: usize) -> Worker {
        Worker {
            rpc: self.rpc(),
            number,
            members: self.plan.members,
            load: self.plan.load.clone(),
            random: Random::new(self.plan.seed).fork(&format!("worker {number}")),
            stop: self.stop.clone(),
        }
    }

    fn start_load(&mut self) {
        let load = self.plan.load.clone();
        let mut number = 0;
        let mut next = || {
            number += 1;
            number
        };
        for _ in 0..load.clients {
            let worker = self.worker(next());
            self.clients.spawn(worker.read_and_write());
        }
        for _ in 0..load.lease_clients {
            let worker = self.worker(next());
            self.clients.spawn(worker.hold_leases());
        }
        let worker = self.worker(next());
        self.clients.spawn(worker.compact(self.recorder.clone()));
        let worker = self.worker(next());
        self.clients.spawn(worker.watch(self.recorder.clone(), false));
        self.history.lock().watched.push(self.recorder.clone());
        for _ in 0..load.watchers {
            let number = next();
            let key = self.random.below(load.keys);
            let span = match self.random.below(3) {
                0 => Span::key(&format!("k{key}")),
                1 => Span::prefix("k"),
                _ => Span { from: " ".into(), until: Some("~".into()) },
            };
            let watched = Arc::new(Mutex::new(Watched {
                name: format!("watcher {number}"),
                span,
                from: if self.random.chance(500) { 1 } else { 0 },
                events: Vec::new(),
                complete_to: 0,
                violations: Vec::new(),
                gaps: Vec::new(),
            }));
            self.history.lock().watched.push(watched.clone());
            let slow = self.random.chance(400);
            let worker = self.worker(number);
            self.clients.spawn(worker.watch(watched, slow));
        }
    }

    /// Everything for one tick.
    fn tick(&mut self) {
        let due: Vec<Later> = {
            let now = self.now;
            let (due, rest) = std::mem::take(&mut self.later).into_iter().partition(|(at, _)| *at <= now);
            self.later = rest;
            let due: Vec<(Duration, Later)> = due;
            due.into_iter().map(|(_, later)| later).collect()
        };
        due.into_iter().for_each(|later| self.come_back(later));
        let mut order: Vec<usize> = (0..self.machines.len()).collect();
        self.random.shuffle(&mut order);
        for index in order {
            self.machines[index].tick(self.now, self.plan.tick);
        }
        self.clients.block_on(async {
            let end = self.client_clock.begin_tick(self.now, self.plan.tick, Duration::ZERO);
            tokio::time::sleep_until(end).await;
        });
        self.now += self.plan.tick;
        self.look();
    }

    /// Notices processes that end by themselves, and who leads.
    fn look(&mut self) {
        self.go_on_replacing();
        for index in 0..self.machines.len() {
            if !self.machines[index].is_up() {
                continue;
            }
            let door = self.doors[index].clone();
            let ended =
                door.fatal().map(|text| ("fatal", text)).or_else(|| door.failure().map(|text| ("stopped", text)));
            if let Some((how, text)) = ended {
                self.log(format!("m{index} {how}: {text}"));
                // Whoever joins and asks a member that has not heard of it yet is told so, and starts again.
                let early = self.has_joined[index]
                    && ["has no member with the peer URLs", "has already been bootstrapped"]
                        .iter()
                        .any(|words| text.contains(words));
                // Two faults may end one process, and then the later one is still to come.
                let injected = text.contains("injected sync failure");
                let expected = self.may_die[index] > 0 || self.is_leaving(index) || early || injected;
                self.may_die[index] = self.may_die[index].saturating_sub(1);
                if !expected {
                    self.violation(format!("m{index} ended by itself ({how}): {text}"));
                }
                self.machines[index].kill();
                self.later.push((self.now + Duration::from_millis(500), Later::Start(index)));
                continue;
            }
            if let Some(node) = door.node() {
                let (term, leads) = (node.header().raft_term.get(), node.leads());
                if leads {
                    let name = format!("m{index}");
                    match self.leaders.get(&term) {
                        None => {
                            self.log(format!("{name} leads in term {term}"));
                            self.leaders.insert(term, name);
                        }
                        Some(other) if *other != name => {
                            let text = format!("{name} and {other} both lead in term {term}");
                            self.violation(text);
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }

    fn come_back(&mut self, later: Later) {
        match later {
            Later::Start(index) => {
                if !self.machines[index].is_up() && !self.waits_to_join(index) {
                    self.log(format!("m{index} starts"));
                    self.machines[index].start(self.now);
                }
            }
            Later::Open(cut) => {
                self.log(format!("heals {cut:?}"));
                for (from, to) in cut {
                    self.network.set_link(from, to, |link| link.blocked = false);
                }
            }
            Later::Fast(one, other) => {
                let delay_ms = self.plan.link.delay_ms;
                self.network.set_link(one, other, |link| link.delay_ms = delay_ms);
                self.network.set_link(other, one, |link| link.delay_ms = delay_ms);
            }
        }
    }

    fn down(&mut self, index: usize, down: Duration) {
        self.later.push((self.now + down, Later::Start(index)));
    }

    fn strike(&mut self, fault: Fault) {
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
                self.may_die[machine] += 1;
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
                self.may_die[machine] += 1;
            }
            Fault::MoveLeader => self.move_leader(),
            Fault::Replace { machine } => self.replace(machine),
            Fault::Defragment { machine } => self.ask(machine, |node| async move { node.defragment().await.is_ok() }),
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
    fn replace(&mut self, machine: usize) {
        let Some(node) = self.doors[machine].node().filter(|_| self.replacement.is_none()) else { return };
        let old = node.member_id();
        let stage = self.remove(machine, old);
        self.replacement = Some(Replacement { machine, old, stage });
    }

    /// A member to ask for what concerns `machine`.
    fn via(&self, machine: usize) -> usize {
        let step = 1 + (self.now.as_millis() / 700) as usize % (self.plan.members - 1);
        (machine + step) % self.plan.members
    }

    /// Takes a replacement one step on.
    fn go_on_replacing(&mut self) {
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
                self.may_die[machine] = 0;
                self.machines[machine].config_mut().initial_cluster_state = InitialClusterState::Existing;
                self.add(machine)
            }
            Next::Add => self.add(machine),
            Next::Start => {
                self.log(format!("m{machine} starts as a new member"));
                self.has_joined[machine] = true;
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
    fn waits_to_join(&self, machine: usize) -> bool {
        self.replacement.as_ref().is_some_and(|replacement| {
            replacement.machine == machine && matches!(replacement.stage, Stage::Adding(_) | Stage::AskingAdded(_))
        })
    }

    /// Whether a machine's member is or may be removed, so that it may stop by itself.
    fn is_leaving(&self, machine: usize) -> bool {
        self.replacement.as_ref().is_some_and(|replacement| {
            replacement.machine == machine && matches!(replacement.stage, Stage::Removing(_) | Stage::AskingRemoved(_))
        })
    }

    /// The end of all faults.
    fn heal(&mut self) {
        self.log("all faults end".into());
        let later = std::mem::take(&mut self.later);
        later.into_iter().for_each(|(_, later)| self.come_back(later));
        for from in 0..=self.plan.members {
            for to in 0..=self.plan.members {
                let link = self.plan.link.clone();
                self.network.set_link(from, to, |now| *now = link);
            }
        }
        for index in 0..self.machines.len() {
            self.machines[index].pause(self.now, Duration::ZERO);
            self.machines[index].set_rate(1.0);
            if self.may_die[index] > 0 && self.machines[index].disk.is_off() {
                self.machines[index].power_cut(1);
            }
            if !self.machines[index].is_up() && !self.waits_to_join(index) {
                self.machines[index].start(self.now);
            }
        }
        // A member that is being replaced has to come first of all.
        if !self.wait_until(Duration::from_secs(60), |world| world.replacement.is_none()) {
            self.violation("a member could not be replaced within 60 s".into());
        }
    }

    fn run_for(&mut self, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.tick();
        }
    }

    fn wait_until(&mut self, limit: Duration, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now + limit;
        while self.now < end {
            self.run_for(Duration::from_millis(50));
            if done(self) {
                return true;
            }
        }
        false
    }

    fn all_ready(&mut self) -> bool {
        self.doors.iter().all(|door| door.node().is_some_and(|node| node.has_leader()))
    }

    /// Asks every member for a linearizable read; `true` once all have answered.
    fn all_serve(&mut self) -> bool {
        let members = self.plan.members;
        let answers: Vec<_> = (0..members)
            .map(|member| {
                self.fetch(member, |node| async move {
                    node.range(RangeRequest::new(KeyRange::Single("k0".into()))).await.is_ok()
                })
            })
            .collect();
        self.run_for(Duration::from_millis(500));
        answers.iter().all(|answer| *answer.lock() == Some(Some(true)))
    }

    /// Starts a call from outside of the history; what it returns is there later.
    fn fetch<T, F>(&self, member: usize, act: impl FnOnce(Node) -> F + Send + 'static) -> Answer<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let place = Arc::new(Mutex::new(None));
        let (rpc, answer) = (Rpc { deadline: Duration::from_secs(20), ..self.rpc() }, place.clone());
        self.clients.spawn(async move {
            let result = rpc.call(member, act).await;
            *answer.lock() = Some(result);
        });
        place
    }

    /// Runs until a call from outside of the history is answered.
    fn wait_for<T, F>(&mut self, member: usize, act: impl FnOnce(Node) -> F + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let place = self.fetch(member, act);
        self.wait_until(Duration::from_secs(25), |_| place.lock().is_some());
        let result = place.lock().take().flatten();
        if result.is_none() {
            self.violation(format!(
                "m{member} does not answer after all faults have ended: {}",
                state(&self.doors[member])
            ));
        }
        result
    }

    /// The end of the story, from every member; they must agree.
    fn read_ledger(&mut self) -> Ledger {
        let mut ledger = Ledger::default();
        let all = || RangeRequest::new(KeyRange::From { start: "".into() });
        let first = self.wait_for(0, move |node| async move { node.range(all()).await });
        let newest = match first {
            Some(Ok(answer)) => answer.header.revision.get(),
            other => {
                self.violation(format!("m0 cannot be read at the end: {:?}", other.map(|r| r.map(|_| ()))));
                return ledger;
            }
        };
        let mut stories = Vec::new();
        for member in 0..self.plan.members {
            if let Some(story) = self
                .wait_for(member, move |node| read_story(node, newest))
                .and_then(|story| story.map_err(|text| self.violation(format!("m{member}: {text}"))).ok())
            {
                stories.push((member, story));
            }
        }
        if let Some((one, story)) = stories.first() {
            for (other, theirs) in &stories[1..] {
                if theirs.hash != story.hash || theirs.hash_compacted != story.hash_compacted {
                    self.violations.push(format!(
                        "m{one} and m{other} differ at revision {newest}: hash {:08x} (compacted {}) and {:08x} ({})",
                        story.hash, story.hash_compacted, theirs.hash, theirs.hash_compacted
                    ));
                }
            }
        }
        ledger.newest = newest;
        let recorder = self.recorder.lock();
        for (_, event) in &recorder.events {
            ledger.revisions.entry(event.revision()).or_default().push(event.clone());
        }
        if let Some((from, to)) = recorder.gaps.last() {
            self.violations.push(format!("the recorder lost revisions {from} to {to} to a compaction"));
            ledger.compacted = *to;
        }
        drop(recorder);
        // What the members say counts; where the recorder has it, too, it is checked as a watcher against this.
        for (_, story) in stories.iter().take(1) {
            let mut by_revision: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
            for event in &story.events {
                by_revision.entry(event.revision()).or_default().push(event.clone());
            }
            ledger.revisions.retain(|revision, _| *revision <= story.compacted);
            ledger.revisions.append(&mut by_revision);
            for kv in story.state.iter().filter(|kv| kv.mod_revision <= story.compacted) {
                let known = ledger.revisions.entry(kv.mod_revision).or_default();
                if !known.iter().any(|event| matches!(event, Event::Put(seen) if seen == kv)) {
                    self.violations.push(format!("{kv:?} is in the state, but no event told of it"));
                    known.push(Event::Put(kv.clone()));
                }
            }
        }
        ledger
    }
}

/// What one member says at the end.
struct Story {
    /// Events after the compacted revision, up to the newest.
    events: Vec<Event>,
    compacted: i64,
    /// The state at the end.
    state: Vec<crate::history::Seen>,
    hash: u32,
    hash_compacted: i64,
}

async fn read_story(node: Node, newest: i64) -> Result<Story, String> {
    let all = RangeRequest::new(KeyRange::From { start: "".into() });
    let state = node.range(all).await.map_err(|error| error.to_string())?;
    let state = state.body.kvs.iter().map(seen).collect();
    let compacted = node.status().compacted.get();
    let hash = node.hash_kv(Revision::new(newest)).await.map_err(|error| error.to_string())?.body;
    let (control, mut stream) = node.watch_stream();
    control.create(WatchCreate {
        watch_id: 0,
        range: KeyRange::From { start: "".into() },
        start_revision: Revision::new(compacted + 1),
        progress_notify: false,
        no_put: false,
        no_delete: false,
        prev_kv: false,
    });
    let mut events = Vec::new();
    while events.last().map_or(compacted.max(1), Event::revision) < newest {
        match tokio::time::timeout(Duration::from_secs(5), stream.next()).await {
            Ok(Some(WatchMessage::Events { events: seen, .. })) => {
                events.extend(seen.iter().map(|seen| event(&seen.record)));
            }
            Ok(Some(WatchMessage::Created { .. } | WatchMessage::Progress { .. })) => {}
            Ok(Some(WatchMessage::Canceled { .. } | WatchMessage::Refused { .. }) | None) | Err(_) => {
                let last = events.last().map_or(0, Event::revision);
                return Err(format!("a watch from {} ended at {last}, the end is {newest}", compacted + 1));
            }
        }
    }
    Ok(Story { events, compacted, state, hash: hash.hash, hash_compacted: hash.compact_revision.get() })
}

fn state(door: &Door) -> String {
    match (door.node(), door.failure().or(door.fatal())) {
        (_, Some(text)) => text,
        (Some(node), None) => format!("leader {}, revision {}", node.has_leader(), node.header().revision),
        (None, None) => "not started".into(),
    }
}

fn peer_url(index: usize) -> String {
    format!("http://m{index}:2380")
}

fn config(plan: &Plan, index: usize) -> Config {
    Config {
        name: format!("m{index}"),
        data_dir: format!("/m{index}").into(),
        listen_peer_urls: vec![peer_url(index)],
        initial_advertise_peer_urls: vec![peer_url(index)],
        advertise_client_urls: vec![format!("http://m{index}:2379")],
        initial_cluster: (0..plan.members).map(|index| (format!("m{index}"), peer_url(index))).collect(),
        wal_segment_bytes: plan.wal_segment_bytes,
        wal_keep_bytes: plan.wal_keep_bytes,
        watch_queue_events_max: plan.watch_queue_events,
        watch_progress_interval: Duration::from_secs(1),
        engine_cache_bytes: 1 << 20,
        record_cache_bytes: 64 << 10,
        tail_bytes_max: 256 << 10,
        flush_interval: Duration::from_secs(1),
        compaction_batch: 20,
        quota_bytes: -1,
        // Its engine is no file that could be replaced; and damage, which no fault here makes, is to be seen.
        self_rebuild: false,
        ..Config::default()
    }
}
