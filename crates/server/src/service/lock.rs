//! The Lock service: a lock is a name, and whoever has the oldest key below it holds it.

use super::kv;
use super::recipe::Place;
use crate::client::Client;
use crate::status::unknown;
use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::Status;

/// Waits until the client's lease holds the lock.
pub async fn lock(client: &Client, request: LockRequest) -> Result<LockResponse, Status> {
    let place = Place::take(client, request.name, request.lease, Bytes::new()).await.map_err(unknown)?;
    match place.wait(client).await.map_err(unknown)? {
        Some(header) => {
            let key = place.key.clone();
            place.keep();
            Ok(LockResponse { header: Some(header), key })
        }
        None => Err(Status::unknown("mutex: session is expired")),
    }
}

/// Gives the lock up. As in etcd, it is no error if there is nothing to give up.
pub async fn unlock(client: &Client, request: UnlockRequest) -> Result<UnlockResponse, Status> {
    let delete = pb::DeleteRangeRequest { key: request.key, ..Default::default() };
    let response = kv::delete_range(client, delete).await.map_err(unknown)?;
    Ok(UnlockResponse { header: response.header })
}
