//! Locks of the Lock service hold while leaders die: at most one client is inside, and all get in.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate_proto::etcdserverpb::LeaseGrantRequest;
use quorate_proto::v3lockpb::{LockRequest, UnlockRequest};
use quorate_tests::client::{Client, bytes};
use quorate_tests::cluster::{Cluster, ClusterSpec};

const CLIENTS: usize = 8;
/// Times that each client gets in.
const ROUNDS: usize = 12;
/// For all of it, with an election for each kill.
const PATIENCE: Duration = Duration::from_secs(120);

/// A client that takes turns over the members, as one with several endpoints does.
struct Worker {
    endpoints: Vec<String>,
    turn: usize,
    lease: i64,
    deadline: Instant,
}

impl Worker {
    fn client(&self) -> Client {
        Client::new(&self.endpoints[self.turn % self.endpoints.len()], Duration::from_secs(10))
    }

    /// Repeats a request until a member answers it. All of them may be repeated.
    async fn persist<T, F>(&mut self, what: &str, mut request: impl FnMut(Client, i64) -> F) -> T
    where
        F: Future<Output = Result<T, tonic::Status>>,
    {
        loop {
            let failure = match request(self.client(), self.lease).await {
                Ok(answer) => return answer,
                Err(failure) => failure,
            };
            assert!(Instant::now() < self.deadline, "{what}: {failure}");
            self.turn += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn run(mut self, inside: Arc<AtomicUsize>, newest: Arc<AtomicI64>) {
        let grant = LeaseGrantRequest { ttl: 600, id: 0 };
        self.lease = self
            .persist("grant", move |client, _| async move {
                client.within(client.lease().lease_grant(grant)).await.map(|granted| granted.id)
            })
            .await;
        for _ in 0..ROUNDS {
            let held = self
                .persist("lock", |client, lease| async move {
                    let request = LockRequest { name: bytes("l"), lease };
                    client.within(client.locks().lock(request)).await
                })
                .await;
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
            let revision = held.header.expect("a header").revision;
            assert!(newest.fetch_max(revision, Ordering::SeqCst) <= revision, "the answer is older than one before");
            tokio::time::sleep(Duration::from_millis(20)).await;
            inside.fetch_sub(1, Ordering::SeqCst);
            self.persist("unlock", |client, _| {
                let request = UnlockRequest { key: held.key.clone() };
                async move { client.within(client.locks().unlock(request)).await }
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_holds_the_lock_at_a_time_while_leaders_are_killed() {
    let Some(mut cluster) = Cluster::start(ClusterSpec::new(3)).await else { return };
    let (inside, newest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicI64::new(0)));
    let deadline = Instant::now() + PATIENCE;
    let mut workers = tokio::task::JoinSet::new();
    for turn in 0..CLIENTS {
        let worker = Worker { endpoints: cluster.endpoints(), turn, lease: 0, deadline };
        workers.spawn(worker.run(inside.clone(), newest.clone()));
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let leader = cluster.wait_leader().await;
        cluster.kill9(leader);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.restart(leader);
        cluster.wait_member_serving(leader).await;
    }
    while let Some(outcome) = workers.join_next().await {
        outcome.expect("every client gets in");
    }
    cluster.assert_replicas_equal().await;
}
