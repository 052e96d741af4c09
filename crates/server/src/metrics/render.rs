//! All figures in Prometheus' text format.

use super::{CLIENT_API_MINORS, Counter, Histogram, process};
use crate::audit::AuditLog;
use crate::grpc::Method;
use crate::http::CHECKS;
use crate::limits::Limit;
use crate::shared::Shared;
use crate::tls::Security;
use crate::version;
use quorate_core::AlarmKind;
use quorate_node::stages::Stage;
use std::collections::HashSet;
use std::fmt::{Display, Write};
use std::sync::atomic::Ordering::Relaxed;
use tonic::Code;

/// All figures: the node's own, and those of the front that the node does not have.
pub fn render(shared: &Shared) -> String {
    let node = shared.system.metrics_text();
    let mut text = Text { out: String::with_capacity(16 << 10), known: families(&node) };
    grpc(&mut text, shared);
    front(&mut text, shared);
    state(&mut text, shared);
    if let Some(log) = &shared.audit {
        audit(&mut text, log);
    }
    of_process(&mut text, &shared.security, false);
    let mut out = text.out;
    out.push_str(&node);
    out
}

/// What there is before there is a node.
pub fn render_starting(security: &Security) -> String {
    let mut text = Text { out: String::new(), known: HashSet::new() };
    of_process(&mut text, security, true);
    text.out
}

/// What the process has, whether it serves or not.
fn of_process(text: &mut Text, security: &Security, starting: bool) {
    let help = "Whether the member starts: it reads what is on disk, waits for others, or rebuilds itself.";
    text.one("quorate_starting", "gauge", help, u8::from(starting));
    super::security::render(text, security);
    if let Some(process) = process::read() {
        text.one("process_cpu_seconds_total", "counter", "User and system CPU time.", process.cpu_seconds);
        text.one("process_resident_memory_bytes", "gauge", "Memory in RAM.", process.resident_bytes);
        text.one("process_virtual_memory_bytes", "gauge", "Address space.", process.virtual_bytes);
        text.one("process_open_fds", "gauge", "Files that are open.", process.open_fds);
        text.one("process_max_fds", "gauge", "Files that may be open.", process.max_fds);
        text.one("process_virtual_memory_max_bytes", "gauge", "Address space allowed.", process.virtual_max_bytes);
        text.one("os_fd_used", "gauge", "Files that are open.", process.open_fds);
        text.one("os_fd_limit", "gauge", "Files that may be open.", process.max_fds);
        text.one("process_start_time_seconds", "gauge", "Start, since the epoch.", process.start_seconds);
    }
}

/// The metric families that `text` has.
fn families(text: &str) -> HashSet<String> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next().map(str::to_owned)).collect()
}

pub(super) struct Text {
    out: String,
    /// Families that come from elsewhere: a family must not be there twice.
    known: HashSet<String>,
}

impl Text {
    /// Starts a family; `false` if it comes from elsewhere.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) -> bool {
        if self.known.contains(name) {
            return false;
        }
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        true
    }

    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let open = if place == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{open}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{close} {value}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        if self.family(name, kind, help) {
            self.sample(name, &[], value);
        }
    }
}

/// The name of a code as grpc-go has it.
pub fn code_name(code: usize) -> String {
    match Code::from_i32(code as i32) {
        Code::Ok => "OK".into(),
        // grpc-go spells it with one l.
        Code::Cancelled => "Canceled".into(),
        other => format!("{other:?}"),
    }
}

fn grpc(text: &mut Text, shared: &Shared) {
    type Read = fn(&super::MethodMetrics) -> &Counter;
    let counters: [(&str, &str, Read); 3] = [
        ("grpc_server_started_total", "Calls that began.", |method| &method.started),
        ("grpc_server_msg_received_total", "Messages from clients.", |method| &method.received),
        ("grpc_server_msg_sent_total", "Messages to clients.", |method| &method.sent),
    ];
    for (name, help, read) in counters {
        text.family(name, "counter", help);
        for method in Method::ALL {
            text.sample(name, &labels(*method), read(shared.metrics.method(*method)).get());
        }
    }
    let name = "grpc_server_handled_total";
    text.family(name, "counter", "Calls that ended, by code.");
    for method in Method::ALL {
        for (code, counter) in shared.metrics.method(*method).handled.iter().enumerate() {
            // All combinations would be 500 lines, most of them never used.
            if counter.get() > 0 || code == 0 {
                let [kind, service, name_label] = labels(*method);
                let code = code_name(code);
                text.sample(name, &[("grpc_code", &code), name_label, service, kind], counter.get());
            }
        }
    }
    histograms(text, shared);
}

fn audit(text: &mut Text, log: &AuditLog) {
    let figures = log.figures();
    for (name, help, counter) in [
        ("quorate_audit_lines_total", "Lines written to the audit log.", &figures.written),
        ("quorate_audit_lost_total", "Lines lost because the queue was full.", &figures.lost),
        ("quorate_audit_waits_total", "Answers that waited for room in the queue.", &figures.waits),
        ("quorate_audit_write_failures_total", "Attempts to write that failed.", &figures.failures),
    ] {
        text.one(name, "counter", help, counter.get());
    }
    text.one(
        "quorate_audit_failing",
        "gauge",
        "Whether the last attempt failed.",
        u8::from(figures.failing.load(Relaxed)),
    );
    text.one("quorate_audit_queued_bytes", "gauge", "Bytes of lines that wait.", log.queued_bytes());
}

fn labels(method: Method) -> [(&'static str, &'static str); 3] {
    let (service, name) = method.names();
    [("grpc_type", method.kind().label()), ("grpc_service", service), ("grpc_method", name)]
}

fn histograms(text: &mut Text, shared: &Shared) {
    let name = "grpc_server_handling_seconds";
    let mut started = false;
    for method in Method::ALL {
        let Some(latency) = &shared.metrics.method(*method).latency else { continue };
        if !started {
            started = text.family(name, "histogram", "Time until a call was answered.");
        }
        histogram(text, name, &labels(*method), latency);
    }
    let name = "quorate_requests_refused_total";
    if text.family(name, "counter", "Requests that a bound refused, by the option that sets it.") {
        for limit in Limit::ALL {
            text.sample(name, &[("limit", limit.flag())], shared.metrics.refused[limit as usize].get());
        }
    }
    let name = "quorate_request_stage_seconds";
    if text.family(name, "histogram", "Unary requests by stage: where their time goes.") {
        for stage in Stage::ALL {
            histogram(text, name, &[("stage", stage.name())], &shared.metrics.stages[stage as usize]);
        }
    }
    for (name, help, durations) in [
        ("etcd_disk_wal_fsync_duration_seconds", "Fsyncs of the write-ahead log.", &*shared.metrics.fsyncs),
        ("etcd_disk_backend_commit_duration_seconds", "Flushes of the storage engine.", &shared.metrics.flushes),
        ("etcd_disk_backend_defrag_duration_seconds", "Defragmentations.", &shared.metrics.defragmentations),
        ("etcd_disk_backend_snapshot_duration_seconds", "Snapshots sent to clients.", &shared.metrics.snapshots),
        ("etcd_mvcc_hash_duration_seconds", "Hashes of everything that is kept.", &shared.metrics.hashes),
        ("etcd_mvcc_hash_rev_duration_seconds", "Hashes up to a revision.", &shared.metrics.revision_hashes),
    ] {
        if text.family(name, "histogram", help) {
            histogram(text, name, &[], durations);
        }
    }
}

fn histogram(text: &mut Text, name: &str, labels: &[(&str, &str)], durations: &Histogram) {
    let mut count = 0;
    for (place, bucket) in durations.buckets.iter().enumerate() {
        count += bucket.get();
        let bound = durations.bounds.get(place).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
        let labels: Vec<_> = labels.iter().copied().chain([("le", bound.as_str())]).collect();
        text.sample(&format!("{name}_bucket"), &labels, count);
    }
    text.sample(&format!("{name}_sum"), labels, durations.sum_nanos.get() as f64 / 1e9);
    text.sample(&format!("{name}_count"), labels, count);
}

fn front(text: &mut Text, shared: &Shared) {
    let metrics = &shared.metrics;
    for (name, help, counter) in [
        ("etcd_network_client_grpc_received_bytes_total", "Bytes of messages from clients.", &metrics.received_bytes),
        ("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages to clients.", &metrics.sent_bytes),
        ("etcd_server_health_success", "Successful health checks.", &metrics.health_success),
        ("etcd_server_health_failures", "Failed health checks.", &metrics.health_failures),
        ("quorate_requests_slow_total", "Requests that took longer than expected.", &metrics.slow_requests),
        ("quorate_auth_logins_total", "Logins with the right password.", &metrics.logins),
        ("quorate_auth_logins_failed_total", "Logins that failed.", &metrics.logins_failed),
        ("quorate_auth_tokens_refused_total", "Requests whose token did not hold.", &metrics.tokens_refused),
        ("quorate_auth_denied_total", "Requests and watchers that their caller may not have.", &metrics.denied),
        ("quorate_connections_accepted_total", "Client connections accepted.", &metrics.connections_accepted),
    ] {
        text.one(name, "counter", help, counter.get());
    }
    for (name, help, method) in [
        ("etcd_mvcc_range_total", "Ranges that clients read from this member.", Method::Range),
        ("etcd_mvcc_txn_total", "Transactions that clients ran through this member.", Method::Txn),
    ] {
        text.one(name, "counter", help, metrics.succeeded(method));
    }
    let ended = metrics.defragmentations_ended.get();
    let defragmenting = metrics.defragmentations_begun.get().saturating_sub(ended);
    text.one("etcd_disk_defrag_inflight", "gauge", "Defragmentations under way.", defragmenting);
    let open = metrics.connections_accepted.get().saturating_sub(metrics.connections_closed.get());
    text.one("quorate_connections_open", "gauge", "Client connections that are open.", open);
    text.one(
        "quorate_auth_passwords_queued",
        "gauge",
        "Passwords that are being hashed or verified, or wait for it.",
        shared.passwords.queued(),
    );
    text.one("quorate_requests_open", "gauge", "Requests and streams under way.", shared.requests.used());
    text.one("quorate_requests_bytes", "gauge", "Bytes of requests under way.", shared.inflight.used());
    text.one("quorate_answers_bytes", "gauge", "Bytes of large answers that wait to be sent.", shared.answers.used());
    let name = "etcd_server_client_requests_total";
    text.family(name, "counter", "Calls by kind and by the client's API version.");
    for (kind, versions) in ["unary", "stream"].into_iter().zip(&metrics.client_requests) {
        for (minor, counter) in versions.iter().enumerate().filter(|(_, counter)| counter.get() > 0) {
            let version = if minor == CLIENT_API_MINORS { "unknown".into() } else { format!("3.{minor}") };
            text.sample(name, &[("client_api_version", &version), ("type", kind)], counter.get());
        }
    }
    checks(text, shared);
}

fn checks(text: &mut Text, shared: &Shared) {
    let name = "etcd_server_healthchecks_total";
    text.family(name, "counter", "Health checks by outcome.");
    for (place, check) in CHECKS.iter().enumerate() {
        let counts = &shared.metrics.checks.0[place];
        for (status, count) in [("success", counts.success.get()), ("error", counts.error.get())] {
            let labels = [("name", check.name), ("status", status), ("type", check.endpoint)];
            text.sample(name, &labels, count);
        }
    }
    let name = "etcd_server_healthcheck";
    text.family(name, "gauge", "Outcome of the last health check: 1 is success.");
    for (place, check) in CHECKS.iter().enumerate() {
        let last = shared.metrics.checks.0[place].last_succeeded();
        text.sample(name, &[("name", check.name), ("type", check.endpoint)], u8::from(last));
    }
}

fn state(text: &mut Text, shared: &Shared) {
    let status = shared.system.status();
    let id = shared.system.header().member_id;
    let leads = status.leader == Some(id);
    let quota = status.db_quota_bytes;
    let corrupt = status.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
    let no_space = status.alarms.iter().any(|alarm| alarm.kind == AlarmKind::NoSpace);
    for (name, help, value) in [
        ("etcd_server_is_leader", "Whether this member leads.", i64::from(leads)),
        ("etcd_server_is_learner", "Whether this member is a learner.", i64::from(status.is_learner)),
        ("etcd_server_quota_backend_bytes", "The quota in force.", quota),
        ("etcd_mvcc_db_total_size_in_bytes", "Bytes that the engine's files take.", status.db_size_bytes),
        ("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of them in use.", status.db_size_in_use_bytes),
        ("etcd_debugging_mvcc_keys_total", "Live keys.", status.keys.cast_signed()),
        ("etcd_debugging_mvcc_current_revision", "The newest revision.", status.revision.get()),
        ("etcd_debugging_mvcc_compact_revision", "The oldest readable revision.", status.compacted.get()),
        ("quorate_alarm_no_space", "Whether a NOSPACE alarm is raised.", i64::from(no_space)),
        ("quorate_alarm_corrupt", "Whether a CORRUPT alarm is raised.", i64::from(corrupt)),
    ] {
        text.one(name, "gauge", help, value);
    }
    let id = format!("{:x}", id.get());
    let cluster = status.versions.current.unwrap_or(quorate_node::API_VERSION).to_string();
    for (name, help, label, value) in [
        ("etcd_server_id", "The member's id.", "server_id", id.as_str()),
        ("etcd_server_version", "The etcd version whose API is spoken.", "server_version", version::ETCD_SERVER),
        ("etcd_cluster_version", "The cluster version.", "cluster_version", cluster.as_str()),
        ("quorate_build_info", "This build.", "version", version::BUILD),
    ] {
        if text.family(name, "gauge", help) {
            text.sample(name, &[(label, value)], 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_look_as_prometheus_reads_them() {
        let mut text = Text { out: String::new(), known: families("# TYPE there counter\nthere 1\n") };
        text.one("there", "counter", "x", 1);
        text.one("plain", "gauge", "Plain.", 1.5);
        text.sample("labelled", &[("a", "b"), ("c", "d")], 2);
        assert_eq!(text.out, "# HELP plain Plain.\n# TYPE plain gauge\nplain 1.5\nlabelled{a=\"b\",c=\"d\"} 2\n");
    }

    #[test]
    fn codes_are_spelled_as_grpc_go_spells_them() {
        let names: Vec<_> = (0..17).map(code_name).collect();
        assert_eq!((names[0].as_str(), names[1].as_str(), names[16].as_str()), ("OK", "Canceled", "Unauthenticated"));
    }
}
