//! The list of bugs and of rare paths.

/// Makes [`Bug`] from one list, so that a bug's name, place and words stand together.
macro_rules! bugs {
    ($($name:ident, $area:literal, $what:literal;)*) => {
        /// A deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Bug {
            $(#[doc = $what] $name,)*
        }

        /// What is known of a bug beside its number. Only in programs that can have it.
        #[cfg(feature = "armed")]
        impl Bug {
            /// All bugs, by their numbers.
            pub const ALL: &'static [Bug] = &[$(Bug::$name),*];

            /// The bug of this name.
            pub fn by_name(name: &str) -> Option<Bug> {
                Bug::ALL.iter().copied().find(|bug| bug.name() == name)
            }

            /// Its name, as in the code.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$name => stringify!($name),)* }
            }

            /// The part of the system that it is in.
            pub fn area(self) -> &'static str {
                match self { $(Bug::$name => $area,)* }
            }

            /// What is wrong then.
            pub fn what(self) -> &'static str {
                match self { $(Bug::$name => $what,)* }
            }
        }
    };
}

bugs! {
    WalSyncSkipped, "wal", "a batch is acknowledged before it is synced";
    WalSyncErrorIgnored, "wal", "an fsync that fails counts as done";
    WalDirSyncSkipped, "wal", "the directory is not synced when a segment gets its name";
    WalTruncateNotLogged, "wal", "entries that a new leader takes back are taken back in memory only";
    WalPurgeNotLogged, "wal", "the log frees segments without having written that they may go";
    WalLastRecordLost, "wal", "recovery cuts one record too many off the tail";
    WalTornTailIsDamage, "wal", "a torn tail counts as damage, and the member does not start";
    WalChecksumIgnored, "wal", "a record is taken whatever its checksum says";
    WalTailNotSynced, "wal", "what a restart finds in the page cache counts as durable";
    WalNonceReused, "wal", "a recycled segment keeps its number, so that its old records count again";
    WalVoteNotRestated, "wal", "a new segment does not repeat the vote";
    AppendAckedEarly, "raft", "an entry counts as durable as soon as it is queued";
    VoteForgotten, "raft", "a vote is not written";
    VoteNotAwaited, "raft", "a vote is answered before it is on the disk";
    LeaderRestored, "raft", "a leader that was restarted leads on in its old term";
    LogDroppedAtSnapshot, "raft", "a snapshot lets the log go up to what is applied, which the engine may not have yet";
    LogPurgedTooFar, "raft", "the log goes beyond what the engine has made durable";
    ReadWithoutQuorum, "read index", "a leader answers a linearizable read without asking a quorum";
    ReadOnFollower, "read index", "a follower answers a linearizable read from what it has";
    ReadJoinsOldRound, "read index", "a read is answered from a round that began before it";
    ReadNotWaited, "read index", "a read does not wait until the index of its round is applied";
    HeaderBeforeRead, "read index", "the header of a read is older than what was read";
    OnceResent, "once", "a batch whose fate is not known is sent again at once";
    OnceAnyTerm, "once", "a batch is proposed in whatever term it is now";
    OnceSequenceReused, "once", "a member that was restarted numbers its batches from the start again";
    OnceAppliedAgain, "once", "a restart applies the last entry again";
    RepliesSwapped, "once", "the commands of a batch get each other's replies";
    LeaseRenewedByOldLeader, "lease", "a leader renews without asking a quorum whether it still leads";
    LeaseShortAtNewLeader, "lease", "a new leader gives a lease half of its time";
    LeaseSecondShort, "lease", "a renewal gives a second less than it says";
    LeaseRenewedAfterEnd, "lease", "a lease that is due can be renewed while its end is under way";
    LeaseRevokedByOldLeader, "lease", "a leader that was deposed has leases revoked that it thinks are due";
    LeaseNeverExpires, "lease", "a lease that is due is not revoked";
    LeaseRevokeKeepsKey, "lease", "a revocation leaves the last of several keys";
    LeaseKeysForgotten, "lease", "a restart does not know which keys hang on which lease";
    LeaseStillAttached, "lease", "a key that is written without a lease ends with its old one";
    WatchGapAtLive, "watch", "a watcher goes live although more was published meanwhile";
    WatchOverflowLoses, "watch", "a queue that overflows loses what was in it";
    WatchHistorySkips, "watch", "catching up begins one revision too late";
    WatchHistoryUnfiltered, "watch", "filters do not hold for events from history";
    WatchRevisionSplit, "watch", "a message ends in the middle of a revision";
    WatchProgressAhead, "watch", "progress is said while events wait";
    WatchNotifyAhead, "watch", "a watcher is told of progress while its events wait";
    WatchCompactedSilently, "watch", "a watcher that compaction has overtaken goes on behind the gap";
    WatchSnapshotGap, "watch", "live watchers are not told to read history when a snapshot replaces the state";
    WatchPrevKvMissing, "watch", "the value before is left out";
    WatchPrevKvIsNew, "watch", "the value before is the new one";
    CompactionTakesBase, "compaction", "the last value of a live key at the compacted revision goes";
    CompactionTakesTombstone, "compaction", "the deletion of a key exactly at the compacted revision goes";
    CompactionNotRefused, "compaction", "a read of a compacted revision is answered from what is left";
    CompactionBeforeCheckpoint, "compaction", "compaction removes tombstones that the index checkpoint still needs";
    CompactionUnderView, "compaction", "compaction does not wait for whoever still reads";
    TxnFirstCompareOnly, "txn", "only the first comparison counts";
    TxnLastOpDropped, "txn", "the last of several operations is not carried out";
    TxnReadsBefore, "txn", "an operation does not see what those before it have written";
    TxnValueCompareOnMissing, "txn", "a comparison with the value of a key that is not there holds";
    TxnVersionStays, "txn", "an overwrite does not count up the version";
    TxnCreateMoves, "txn", "an overwrite moves the creation";
    TxnPrevKvMissing, "txn", "a put does not return what was there";
    TxnIgnoreValueClears, "txn", "a put that is to keep the value clears it";
    DeleteRangeStops, "txn", "a delete of several keys leaves the last";
    RangeLimitIgnoresMore, "txn", "a read that its limit cut says that there is no more";
    SnapshotRecordDropped, "snapshot", "a snapshot leaves out its first record";
    SnapshotLeasesDropped, "snapshot", "a snapshot leaves out the leases";
    SnapshotNotFlushed, "snapshot", "a snapshot counts as installed before it is durable";
    SnapshotIndexShort, "snapshot", "the index of an installed snapshot lacks a key after a restart";
    DrainLosesTables, "restart", "leases, members and users of a drain do not come to the engine";
    AppliedAhead, "restart", "the engine says that it has all that is applied, though a part is only in memory";
    FlushSkipped, "restart", "the engine is said to be durable without a flush";
    CheckpointPassesOrphan, "restart", "the index checkpoint passes the deletion of a key that compaction has taken, and keeps its row";
    CheckpointAhead, "restart", "the index checkpoint says that it is further than its rows are";
    RowChecksumIgnored, "restart", "a row of the engine is taken whatever its checksum says";
    MembershipNotStored, "membership", "a change of the membership does not come to the engine";
    RemovedNotForgotten, "membership", "a removed member is not remembered as removed";
    DataDirUnchecked, "membership", "a member that lost its disk takes part again";
    AuthNotAtApply, "auth", "nothing is checked when a command is applied";
    AuthPrevKvFree, "auth", "whoever may write a key gets its old value without the right to read";
    AuthNestedFree, "auth", "what is in a nested transaction is not checked";
    AuthOldRevisionFree, "auth", "a name counts that was proven before permissions changed";
    AuthRangeStartOnly, "auth", "only the first key of a range is checked";
    AuthLeaseFree, "auth", "whoever may write no key of a lease can end it";
    AuthRevisionLost, "auth", "a restart takes up an older revision of users and roles";
    AuthRevokeIgnored, "auth", "a permission that is taken away stays";
    RebuildKeepsOld, "rebuild", "a member that has pulled a state to rebuild itself goes on with its old one";
    ReplicaDiffers, "hash", "one member stores another value than the others";
    HashTooShort, "hash", "the hash does not cover the newest revision";
    FrontReadsSerializable, "front", "a linearizable read is answered as a serializable one";
    FrontTimeoutIsRefusal, "front", "a write whose outcome is not known is answered as one that was refused";
    FrontLimitDropsMore, "front", "the answer to a read does not say that its limit left keys out";
    ClientResendsUnknown, "client", "a write whose outcome is not known is sent again";
    ClientUnknownIsNothing, "client", "a write whose outcome is not known is said to have had no effect";
    ClientWatchResumesLate, "client", "a watch that is resumed begins one revision too late";
    ClientWatchRepeats, "client", "a watch that is resumed hands out its last revision again";
}

/// A path that the code takes seldom, and may take at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Rare {
    /// A batch holds one command.
    SmallBatch,
    /// A drain takes one log entry.
    SmallDrain,
    /// A chunk of a snapshot holds one record.
    SmallSnapshotChunk,
    /// A block of a copy of the data holds one record.
    SmallCopyBlock,
    /// The index checkpoint comes forward with each key.
    SmallPortion,
    /// A message of a watch holds one revision.
    SmallWatchMessage,
    /// The queue of a watcher overflows.
    WatchOverflow,
    /// A portion of the index checkpoint leaves keys whose rows have too much for later.
    LooseKeysLater,
    /// The log goes on in a new segment.
    WalRoll,
    /// Raft has taken note of how far the state is before it is told how far the log may go.
    SnapshotBeforePurge,
    /// The log is purged as far as it may be.
    LogPurge,
    /// A round of the read index finds no leader.
    ReadRoundFails,
    /// The engine becomes durable when a compaction finds that the index checkpoint has to come first.
    FlushBeforeCheckpoint,
    /// The engine becomes durable as soon as a compaction has removed its last record.
    FlushAfterCompaction,
}
