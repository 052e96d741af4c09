//! One seed from start to end: machines, clients, faults, and the judgement.

mod compaction;
mod damage;
mod ending;
mod faults;
mod load;
mod look;
mod operator;
mod replacing;
mod restored;

use self::compaction::CompactionStep;
use self::operator::Order;
use crate::client::Rpc;
use crate::clock::MachineClock;
use crate::determinism;
use crate::history::{History, SharedHistory, Span, Watched};
use crate::library::Library;
use crate::machine::{Door, Doors, Machine, Runs, paused_runtime};
use crate::network::Network;
use crate::oracle::Rule;
use crate::plan::{Mode, Plan};
use crate::random::Random;
use crate::replacement::{Answer, Replacement};
use crate::story::{self, Line};
use crate::workers::{Backup, Stop};
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
    /// How often a lock or an office was held.
    pub holds: usize,
    /// The newest revision.
    pub revision: i64,
    /// Simulated time.
    pub simulated: Duration,
    /// What happened, for people, without the calls.
    pub timeline: Vec<Line>,
    /// The calls.
    pub story: Vec<Line>,
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
    /// Clients so far.
    workers: usize,
    recorder: Arc<Mutex<Watched>>,
    /// What happens by itself later.
    later: Vec<(Duration, Later)>,
    /// What the world knows of each machine.
    known: Vec<Known>,
    replacement: Option<Replacement>,
    /// The client library of who operates the cluster, in mode `full`.
    operator: Arc<Mutex<Option<Library>>>,
    /// What the operator was refused since the last tick.
    refusals: Arc<Mutex<Vec<String>>>,
    last_refusal: Option<String>,
    backup: Backup,
    /// From here on all members served.
    settled: Duration,
    /// When all faults ended.
    healed: Option<Duration>,
    leaders: BTreeMap<u64, String>,
    violations: Vec<String>,
    timeline: Vec<Line>,
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
    /// Likewise, but it rebuilds itself from the others.
    rebuilds: bool,
    /// That was while its process ran, which may not have met it yet.
    damaged_live: bool,
    /// Its disk has no room.
    is_full: bool,
    /// The newest revision that it was seen at.
    revision: i64,
    /// Its power fails when it comes to a new term: until it is started again, and what decides what survives.
    cut_at_term: Option<(Duration, u64)>,
    /// Its process ends when it comes to this step of a compaction.
    ends_at: Option<CompactionStep>,
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
    FastDisk(usize),
    Cut(usize, Duration, u64),
    Kill(usize),
}

impl World {
    /// The world of a plan, with all machines off.
    pub fn new(plan: Plan) -> World {
        let root = Random::new(plan.seed);
        let count = plan.members + plan.learners;
        // The last place is that of all clients.
        let network = Network::new(count + 1, &plan.link, root.fork("network"));
        network.split_writes(plan.front.split_writes);
        let doors: Doors = Arc::new((0..count).map(|_| Arc::new(Door::default())).collect());
        let machine = |index| {
            let mut seed = root.fork(&format!("machine {index}"));
            let machine =
                Machine::new(index, network.clone(), doors.clone(), config(&plan, index), runs(&plan), seed.number());
            machine.set_sync_ms(plan.sync_ms);
            machine
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
            workers: 0,
            recorder: Arc::new(Mutex::new(recorder)),
            later: Vec::new(),
            known: vec![Known::default(); count],
            replacement: None,
            operator: Arc::default(),
            refusals: Arc::default(),
            last_refusal: None,
            backup: Backup::default(),
            settled: Duration::ZERO,
            healed: None,
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
        self.hire_operator();
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
            let added = self.order(0, Order::Add { urls, learner: true });
            self.wait_until(Duration::from_secs(25), |_| added.lock().is_some());
            if *added.lock() == Some(Some(true)) {
                self.machines[index].config_mut().initial_cluster_state = InitialClusterState::Existing;
                self.known[index].has_joined = true;
                self.machines[index].start(self.now);
            } else {
                self.violation(Rule::Recovery, format!("m{index} cannot be added as a learner"));
            }
        }
    }

    fn log(&mut self, text: String) {
        let line = story::line(self.now, &text);
        if self.verbose {
            println!("{line}");
        }
        self.timeline.push((self.now, line));
    }

    fn violation(&mut self, rule: Rule, text: String) {
        let text = format!("{rule}: {text}");
        self.log(format!("VIOLATION {text}"));
        self.violations.push(text);
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
            self.tick_machine(index);
        }
        self.clients.block_on(async {
            let end = self.client_clock.begin_tick(self.now, self.plan.tick, Duration::ZERO);
            tokio::time::sleep_until(end).await;
        });
        self.now += self.plan.tick;
        let refusals = std::mem::take(&mut *self.refusals.lock());
        for text in refusals {
            // It may ask many times a second.
            if self.last_refusal.as_ref() != Some(&text) {
                self.log(text.clone());
                self.last_refusal = Some(text);
            }
        }
        self.look();
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
            Later::FastDisk(index) => self.machines[index].set_sync_ms(self.plan.sync_ms),
            Later::Cut(index, down, chance) => {
                self.log(format!("m{index} loses power"));
                self.cut(index, down, chance);
            }
            Later::Kill(index) => self.kill(index, Duration::from_millis(20)),
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

fn runs(plan: &Plan) -> Runs {
    match plan.mode {
        Mode::Fast => Runs::Node,
        Mode::Full => Runs::Server { request_bytes_max: plan.front.request_bytes_max },
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
        engine_cache_bytes: plan.cache_bytes.0,
        record_cache_bytes: plan.cache_bytes.1,
        tail_bytes_max: 256 << 10,
        flush_interval: Duration::from_secs(1),
        compaction_batch: plan.compaction_steps.0,
        compaction_pause: plan.compaction_steps.1,
        quota_bytes: -1,
        self_rebuild: plan.self_rebuild,
        scrub_interval: Duration::from_secs(2),
        ..Config::default()
    }
}
