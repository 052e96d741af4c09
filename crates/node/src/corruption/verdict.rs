//! Who is wrong, when hashes differ. Knows hashes, nothing of how they were got. As etcd 3.6 decides after a compaction.

use quorate_core::MemberId;
use quorate_storage::HashKv;
use std::collections::BTreeMap;

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// So many members could be compared, and are equal.
    Equal {
        /// The one that asked is one of them.
        members: usize,
    },
    /// These differ from what a majority of all members has; member 0 alone if there is no such majority, so that nobody
    /// knows who is right.
    Wrong(Vec<MemberId>),
}

/// Judges what `found` has of others against `own`, in a cluster of `members`. Of two histories that were compacted to
/// different revisions nothing can be said.
pub(super) fn judge(me: MemberId, own: HashKv, found: &[(MemberId, HashKv)], members: usize) -> Verdict {
    let mut by_hash: BTreeMap<u32, Vec<MemberId>> = BTreeMap::from([(own.hash, vec![me])]);
    for (id, hash) in found.iter().filter(|(_, hash)| comparable(own, *hash)) {
        by_hash.entry(hash.hash).or_default().push(*id);
    }
    if by_hash.len() == 1 {
        return Verdict::Equal { members: by_hash.into_values().map(|ids| ids.len()).sum() };
    }
    let quorum = members / 2 + 1;
    let Some(right) = by_hash.iter().find(|(_, ids)| ids.len() >= quorum).map(|(hash, _)| *hash) else {
        return Verdict::Wrong(vec![MemberId::new(0)]);
    };
    by_hash.remove(&right);
    Verdict::Wrong(by_hash.into_values().flatten().collect())
}

/// Whether two hashes are of the same stretch of history.
pub(super) fn comparable(one: HashKv, other: HashKv) -> bool {
    one.compact_revision == other.compact_revision && one.hash_revision == other.hash_revision
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::Revision;

    fn of(hash: u32) -> HashKv {
        HashKv { hash, compact_revision: Revision::new(3), hash_revision: Revision::new(9) }
    }

    fn id(id: u64) -> MemberId {
        MemberId::new(id)
    }

    fn verdict(own: u32, others: &[u32], members: usize) -> Verdict {
        let found: Vec<_> = others.iter().enumerate().map(|(i, hash)| (id(i as u64 + 2), of(*hash))).collect();
        judge(id(1), of(own), &found, members)
    }

    #[test]
    fn equal_hashes_are_equal_however_many_answer() {
        assert_eq!(verdict(7, &[7, 7], 3), Verdict::Equal { members: 3 });
        assert_eq!(verdict(7, &[7], 3), Verdict::Equal { members: 2 });
        assert_eq!(verdict(7, &[], 3), Verdict::Equal { members: 1 });
    }

    #[test]
    fn the_minority_is_wrong_the_leader_too() {
        assert_eq!(verdict(7, &[7, 8], 3), Verdict::Wrong(vec![id(3)]));
        assert_eq!(verdict(8, &[7, 7], 3), Verdict::Wrong(vec![id(1)]));
        assert_eq!(verdict(7, &[7, 8, 7, 9], 5), Verdict::Wrong(vec![id(3), id(5)]));
    }

    #[test]
    fn without_a_majority_nobody_knows_who_is_wrong() {
        assert_eq!(verdict(7, &[8], 2), Verdict::Wrong(vec![id(0)]));
        assert_eq!(verdict(7, &[8], 3), Verdict::Wrong(vec![id(0)]), "the third does not answer");
        assert_eq!(verdict(7, &[8, 9], 3), Verdict::Wrong(vec![id(0)]));
    }

    #[test]
    fn what_was_compacted_otherwise_is_not_compared() {
        let other = HashKv { compact_revision: Revision::new(4), ..of(8) };
        assert_eq!(judge(id(1), of(7), &[(id(2), other)], 3), Verdict::Equal { members: 1 });
    }
}
