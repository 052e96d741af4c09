//! The Lock service: a lock is a name, and whoever has the oldest key below it holds it.

use super::kv;
use super::recipe::{Place, unknown};
use crate::shared::Shared;
use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::Status;

/// Waits until the client's lease holds the lock.
pub async fn lock(shared: &Shared, request: LockRequest) -> Result<LockResponse, Status> {
    let place = Place::take(shared, request.name, request.lease, Bytes::new()).await.map_err(unknown)?;
    match place.wait(shared).await.map_err(unknown)? {
        Some(header) => {
            let key = place.key.clone();
            place.keep();
            Ok(LockResponse { header: Some(header), key })
        }
        None => Err(Status::unknown("mutex: session is expired")),
    }
}

/// Gives the lock up. As in etcd, it is no error if there is nothing to give up.
pub async fn unlock(shared: &Shared, request: UnlockRequest) -> Result<UnlockResponse, Status> {
    let delete = pb::DeleteRangeRequest { key: request.key, ..Default::default() };
    let response = kv::delete_range(shared, delete).await.map_err(unknown)?;
    Ok(UnlockResponse { header: response.header })
}
