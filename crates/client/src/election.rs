//! Elections: at most one session at a time leads a name, and says something of itself that all can read.

use std::time::Duration;

use quorate_proto::v3electionpb::{LeaderRequest, LeaderResponse};
use tokio::time::sleep;
use tonic::{Code, Status, Streaming};

use crate::session::{Place, Session};
use crate::{Client, Compare, Error, Op, PutOptions, Txn};

/// Pause before an observer that lost its endpoint asks the next one.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

impl Session {
    /// Waits until this call leads the election `name`, for as long as the session lives; `value` is what it says of
    /// itself.
    ///
    /// Dropping the future ends the candidacy.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when the session is lost; [`Error::Rejected`] if the server refuses.
    pub async fn campaign(&self, name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Result<Leadership, Error> {
        Ok(Leadership { place: Place::first(&self.shared, name.into(), value.into()).await? })
    }
}

/// Leadership that was won. It ends with [`resign`](Leadership::resign), when it is dropped (in the background), or with
/// its session. What [`LockGuard`](crate::LockGuard) says of tokens applies here.
#[derive(Debug)]
pub struct Leadership {
    place: Place,
}

impl Leadership {
    /// The key that stands for the leadership.
    pub fn key(&self) -> &[u8] {
        self.place.key()
    }

    /// The fencing token: greater than that of every earlier leader.
    pub fn token(&self) -> i64 {
        self.place.revision()
    }

    /// The condition that this leadership still lasts, for a [`Txn`](crate::Txn).
    pub fn is_held(&self) -> Compare {
        self.place.is_held()
    }

    /// Says something else.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] if it leads no longer; else as for [`Client::put`].
    pub async fn proclaim(&self, value: impl Into<Vec<u8>>) -> Result<(), Error> {
        let session = self.place.session();
        let put = PutOptions::new().lease(session.lease());
        let txn = Txn::new().when([self.is_held()]).then([Op::put(self.key(), value, put)]);
        if session.client.txn(txn).await?.succeeded { Ok(()) } else { Err(self.place.gone()) }
    }

    /// Waits until the session is lost, and with it the leadership; tells why.
    pub async fn lost(&self) -> Error {
        self.place.session().lost().await
    }

    /// Gives leadership up.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the server refuses. While no endpoint answers it waits, until the session is lost.
    pub async fn resign(self) -> Result<(), Error> {
        self.place.give_up().await
    }
}

impl Client {
    /// Tells of every leader of the election `name` and of what each says, beginning with the present one. Goes on at
    /// another endpoint when its own fails; what happened meanwhile and is over is not told.
    pub fn observe(&self, name: impl Into<Vec<u8>>) -> Observer {
        Observer { client: self.clone(), name: name.into(), stream: None, told: None }
    }
}

/// Follows an election.
#[derive(Debug)]
pub struct Observer {
    client: Client,
    name: Vec<u8>,
    stream: Option<Streaming<LeaderResponse>>,
    /// Key and revision of what was told last.
    told: Option<(bytes::Bytes, i64)>,
}

impl Observer {
    /// Waits for the next leader, or for the next that the leader says.
    ///
    /// # Errors
    /// [`Error::Rejected`] if the server refuses.
    pub async fn next(&mut self) -> Result<LeaderResponse, Error> {
        loop {
            match self.message().await {
                Ok(leader) => {
                    let told = leader.kv.as_ref().map(|kv| (kv.key.clone(), kv.mod_revision));
                    // A new stream begins with what may have been told.
                    if told.is_some() && told != self.told {
                        self.told = told;
                        return Ok(leader);
                    }
                }
                Err(Error::Unavailable { message, .. }) => {
                    tracing::debug!(message, "observing an election goes on elsewhere");
                    self.stream = None;
                    sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn message(&mut self) -> Result<LeaderResponse, Error> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let request = LeaderRequest { name: self.name.clone().into() };
                self.stream.insert(self.client.election_service().observe(request).await?)
            }
        };
        match stream.message().await {
            Ok(Some(leader)) => Ok(leader),
            Ok(None) => Err(Error::unavailable(&Status::unavailable("the stream ended"))),
            Err(status) => match status.code() {
                // Elections of etcd tell everything with the code "unknown".
                Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded => {
                    Err(Error::unavailable(&status))
                }
                _ => Err(Error::rejected(&status)),
            },
        }
    }
}
