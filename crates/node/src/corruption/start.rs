//! The comparison of a member that starts with its peers, before it takes part. A member that is wrong must not serve, and must
//! not vote with what it has.

use super::verdict::{Verdict, comparable};
use super::{Hashing, of_reply};
use crate::peer::Peers;
use crate::raft::members_of;
use crate::{Config, Error};
use futures::future::join_all;
use pb::request::Kind as Ask;
use pb::response::Kind as PeerAnswer;
use quorate_core::MemberId;
use quorate_proto::peer_v1 as pb;
use quorate_storage::HashKv;
use std::path::Path;
use std::time::Duration;

/// How long a peer may take to accept a connection. Peers that start at the same time are not there yet.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a peer may take to hash.
const HASH_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a member may not start as it is.
pub(crate) struct Contradicted {
    /// What to do.
    pub refusal: String,
    /// Whether a majority of the cluster agrees among itself that this member is the one that is wrong.
    pub by_majority: bool,
}

/// Compares this member with those of its peers that answer. It may start if nobody contradicts it, or if a majority of the
/// cluster agrees with it.
///
/// # Errors
/// [`Error::Fatal`] if its own data cannot be read.
pub(crate) async fn check_at_start(
    config: &Config,
    me: MemberId,
    hashing: &Hashing,
    peers: &Peers,
) -> Result<Option<Contradicted>, Error> {
    let store = hashing.store();
    let used = store.engine_usage().map_or(0, |usage| usage.used_bytes);
    let members = members_of(&store.membership()).map_err(|error| Error::Fatal(error.to_string()))?;
    let others: Vec<_> = members.iter().filter(|member| member.id != me.get()).collect();
    if others.is_empty() || config.initial_corrupt_check_bytes_max == 0 {
        return Ok(None);
    }
    if used > config.initial_corrupt_check_bytes_max {
        tracing::info!(used, "so much data are compared with the others' after the start, by the leader");
        return Ok(None);
    }
    let own = hashing.at_once(quorate_core::Revision::ZERO).await?;
    let request = pb::HashRequest { revision: own.hash_revision.get(), at_once: true };
    let answers = join_all(others.iter().map(async |member| {
        let ask = Ask::Hash(request);
        let answer = peers.ask_once(member.id, &member.node.peer_urls, ask, CONNECT_TIMEOUT, HASH_TIMEOUT).await;
        match answer {
            Ok(PeerAnswer::Hash(reply)) => Some((MemberId::new(member.id), of_reply(&reply))),
            Ok(_) => None,
            Err(error) => {
                let peer = format!("{:x}", member.id);
                tracing::info!(peer, %error, "the data of a peer cannot be compared before the start");
                None
            }
        }
    }));
    let found: Vec<_> = answers.await.into_iter().flatten().collect();
    Ok(judge(own, &found, members.len()).err().map(|wrong| Contradicted {
        refusal: refusal(me, own, &wrong, &config.data_dir),
        by_majority: match super::judge(me, own, &found, members.len()) {
            Verdict::Wrong(wrong) => wrong.contains(&me),
            Verdict::Equal { .. } => false,
        },
    }))
}

/// `Err`: those who contradict, and no majority agrees.
fn judge(own: HashKv, found: &[(MemberId, HashKv)], members: usize) -> Result<(), Vec<MemberId>> {
    let (agree, differ): (Vec<(MemberId, HashKv)>, Vec<_>) =
        found.iter().filter(|(_, hash)| comparable(own, *hash)).partition(|(_, hash)| hash.hash == own.hash);
    let differ: Vec<MemberId> = differ.into_iter().map(|(id, _)| id).collect();
    if differ.is_empty() {
        if !found.is_empty() {
            tracing::info!(revision = own.hash_revision.get(), agree = agree.len(), "the data are equal to the peers'");
        }
        return Ok(());
    }
    // This member, and those who agree.
    if agree.len() + 1 > members / 2 {
        tracing::error!(
            revision = own.hash_revision.get(),
            ?differ,
            "the data of peers differ from those of the majority"
        );
        return Ok(());
    }
    Err(differ)
}

fn refusal(me: MemberId, own: HashKv, differ: &[MemberId], data_dir: &Path) -> String {
    let me = me.get();
    let differ: Vec<String> = differ.iter().map(|id| format!("{:x}", id.get())).collect();
    format!(
        "{}: member {me:x} found data inconsistency with peers: at revision {} its data differ from those of {}, though every \
         checksum is right. To rebuild it from the others, remove it (`quorate member remove {me:x}`), delete its data \
         directory, add it again (`quorate member add`), and start it with --initial-cluster-state existing. If you know that \
         the others are wrong, start it with --experimental-initial-corrupt-check=false",
        data_dir.display(),
        own.hash_revision.get(),
        differ.join(", "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::Revision;

    #[test]
    fn a_member_starts_unless_it_is_contradicted_and_has_no_majority_behind_it() {
        let of = |hash| HashKv { hash, compact_revision: Revision::new(3), hash_revision: Revision::new(9) };
        let id = MemberId::new;
        assert_eq!(judge(of(7), &[], 3), Ok(()));
        assert_eq!(judge(of(7), &[(id(2), of(7))], 3), Ok(()));
        assert_eq!(judge(of(7), &[(id(2), of(8))], 3), Err(vec![id(2)]));
        assert_eq!(judge(of(7), &[(id(2), of(8)), (id(3), of(8))], 3), Err(vec![id(2), id(3)]));
        assert_eq!(judge(of(7), &[(id(2), of(8)), (id(3), of(7))], 3), Ok(()), "the other one is wrong");
        assert_eq!(judge(of(7), &[(id(2), of(8))], 2), Err(vec![id(2)]));
        let compacted = HashKv { compact_revision: Revision::new(5), ..of(8) };
        assert_eq!(judge(of(7), &[(id(2), compacted)], 3), Ok(()), "cannot be compared");
    }
}
