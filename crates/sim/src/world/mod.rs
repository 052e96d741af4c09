//! One seed from start to end: machines, clients, faults, and the judgement.

mod ending;
mod faults;
mod restored;

use crate::client::Rpc;
use crate::clock::MachineClock;
use crate::determinism;
use crate::history::{History, SharedHistory, Span, Watched};
use crate::library::{Habits, Library};
use crate::machine::{Door, Doors, Machine, paused_runtime};
use crate::network::Network;
use crate::oracle::Rule;
use crate::plan::{Mode, Plan};
use crate::random::Random;
use crate::replacement::{Answer, Replacement};
use crate::workers::{Backup, Stop, Worker};
use parking_lot::Mutex;
use quorate_core::{KeyRange, MemberId, RangeRequest};
use quorate_node::{Config, InitialClusterState, Node};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Within this time after the last fault every member must serve again.
const RECOVERY: Duration = Duration::from_secs(10);

/// Within this time after an fsync has failed the process must have ended.
const SYNC_FAILURE_MAX: Duration = Duration::from_millis(500);

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
    /// What the world knows of each machine.
    known: Vec<Known>,
    replacement: Option<Replacement>,
    backup: Backup,
    /// From here on all members served.
    settled: Duration,
    leaders: BTreeMap<u64, String>,
    violations: Vec<String>,
    timeline: Vec<String>,
    /// Prints the timeline while it grows.
    pub verbose: bool,
}

/// What the world knows of a machine.
#[derive(Clone, Debug, Default)]
struct Known {
    /// How often its process may still end by itself, because faults make it.
    may_die: u32,
    /// Whether its member joined a cluster that was there.
    has_joined: bool,
    /// When that was.
    joined_at: Duration,
    /// Its member, since that was last up.
    member: Option<MemberId>,
    /// Something that it has stored was changed: it may refuse to go on, and is replaced.
    is_damaged: bool,
    /// Its disk has no room.
    is_full: bool,
    /// The term that it was seen in at the last look, and the highest in which it has been seen twice.
    term: u64,
    term_kept: u64,
    /// Failed fsyncs that its process has ended for, and since when there is another.
    failed_syncs: u64,
    sync_failed_at: Option<Duration>,
}

impl Known {
    /// It has another disk.
    fn forget(&mut self) {
        *self = Known { has_joined: self.has_joined, ..Known::default() };
    }
}

#[derive(Clone, Debug)]
enum Later {
    Room(usize),
    Start(usize),
    Open(Vec<(usize, usize)>),
    Fast(usize, usize),
}

impl World {
    /// The world of a plan, with all machines off.
    pub fn new(plan: Plan) -> World {
        let root = Random::new(plan.seed);
        let count = plan.members + plan.learners;
        // The last place is that of all clients.
        let network = Network::new(count + 1, &plan.link, root.fork("network"));
        let doors: Doors = Arc::new((0..count).map(|_| Arc::new(Door::default())).collect());
        let machine = |index| {
            let mut seed = root.fork(&format!("machine {index}"));
            Machine::new(index, network.clone(), doors.clone(), config(&plan, index), plan.mode, seed.number())
        };
        let machines = (0..count).map(machine).collect();
        let recorder = Watched { name: "recorder".into(), span: Span::all(), from: 1, ..Watched::default() };
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
            known: vec![Known::default(); count],
            replacement: None,
            backup: Backup::default(),
            settled: Duration::ZERO,
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
            self.violation(Rule::Recovery, "the cluster did not come up within 20 s".into());
        }
        self.add_learners();
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
            self.violation(
                Rule::Recovery,
                format!("not all members serve {RECOVERY:?} after the last fault: {states:?}"),
            );
        }
        self.log(format!("all serve after {:?}", self.now - healed));
        self.settled = self.now;
        self.run_for(Duration::from_secs(2));
        self.stop.stop();
        // The last leases end.
        self.run_for(self.plan.load.deadline + Duration::from_secs(9));
        self.judge()
    }

    /// Members that do not vote join before anything goes wrong.
    fn add_learners(&mut self) {
        for index in self.plan.members..self.machines.len() {
            let urls = vec![peer_url(index)];
            let added = self.wait_for(0, |node| async move { node.member_add(urls, true).await.map(|_| ()) });
            if let Some(Ok(())) = added {
                self.machines[index].config_mut().initial_cluster_state = InitialClusterState::Existing;
                self.known[index].has_joined = true;
                self.machines[index].start(self.now);
            } else {
                self.violation(Rule::Recovery, format!("m{index} cannot be added as a learner: {added:?}"));
            }
        }
    }

    fn log(&mut self, text: String) {
        let line = format!("{:9.3} {text}", self.now.as_secs_f64());
        if self.verbose {
            println!("{line}");
        }
        self.timeline.push(line);
    }

    fn violation(&mut self, rule: Rule, text: String) {
        let text = format!("{rule}: {text}");
        self.log(format!("VIOLATION {text}"));
        self.violations.push(text);
    }

    fn rpc(&self) -> Rpc {
        Rpc {
            doors: self.doors.clone(),
            network: self.network.clone(),
            clock: self.client_clock.clone(),
            history: self.history.clone(),
            me: self.machines.len(),
            deadline: self.plan.load.deadline,
            library: None,
        }
    }

    fn worker(&mut self, number: usize) -> Worker {
        let mut rpc = self.rpc();
        rpc.library = self.library(&rpc, number);
        Worker {
            rpc,
            number,
            members: self.plan.members,
            machines: self.machines.len(),
            load: self.plan.load.clone(),
            random: Random::new(self.plan.seed).fork(&format!("worker {number}")),
            stop: self.stop.clone(),
        }
    }

    /// The client library of a worker, in mode `full`.
    fn library(&mut self, rpc: &Rpc, number: usize) -> Option<Library> {
        if self.plan.mode == Mode::Fast {
            return None;
        }
        let mut random = Random::new(self.plan.seed).fork(&format!("library {number}"));
        let habits = Habits {
            chooses: random.chance(300),
            connect_timeout: random.millis(300, 2500),
            ping_interval: random.millis(5000, 10_000),
            watch_buffer: *random.pick(&[1, 4, 64]),
        };
        let _within = self.clients.enter();
        Library::new(rpc, &habits).map_err(|error| self.violation(Rule::Process, format!("no client: {error}"))).ok()
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
        for _ in 0..load.account_clients {
            let worker = self.worker(next());
            self.clients.spawn(worker.keep_accounts());
        }
        for _ in 0..load.list_clients {
            let worker = self.worker(next());
            self.clients.spawn(worker.grow_lists());
        }
        for _ in 0..load.set_clients {
            let worker = self.worker(next());
            self.clients.spawn(worker.keep_set());
        }
        for _ in 0..load.lock_clients {
            let worker = self.worker(next());
            self.clients.spawn(worker.take_locks());
        }
        for _ in 0..load.object_clients {
            let worker = self.worker(next());
            self.clients.spawn(worker.keep_objects());
        }
        for _ in 0..load.step_clients {
            let worker = self.worker(next());
            self.clients.spawn(worker.run_steps());
        }
        if load.auth {
            let worker = self.worker(next());
            self.clients.spawn(worker.try_permissions());
        }
        if load.copies {
            let worker = self.worker(next());
            self.clients.spawn(worker.save_copies(self.backup.clone()));
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
                _ => Span::all(),
            };
            let filter = self.random.below(6);
            let watched = Arc::new(Mutex::new(Watched {
                name: format!("watcher {number}"),
                span,
                from: if self.random.chance(500) { 1 } else { 0 },
                no_put: filter == 0,
                no_delete: filter == 1,
                ..Watched::default()
            }));
            self.history.lock().watched.push(watched.clone());
            let slow = self.random.chance(400);
            let worker = self.worker(number);
            self.clients.spawn(worker.watch(watched, slow));
        }
    }

    /// Everything for one tick.
    fn tick(&mut self) {
        determinism::set_clock(self.now);
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
        let known = &mut self.known[index];
        // Whoever joins and asks a member that has not heard of it yet is told so, and starts again.
        let early = known.has_joined
            && ["has no member with the peer URLs", "has already been bootstrapped"]
                .iter()
                .any(|words| text.contains(words));
        // Two faults may end one process, and then the later one is still to come.
        let injected = text.contains("injected sync failure");
        // Without room nothing can be started. An engine that finds no room in the midst of a write has to be opened again; one
        // on real files looks ahead, this one cannot.
        let no_room = known.is_full && (!was_up || text.contains("no storage space"));
        let expected = known.may_die > 0 || early || injected || no_room || known.is_damaged;
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

    /// At most one member leads in a term, and no member goes back to an earlier one.
    fn look_at_node(&mut self, index: usize, node: &Node) {
        let (term, leads) = (node.header().raft_term.get(), node.leads());
        let known = &mut self.known[index];
        known.member = Some(node.member_id());
        let (before, kept) = (known.term, known.term_kept);
        if !self.machines[index].disk.is_off() {
            known.term = term;
            known.term_kept = kept.max(before.min(term));
        }
        // Right after its start a member has said nothing of any term yet.
        if term > 0 && term < kept {
            self.known[index].term_kept = 0;
            self.violation(Rule::Leadership, format!("m{index} is in term {term}, but was in {kept} before"));
        }
        let lost_disk = self.replacement.as_ref().is_some_and(|going| going.machine == index && going.lost_disk);
        if lost_disk && self.is_leaving(index) && node.has_leader() {
            self.violation(Rule::Leadership, format!("m{index} has lost its disk, and takes part"));
        }
        if !leads {
            return;
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

    fn come_back(&mut self, later: Later) {
        match later {
            Later::Start(index) => {
                if !self.machines[index].is_up() && !self.waits_to_join(index) {
                    self.log(format!("m{index} starts"));
                    self.machines[index].start(self.now);
                }
            }
            Later::Room(index) => {
                self.log(format!("m{index} has room again"));
                self.machines[index].disk.set_capacity(None);
                self.known[index].is_full = false;
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
        self.doors.iter().take(self.plan.members).all(|door| door.node().is_some_and(|node| node.has_leader()))
    }

    /// Asks every member for a linearizable read; `true` once all have answered.
    fn all_serve(&mut self) -> bool {
        let answers: Vec<_> = (0..self.machines.len())
            .map(|member| {
                // A learner answers only what its own state will do for.
                let serializable = member >= self.plan.members;
                self.fetch(member, move |node| async move {
                    let all = RangeRequest::new(KeyRange::Single("k0".into()));
                    node.range(RangeRequest { serializable, ..all }).await.is_ok() && node.has_leader()
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
            self.violation(
                Rule::Recovery,
                format!("m{member} does not answer after all faults have ended: {}", state(&self.doors[member])),
            );
        }
        result
    }
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
        initial_cluster: (0..plan.members.max(index + 1)).map(|index| (format!("m{index}"), peer_url(index))).collect(),
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
        // Its engine is no file that could be replaced; and damage is to be seen.
        self_rebuild: false,
        ..Config::default()
    }
}
