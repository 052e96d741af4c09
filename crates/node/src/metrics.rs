//! The node's figures, in Prometheus text format. Names are etcd's where etcd has the figure; `quorate_` for what is new.

use crate::start::Running;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;

/// The figures, as they are written.
struct Page(String);

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.figure(name, "gauge", help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.figure(name, "counter", help, value);
    }

    fn figure(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    }
}

pub(crate) fn text(running: &Running) -> String {
    let mut page = Page(String::with_capacity(8 << 10));
    raft(running, &mut page);
    store(running, &mut page);
    scrub(running, &mut page);
    watch_and_leases(running, &mut page);
    auth(running, &mut page);
    page.0.push_str(&running.group.peers().metrics_text());
    page.0
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

fn raft(running: &Running, page: &mut Page) {
    let group = &running.group;
    let role = group.role();
    let (_, committed) = group.raft.log_position();
    let figures = &group.state.figures;
    let wal = running.wal.metrics();
    page.gauge("etcd_server_has_leader", "Whether or not a leader exists.", flag(group.has_leader()));
    page.gauge("etcd_server_is_leader", "Whether or not this member is a leader.", flag(role.is_leader));
    page.gauge("etcd_server_is_learner", "Whether or not this member is a learner.", flag(role.is_learner));
    page.counter(
        "etcd_server_leader_changes_seen_total",
        "The number of leader changes seen.",
        figures.leader_changes.load(Relaxed) as f64,
    );
    page.gauge(
        "etcd_server_proposals_committed_total",
        "The total number of consensus proposals committed.",
        committed as f64,
    );
    page.gauge(
        "etcd_server_proposals_applied_total",
        "The total number of consensus proposals applied.",
        group.state.applied().index as f64,
    );
    page.gauge(
        "etcd_server_proposals_pending",
        "The current number of pending proposals to commit.",
        group.pending() as f64,
    );
    page.counter(
        "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.",
        figures.proposals_failed.load(Relaxed) as f64,
    );
    page.counter(
        "etcd_server_slow_read_indexes_total",
        "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
        figures.slow_read_indexes.load(Relaxed) as f64,
    );
    page.counter(
        "etcd_server_read_indexes_failed_total",
        "The total number of failed read indexes seen.",
        figures.read_indexes_failed.load(Relaxed) as f64,
    );
    page.counter("quorate_wal_fsyncs_total", "Fsyncs of the write-ahead log.", wal.fsyncs as f64);
    page.gauge("etcd_disk_wal_write_bytes_total", "Total number of bytes written in WAL.", wal.bytes_written as f64);
    page.gauge("quorate_wal_segments", "Segments of the write-ahead log that hold records.", wal.segments as f64);
    page.gauge("quorate_wal_queued_bytes", "Bytes of appends that wait for the disk.", wal.queued_bytes as f64);
    page.gauge("quorate_wal_short_of_space", "Whether the disk of the log is full.", flag(wal.short_of_space));
    page.counter(
        "etcd_server_slow_apply_total",
        "The total number of slow apply requests (likely overloaded from slow disk).",
        figures.slow_applies.load(Relaxed) as f64,
    );
    page.gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "1 if the server is applying the incoming snapshot. 0 if none.",
        figures.snapshots_under_way.load(Relaxed) as f64,
    );
    page.counter(
        "quorate_tail_full_waits_total",
        "How often apply waited for the engine.",
        figures.tail_full_waits.load(Relaxed) as f64,
    );
}

fn store(running: &Running, page: &mut Page) {
    let store = &running.group.state.store;
    let metrics = store.metrics();
    let usage = store.engine_usage().unwrap_or_default();
    let figures = &running.group.state.figures;
    page.gauge(
        "etcd_mvcc_db_total_size_in_bytes",
        "Total size of the underlying database physically allocated in bytes.",
        usage.file_bytes as f64,
    );
    page.gauge(
        "etcd_mvcc_db_total_size_in_use_in_bytes",
        "Total size of the underlying database logically in use in bytes.",
        usage.in_use_bytes() as f64,
    );
    page.counter("etcd_mvcc_put_total", "Total number of puts seen by this member.", figures.puts.load(Relaxed) as f64);
    page.counter(
        "etcd_mvcc_delete_total",
        "Total number of deletes seen by this member.",
        figures.deletes.load(Relaxed) as f64,
    );
    page.gauge("etcd_debugging_mvcc_keys_total", "Total number of keys.", metrics.keys as f64);
    page.gauge("etcd_debugging_mvcc_current_revision", "The current revision of store.", metrics.revision.get() as f64);
    page.gauge(
        "etcd_debugging_mvcc_compact_revision",
        "The revision of the last compaction in store.",
        metrics.compacted.get() as f64,
    );
    page.gauge("quorate_tail_bytes", "Bytes of records that the engine does not have yet.", metrics.tail_bytes as f64);
    page.gauge("quorate_checkpoint_keys", "Keys that wait for the index checkpoint.", metrics.checkpoint_keys as f64);
    page.gauge(
        "quorate_checkpoint_lag_records",
        "Records that are newer than the index checkpoint: what a restart reads beside it.",
        metrics.checkpoint_lag_records as f64,
    );
    page.counter(
        "quorate_corruption_checks_total",
        "How often this member, as leader, compared the data of the members.",
        figures.corruption_checks.load(Relaxed) as f64,
    );
    page.counter(
        "quorate_corruption_found_total",
        "How often it found members whose data differ.",
        figures.corruption_found.load(Relaxed) as f64,
    );
    page.gauge("quorate_record_cache_bytes", "Bytes in the record cache.", metrics.cache_bytes as f64);
    page.counter("quorate_record_cache_hits_total", "Record reads that the cache answered.", metrics.cache_hits as f64);
    page.counter(
        "quorate_record_cache_misses_total",
        "Record reads that went to the engine.",
        metrics.cache_misses as f64,
    );
}

fn scrub(running: &Running, page: &mut Page) {
    let figures = &running.group.state.figures;
    page.counter(
        "quorate_scrub_bytes_total",
        "Bytes that the scrubber has read again.",
        figures.scrub_bytes.load(Relaxed) as f64,
    );
    page.counter(
        "quorate_scrub_rounds_total",
        "How often the scrubber has read everything.",
        figures.scrub_rounds.load(Relaxed) as f64,
    );
    page.gauge(
        "quorate_scrub_last_completed_timestamp_seconds",
        "When it had read everything the last time, since 1970; 0: not since the start.",
        figures.scrub_completed_s.load(Relaxed) as f64,
    );
    page.counter(
        "quorate_scrub_faults_total",
        "Damaged rows and segments that the scrubber has met.",
        figures.scrub_faults.load(Relaxed) as f64,
    );
    page.gauge(
        "quorate_out_of_service",
        "Whether this member serves nobody until it has rebuilt itself.",
        flag(running.group.state.doubt().is_some()),
    );
}

fn auth(running: &Running, page: &mut Page) {
    let state = &running.group.state;
    let auth = state.store.auth();
    page.gauge("etcd_debugging_auth_revision", "The current revision of auth store.", auth.revision() as f64);
    page.gauge("quorate_auth_enabled", "Whether permissions are asked for.", flag(auth.enabled()));
    page.gauge("quorate_auth_tokens", "Tokens that this member knows.", state.tokens.len() as f64);
    page.counter(
        "quorate_auth_tokens_evicted_total",
        "Tokens that ended early because there were too many (--max-auth-tokens).",
        state.tokens.evicted() as f64,
    );
}

fn watch_and_leases(running: &Running, page: &mut Page) {
    let state = &running.group.state;
    let watch = state.hub.figures();
    let figures = &state.figures;
    page.gauge("etcd_debugging_mvcc_watcher_total", "Total number of watchers.", watch.watchers() as f64);
    page.gauge("etcd_debugging_mvcc_watch_stream_total", "Total number of watch streams.", watch.streams() as f64);
    page.gauge(
        "etcd_debugging_mvcc_slow_watcher_total",
        "Total number of unsynced slow watchers.",
        watch.slow_watchers() as f64,
    );
    page.gauge(
        "etcd_debugging_mvcc_pending_events_total",
        "Total number of pending events to be sent.",
        watch.pending_events() as f64,
    );
    page.counter(
        "etcd_debugging_mvcc_events_total",
        "Total number of events sent by this member.",
        watch.events_total() as f64,
    );
    page.gauge("quorate_watch_pending_bytes", "Bytes that wait for watchers.", watch.pending_bytes() as f64);
    page.counter(
        "quorate_watch_overflows_total",
        "How often a watcher was too slow and went back to reading history.",
        watch.overflows_total() as f64,
    );
    page.counter(
        "etcd_debugging_lease_granted_total",
        "The total number of granted leases.",
        figures.lease_granted.load(Relaxed) as f64,
    );
    page.counter(
        "etcd_debugging_lease_revoked_total",
        "The total number of revoked leases.",
        figures.lease_revoked.load(Relaxed) as f64,
    );
    page.counter(
        "etcd_debugging_lease_renewed_total",
        "The number of renewed leases seen by the leader.",
        figures.lease_renewed.load(Relaxed) as f64,
    );
    page.counter(
        "etcd_debugging_server_lease_expired_total",
        "The total number of expired leases.",
        figures.lease_expired.load(Relaxed) as f64,
    );
}
