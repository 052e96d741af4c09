//! Plain HTTP: version, health and metrics, with etcd's paths, codes and bodies. Knows the node's state, no gRPC.

use crate::convert::alarm_name;
use crate::debug;
use crate::gateway;
use crate::grpc::Body;
use crate::metrics::{self, Counter};
use crate::shared::Shared;
use crate::version;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use quorate_core::{AlarmKind, KeyRange, RangeRequest};
use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// How long a health check may take: shorter than what probes wait.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// One check of an endpoint.
#[derive(Debug)]
pub struct Check {
    /// `livez` or `readyz`.
    pub endpoint: &'static str,
    /// The name, also the last part of its own path.
    pub name: &'static str,
    kind: CheckKind,
}

#[derive(Clone, Copy, Debug)]
enum CheckKind {
    /// No CORRUPT alarm.
    DataCorruption,
    /// A read of this member's own state.
    SerializableRead,
    /// A read that needs a quorum.
    LinearizableRead,
    /// This member votes.
    NonLearner,
}

/// All checks, in the order in which they are run and shown.
pub const CHECKS: &[Check] = &[
    Check { endpoint: "livez", name: "serializable_read", kind: CheckKind::SerializableRead },
    Check { endpoint: "readyz", name: "data_corruption", kind: CheckKind::DataCorruption },
    Check { endpoint: "readyz", name: "linearizable_read", kind: CheckKind::LinearizableRead },
    Check { endpoint: "readyz", name: "non_learner", kind: CheckKind::NonLearner },
    Check { endpoint: "readyz", name: "serializable_read", kind: CheckKind::SerializableRead },
];

/// Outcomes of one check.
#[derive(Debug, Default)]
pub struct CheckCounts {
    /// Times that it succeeded.
    pub success: Counter,
    /// Times that it failed.
    pub error: Counter,
    last: AtomicBool,
}

impl CheckCounts {
    fn count(&self, succeeded: bool) {
        if succeeded { &self.success } else { &self.error }.increment();
        self.last.store(succeeded, Relaxed);
    }

    /// Whether it succeeded the last time.
    pub fn last_succeeded(&self) -> bool {
        self.last.load(Relaxed)
    }
}

/// Outcomes of all checks, in the order of [`CHECKS`].
#[derive(Debug, Default)]
pub struct CheckMetrics(pub [CheckCounts; CHECKS.len()]);

/// Answers one request, by the JSON gateway if `gateway`.
pub async fn serve(shared: &Arc<Shared>, request: Request<Incoming>, gateway: bool) -> Response<Body> {
    if request.method() == Method::OPTIONS {
        return Response::new(Body::Empty);
    }
    if gateway {
        return gateway::serve(shared, request).await;
    }
    route(shared, request.method(), request.uri()).await
}

async fn route(shared: &Shared, method: &Method, uri: &Uri) -> Response<Body> {
    let path = uri.path();
    if let Some(answer) = debug(shared, method, path, uri.query().unwrap_or_default()).await {
        return answer;
    }
    if let Some(refusal) = refuse(method, path) {
        return refusal;
    }
    let query = Query::parse(uri.query().unwrap_or_default());
    match path {
        "/version" => version_answer(&version::of_cluster(shared.system.status().versions)),
        "/metrics" => metrics_answer(metrics::render(shared)),
        "/health" => health(shared, &query).await,
        _ => run_checks(shared, path.trim_start_matches('/'), &query).await,
    }
}

/// The answer where there is nothing, or nothing for this method.
pub fn refuse(method: &Method, path: &str) -> Option<Response<Body>> {
    let check = path.strip_prefix('/').unwrap_or_default();
    if !matches!(path, "/version" | "/health" | "/metrics") && find_checks(check).next().is_none() {
        return Some(failure(StatusCode::NOT_FOUND, "404 page not found"));
    }
    if method == Method::GET {
        return None;
    }
    let mut response = failure(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
    Some(response)
}

/// Answers for a path below `/debug`, if it is there.
async fn debug(shared: &Shared, method: &Method, path: &str, query: &str) -> Option<Response<Body>> {
    let path = path.strip_prefix("/debug").filter(|_| method == Method::GET)?;
    if path == "/vars" {
        return Some(success(HeaderValue::from_static("application/json; charset=utf-8"), debug::vars(shared)));
    }
    let path = path.strip_prefix("/pprof").filter(|_| shared.pprof)?;
    let (code, text) = debug::pprof(shared, path, query).await?;
    let mut response = success(TEXT, text);
    *response.status_mut() = code;
    Some(response)
}

fn success(content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Full(body.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// As Go's `http.Error`: plain text with a line end.
pub fn failure(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = success(TEXT, format!("{text}\n"));
    *response.status_mut() = code;
    no_sniff(&mut response);
    response
}

fn no_sniff(response: &mut Response<Body>) {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// The answer of `/metrics`.
pub fn metrics_answer(text: String) -> Response<Body> {
    success(METRICS, text)
}

/// The answer of `/version`.
pub fn version_answer(cluster: &str) -> Response<Body> {
    success(JSON, version_json(cluster))
}

fn version_json(cluster: &str) -> String {
    format!(r#"{{"etcdserver":"{}","etcdcluster":"{cluster}","storage":"{cluster}"}}"#, version::ETCD_SERVER)
}

/// The parameters that matter here.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    exclude: HashSet<String>,
    serializable: bool,
    /// Tell each check, not only the outcome.
    pub verbose: bool,
}

impl Query {
    /// Reads them; what is not known does not matter.
    pub fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for part in query.split('&') {
            match part.split_once('=').unwrap_or((part, "")) {
                // Names of alarms and checks have no character that would be escaped.
                ("exclude", name) => _ = parsed.exclude.insert(name.to_owned()),
                ("serializable", value) => parsed.serializable = value == "true",
                ("verbose", _) => parsed.verbose = true,
                _ => {}
            }
        }
        parsed
    }
}

async fn health(shared: &Shared, query: &Query) -> Response<Body> {
    match unhealthy(shared, query).await {
        None => {
            shared.metrics.health_success.increment();
            success(TEXT, r#"{"health":"true","reason":""}"#)
        }
        Some(reason) => {
            shared.metrics.health_failures.increment();
            tracing::warn!(reason, "the health check failed");
            unhealthy_answer(&reason)
        }
    }
}

/// The answer of `/health` when the member is not well.
pub fn unhealthy_answer(reason: &str) -> Response<Body> {
    // Reasons are etcd's texts and contain nothing that JSON would escape, but for a node's own words.
    let reason = reason.replace('\\', "\\\\").replace('"', "\\\"");
    failure(StatusCode::SERVICE_UNAVAILABLE, &format!(r#"{{"health":"false","reason":"{reason}"}}"#))
}

async fn unhealthy(shared: &Shared, query: &Query) -> Option<String> {
    if let Some(why) = shared.system.out_of_service() {
        return Some(why);
    }
    for alarm in shared.system.alarms() {
        let name = alarm_name(alarm.kind);
        if !query.exclude.contains(name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !query.serializable && !shared.system.has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    read(shared, query.serializable).await.err().map(|error| format!("RANGE ERROR:{error}"))
}

/// Reads one key, whatever it is.
async fn read(shared: &Shared, serializable: bool) -> Result<(), String> {
    let everything = KeyRange::From { start: Bytes::from_static(b"\0") };
    let request = RangeRequest { serializable, keys_only: true, limit: 1, ..RangeRequest::new(everything) };
    match tokio::time::timeout(CHECK_TIMEOUT, shared.system.range(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

/// The checks behind a path without its slash: all of an endpoint, or one.
fn find_checks(path: &str) -> impl Iterator<Item = (usize, &'static Check)> {
    let (endpoint, name) = match path.split_once('/') {
        Some((endpoint, name)) => (endpoint.to_owned(), Some(name.to_owned())),
        None => (path.to_owned(), None),
    };
    CHECKS
        .iter()
        .enumerate()
        .filter(move |(_, check)| check.endpoint == endpoint && name.as_deref().is_none_or(|name| name == check.name))
}

async fn run_checks(shared: &Shared, path: &str, query: &Query) -> Response<Body> {
    let mut report = String::new();
    let mut failed = false;
    for (place, check) in find_checks(path) {
        // Excluding is for an endpoint as a whole; whoever asks for one check gets it.
        if !path.contains('/') && query.exclude.contains(check.name) {
            continue;
        }
        let outcome = run_check(shared, check.kind).await;
        shared.metrics.checks.0[place].count(outcome.is_ok());
        let _ = match outcome {
            Ok(()) => writeln!(report, "[+]{} ok", check.name),
            Err(reason) => {
                failed = true;
                writeln!(report, "[-]{} failed: {reason}", check.name)
            }
        };
    }
    if failed {
        tracing::error!(path, report, "the health check failed");
        return failure(StatusCode::SERVICE_UNAVAILABLE, &report);
    }
    passed(&report, query)
}

/// The answer when all checks have passed.
pub fn passed(report: &str, query: &Query) -> Response<Body> {
    let mut response = success(TEXT, if query.verbose { format!("{report}ok\n") } else { "ok\n".to_owned() });
    no_sniff(&mut response);
    response
}

async fn run_check(shared: &Shared, kind: CheckKind) -> Result<(), String> {
    match kind {
        CheckKind::DataCorruption => {
            if let Some(why) = shared.system.out_of_service() {
                return Err(why);
            }
            if shared.system.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
                return Err(format!("alarm activated: {}", alarm_name(AlarmKind::Corrupt)));
            }
            Ok(())
        }
        CheckKind::SerializableRead => read(shared, true).await,
        CheckKind::LinearizableRead => read(shared, false).await,
        CheckKind::NonLearner => {
            if shared.system.status().is_learner {
                return Err("not supported for learner".to_owned());
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_all_checks_of_an_endpoint_or_one() {
        let names = |path: &str| find_checks(path).map(|(_, check)| check.name).collect::<Vec<_>>();
        assert_eq!(names("livez"), ["serializable_read"]);
        assert_eq!(names("readyz").len(), 4);
        assert_eq!(names("readyz/non_learner"), ["non_learner"]);
        assert!(names("readyz/nonsense").is_empty() && names("").is_empty() && names("livez/non_learner").is_empty());
    }

    #[test]
    fn the_query_is_read_as_etcd_reads_it() {
        let query = Query::parse("exclude=NOSPACE&exclude=CORRUPT&serializable=true&verbose");
        assert_eq!(query.exclude.len(), 2);
        assert!(query.serializable && query.verbose);
        assert_eq!(Query::parse(""), Query::default());
    }

    #[test]
    fn versions_are_plain_numbers() {
        assert_eq!(version_json("3.6.0"), r#"{"etcdserver":"3.6.10","etcdcluster":"3.6.0","storage":"3.6.0"}"#);
    }
}
