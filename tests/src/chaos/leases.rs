//! Leases that are granted, renewed for a while, and left alone: none may end early, and each must end in time.
//!
//! Early is before its time to live has passed since the last renewal that was answered was *sent*. Late is more than an election
//! and a second after that time; a disturbance of the cluster begins the time anew, because a new leader gives each lease its
//! whole time again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use quorate_proto::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, PutRequest};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tonic::Status;

use super::timeline::{Disturbance, Timeline};
use crate::client::{Client, bytes};

/// An election, a second, and what a busy machine adds.
const GRACE: Duration = Duration::from_secs(6);
const WORKERS: usize = 4;

/// The life of one lease.
#[derive(Clone, Debug)]
struct Lease {
    ttl: Duration,
    /// When the last renewal that may have been carried out had its answer, or none.
    renewed_until: Duration,
    /// When its key was asked for, and was gone.
    gone: Duration,
}

/// Clients that hold leases.
#[derive(Debug)]
pub struct Leases {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Lease>>>,
    watched: Arc<AtomicUsize>,
    timeline: Arc<Timeline>,
}

impl Leases {
    /// Starts them.
    pub fn start(seed: u64, endpoints: &[String], timeline: &Arc<Timeline>) -> Leases {
        let (stop, watched) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
        let tasks = (0..WORKERS).map(|number| {
            let clients: Vec<Client> =
                endpoints.iter().map(|endpoint| Client::new(endpoint, Duration::from_secs(2))).collect();
            let holder = Holder {
                number,
                at: number % clients.len(),
                clients,
                random: SmallRng::seed_from_u64(seed ^ (number as u64 + 1) << 32),
                timeline: timeline.clone(),
            };
            tokio::spawn(holder.run(stop.clone(), watched.clone()))
        });
        Leases { tasks: tasks.collect(), stop, watched, timeline: timeline.clone() }
    }

    /// Waits until the last leases have ended, and judges all.
    ///
    /// # Panics
    /// When one of the clients did.
    pub async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let mut leases = Vec::new();
        for task in self.tasks {
            leases.append(&mut task.await.expect("a holder of leases does not panic"));
        }
        let disturbances = self.timeline.disturbances();
        for lease in &leases {
            let due = due(lease, &disturbances);
            if lease.gone > due {
                self.timeline.violation(format!("{lease:?} should have ended by {due:?}"));
            }
        }
        let watched = self.watched.load(Ordering::Relaxed);
        self.timeline.say(&format!("{} leases ended, of {watched} that were granted", leases.len()));
    }
}

/// By when a lease must be gone.
fn due(lease: &Lease, disturbances: &[Disturbance]) -> Duration {
    let mut due = lease.renewed_until + lease.ttl + GRACE;
    for disturbance in disturbances {
        if disturbance.end > lease.renewed_until && disturbance.start < due {
            due = due.max(disturbance.end + lease.ttl + GRACE);
        }
    }
    due
}

struct Holder {
    number: usize,
    clients: Vec<Client>,
    at: usize,
    random: SmallRng,
    timeline: Arc<Timeline>,
}

impl Holder {
    async fn run(mut self, stop: Arc<AtomicBool>, watched: Arc<AtomicUsize>) -> Vec<Lease> {
        let mut leases = Vec::new();
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            count += 1;
            let key = format!("lease/{}/{count}", self.number);
            match self.hold(&key).await {
                Ok(Some(lease)) => {
                    watched.fetch_add(1, Ordering::Relaxed);
                    leases.push(lease);
                }
                // Whether there is a lease is not known, so there is nothing to judge.
                Ok(None) | Err(_) => {
                    self.at = (self.at + 1) % self.clients.len();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        leases
    }

    /// The life of one lease. `None` if it ended before its key was there.
    async fn hold(&mut self, key: &str) -> Result<Option<Lease>, Status> {
        let client = self.clients[self.at].clone();
        let ttl_s = self.random.random_range(2..6);
        let ttl = Duration::from_secs(ttl_s);
        let mut renewed = self.timeline.now();
        let request = LeaseGrantRequest { ttl: ttl_s as i64, id: 0 };
        let id = client.within(client.lease().lease_grant(request)).await?.id;
        let put = PutRequest { key: bytes(key), value: bytes("held"), lease: id, ..PutRequest::default() };
        client.within(client.kv().put(put)).await?;
        let mut renewed_until = self.timeline.now();
        for _ in 0..self.random.random_range(0..4) {
            tokio::time::sleep(ttl / 3).await;
            let sent = self.timeline.now();
            let answer = renew(&self.clients[self.at], id).await;
            renewed_until = self.timeline.now();
            match answer {
                Ok(0) => {
                    self.check_not_early(key, ttl, renewed, renewed_until);
                    break;
                }
                Ok(_) => renewed = sent,
                Err(_) => self.at = (self.at + 1) % self.clients.len(),
            }
        }
        Ok(Some(self.wait_gone(key, ttl, renewed, renewed_until).await))
    }

    fn check_not_early(&self, key: &str, ttl: Duration, renewed: Duration, gone: Duration) {
        if gone < renewed + ttl {
            let text =
                format!("{key} was gone at {gone:?}, renewed at {renewed:?} or later for {ttl:?}: it ended early");
            self.timeline.violation(text);
        }
    }

    async fn wait_gone(&mut self, key: &str, ttl: Duration, renewed: Duration, renewed_until: Duration) -> Lease {
        loop {
            let asked = self.timeline.now();
            match self.clients[self.at].get(key, false).await {
                Ok((_, None)) => {
                    self.check_not_early(key, ttl, renewed, self.timeline.now());
                    return Lease { ttl, renewed_until, gone: asked };
                }
                Ok((_, Some(_))) => {}
                Err(_) => self.at = (self.at + 1) % self.clients.len(),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Renews a lease; gives the time that it has, in seconds, 0 if it is no more.
async fn renew(client: &Client, id: i64) -> Result<i64, Status> {
    let requests = tokio_stream::once(LeaseKeepAliveRequest { id });
    let mut answers = client.within(client.lease().lease_keep_alive(requests)).await?;
    match tokio::time::timeout(Duration::from_secs(2), answers.next()).await {
        Ok(Some(answer)) => Ok(answer?.ttl),
        Ok(None) | Err(_) => Err(Status::unavailable("no answer to a renewal")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbance_begins_the_time_anew() {
        let at = Duration::from_secs;
        let lease = Lease { ttl: at(5), renewed_until: at(10), gone: at(40) };
        assert_eq!(due(&lease, &[]), at(15) + GRACE);
        let before = Disturbance { start: at(1), end: at(9) };
        let during = Disturbance { start: at(12), end: at(20) };
        let long_after = Disturbance { start: at(80), end: at(90) };
        assert_eq!(due(&lease, &[before, during, long_after]), at(25) + GRACE);
    }
}
