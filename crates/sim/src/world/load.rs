//! The clients of a world.

use super::World;
use crate::client::Rpc;
use crate::history::{Span, Watched};
use crate::library::{Habits, Library};
use crate::oracle::Rule;
use crate::plan::Mode;
use crate::random::Random;
use crate::workers::{Gaze, QUIET_KEY, Worker};
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

    fn next_worker(&mut self) -> Worker {
        self.workers += 1;
        let number = self.workers;
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

    /// Starts `count` clients that do `work`.
    fn spawn<F: Future<Output = ()> + Send + 'static>(&mut self, count: usize, work: impl Fn(Worker) -> F) {
        for _ in 0..count {
            let worker = self.next_worker();
            self.clients.spawn(work(worker));
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
        self.spawn(usize::from(load.auth), Worker::try_permissions);
        let place = self.backup.clone();
        self.spawn(usize::from(load.copies), |worker| worker.save_copies(place.clone()));
        let recorder = self.recorder.clone();
        self.spawn(1, |worker| worker.compact(recorder.clone()));
        self.spawn(1, |worker| worker.watch(recorder.clone(), Gaze::Steady));
        self.history.lock().watched.push(recorder);
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
        // The library reads a list at once.
        let slow_readers = if self.plan.mode == Mode::Fast { load.slow_readers } else { 0 };
        self.spawn(slow_readers, Worker::read_slowly);
        if load.quiet_watchers > 0 {
            self.spawn(1, Worker::write_seldom);
        }
        for _ in 0..load.quiet_watchers {
            self.add_watcher(Watched { span: Span::key(QUIET_KEY), from: 1, ..Watched::default() }, Gaze::Absent);
        }
    }

    fn add_watcher(&mut self, watched: Watched, gaze: Gaze) {
        let worker = self.next_worker();
        let name = format!("watcher {}", worker.number);
        let watched = Arc::new(Mutex::new(Watched { name, ..watched }));
        self.history.lock().watched.push(watched.clone());
        self.clients.spawn(worker.watch(watched, gaze));
    }
}
