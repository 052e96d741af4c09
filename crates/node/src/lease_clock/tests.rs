//! The clock by hand, against a naive list, and in a cluster that keeps its promises.

use super::*;
use proptest::prelude::*;
use std::time::Instant;

const RETRY: Duration = Duration::from_secs(3);
const EVERY: Duration = Duration::from_secs(20);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn id(number: i64) -> LeaseId {
    LeaseId::new(number)
}

fn lease(number: i64, ttl_seconds: i64) -> Lease {
    Lease { id: id(number), ttl_seconds, remaining_ttl_seconds: 0 }
}

fn leader(leases: impl IntoIterator<Item = Lease>) -> LeaseClock {
    let mut clock = LeaseClock::new(RETRY);
    clock.become_leader(s(0), leases);
    clock
}

const fn renewed(ttl_seconds: i64) -> Option<Renewal> {
    Some(Renewal { ttl_seconds, clear_checkpoint: false })
}

#[test]
fn expires_at_the_deadline_and_not_before() {
    let mut clock = leader([]);
    clock.grant(ms(500), lease(1, 10));
    assert_eq!(clock.next_deadline(), Some(ms(10_500)));
    assert_eq!(clock.remaining(ms(500), id(1)), Some(10));
    assert_eq!(clock.remaining(ms(501), id(1)), Some(9));
    assert_eq!(clock.expired(ms(10_499), 10), []);
    assert_eq!(clock.remaining(ms(10_499), id(1)), Some(0));
    assert_eq!(clock.expired(ms(10_500), 10), [id(1)]);
    assert_eq!(clock.remaining(s(99), id(1)), Some(0));
    assert_eq!(clock.remaining(s(99), id(2)), None);
}

#[test]
fn renewal_gives_the_full_time_but_not_to_the_dead() {
    let mut clock = leader([lease(1, 10), lease(2, 20)]);
    assert_eq!(clock.renew(s(9), id(1)), renewed(10));
    assert_eq!(clock.expired(s(10), 10), []);
    assert_eq!(clock.renew(s(19), id(1)), None, "the deadline itself is too late");
    assert_eq!(clock.renew(s(19), id(3)), None);
    assert_eq!(clock.expired(s(19), 10), [id(1)]);
    assert_eq!(clock.renew(s(19), id(1)), None);
    clock.grant(s(19), lease(1, 10));
    assert_eq!(clock.renew(s(19), id(1)), None, "not even when a late clear of its checkpoint is applied");
    assert_eq!(clock.by_expiry(), [id(1), id(2)]);
}

#[test]
fn what_is_due_is_reported_in_order_bounded_and_again_only_after_the_retry_interval() {
    let mut clock = leader([lease(1, 7), lease(2, 5), lease(3, 6), lease(4, 50)]);
    assert_eq!(clock.expired(s(8), 2), [id(2), id(3)]);
    assert_eq!(clock.expired(s(9), 2), [id(1)]);
    assert_eq!(clock.expired(s(10), 9), []);
    assert_eq!(clock.next_deadline(), Some(s(11)));
    clock.revoke(id(3));
    assert_eq!(clock.expired(s(11), 9), [id(2)]);
    assert_eq!(clock.expired(s(12), 9), [id(1)]);
    assert_eq!(clock.by_expiry(), [id(2), id(1), id(4)]);
}

#[test]
fn only_a_leader_knows_deadlines_and_a_new_one_starts_them_afresh() {
    let mut clock = LeaseClock::new(RETRY);
    clock.grant(s(0), lease(1, 10));
    assert_eq!(clock.renew(s(1), id(1)), None);
    assert_eq!(clock.remaining(s(1), id(1)), None);
    assert_eq!(clock.next_deadline(), None);
    assert!(!clock.is_leading());

    clock.become_leader(s(8), [lease(1, 10), Lease { remaining_ttl_seconds: 40, ..lease(2, 100) }]);
    assert!(clock.is_leading());
    assert_eq!(clock.remaining(s(8), id(1)), Some(10));
    assert_eq!(clock.remaining(s(8), id(2)), Some(40));
    assert_eq!(clock.by_expiry(), [id(1), id(2)]);

    clock.resign();
    assert_eq!(clock.expired(s(1000), 9), []);
    assert_eq!(clock.by_expiry(), []);
    assert_eq!(clock.checkpoints(s(1000), EVERY, 9), []);
}

#[test]
fn checkpoints_are_taken_of_what_lives_long_and_rounded_up() {
    let mut clock = leader([lease(1, 100), lease(2, 30), lease(3, 100)]);
    assert_eq!(clock.checkpoints(ms(19_999), EVERY, 9), []);
    assert_eq!(clock.renew(s(5), id(3)), renewed(100));
    assert_eq!(clock.checkpoints(ms(20_500), EVERY, 9), [(id(1), 80)]);
    assert_eq!(clock.checkpoints(ms(20_500), EVERY, 9), []);
    assert_eq!(clock.checkpoints(s(25), EVERY, 9), [(id(3), 80)]);
    assert_eq!(clock.checkpoints(ms(40_500), EVERY, 9), [(id(1), 60)]);
}

#[test]
fn a_renewal_after_a_checkpoint_asks_to_clear_it_until_that_is_applied() {
    let clear = Some(Renewal { ttl_seconds: 100, clear_checkpoint: true });
    let mut clock = leader([lease(1, 100)]);
    assert_eq!(clock.checkpoints(s(20), EVERY, 9), [(id(1), 80)]);
    // Under way is as good as applied.
    assert_eq!(clock.renew(s(21), id(1)), clear);
    clock.checkpointed(s(21), id(1), 80);
    assert_eq!(clock.renew(s(22), id(1)), clear);
    clock.checkpointed(s(23), id(1), 0);
    assert_eq!(clock.remaining(s(23), id(1)), Some(100));
    assert_eq!(clock.renew(s(24), id(1)), renewed(100));

    // An earlier clear that is applied late does not stand for the checkpoint that came after it.
    assert_eq!(clock.checkpoints(s(44), EVERY, 9), [(id(1), 80)]);
    clock.checkpointed(s(45), id(1), 0);
    assert_eq!(clock.renew(s(46), id(1)), clear);
}

#[test]
fn a_hundred_thousand_leases_are_cheap() {
    let start = Instant::now();
    let mut clock = leader((0..100_000).map(|number| lease(number, 60)));
    for number in 0..100_000 {
        let now = ms(1 + number as u64 / 10);
        assert_eq!(clock.renew(now, id(number)), renewed(60));
    }
    assert_eq!(clock.expired(s(60), 1000), []);
    let mut count = 0;
    while let Some(now) = clock.next_deadline() {
        for id in clock.expired(now.max(s(80)), 1000) {
            clock.revoke(id);
            count += 1;
        }
    }
    assert_eq!(count, 100_000);
    // Generous: it must hold unoptimised, on a busy machine. Anything quadratic takes minutes.
    assert!(start.elapsed() < s(20), "{:?}", start.elapsed());
}

/// The clock, without any order kept.
#[derive(Default)]
struct Naive {
    leases: Vec<NaiveLease>,
}

struct NaiveLease {
    id: LeaseId,
    ttl_seconds: i64,
    deadline: Duration,
    reported: Option<Duration>,
    unchecked: Duration,
    /// The log holds or may soon hold a checkpoint.
    checkpointed: bool,
    /// A renewal's trace is under way, for good: this model applies nothing.
    clearing: bool,
}

impl Naive {
    fn find(&mut self, id: LeaseId) -> Option<&mut NaiveLease> {
        self.leases.iter_mut().find(|lease| lease.id == id)
    }

    fn grant(&mut self, now: Duration, lease: Lease) {
        self.revoke(lease.id);
        let left = if lease.remaining_ttl_seconds > 0 { lease.remaining_ttl_seconds } else { lease.ttl_seconds };
        let (id, ttl_seconds, deadline) = (lease.id, lease.ttl_seconds, now + s(left as u64));
        self.leases.push(NaiveLease {
            id,
            ttl_seconds,
            deadline,
            reported: None,
            unchecked: now,
            checkpointed: lease.remaining_ttl_seconds > 0,
            clearing: false,
        });
    }

    fn revoke(&mut self, id: LeaseId) {
        self.leases.retain(|lease| lease.id != id);
    }

    fn renew(&mut self, now: Duration, id: LeaseId) -> Option<i64> {
        let lease = self.find(id).filter(|lease| lease.deadline > now)?;
        lease.deadline = now + s(lease.ttl_seconds as u64);
        lease.unchecked = now;
        lease.clearing |= lease.checkpointed;
        Some(lease.ttl_seconds)
    }

    fn due(lease: &NaiveLease) -> Duration {
        lease.reported.map_or(lease.deadline, |reported| reported + RETRY)
    }

    fn expired(&mut self, now: Duration, max: usize) -> Vec<LeaseId> {
        self.leases.sort_by_key(|lease| (Self::due(lease), lease.id));
        let due = self.leases.iter_mut().filter(|lease| Self::due(lease) <= now).take(max);
        due.map(|lease| {
            lease.reported = Some(now);
            lease.id
        })
        .collect()
    }

    fn checkpoints(&mut self, now: Duration, max: usize) -> Vec<(LeaseId, i64)> {
        self.leases.sort_by_key(|lease| (lease.unchecked, lease.id));
        let mut checkpoints = Vec::new();
        for lease in self.leases.iter_mut().filter(|lease| lease.unchecked + EVERY <= now).take(max) {
            lease.unchecked = now;
            let left = lease.deadline.saturating_sub(now).as_millis() as i64;
            if left > EVERY.as_millis() as i64 && left <= (lease.ttl_seconds - 1) * 1000 && !lease.clearing {
                lease.checkpointed = true;
                checkpoints.push((lease.id, (left + 999) / 1000));
            }
        }
        checkpoints
    }

    fn by_expiry(&mut self) -> Vec<LeaseId> {
        self.leases.sort_by_key(|lease| (lease.deadline, lease.id));
        self.leases.iter().map(|lease| lease.id).collect()
    }
}

#[derive(Clone, Debug)]
enum Action {
    Pass(u64),
    Grant(i64, i64, i64),
    Renew(i64),
    Revoke(i64),
    Expired(usize),
    Checkpoints(usize),
    Lead,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..15_000u64).prop_map(Action::Pass),
        4 => (0..8i64, 1..90i64, 0..3i64).prop_map(|(id, ttl, part)| Action::Grant(id, ttl, part)),
        3 => (0..8i64).prop_map(Action::Renew),
        1 => (0..8i64).prop_map(Action::Revoke),
        3 => (0..5usize).prop_map(Action::Expired),
        2 => (0..5usize).prop_map(Action::Checkpoints),
        1 => Just(Action::Lead),
    ]
}

proptest! {
    #[test]
    fn says_what_a_list_says(actions in proptest::collection::vec(action(), 1..100)) {
        let (mut clock, mut naive, mut now) = (leader([]), Naive::default(), s(0));
        for action in actions {
            match action {
                Action::Pass(milliseconds) => now += ms(milliseconds),
                Action::Grant(number, ttl, part) => {
                    clock.revoke(id(number));
                    let lease = Lease { remaining_ttl_seconds: ttl * part / 3, ..lease(number, ttl) };
                    clock.grant(now, lease);
                    naive.grant(now, lease);
                }
                Action::Renew(number) => {
                    let renewal = clock.renew(now, id(number)).map(|renewal| renewal.ttl_seconds);
                    prop_assert_eq!(renewal, naive.renew(now, id(number)));
                }
                Action::Revoke(number) => {
                    clock.revoke(id(number));
                    naive.revoke(id(number));
                }
                Action::Expired(max) => prop_assert_eq!(clock.expired(now, max), naive.expired(now, max)),
                Action::Checkpoints(max) => {
                    prop_assert_eq!(clock.checkpoints(now, EVERY, max), naive.checkpoints(now, max));
                }
                Action::Lead => {
                    let leases: Vec<Lease> =
                        naive.leases.iter().map(|old| lease(old.id.get(), old.ttl_seconds)).collect();
                    clock.resign();
                    clock.become_leader(now, leases.iter().copied());
                    leases.into_iter().for_each(|lease| naive.grant(now, lease));
                }
            }
            prop_assert_eq!(clock.by_expiry(), naive.by_expiry());
            prop_assert_eq!(clock.next_deadline(), naive.leases.iter().map(Naive::due).min());
            for number in 0..8 {
                let left = naive.find(id(number)).map(|lease| lease.deadline.saturating_sub(now).as_millis() / 1000);
                prop_assert_eq!(clock.remaining(now, id(number)), left.map(|left| left as i64));
            }
        }
    }

    #[test]
    fn no_promise_is_broken_by_a_change_of_leaders(steps in proptest::collection::vec(step(), 1..120)) {
        Cluster::default().run(steps);
    }
}

/// Two checkpoints of the same seconds with a renewal between them, all three under way at once.
#[test]
fn checkpoints_of_the_same_seconds_around_a_renewal_are_told_apart() {
    use Step::{Apply, Checkpoint, Expire, Grant, Lead, Pass, Renew};
    let granted = [Grant(49), Apply(0, 1), Pass(20_000), Checkpoint];
    let renewed = [Renew(0), Pass(20_000), Checkpoint, Apply(0, 2), Renew(0), Apply(0, 9)];
    let ended = [Lead(1, true), Pass(29_000), Expire];
    Cluster::default().run(granted.into_iter().chain(renewed).chain(ended).collect());
}

/// What the log holds, for leases.
#[derive(Clone, Copy)]
enum Logged {
    Grant(Lease),
    Revoke(LeaseId),
    Checkpoint(LeaseId, i64),
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    Grant(i64),
    Renew(i64),
    Checkpoint,
    Expire,
    Apply(usize, usize),
    /// A member begins to lead, when it has applied the log, or (false) just before that.
    Lead(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..20_000u64).prop_map(Step::Pass),
        2 => (1..120i64).prop_map(Step::Grant),
        5 => (0..4i64).prop_map(Step::Renew),
        4 => Just(Step::Checkpoint),
        3 => Just(Step::Expire),
        6 => (0..2usize, 1..4usize).prop_map(|(member, count)| Step::Apply(member, count)),
        1 => (0..2usize, any::<bool>()).prop_map(|(member, applied)| Step::Lead(member, applied)),
    ]
}

struct Peer {
    clock: LeaseClock,
    applied: usize,
    leases: BTreeMap<LeaseId, Lease>,
}

impl Default for Peer {
    fn default() -> Self {
        Self { clock: LeaseClock::new(RETRY), applied: 0, leases: BTreeMap::new() }
    }
}

/// Two members, a log, and what clients were promised.
#[derive(Default)]
struct Cluster {
    now: Duration,
    log: Vec<Logged>,
    peers: [Peer; 2],
    leader: usize,
    /// Where its leadership begins in the log. What others proposed before, it does not answer.
    lead_from: usize,
    granted: i64,
    promised: BTreeMap<LeaseId, Duration>,
    /// Renewals that wait for the log entry at this place.
    unanswered: Vec<(usize, LeaseId, Duration)>,
    /// Somebody began to lead before the log was applied.
    hasty: bool,
}

impl Cluster {
    fn run(&mut self, steps: Vec<Step>) {
        self.lead(0, true);
        for step in steps {
            match step {
                Step::Pass(milliseconds) => self.now += ms(milliseconds),
                Step::Grant(ttl) => {
                    self.granted += 1;
                    self.log.push(Logged::Grant(lease(self.granted, ttl)));
                }
                Step::Renew(back) => self.renew(id(self.granted - back)),
                Step::Checkpoint => {
                    let checkpoints = self.peers[self.leader].clock.checkpoints(self.now, EVERY, 9);
                    self.log.extend(checkpoints.into_iter().map(|(id, left)| Logged::Checkpoint(id, left)));
                }
                Step::Expire => self.expire(),
                Step::Apply(member, count) => self.apply(member, count),
                Step::Lead(member, applied) => self.lead(member, applied),
            }
            self.look();
        }
        // Whatever was promised, it ends.
        self.apply(self.leader, usize::MAX);
        self.now += s(121);
        self.expire();
        self.apply(self.leader, usize::MAX);
        assert!(self.peers[self.leader].leases.is_empty());
    }

    fn promise(&mut self, id: LeaseId, until: Duration) {
        let promised = self.promised.entry(id).or_default();
        *promised = until.max(*promised);
    }

    fn renew(&mut self, id: LeaseId) {
        let Some(renewal) = self.peers[self.leader].clock.renew(self.now, id) else { return };
        let until = self.now + seconds(renewal.ttl_seconds);
        if renewal.clear_checkpoint {
            self.unanswered.push((self.log.len(), id, until));
            self.log.push(Logged::Checkpoint(id, 0));
        } else {
            self.promise(id, until);
        }
    }

    fn expire(&mut self) {
        for id in self.peers[self.leader].clock.expired(self.now, usize::MAX) {
            // Nobody was promised anything if the leader that proposed the grant was gone before it applied it.
            let promised = self.promised.get(&id).copied().unwrap_or_default();
            assert!(promised <= self.now, "{id} expires before {promised:?}");
            self.log.push(Logged::Revoke(id));
        }
    }

    fn apply(&mut self, member: usize, count: usize) {
        for _ in 0..count {
            let place = self.peers[member].applied;
            let Some(logged) = self.log.get(place).copied() else { return };
            let Peer { clock, applied, leases } = &mut self.peers[member];
            *applied += 1;
            match logged {
                Logged::Grant(lease) => {
                    leases.insert(lease.id, lease);
                    clock.grant(self.now, lease);
                    if member == self.leader && place >= self.lead_from {
                        self.promise(lease.id, self.now + seconds(lease.ttl_seconds));
                    }
                }
                Logged::Revoke(id) => {
                    leases.remove(&id);
                    clock.revoke(id);
                }
                Logged::Checkpoint(id, left) => {
                    if let Some(lease) = leases.get_mut(&id) {
                        lease.remaining_ttl_seconds = left;
                        clock.checkpointed(self.now, id, left);
                    }
                    if member == self.leader {
                        let answered: Vec<_> = self.unanswered.extract_if(.., |waits| waits.0 == place).collect();
                        answered.into_iter().for_each(|(_, id, until)| self.promise(id, until));
                    }
                }
            }
        }
    }

    fn lead(&mut self, member: usize, applied: bool) {
        self.unanswered.clear();
        self.peers[self.leader].clock.resign();
        self.leader = member;
        self.lead_from = self.log.len();
        if applied {
            self.apply(member, usize::MAX);
        } else {
            self.hasty = true;
        }
        let Peer { clock, leases, .. } = &mut self.peers[member];
        clock.become_leader(self.now, leases.values().copied());
        self.apply(member, usize::MAX);
    }

    /// What a client sees of the time left is a promise, too; but a hasty leader may see more than there is.
    fn look(&mut self) {
        if self.hasty {
            return;
        }
        let leases: Vec<LeaseId> = self.peers[self.leader].leases.keys().copied().collect();
        for id in leases {
            if let Some(left) = self.peers[self.leader].clock.remaining(self.now, id) {
                self.promise(id, self.now + seconds(left));
            }
        }
    }
}
