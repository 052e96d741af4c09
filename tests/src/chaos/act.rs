//! Carries out a plan on a cluster, step by step, and measures how long the cluster takes to recover from each.

use std::process::{Child, Command};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use quorate_proto::etcdserverpb::{
    DefragmentRequest, Member, MemberAddRequest, MemberListRequest, MemberPromoteRequest, MemberRemoveRequest,
    SnapshotRequest,
};
use tonic::Status;

use super::fault::Fault;
use super::plan::{Step, Victim};
use super::resources::Pids;
use super::timeline::Timeline;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::syncs;

/// By when every member has to serve after a fault has ended.
pub const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// When the run gives up to wait.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(60);
/// A change of the membership may need a leader first, and members that are healthy.
const CHANGE_PATIENCE: Duration = Duration::from_secs(40);
const SYNC_DELAY: Duration = Duration::from_millis(300);

/// The hands of a run.
#[derive(Debug)]
pub struct Actor {
    /// The cluster.
    pub cluster: Cluster,
    /// How many members the plan speaks of; one more may be there as a learner.
    members: usize,
    timeline: Arc<Timeline>,
    pids: Pids,
    recoveries: Vec<Duration>,
}

impl Actor {
    /// For a cluster whose members all run.
    pub fn new(cluster: Cluster, members: usize, timeline: Arc<Timeline>) -> Actor {
        let actor = Actor { cluster, members, timeline, pids: Pids::default(), recoveries: Vec::new() };
        actor.note_pids();
        actor
    }

    /// The processes, kept up to date.
    pub fn pids(&self) -> Pids {
        self.pids.clone()
    }

    /// How long each recovery took.
    pub fn recoveries(&self) -> &[Duration] {
        &self.recoveries
    }

    fn note_pids(&self) {
        let now = self.cluster.running().into_iter().map(|member| (member, self.cluster.pid(member))).collect();
        *self.pids.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Carries out one step, until the cluster has recovered.
    ///
    /// # Errors
    /// When the fault cannot be made, or the cluster does not come back.
    pub async fn step(&mut self, step: &Step) -> Result<()> {
        tokio::time::sleep(step.quiet).await;
        let start = self.timeline.now();
        let victims = self.victims(step).await;
        let names: Vec<String> = victims.iter().map(|victim| format!("m{victim}")).collect();
        let with = if step.maintenance { ", with maintenance" } else { "" };
        let hold = step.hold;
        self.timeline.say(&format!(
            "{} of {} ({}) for {hold:?}{with}",
            step.fault.name(),
            step.victim,
            names.join(" ")
        ));
        let maintenance = (step.maintenance || step.fault == Fault::Maintenance).then(|| {
            let clients = (0..self.members).map(|member| self.cluster.client(member)).collect();
            tokio::spawn(maintain(clients, step.variant))
        });
        self.carry_out(step, &victims).await?;
        if let Some(maintenance) = maintenance {
            let said = maintenance.await.context("maintenance panicked")?;
            self.timeline.say(&said);
        }
        let took = self.recover(step.fault).await?;
        self.timeline.say(&format!("  recovered within {:.2} s", took.as_secs_f64()));
        self.timeline.disturbed(start);
        Ok(())
    }

    async fn victims(&self, step: &Step) -> Vec<usize> {
        let drawn = step.variant % self.members;
        match step.victim {
            Victim::All => (0..self.members).collect(),
            Victim::Member(member) => vec![member % self.members],
            // A learner that is leaving may lead for a moment.
            Victim::Leader => {
                vec![self.cluster.leader().await.filter(|leader| *leader < self.members).unwrap_or(drawn)]
            }
        }
    }

    fn others(&self, member: usize) -> Vec<usize> {
        (0..self.members).filter(|other| *other != member).collect()
    }

    async fn carry_out(&mut self, step: &Step, victims: &[usize]) -> Result<()> {
        let Some(&victim) = victims.first() else { bail!("a fault without a victim") };
        match step.fault {
            Fault::Kill => {
                victims.iter().for_each(|&member| self.cluster.kill9(member));
                tokio::time::sleep(step.hold).await;
                victims.iter().for_each(|&member| self.cluster.restart(member));
            }
            Fault::Pause => {
                victims.iter().for_each(|&member| self.cluster.stop(member));
                tokio::time::sleep(step.hold).await;
                victims.iter().for_each(|&member| self.cluster.cont(member));
            }
            Fault::Isolate | Fault::OneWay | Fault::Chain => self.cut(step, victim).await?,
            Fault::SlowLink => self.shape(victims, "tbf rate 2mbit burst 16kb latency 200ms", step.hold).await?,
            Fault::LossyLink => self.shape(victims, "netem loss 10% delay 20ms 10ms duplicate 1%", step.hold).await?,
            Fault::ClockJump => {
                let to = ["+3600", "-3600", "+7", "-7", "+86400"][step.variant % 5];
                self.set_clocks(victims, to, step.hold).await;
            }
            Fault::ClockDrift => {
                let to = ["+0 x1.2", "+0 x0.8", "+0 x3"][step.variant % 3];
                self.set_clocks(victims, to, step.hold).await;
            }
            Fault::DiskFull => {
                victims.iter().for_each(|&member| self.cluster.fill_disk(member));
                tokio::time::sleep(step.hold).await;
                victims.iter().for_each(|&member| self.cluster.make_room(member));
            }
            Fault::SyncError => self.fail_syncs(victim, step.hold).await?,
            Fault::SlowDisk => self.delay_syncs(victims, step.hold).await?,
            Fault::PowerCut => {
                victims.iter().for_each(|&member| self.cluster.cut_power(member));
                tokio::time::sleep(step.hold).await;
                for &member in victims {
                    self.cluster.restore_power(member);
                    self.cluster.restart(member);
                }
            }
            Fault::Learner => self.learner(step).await?,
            Fault::Replace => self.replace(step, victim).await?,
            Fault::RollingRestart => self.rolling_restart().await?,
            Fault::Maintenance => tokio::time::sleep(step.hold).await,
        }
        Ok(())
    }

    async fn cut(&self, step: &Step, victim: usize) -> Result<()> {
        let others = self.others(victim);
        let links = self.cluster.links();
        match step.fault {
            Fault::Chain => links.split(&[victim], &others[..1])?,
            Fault::OneWay => {
                for &other in &others {
                    let (from, to) = if step.variant.is_multiple_of(2) { (victim, other) } else { (other, victim) };
                    links.cut(from, to)?;
                }
            }
            // The only other kind that gets here.
            _ => links.split(&[victim], &others)?,
        }
        tokio::time::sleep(step.hold).await;
        links.heal()
    }

    async fn shape(&self, victims: &[usize], qdisc: &str, hold: Duration) -> Result<()> {
        for &member in victims {
            self.cluster.links().shape(member, qdisc)?;
        }
        tokio::time::sleep(hold).await;
        for &member in victims {
            self.cluster.links().unshape(member)?;
        }
        Ok(())
    }

    async fn set_clocks(&self, victims: &[usize], to: &str, hold: Duration) {
        victims.iter().for_each(|&member| self.cluster.set_clock(member, to));
        tokio::time::sleep(hold).await;
        victims.iter().for_each(|&member| self.cluster.set_clock(member, "+0"));
    }

    async fn fail_syncs(&mut self, victim: usize, hold: Duration) -> Result<()> {
        let mut strace = syncs::fail(self.cluster.pid(victim))?;
        // Writes come all the time, so there is a sync to fail, unless there is no leader for a moment.
        let ended = self.cluster.wait_exit(victim, RECOVERY_MAX).await;
        match ended {
            None => {
                end(&mut strace)?;
                self.timeline.violation(format!("m{victim} runs on {RECOVERY_MAX:?} after its disk began to fail"));
            }
            Some(status) => {
                strace.wait()?;
                self.timeline.say(&format!("  m{victim} has ended: {status}"));
                if status.success() {
                    self.timeline.violation(format!("m{victim} ended with success although its disk failed"));
                }
            }
        }
        tokio::time::sleep(hold / 2).await;
        Ok(())
    }

    async fn delay_syncs(&self, victims: &[usize], hold: Duration) -> Result<()> {
        let straces: Result<Vec<Child>> =
            victims.iter().map(|&member| syncs::delay(self.cluster.pid(member), SYNC_DELAY)).collect();
        let mut straces = straces?;
        tokio::time::sleep(hold).await;
        straces.iter_mut().try_for_each(end)
    }

    async fn rolling_restart(&mut self) -> Result<()> {
        for member in 0..self.members {
            self.cluster.terminate(member).await;
            self.cluster.restart(member);
            self.note_pids();
            self.cluster.wait_member_serving(member).await;
        }
        Ok(())
    }

    /// A member more joins as a learner, gets a vote, and leaves.
    async fn learner(&mut self, step: &Step) -> Result<()> {
        let learner = self.members;
        self.cluster.rejoin(learner, &(0..learner).collect::<Vec<_>>());
        self.add(learner, true).await?;
        self.cluster.restart(learner);
        self.maybe_kill_leader(step).await;
        self.promote(learner).await?;
        self.timeline.say(&format!("  m{learner} has a vote"));
        tokio::time::sleep(step.hold).await;
        self.remove(learner).await
    }

    /// A member leaves, and comes back with a new disk and a new id.
    async fn replace(&mut self, step: &Step, victim: usize) -> Result<()> {
        self.remove(victim).await?;
        self.cluster.rejoin(victim, &self.others(victim));
        self.add(victim, false).await?;
        self.maybe_kill_leader(step).await;
        self.cluster.restart(victim);
        tokio::time::sleep(step.hold).await;
        Ok(())
    }

    async fn maybe_kill_leader(&mut self, step: &Step) {
        if step.and_kill
            && let Some(leader) = self.cluster.leader().await.filter(|leader| *leader < self.members)
        {
            self.timeline.say(&format!("  and m{leader}, the leader, is killed"));
            self.cluster.kill9(leader);
            self.cluster.restart(leader);
            self.note_pids();
        }
    }

    async fn add(&self, member: usize, is_learner: bool) -> Result<()> {
        let url = self.cluster.peer_url(member);
        self.until("the membership has the new member", async |client, members| {
            if find(members, &url).is_some() {
                return Ok(true);
            }
            let request = MemberAddRequest { peer_urls: vec![url.clone()], is_learner };
            client.within(client.cluster().member_add(request)).await.map(|_| false)
        })
        .await
    }

    async fn promote(&self, member: usize) -> Result<()> {
        let url = self.cluster.peer_url(member);
        self.until("the learner has a vote", async |client, members| match find(members, &url) {
            Some(found) if !found.is_learner => Ok(true),
            Some(found) => client
                .within(client.cluster().member_promote(MemberPromoteRequest { id: found.id }))
                .await
                .map(|_| false),
            None => Err(Status::unavailable("it is not a member yet")),
        })
        .await
    }

    async fn remove(&mut self, member: usize) -> Result<()> {
        let url = self.cluster.peer_url(member);
        self.until("the membership is without the old member", async |client, members| match find(members, &url) {
            None => Ok(true),
            Some(found) => {
                client.within(client.cluster().member_remove(MemberRemoveRequest { id: found.id })).await.map(|_| false)
            }
        })
        .await?;
        if self.cluster.wait_exit(member, CHANGE_PATIENCE).await.is_none() {
            bail!("m{member} was removed and runs on after {CHANGE_PATIENCE:?}");
        }
        self.note_pids();
        Ok(())
    }

    /// Asks members in turn for the membership, and calls `step` with it until that says that all is done.
    async fn until(&self, what: &str, step: impl AsyncFn(&Client, &[Member]) -> Result<bool, Status>) -> Result<()> {
        let deadline = Instant::now() + CHANGE_PATIENCE;
        let mut last = None;
        for member in (0..self.members).cycle() {
            let client = self.cluster.client(member);
            let list = client.cluster().member_list(MemberListRequest { linearizable: true }).await;
            let outcome = match list {
                Ok(list) => step(&client, &list.into_inner().members).await,
                Err(status) => Err(status),
            };
            match outcome {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(status) => last = Some(status),
            }
            if Instant::now() > deadline {
                bail!("not after {CHANGE_PATIENCE:?}: {what}; last {last:?}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Starts members that have ended, which only some faults may make them do.
    fn revive(&mut self, fault: Fault) -> Result<()> {
        for member in 0..self.members {
            if let Some(status) = self.cluster.try_exit(member)? {
                self.timeline.say(&format!("  m{member} has ended by itself: {status}"));
                if !fault.may_end_process() {
                    self.timeline.violation(format!("m{member} ended by itself: {status}"));
                }
            }
            if !self.cluster.is_running(member) {
                self.cluster.restart(member);
            }
        }
        self.note_pids();
        Ok(())
    }

    /// Waits until every member answers a linearizable read and takes a write. A member may take a moment to end after the fault
    /// that makes it end, so those that have ended are looked for all the time.
    async fn recover(&mut self, fault: Fault) -> Result<Duration> {
        let start = Instant::now();
        self.revive(fault)?;
        for member in 0..self.members {
            let client = Client::new(&self.cluster.endpoint(member), Duration::from_secs(2));
            loop {
                let outcome = match client.get("probe", false).await {
                    Ok(_) => client.put("probe", "x").await,
                    Err(status) => Err(status),
                };
                let Err(status) = outcome else { break };
                if start.elapsed() > RECOVERY_PATIENCE {
                    bail!("m{member} does not serve {RECOVERY_PATIENCE:?} after the fault has ended: {status}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.revive(fault)?;
            }
        }
        let took = start.elapsed();
        if took > RECOVERY_MAX {
            self.timeline.violation(format!("not all members served within {RECOVERY_MAX:?}, but after {took:?}"));
        }
        self.recoveries.push(took);
        Ok(took)
    }
}

fn find<'a>(members: &'a [Member], url: &String) -> Option<&'a Member> {
    members.iter().find(|member| member.peer_urls.contains(url))
}

/// Lets go of what is traced.
fn end(strace: &mut Child) -> Result<()> {
    Command::new("kill").arg(strace.id().to_string()).status()?;
    strace.wait()?;
    Ok(())
}

/// Defragments a member, and copies the data of another; gives what came of it, which may be an error while there are faults.
async fn maintain(clients: Vec<Client>, variant: usize) -> String {
    let (one, other) = (&clients[variant % clients.len()], &clients[variant / 7 % clients.len()]);
    let defragmented = match one.within(one.maintenance().defragment(DefragmentRequest {})).await {
        Ok(_) => "done".to_owned(),
        Err(status) => status.message().to_owned(),
    };
    let copied = match tokio::time::timeout(Duration::from_secs(10), copy(other)).await {
        Ok(Ok(length)) => format!("{length} bytes"),
        Ok(Err(status)) => status.message().to_owned(),
        Err(_) => "not in time".to_owned(),
    };
    format!("  defragmentation: {defragmented}; copy: {copied}")
}

async fn copy(client: &Client) -> Result<usize, Status> {
    let mut blocks = client.maintenance().snapshot(SnapshotRequest {}).await?.into_inner();
    let mut length = 0;
    while let Some(block) = blocks.message().await? {
        length += block.blob.len();
    }
    Ok(length)
}
