//! The standard gRPC health service. As in etcd, there is one service, "", and it serves as long as the process does:
//! what the cluster is able to do is for `/readyz`.

use super::{Answers, Outbox, body};
use crate::client::Client;
use crate::grpc::{Body, Session};
use quorate_proto::health as pb;
use quorate_proto::health::health_check_response::ServingStatus;
use tonic::Status;

/// Asks once.
pub async fn check(_: &Client, request: pb::HealthCheckRequest) -> Result<pb::HealthCheckResponse, Status> {
    if request.service.is_empty() {
        Ok(pb::HealthCheckResponse { status: ServingStatus::Serving as i32 })
    } else {
        Err(Status::not_found("unknown service"))
    }
}

/// Asks, and is told of changes.
pub async fn watch(session: Session, request: pb::HealthCheckRequest) -> Result<Body, (Session, Status)> {
    let status = if request.service.is_empty() { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
    Ok(body(HealthAnswers { session, pending: Some(status) }))
}

struct HealthAnswers {
    session: Session,
    pending: Option<ServingStatus>,
}

impl Answers for HealthAnswers {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn next(&mut self, out: &mut Outbox) -> Result<bool, Status> {
        if let Some(status) = self.pending.take() {
            out.push(&pb::HealthCheckResponse { status: status as i32 });
            return Ok(true);
        }
        self.session.client.stopping.cancelled().await;
        Ok(false)
    }
}
