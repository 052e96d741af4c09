//! The clients of a world.

use super::{RECOVERY, World};
use crate::client::Rpc;
use crate::history::{Span, Watched};
use crate::library::{Habits, Library};
use crate::oracle::Rule;
use crate::plan::Mode;
use crate::random::Random;
use crate::workers::{CONNECT_PAUSE, Gaze, QUIET_KEY, ROOT, Worker};
use parking_lot::Mutex;
use std::sync::Arc;

impl World {
    pub(super) fn rpc(&self) -> Rpc {
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

    /// A worker, and the habits of its client library in mode `full`.
    fn next_worker(&mut self) -> (Worker, Option<Habits>) {
        self.workers += 1;
        let number = self.workers;
        let worker = Worker {
            rpc: self.rpc(),
            number,
            members: self.plan.members,
            machines: self.machines.len(),
            load: self.plan.load.clone(),
            random: Random::new(self.plan.seed).fork(&format!("worker {number}")),
            stop: self.stop.clone(),
        };
        (worker, self.habits(number))
    }

    fn habits(&self, number: usize) -> Option<Habits> {
        let mut random = Random::new(self.plan.seed).fork(&format!("library {number}"));
        let habits = Habits {
            chooses: random.chance(300),
            connect_timeout: random.millis(300, 2500),
            ping_interval: random.millis(5000, 10_000),
            watch_buffer: *random.pick(&[1, 4, 64]),
            json: !self.plan.load.auth && random.chance(200),
            user: self.plan.load.auth.then_some(ROOT),
        };
        match self.plan.mode {
            Mode::Fast => None,
            Mode::Full => Some(habits),
        }
    }

    /// Whoever operates the cluster has a client of its own, in mode `full`. While there are no users yet.
    pub(super) fn hire_operator(&mut self) {
        let Some(habits) = self.habits(0) else { return };
        let (rpc, operator) = (self.rpc(), self.operator.clone());
        self.clients.spawn(async move {
            while operator.lock().is_none() {
                match Library::new(&rpc, habits.clone()).await {
                    Ok(library) => *operator.lock() = Some(library),
                    // A short deadline and a slow network.
                    Err(_) => tokio::time::sleep(CONNECT_PAUSE).await,
                }
            }
        });
        if !self.wait_until(RECOVERY, |world| world.operator.lock().is_some()) {
            self.violation(Rule::Recovery, "the client library cannot connect to a new cluster".into());
        }
    }

    /// Starts `count` clients that do `work`.
    fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        count: usize,
        work: impl Fn(Worker) -> F + Clone + Send + 'static,
    ) {
        for _ in 0..count {
            let (worker, habits) = self.next_worker();
            let work = work.clone();
            match habits {
                None => drop(self.clients.spawn(work(worker))),
                Some(habits) => {
                    self.clients.spawn(async move {
                        if let Some(worker) = worker.with_library(habits).await {
                            work(worker).await;
                        }
                    });
                }
            }
        }
    }

    pub(super) fn start_load(&mut self) {
        let load = self.plan.load.clone();
        self.spawn(load.clients, Worker::read_and_write);
        self.spawn(load.lease_clients, Worker::hold_leases);
        self.spawn(load.account_clients, Worker::keep_accounts);
        self.spawn(load.list_clients, Worker::grow_lists);
        self.spawn(load.set_clients, Worker::keep_set);
        self.spawn(load.lock_clients, Worker::take_locks);
        self.spawn(load.object_clients, Worker::keep_objects);
        self.spawn(load.step_clients, Worker::run_steps);
        self.spawn(load.recipe_clients, Worker::use_recipes);
        match self.plan.mode {
            Mode::Fast => self.spawn(usize::from(load.auth), Worker::try_permissions),
            Mode::Full => self.spawn(usize::from(load.auth), Worker::try_users),
        }
        let place = self.backup.clone();
        self.spawn(usize::from(load.copies), move |worker| worker.save_copies(place.clone()));
        let recorder = self.recorder.clone();
        self.history.lock().watched.push(recorder.clone());
        let seen = recorder.clone();
        self.spawn(1, move |worker| worker.compact(seen.clone()));
        self.spawn(1, move |worker| worker.watch(recorder.clone(), Gaze::Steady));
        for _ in 0..load.watchers {
            let key = self.random.below(load.keys);
            let span = match self.random.below(3) {
                0 => Span::key(&format!("k{key}")),
                1 => Span::prefix("k"),
                _ => Span::all(),
            };
            let filter = self.random.below(6);
            let from = if self.random.chance(500) { 1 } else { 0 };
            let gaze = if self.random.chance(400) { Gaze::Wandering } else { Gaze::Steady };
            let (no_put, no_delete) = (filter == 0, filter == 1);
            self.add_watcher(Watched { span, from, no_put, no_delete, ..Watched::default() }, gaze);
        }
        self.spawn(load.election_clients, Worker::stand_for_election);
        self.spawn(load.slow_readers, Worker::read_slowly);
        if load.quiet_watchers > 0 {
            self.spawn(1, Worker::write_seldom);
        }
        for _ in 0..load.quiet_watchers {
            self.add_watcher(Watched { span: Span::key(QUIET_KEY), from: 1, ..Watched::default() }, Gaze::Absent);
        }
    }

    fn add_watcher(&mut self, watched: Watched, gaze: Gaze) {
        let name = format!("watcher {}", self.workers + 1);
        let watched = Arc::new(Mutex::new(Watched { name, ..watched }));
        self.history.lock().watched.push(watched.clone());
        self.spawn(1, move |worker| worker.watch(watched.clone(), gaze));
    }
}
