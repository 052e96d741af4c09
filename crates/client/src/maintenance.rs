//! Operating the members.
//!
//! Calls that are about one member take its endpoint: one of the client's own or another, as in [`Client::at`].

use bytes::Bytes;
use quorate_proto::etcdserverpb::alarm_request::AlarmAction;
use quorate_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, DefragmentRequest, HashKvRequest, HashKvResponse, MoveLeaderRequest,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse,
};
use tonic::{Code, Streaming};

use crate::{Client, Error};

impl Client {
    /// Tells how the member at an endpoint is.
    ///
    /// # Errors
    /// As for [`get`](Client::get).
    pub async fn status(&self, endpoint: &str) -> Result<StatusResponse, Error> {
        self.at(endpoint)?.maintenance().status(StatusRequest {}).await
    }

    /// Hashes the history of the member at an endpoint up to `revision`, 0 for the newest. Members that hash the same
    /// revision after the same compaction must get the same.
    ///
    /// # Errors
    /// As for [`get`](Client::get).
    pub async fn hash_kv(&self, endpoint: &str, revision: i64) -> Result<HashKvResponse, Error> {
        self.at(endpoint)?.maintenance().hash_kv(HashKvRequest { revision }).await
    }

    /// Makes the member at an endpoint give unused storage back to the operating system. With some servers this takes
    /// long and stops the member meanwhile: see [`with_timeout`](Client::with_timeout).
    ///
    /// # Errors
    /// As for [`put`](Client::put).
    pub async fn defragment(&self, endpoint: &str) -> Result<(), Error> {
        self.at(endpoint)?.maintenance().defragment(DefragmentRequest {}).await.map(drop)
    }

    /// Copies the storage of the member at an endpoint.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::io::Write;
    ///
    /// let mut file = std::fs::File::create("backup.db")?;
    /// let mut snapshot = client.snapshot("http://10.0.0.1:2379").await?;
    /// while let Some(piece) = snapshot.next().await {
    ///     file.write_all(&piece?)?;
    /// }
    /// file.sync_all()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`get`](Client::get).
    pub async fn snapshot(&self, endpoint: &str) -> Result<Snapshot, Error> {
        let stream = self.at(endpoint)?.maintenance().snapshot(SnapshotRequest {}).await?;
        Ok(Snapshot { stream, remaining_bytes: 0 })
    }

    /// Lists the alarms of the cluster.
    ///
    /// # Errors
    /// As for [`get`](Client::get).
    pub async fn alarm_list(&self) -> Result<Vec<AlarmMember>, Error> {
        self.alarm(AlarmAction::Get, 0, AlarmType::None).await
    }

    /// Clears an alarm of a member. Returns the alarms that were cleared.
    ///
    /// # Errors
    /// As for [`put`](Client::put).
    pub async fn alarm_disarm(&self, member_id: u64, alarm: AlarmType) -> Result<Vec<AlarmMember>, Error> {
        self.alarm(AlarmAction::Deactivate, member_id, alarm).await
    }

    async fn alarm(&self, action: AlarmAction, member_id: u64, alarm: AlarmType) -> Result<Vec<AlarmMember>, Error> {
        let request = AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
        Ok(self.maintenance().alarm(request).await?.alarms)
    }

    /// Hands leadership to the member `target_id`. Asks the endpoints of this client for the leader first, since the
    /// leader alone takes the call: its endpoint must be among them.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no endpoint is the leader's; [`Error::Rejected`] if the target cannot lead;
    /// [`Error::UnknownOutcome`] if leadership may have moved.
    pub async fn move_leader(&self, target_id: u64) -> Result<(), Error> {
        for endpoint in self.endpoints() {
            let Ok(status) = self.status(&endpoint).await else { continue };
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                let request = MoveLeaderRequest { target_id };
                return self.at(&endpoint)?.maintenance().move_leader(request).await.map(drop);
            }
        }
        Err(Error::Unavailable { code: Code::Unavailable, message: "no endpoint is the leader's".into() })
    }
}

/// A copy of the storage on its way.
#[derive(Debug)]
pub struct Snapshot {
    stream: Streaming<SnapshotResponse>,
    remaining_bytes: u64,
}

impl Snapshot {
    /// The next piece; `None` when the copy is complete.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the stream breaks: the copy must be begun anew.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        match self.stream.message().await {
            Ok(Some(piece)) => {
                self.remaining_bytes = piece.remaining_bytes;
                Some(Ok(piece.blob))
            }
            Ok(None) => None,
            Err(status) => Some(Err(Error::unavailable(&status))),
        }
    }

    /// Bytes that come after the last piece, as the server counts them.
    pub fn remaining_bytes(&self) -> u64 {
        self.remaining_bytes
    }
}
