//! A member that finds no leader asks whether it is still one. Whoever is removed while it is away, and comes back knowing no
//! member that is still there, is dialled by nobody and would wait for ever; so it dials.
//!
//! Knows where others may be; what their answer means, the links know. Asks only who could have told by himself: an answer of
//! "removed" is of the applied log, and for good.

use crate::group::Group;
use crate::peer::Peers;
use crate::{Config, membership};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often a member that finds no leader asks: as often as links are probed.
const ASK_INTERVAL: Duration = Duration::from_secs(5);

/// Asks, as long as there is no leader. Runs until the group is gone.
pub(crate) struct Inquiry {
    group: Weak<Group>,
    peers: Arc<Peers>,
    config: Arc<Config>,
}

impl Inquiry {
    pub(crate) fn new(group: &Arc<Group>, peers: Arc<Peers>, config: Arc<Config>) -> Self {
        Self { group: Arc::downgrade(group), peers, config }
    }

    pub(crate) async fn run(self) {
        loop {
            tokio::time::sleep(ASK_INTERVAL).await;
            let Some(group) = self.group.upgrade() else { return };
            if group.has_leader() {
                continue;
            }
            let urls = self.urls(&group);
            drop(group);
            let mut asked: FuturesUnordered<_> = urls.iter().map(|url| self.peers.introduce(url)).collect();
            while asked.next().await.is_some() {}
        }
    }

    /// Where others are or were: those of the membership that this member has, and those that it was started with.
    fn urls(&self, group: &Group) -> BTreeSet<String> {
        let me = group.state.member;
        let members = membership::members(group).unwrap_or_default();
        let members = members.into_iter().filter(|member| member.id != me).flat_map(|member| member.peer_urls);
        let started_with = self.config.initial_cluster.iter().filter(|(name, _)| *name != self.config.name);
        let mine = &self.config.initial_advertise_peer_urls;
        members.chain(started_with.map(|(_, url)| url.clone())).filter(|url| !mine.contains(url)).collect()
    }
}
