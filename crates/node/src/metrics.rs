//! The node's figures, in Prometheus text format. Names are etcd's where etcd has the figure; `quorate_` for what is new.

use crate::start::Running;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// One figure: name, type, help, value.
type Figure = (&'static str, &'static str, &'static str, f64);

pub(crate) fn text(running: &Running) -> String {
    let mut out = String::with_capacity(8 << 10);
    for (name, kind, help, value) in
        raft(running).into_iter().chain(store(running)).chain(watch_and_leases(running)).chain(auth(running))
    {
        // Writing to a String cannot fail.
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
    out.push_str(&running.group.peers().metrics_text());
    out
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

fn raft(running: &Running) -> Vec<Figure> {
    let group = &running.group;
    let role = group.role();
    let (_, committed) = group.raft.log_position();
    let figures = &group.state.figures;
    let wal = running.wal.metrics();
    vec![
        ("etcd_server_has_leader", "gauge", "Whether or not a leader exists.", flag(group.has_leader())),
        ("etcd_server_is_leader", "gauge", "Whether or not this member is a leader.", flag(role.is_leader)),
        ("etcd_server_is_learner", "gauge", "Whether or not this member is a learner.", flag(role.is_learner)),
        (
            "etcd_server_leader_changes_seen_total",
            "counter",
            "The number of leader changes seen.",
            figures.leader_changes.load(Relaxed) as f64,
        ),
        (
            "etcd_server_proposals_committed_total",
            "gauge",
            "The total number of consensus proposals committed.",
            committed as f64,
        ),
        (
            "etcd_server_proposals_applied_total",
            "gauge",
            "The total number of consensus proposals applied.",
            group.state.applied().index as f64,
        ),
        (
            "etcd_server_proposals_pending",
            "gauge",
            "The current number of pending proposals to commit.",
            group.pending() as f64,
        ),
        (
            "etcd_server_proposals_failed_total",
            "counter",
            "The total number of failed proposals seen.",
            figures.proposals_failed.load(Relaxed) as f64,
        ),
        (
            "etcd_server_slow_read_indexes_total",
            "counter",
            "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
            figures.slow_read_indexes.load(Relaxed) as f64,
        ),
        (
            "etcd_server_read_indexes_failed_total",
            "counter",
            "The total number of failed read indexes seen.",
            figures.read_indexes_failed.load(Relaxed) as f64,
        ),
        ("quorate_wal_fsyncs_total", "counter", "Fsyncs of the write-ahead log.", wal.fsyncs as f64),
        ("etcd_disk_wal_write_bytes_total", "gauge", "Total number of bytes written in WAL.", wal.bytes_written as f64),
        ("quorate_wal_segments", "gauge", "Segments of the write-ahead log that hold records.", wal.segments as f64),
        ("quorate_wal_queued_bytes", "gauge", "Bytes of appends that wait for the disk.", wal.queued_bytes as f64),
        ("quorate_wal_short_of_space", "gauge", "Whether the disk of the log is full.", flag(wal.short_of_space)),
        (
            "etcd_server_slow_apply_total",
            "counter",
            "The total number of slow apply requests (likely overloaded from slow disk).",
            figures.slow_applies.load(Relaxed) as f64,
        ),
        (
            "etcd_server_snapshot_apply_in_progress_total",
            "gauge",
            "1 if the server is applying the incoming snapshot. 0 if none.",
            figures.snapshots_under_way.load(Relaxed) as f64,
        ),
        (
            "quorate_tail_full_waits_total",
            "counter",
            "How often apply waited for the engine.",
            figures.tail_full_waits.load(Relaxed) as f64,
        ),
    ]
}

fn store(running: &Running) -> Vec<Figure> {
    let store = &running.group.state.store;
    let metrics = store.metrics();
    let usage = store.engine_usage().unwrap_or_default();
    let figures = &running.group.state.figures;
    vec![
        (
            "etcd_mvcc_db_total_size_in_bytes",
            "gauge",
            "Total size of the underlying database physically allocated in bytes.",
            usage.file_bytes as f64,
        ),
        (
            "etcd_mvcc_db_total_size_in_use_in_bytes",
            "gauge",
            "Total size of the underlying database logically in use in bytes.",
            usage.in_use_bytes() as f64,
        ),
        (
            "etcd_mvcc_put_total",
            "counter",
            "Total number of puts seen by this member.",
            figures.puts.load(Relaxed) as f64,
        ),
        (
            "etcd_mvcc_delete_total",
            "counter",
            "Total number of deletes seen by this member.",
            figures.deletes.load(Relaxed) as f64,
        ),
        (
            "quorate_scrub_bytes_total",
            "counter",
            "Bytes that the scrubber has read again.",
            figures.scrub_bytes.load(Relaxed) as f64,
        ),
        (
            "quorate_scrub_rounds_total",
            "counter",
            "How often the scrubber has read everything.",
            figures.scrub_rounds.load(Relaxed) as f64,
        ),
        (
            "quorate_scrub_last_completed_timestamp_seconds",
            "gauge",
            "When it had read everything the last time, since 1970; 0: not since the start.",
            figures.scrub_completed_s.load(Relaxed) as f64,
        ),
        (
            "quorate_scrub_faults_total",
            "counter",
            "Damaged rows and segments that the scrubber has met.",
            figures.scrub_faults.load(Relaxed) as f64,
        ),
        (
            "quorate_out_of_service",
            "gauge",
            "Whether this member serves nobody until it has rebuilt itself.",
            flag(running.group.state.doubt().is_some()),
        ),
        ("etcd_debugging_mvcc_keys_total", "gauge", "Total number of keys.", metrics.keys as f64),
        (
            "etcd_debugging_mvcc_current_revision",
            "gauge",
            "The current revision of store.",
            metrics.revision.get() as f64,
        ),
        (
            "etcd_debugging_mvcc_compact_revision",
            "gauge",
            "The revision of the last compaction in store.",
            metrics.compacted.get() as f64,
        ),
        (
            "quorate_tail_bytes",
            "gauge",
            "Bytes of records that the engine does not have yet.",
            metrics.tail_bytes as f64,
        ),
        (
            "quorate_checkpoint_keys",
            "gauge",
            "Keys that wait for the index checkpoint.",
            metrics.checkpoint_keys as f64,
        ),
        (
            "quorate_checkpoint_lag_records",
            "gauge",
            "Records that are newer than the index checkpoint: what a restart reads beside it.",
            metrics.checkpoint_lag_records as f64,
        ),
        (
            "quorate_corruption_checks_total",
            "counter",
            "How often this member, as leader, compared the data of the members.",
            figures.corruption_checks.load(Relaxed) as f64,
        ),
        (
            "quorate_corruption_found_total",
            "counter",
            "How often it found members whose data differ.",
            figures.corruption_found.load(Relaxed) as f64,
        ),
        ("quorate_record_cache_bytes", "gauge", "Bytes in the record cache.", metrics.cache_bytes as f64),
        (
            "quorate_record_cache_hits_total",
            "counter",
            "Record reads that the cache answered.",
            metrics.cache_hits as f64,
        ),
        (
            "quorate_record_cache_misses_total",
            "counter",
            "Record reads that went to the engine.",
            metrics.cache_misses as f64,
        ),
    ]
}

fn auth(running: &Running) -> Vec<Figure> {
    let state = &running.group.state;
    let auth = state.store.auth();
    vec![
        ("etcd_debugging_auth_revision", "gauge", "The current revision of auth store.", auth.revision() as f64),
        ("quorate_auth_enabled", "gauge", "Whether permissions are asked for.", flag(auth.enabled())),
        ("quorate_auth_tokens", "gauge", "Tokens that this member knows.", state.tokens.len() as f64),
        (
            "quorate_auth_tokens_evicted_total",
            "counter",
            "Tokens that ended early because there were too many (--max-auth-tokens).",
            state.tokens.evicted() as f64,
        ),
    ]
}

fn watch_and_leases(running: &Running) -> Vec<Figure> {
    let state = &running.group.state;
    let watch = state.hub.figures();
    let figures = &state.figures;
    vec![
        ("etcd_debugging_mvcc_watcher_total", "gauge", "Total number of watchers.", watch.watchers() as f64),
        ("etcd_debugging_mvcc_watch_stream_total", "gauge", "Total number of watch streams.", watch.streams() as f64),
        (
            "etcd_debugging_mvcc_slow_watcher_total",
            "gauge",
            "Total number of unsynced slow watchers.",
            watch.slow_watchers() as f64,
        ),
        (
            "etcd_debugging_mvcc_pending_events_total",
            "gauge",
            "Total number of pending events to be sent.",
            watch.pending_events() as f64,
        ),
        (
            "etcd_debugging_mvcc_events_total",
            "counter",
            "Total number of events sent by this member.",
            watch.events_total() as f64,
        ),
        ("quorate_watch_pending_bytes", "gauge", "Bytes that wait for watchers.", watch.pending_bytes() as f64),
        (
            "quorate_watch_overflows_total",
            "counter",
            "How often a watcher was too slow and went back to reading history.",
            watch.overflows_total() as f64,
        ),
        (
            "etcd_debugging_lease_granted_total",
            "counter",
            "The total number of granted leases.",
            figures.lease_granted.load(Relaxed) as f64,
        ),
        (
            "etcd_debugging_lease_revoked_total",
            "counter",
            "The total number of revoked leases.",
            figures.lease_revoked.load(Relaxed) as f64,
        ),
        (
            "etcd_debugging_lease_renewed_total",
            "counter",
            "The number of renewed leases seen by the leader.",
            figures.lease_renewed.load(Relaxed) as f64,
        ),
        (
            "etcd_debugging_server_lease_expired_total",
            "counter",
            "The total number of expired leases.",
            figures.lease_expired.load(Relaxed) as f64,
        ),
    ]
}
