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

/// Everything that one seed decides in advance.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Voting members.
    pub members: usize,
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
}

impl Plan {
    /// What `seed` does.
    pub fn new(seed: u64) -> Plan {
        let root = Random::new(seed);
        let mut random = root.fork("plan");
        let members = *random.pick(&[1, 3, 3, 3, 3, 5]);
        let length = Duration::from_secs(random.between(8, 30));
        let link = Link {
            blocked: false,
            delay_ms: *random.pick(&[(1, 2), (1, 5), (1, 20), (5, 50)]),
            loss: *random.pick(&[0, 0, 0, 5, 30]),
        };
        let load = Load {
            clients: random.between(2, 10) as usize,
            lease_clients: random.between(0, 3) as usize,
            watchers: random.between(1, 4) as usize,
            keys: *random.pick(&[1, 3, 8, 40]),
            pause_ms: *random.pick(&[1, 20, 100]),
            large_value_bytes: *random.pick(&[0, 0, 4_000, 60_000]),
            compaction: Duration::from_millis(*random.pick(&[0, 500, 2000, 5000])),
            deadline: random.millis(500, 8000),
        };
        let (faults, drifts) = draw_faults(&mut root.fork("faults"), members, length);
        Plan {
            seed,
            members,
            length,
            link,
            load,
            faults,
            wal_segment_bytes: *random.pick(&[64 << 10, 256 << 10, 1 << 20]),
            wal_keep_bytes: *random.pick(&[0, 64 << 10, 1 << 20]),
            watch_queue_events: *random.pick(&[4, 64, 1024]),
            tick: random.millis(1, 4),
            rate_max: if drifts { RATE_MAX } else { 1.0 },
        }
    }
}

const RATE_MAX: f64 = 1.05;

fn draw_faults(random: &mut Random, members: usize, length: Duration) -> (Vec<(Duration, Fault)>, bool) {
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
        if let Some(fault) = draw_fault(random, kind, members) {
            faults.push((at, fault));
        }
        at += random.millis(gap_ms / 4, gap_ms * 2);
    }
    let drifts = faults.iter().any(|(_, fault)| matches!(fault, Fault::Drift { .. }));
    (faults, drifts)
}

fn draw_fault(random: &mut Random, kind: u64, members: usize) -> Option<Fault> {
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
        6 => Fault::Partition { cut: draw_partition(random, members), length: random.millis(200, 6000) },
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

/// Machine `members` stands for all clients.
fn draw_partition(random: &mut Random, members: usize) -> Vec<(usize, usize)> {
    let all = members + 1;
    let mut cut = Vec::new();
    let mut both = |one: usize, other: usize| cut.extend([(one, other), (other, one)]);
    let lonely = random.below(members as u64) as usize;
    match random.below(5) {
        // One alone, with or without clients.
        0 => {
            let clients_too = random.chance(500);
            (0..members + usize::from(clients_too)).filter(|m| *m != lonely).for_each(|m| both(lonely, m));
        }
        // Two halves.
        1 => {
            let half: Vec<bool> = (0..all).map(|_| random.chance(500)).collect();
            for one in 0..all {
                (one + 1..all).filter(|other| half[one] != half[*other]).for_each(|other| both(one, other));
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
