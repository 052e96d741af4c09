//! What one seed does: how many members, which load, which faults and when. A swarm: each seed draws which kinds of faults
//! there are at all, and how dense they are, so that rare combinations are tried as well as the whole mix.

use crate::network::Link;
use crate::random::Random;
use std::time::Duration;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// A process ends and is started again after a while.
    Kill {
        /// Which machine.
        machine: usize,
        /// Until it is started again.
        down: Duration,
    },
    /// All processes end at once.
    KillAll {
        /// Until they are started again.
        down: Duration,
    },
    /// A machine loses power.
    PowerCut {
        /// Which machine.
        machine: usize,
        /// Until it is started again.
        down: Duration,
        /// Decides what of the unsynced writes survives.
        chance: u64,
    },
    /// All machines lose power.
    PowerCutAll {
        /// Until they are started again.
        down: Duration,
        /// Decides what of the unsynced writes survives.
        chance: u64,
    },
    /// A machine loses power in the middle of a write.
    PowerCutAtWrite {
        /// Which machine.
        machine: usize,
        /// So many disk operations from now.
        operations: u64,
    },
    /// A process stands still, as after SIGSTOP.
    Pause {
        /// Which machine.
        machine: usize,
        /// How long.
        length: Duration,
    },
    /// Some machines do not hear others.
    Partition {
        /// Pairs (from, to) between which nothing arrives.
        cut: Vec<(usize, usize)>,
        /// How long.
        length: Duration,
    },
    /// All connections between two machines break.
    Reset {
        /// One.
        one: usize,
        /// The other.
        other: usize,
    },
    /// What goes between two machines takes long.
    Slow {
        /// One.
        one: usize,
        /// The other.
        other: usize,
        /// Delay in milliseconds.
        delay_ms: u64,
        /// How long.
        length: Duration,
    },
    /// A machine's clock runs fast or slow from now on.
    Drift {
        /// Which machine.
        machine: usize,
        /// Own seconds in a second.
        rate: f64,
    },
    /// The next fsync of a machine fails; its process must end at once.
    FailSync {
        /// Which machine.
        machine: usize,
    },
    /// The leader is told to hand over.
    MoveLeader,
    /// A member leaves the cluster, and joins it again as a new one with an empty disk.
    Replace {
        /// Which machine.
        machine: usize,
    },
    /// A member writes a smaller file.
    Defragment {
        /// Which machine.
        machine: usize,
    },
    /// A process is asked to stop, as by SIGTERM, and started again.
    Restart {
        /// Which machine.
        machine: usize,
    },
    /// A machine's disk has no more room than this, for a while.
    FullDisk {
        /// Which machine.
        machine: usize,
        /// Bytes that are still free.
        free_bytes: u64,
        /// How long.
        length: Duration,
    },
    /// Somebody sets a machine's wall clock.
    WallClock {
        /// Which machine.
        machine: usize,
        /// By how much, in milliseconds.
        by_ms: i64,
    },
    /// A machine loses its disk, and is started with an empty one before anybody knows. Its member is replaced.
    LoseDisk {
        /// Which machine.
        machine: usize,
        /// How long it takes until somebody knows.
        unnoticed: Duration,
    },
    /// Something that is stored changes: a bit turns, or a sector is lost, or holds what was meant for another place.
    Damage {
        /// Which machine.
        machine: usize,
        /// How.
        kind: Damage,
        /// Decides where.
        place: u64,
        /// While the process is down, or while it runs.
        live: bool,
    },
    /// The learner becomes a voter.
    Promote,
    /// The syncs of a machine's log take long, for a while.
    SlowDisk {
        /// Which machine.
        machine: usize,
        /// Most milliseconds of a sync.
        delay_ms: u64,
        /// How long.
        length: Duration,
    },
    /// A machine loses power right after its member has come to a new term.
    PowerCutAtTerm {
        /// Which machine.
        machine: usize,
        /// Until it is started again.
        down: Duration,
        /// Decides what of the unsynced writes survives.
        chance: u64,
    },
    /// A leader does not hear the other members, nor they it.
    IsolateLeader {
        /// Whether clients do not reach it either.
        clients: bool,
        /// How long.
        length: Duration,
    },
    /// What goes to clients takes long.
    SlowClients {
        /// From which machine.
        machine: usize,
        /// Delay in milliseconds.
        delay_ms: u64,
        /// How long.
        length: Duration,
    },
    /// A member is removed while its process is down, and comes back with the disk that it had.
    ReturnRemoved {
        /// Which machine.
        machine: usize,
    },
    /// The leader stands still until the others have another, and then hears none of them for a while, though clients reach it.
    StallLeader {
        /// How long it stands still.
        pause: Duration,
        /// How long it is alone after that.
        alone: Duration,
    },
    /// A process ends again and again, soon after it was started.
    CrashLoop {
        /// Which machine.
        machine: usize,
        /// How often.
        times: u32,
        /// Time between two ends.
        gap: Duration,
    },
    /// A process ends at a step of a compaction, and after its next start at a later one. Where rare paths can be taken.
    EndsInCompaction {
        /// Which machine.
        machine: usize,
    },
}

/// What becomes of something stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damage {
    /// A bit turns.
    Bit,
    /// A sector reads as zeros.
    LostSector,
    /// A sector holds what belongs to another.
    StraySector,
}

/// The load.
#[derive(Clone, Debug)]
pub struct Load {
    /// Clients that read and write.
    pub clients: usize,
    /// Clients that hold leases.
    pub lease_clients: usize,
    /// Clients that watch.
    pub watchers: usize,
    /// Clients that move money between accounts.
    pub account_clients: usize,
    /// Clients that append to lists.
    pub list_clients: usize,
    /// Clients that keep a set.
    pub set_clients: usize,
    /// Clients that take locks.
    pub lock_clients: usize,
    /// Clients that list and write objects as Kubernetes does.
    pub object_clients: usize,
    /// Clients that run random transactions.
    pub step_clients: usize,
    /// Clients that stand for election.
    pub election_clients: usize,
    /// Clients that read lists slowly, in parts of one state.
    pub slow_readers: usize,
    /// Watchers of a key that is seldom written, which look away for long.
    pub quiet_watchers: usize,
    /// Clients that use locks and elections of the client library, in mode `full`.
    pub recipe_clients: usize,
    /// Before so many of 1000 calls a client leaves, and another with connections of its own goes on, in mode `full`.
    pub leaving: u64,
    /// Whether there are users, and a client that tries what they may do.
    pub auth: bool,
    /// Whether somebody saves copies of the data, the last of which is restored in the end.
    pub copies: bool,
    /// Whether everything is deleted now and then.
    pub wipes: bool,
    /// Keys that the clients share.
    pub keys: u64,
    /// Longest pause between two calls, in milliseconds.
    pub pause_ms: u64,
    /// Bytes that a value is filled up to, now and then.
    pub large_value_bytes: usize,
    /// Pause between two compactions; zero is never.
    pub compaction: Duration,
    /// How long a client waits for an answer.
    pub deadline: Duration,
}

/// How clients reach the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They call the nodes.
    Fast,
    /// The client library calls the members' fronts: gRPC on HTTP/2 over the simulated network.
    Full,
}

/// Everything that one seed decides in advance.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// How clients reach the members.
    pub mode: Mode,
    /// Voting members.
    pub members: usize,
    /// Members beside them that do not vote: 0 or 1.
    pub learners: usize,
    /// How long faults and load go on.
    pub length: Duration,
    /// The network without faults.
    pub link: Link,
    /// The load.
    pub load: Load,
    /// The faults, each with its time, in order of time.
    pub faults: Vec<(Duration, Fault)>,
    /// Bytes of a segment of the write-ahead log.
    pub wal_segment_bytes: u64,
    /// Log that is kept for members that lag.
    pub wal_keep_bytes: u64,
    /// Events that wait for a slow watcher in memory.
    pub watch_queue_events: usize,
    /// The step of the world's clock.
    pub tick: Duration,
    /// Clocks run at most so many times as fast as the world's.
    pub rate_max: f64,
    /// Least and most milliseconds that a sync of the log takes.
    pub sync_ms: (u64, u64),
    /// Keys that a step of a compaction looks at, and the pause between two steps.
    pub compaction_steps: (usize, Duration),
    /// Members whose data are damaged rebuild themselves from the others; else somebody replaces them.
    pub self_rebuild: bool,
    /// Bytes that the engine, and the store above it, keep in memory of what they have read.
    pub cache_bytes: (usize, usize),
    /// What is there in mode `full` alone.
    pub front: Front,
}

/// What differs between the fronts of members, and on the way to them.
#[derive(Clone, Debug)]
pub struct Front {
    /// Bytes of a request, and of a part of what a watcher is sent.
    pub request_bytes_max: usize,
    /// Writes to a connection that are taken in part, of 1000.
    pub split_writes: u64,
}

impl Plan {
    /// What `seed` does in `mode`.
    pub fn new(seed: u64, mode: Mode) -> Plan {
        match mode {
            Mode::Fast => Plan::fast(seed),
            Mode::Full => Plan::full(seed),
        }
    }

    fn fast(seed: u64) -> Plan {
        let root = Random::new(seed);
        let mut random = root.fork("plan");
        let members = *random.pick(&[1, 3, 3, 3, 3, 5]);
        let length = Duration::from_secs(random.between(8, 30));
        let link = Link {
            blocked: false,
            delay_ms: *random.pick(&[(1, 2), (1, 5), (1, 20), (5, 50)]),
            loss: *random.pick(&[0, 0, 0, 5, 30]),
        };
        let mut extra = root.fork("more load");
        let mut some = |most: u64| if extra.chance(400) { extra.between(1, most) as usize } else { 0 };
        let mut latest = root.fork("latest load");
        let mut some_more = |most: u64| if latest.chance(350) { latest.between(1, most) as usize } else { 0 };
        let load = Load {
            account_clients: some(4),
            list_clients: some(3),
            set_clients: some(3),
            lock_clients: some(3),
            object_clients: some(3),
            step_clients: some(3),
            election_clients: some_more(3),
            slow_readers: some_more(2),
            quiet_watchers: some_more(2),
            recipe_clients: 0,
            leaving: 0,
            auth: extra.chance(300),
            copies: extra.chance(300),
            wipes: extra.chance(150),
            clients: random.between(2, 10) as usize,
            lease_clients: random.between(0, 3) as usize,
            watchers: random.between(1, 4) as usize,
            keys: *random.pick(&[1, 3, 8, 40]),
            pause_ms: *random.pick(&[1, 20, 100]),
            large_value_bytes: *random.pick(&[0, 0, 4_000, 60_000]),
            compaction: Duration::from_millis(*random.pick(&[0, 500, 2000, 5000])),
            deadline: random.millis(500, 8000),
        };
        let learners = usize::from(extra.chance(250));
        let machines = members + learners;
        let (mut faults, drifts) = draw_faults(&mut root.fork("faults"), members, machines, length);
        faults.extend(draw_more_faults(&mut root.fork("more faults"), members, learners, length));
        faults.extend(draw_aimed_faults(&mut root.fork("aimed faults"), members, length));
        let self_rebuild = members > 2 && root.fork("rebuild").chance(400);
        let mut sharp = root.fork("sharp faults");
        faults.extend(draw_sharp_faults(&mut sharp, members, self_rebuild, length));
        faults.extend(draw_ends_in_compaction(&mut root.fork("ends in compaction"), machines, length));
        let mut load = load;
        leave_leader_alone(&mut root.fork("leader alone"), members, length, &mut faults, &mut load);
        faults.sort_by_key(|(at, _)| *at);
        Plan {
            seed,
            mode: Mode::Fast,
            members,
            learners,
            length,
            link,
            load,
            faults,
            wal_segment_bytes: *random.pick(&[64 << 10, 256 << 10, 1 << 20]),
            wal_keep_bytes: *random.pick(&[0, 64 << 10, 1 << 20]),
            watch_queue_events: *random.pick(&[4, 64, 1024]),
            tick: random.millis(1, 4),
            rate_max: if drifts { RATE_MAX } else { 1.0 },
            sync_ms: *latest.pick(&[(0, 0), (0, 0), (0, 4), (1, 12), (5, 60)]),
            compaction_steps: *latest.pick(&[
                (20, Duration::from_millis(10)),
                (20, Duration::from_millis(10)),
                (2, Duration::from_millis(50)),
                (2, Duration::from_millis(400)),
            ]),
            self_rebuild,
            cache_bytes: *sharp.pick(&[(1 << 20, 64 << 10), (1 << 20, 64 << 10), (16 << 10, 1 << 10)]),
            front: Front { request_bytes_max: 1_572_864, split_writes: 0 },
        }
    }
}

impl Plan {
    /// As in mode `fast`, and shorter, since each call costs more; with faults between clients and members of their own.
    fn full(seed: u64) -> Plan {
        let mut plan = Plan { mode: Mode::Full, ..Plan::fast(seed) };
        let mut random = Random::new(seed).fork("full");
        plan.length = plan.length.min(Duration::from_secs(random.between(8, 16)));
        // Where all keys go now and then, locks go, too.
        if !plan.load.wipes && random.chance(500) {
            plan.load.recipe_clients = random.between(1, 4) as usize;
        }
        let mut latest = Random::new(seed).fork("front");
        plan.front = Front {
            request_bytes_max: *latest.pick(&[1_572_864, 1_572_864, 200_000, 100_000]),
            split_writes: *latest.pick(&[0, 20, 200, 600]),
        };
        plan.load.leaving = *latest.pick(&[0, 0, 5, 50]);
        let clients = plan.members + plan.learners;
        if random.chance(700) {
            for _ in 0..random.between(1, 12) {
                let one = random.below(clients as u64) as usize;
                let at = random.millis(500, plan.length.as_millis() as u64);
                let fault = match random.below(3) {
                    0 => {
                        let length = random.millis(500, 5000);
                        Fault::Slow { one, other: clients, delay_ms: random.between(20, 800), length }
                    }
                    _ => Fault::Reset { one, other: clients },
                };
                plan.faults.push((at, fault));
            }
            plan.faults.sort_by_key(|(at, _)| *at);
        }
        plan
    }
}

const RATE_MAX: f64 = 1.05;

/// Which faults of a family there are, and how many.
struct Often {
    /// Kinds of the family.
    kinds: u64,
    /// Of a thousand runs, how many have a kind.
    chance: u64,
    /// Most faults of one kind.
    most: u64,
}

/// Faults of a family, each on one of `machines` somewhere in the run. `draw` gives none if a cluster cannot have the kind.
fn draw_often(
    random: &mut Random,
    often: Often,
    machines: usize,
    length: Duration,
    draw: impl Fn(&mut Random, u64, usize) -> Option<Fault>,
) -> Vec<(Duration, Fault)> {
    let kinds: Vec<u64> = (0..often.kinds).filter(|_| random.chance(often.chance)).collect();
    let mut faults = Vec::new();
    for kind in kinds {
        for _ in 0..random.between(1, often.most) {
            let machine = random.below(machines as u64) as usize;
            let at = random.millis(500, length.as_millis() as u64);
            faults.extend(draw(random, kind, machine).map(|fault| (at, fault)));
        }
    }
    faults
}

/// Faults that are rare, or hard: a few in a run.
fn draw_more_faults(random: &mut Random, members: usize, learners: usize, length: Duration) -> Vec<(Duration, Fault)> {
    let often = Often { kinds: 6, chance: 250, most: 2 };
    draw_often(random, often, members + learners, length, |random, kind, machine| {
        Some(match kind {
            0 => Fault::Restart { machine },
            1 => {
                let free_bytes = random.below(100_000);
                Fault::FullDisk { machine, free_bytes, length: random.millis(500, 8000) }
            }
            2 => Fault::WallClock { machine, by_ms: random.between(0, 7_200_000) as i64 - 3_600_000 },
            3 if members > 2 => Fault::LoseDisk { machine: machine % members, unnoticed: random.millis(0, 6000) },
            4 if members > 2 => {
                let kind = *random.pick(&[Damage::Bit, Damage::LostSector, Damage::StraySector]);
                let live = random.chance(400);
                Fault::Damage { machine: machine % members, kind, place: random.number(), live }
            }
            5 if learners > 0 => Fault::Promote,
            _ => return None,
        })
    })
}

/// Faults at moments at which much is at stake, and such as need several things at once.
fn draw_aimed_faults(random: &mut Random, members: usize, length: Duration) -> Vec<(Duration, Fault)> {
    let often = Often { kinds: 6, chance: 300, most: 4 };
    draw_often(random, often, members, length, |random, kind, machine| {
        Some(match kind {
            0 => {
                let delay_ms = *random.pick(&[20, 100, 400]);
                Fault::SlowDisk { machine, delay_ms, length: random.millis(500, 6000) }
            }
            1 => Fault::PowerCutAtTerm { machine, down: random.millis(0, 300), chance: random.number() },
            2 if members > 1 => Fault::IsolateLeader { clients: random.chance(250), length: random.millis(2000, 9000) },
            3 => {
                let delay_ms = *random.pick(&[100, 1000, 4000]);
                Fault::SlowClients { machine, delay_ms, length: random.millis(1000, 6000) }
            }
            4 if members > 2 => Fault::ReturnRemoved { machine },
            // While everybody waits for the disk.
            5 => Fault::PowerCutAll { down: random.millis(0, 500), chance: random.number() },
            _ => return None,
        })
    })
}

/// Sequences of faults, each of which one after the other is not likely to make.
fn draw_sharp_faults(
    random: &mut Random,
    members: usize,
    self_rebuild: bool,
    length: Duration,
) -> Vec<(Duration, Fault)> {
    let often = Often { kinds: 3, chance: 350, most: 3 };
    draw_often(random, often, members, length, |random, kind, machine| {
        Some(match kind {
            0 if members > 2 => {
                Fault::StallLeader { pause: random.millis(2000, 4000), alone: random.millis(4500, 8000) }
            }
            1 => {
                let (times, gap) = (random.between(2, 8) as u32, random.millis(200, 1500));
                Fault::CrashLoop { machine, times, gap }
            }
            2 if self_rebuild => {
                let kind = *random.pick(&[Damage::Bit, Damage::LostSector]);
                Fault::Damage { machine, kind, place: random.number(), live: true }
            }
            _ => return None,
        })
    })
}

/// In some runs nothing else happens for a while than that a leader hears no other member, though its clients reach it: for long
/// enough that the others have another, and that leases end which nobody renews there.
fn leave_leader_alone(
    random: &mut Random,
    members: usize,
    length: Duration,
    faults: &mut Vec<(Duration, Fault)>,
    load: &mut Load,
) {
    if members < 3 || !random.chance(200) {
        return;
    }
    let alone = random.millis(5500, 7500);
    let begin = random.millis(500, length.saturating_sub(alone).as_millis() as u64);
    // What happens shortly before has not passed by then.
    let quiet = begin.saturating_sub(Duration::from_secs(4))..begin + alone;
    faults.retain(|(at, _)| !quiet.contains(at));
    faults.push((begin, Fault::IsolateLeader { clients: false, length: alone }));
    load.lease_clients = load.lease_clients.max(3);
}

/// At two steps of one compaction.
fn draw_ends_in_compaction(random: &mut Random, machines: usize, length: Duration) -> Vec<(Duration, Fault)> {
    let often = Often { kinds: 1, chance: 500, most: 3 };
    draw_often(random, often, machines, length, |_, _, machine| Some(Fault::EndsInCompaction { machine }))
}

fn draw_faults(
    random: &mut Random,
    members: usize,
    machines: usize,
    length: Duration,
) -> (Vec<(Duration, Fault)>, bool) {
    // Which kinds there are: each with a chance of a half.
    let kinds: Vec<u64> = (0..13).filter(|_| random.chance(500)).collect();
    if kinds.is_empty() {
        return (Vec::new(), false);
    }
    let gap_ms = *random.pick(&[200, 800, 2000, 5000]);
    let mut at = random.millis(500, 2000);
    let mut faults = Vec::new();
    while at < length {
        let kind = *random.pick(&kinds);
        if let Some(fault) = draw_fault(random, kind, members, machines) {
            faults.push((at, fault));
        }
        at += random.millis(gap_ms / 4, gap_ms * 2);
    }
    let drifts = faults.iter().any(|(_, fault)| matches!(fault, Fault::Drift { .. }));
    (faults, drifts)
}

fn draw_fault(random: &mut Random, kind: u64, members: usize, clients: usize) -> Option<Fault> {
    let machine = random.below(members as u64) as usize;
    let other = (machine + 1 + random.below(members.max(2) as u64 - 1) as usize) % members;
    let down = random.millis(0, 4000);
    Some(match kind {
        0 => Fault::Kill { machine, down },
        1 => Fault::KillAll { down },
        2 => Fault::PowerCut { machine, down, chance: random.number() },
        3 => Fault::PowerCutAll { down, chance: random.number() },
        4 => Fault::PowerCutAtWrite { machine, operations: random.between(1, 60) },
        5 => Fault::Pause { machine, length: random.millis(100, 6000) },
        6 => Fault::Partition { cut: draw_partition(random, members, clients), length: random.millis(200, 6000) },
        7 if members > 1 => Fault::Reset { one: machine, other },
        8 if members > 1 => {
            Fault::Slow { one: machine, other, delay_ms: random.between(20, 400), length: random.millis(500, 5000) }
        }
        9 => Fault::Drift { machine, rate: *random.pick(&[0.95, 0.99, 1.0, 1.01, RATE_MAX]) },
        10 => Fault::FailSync { machine },
        11 if members > 1 => Fault::MoveLeader,
        12 if members > 2 => Fault::Replace { machine },
        12 => Fault::Defragment { machine },
        _ => return None,
    })
}

/// Machine `clients` stands for all clients.
fn draw_partition(random: &mut Random, members: usize, clients: usize) -> Vec<(usize, usize)> {
    let sides: Vec<usize> = (0..members).chain([clients]).collect();
    let mut cut = Vec::new();
    let mut both = |one: usize, other: usize| cut.extend([(one, other), (other, one)]);
    let lonely = random.below(members as u64) as usize;
    match random.below(5) {
        // One alone, with or without clients.
        0 => {
            let clients_too = random.chance(500);
            let others = &sides[..members + usize::from(clients_too)];
            others.iter().filter(|m| **m != lonely).for_each(|m| both(lonely, *m));
        }
        // Two halves.
        1 => {
            let half: Vec<(usize, bool)> = sides.iter().map(|side| (*side, random.chance(500))).collect();
            for (place, one) in half.iter().enumerate() {
                half[place + 1..].iter().filter(|other| one.1 != other.1).for_each(|other| both(one.0, other.0));
            }
        }
        // One direction only.
        2 => {
            let hears = random.chance(500);
            for m in (0..members).filter(|m| *m != lonely) {
                cut.push(if hears { (lonely, m) } else { (m, lonely) });
            }
        }
        // A ring: each sees its neighbours only.
        3 => {
            for one in 0..members {
                for other in one + 1..members {
                    if other - one != 1 && !(one == 0 && other == members - 1) {
                        both(one, other);
                    }
                }
            }
            if members == 3 {
                both(lonely, (lonely + 1) % 3);
            }
        }
        // A bridge: one sees both halves.
        _ => {
            for one in (0..members).filter(|m| *m != lonely) {
                for other in (one + 1..members).filter(|m| *m != lonely) {
                    if (one < members / 2) != (other < members / 2) {
                        both(one, other);
                    }
                }
            }
        }
    }
    cut
}
