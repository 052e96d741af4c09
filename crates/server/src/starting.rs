//! What the metrics listeners answer before there is a node: a start takes as long as the others are away.
//!
//! Knows how far the start is, not the state. From the moment at which there is a node, every request is for it, also on
//! connections that were there before: no probe meets a gap.

use crate::access::Access;
use crate::grpc::Body;
use crate::http::{self as plain_http, Query};
use crate::metrics::{self, Metrics};
use crate::shared::Shared;
use crate::tls::Security;
use http::{Method, Response, StatusCode, Uri};
use quorate_node::StartProgress;
use std::sync::{Arc, OnceLock};

/// What connections are served by: the node, or what there is before it.
pub struct Front {
    shared: OnceLock<Arc<Shared>>,
    progress: StartProgress,
    /// Those of the node, later.
    pub metrics: Arc<Metrics>,
    /// What browsers may do.
    pub access: Access,
    security: Arc<Security>,
}

impl Front {
    /// Without a node.
    pub fn new(progress: StartProgress, metrics: Arc<Metrics>, access: Access, security: Arc<Security>) -> Self {
        Self { shared: OnceLock::new(), progress, metrics, access, security }
    }

    /// From here on there is a node.
    ///
    /// # Panics
    /// When there was one already.
    pub fn hand_over(&self, shared: Arc<Shared>) {
        assert!(self.shared.set(shared).is_ok(), "a front has one node");
    }

    /// What serves requests, once there is a node.
    pub fn shared(&self) -> Option<&Arc<Shared>> {
        self.shared.get()
    }

    /// Answers one request while there is no node.
    ///
    /// `/livez` is 200: the process lives, and an end of it would only have the start begin anew. Everything else that depends
    /// on a state is 503, with the reason.
    pub fn answer(&self, method: &Method, uri: &Uri) -> Response<Body> {
        let (path, reason) = (uri.path(), self.progress.stage().reason());
        if path.starts_with("/debug/") {
            return plain_http::failure(StatusCode::SERVICE_UNAVAILABLE, reason);
        }
        if let Some(refusal) = plain_http::refuse(method, path) {
            return refusal;
        }
        match path {
            // As etcd while the members have not agreed on a version.
            "/version" => plain_http::version_answer("not_decided"),
            "/metrics" => plain_http::metrics_answer(metrics::render_starting(&self.security)),
            "/health" => {
                self.metrics.health_failures.increment();
                plain_http::unhealthy_answer(reason)
            }
            "/livez" => plain_http::passed(
                &format!("[+]process ok: {reason}\n"),
                &Query::parse(uri.query().unwrap_or_default()),
            ),
            // A check that is asked for by its name is that check, also below `/livez`.
            other => {
                let check = other.trim_start_matches('/').split_once('/').map_or("started", |(_, name)| name);
                plain_http::failure(StatusCode::SERVICE_UNAVAILABLE, &format!("[-]{check} failed: {reason}\n"))
            }
        }
    }
}
