//! openraft's network over our peer streams: pipelined appends, votes, snapshots in chunks with back pressure.

use super::codec;
use super::state_machine::SnapshotHandle;
use super::types::{CommittedLeaderId, MemberNode, Types, Vote};
use crate::peer::{PeerError, Peers};
use futures::stream::{BoxStream, StreamExt};
use futures::{FutureExt, Stream};
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, Snapshot};
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_core::GroupId;
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::rarely;
use quorate_storage::Store;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Appends under way to one follower. Deeper pipelines defeat batching.
const APPENDS_INFLIGHT_MAX: usize = 3;

/// Record bytes in one snapshot chunk.
const SNAPSHOT_CHUNK_BYTES: usize = 512 << 10;

/// How long the receiver may take for one chunk before the transfer is given up.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the network to each member.
pub(super) struct NetworkFactory {
    peers: Arc<Peers>,
    group: GroupId,
    timeout: Duration,
}

impl NetworkFactory {
    pub(super) fn new(peers: Arc<Peers>, group: GroupId, timeout: Duration) -> Self {
        Self { peers, group, timeout }
    }
}

impl RaftNetworkFactory<Types> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Network {
        self.peers.set_urls(target, node.peer_urls.clone());
        Network { peers: self.peers.clone(), group: self.group, target, timeout: self.timeout }
    }
}

/// The way to one member, for one group.
pub(super) struct Network {
    peers: Arc<Peers>,
    group: GroupId,
    target: u64,
    timeout: Duration,
}

impl Network {
    async fn call(&self, ask: Ask, timeout: Duration) -> Result<Answer, RPCError<Types>> {
        let result = self.peers.call(self.target, self.group, ask, timeout).await;
        if let Err(PeerError::Failed(failure)) = &result
            && failure.code == crate::error_code::REMOVED
        {
            self.peers.refused(pb::Refusal::Removed, &failure.text);
        }
        result.map_err(rpc_error)
    }

    fn wrong_answer(&self, to: &str) -> RPCError<Types> {
        network_error(format!("member {:x} answered something else to {to}", self.target))
    }
}

fn network_error(text: String) -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string(text))
}

fn rpc_error(error: PeerError) -> RPCError<Types> {
    match error {
        // Back off: dialling again at once would only burn the CPU.
        PeerError::NotConnected(_) | PeerError::Refused(_) => RPCError::Unreachable(Unreachable::new(&error)),
        PeerError::Lost | PeerError::Timeout | PeerError::Overloaded | PeerError::Failed(_) => {
            RPCError::Network(NetworkError::new(&error))
        }
    }
}

fn append_result(answer: Answer) -> Option<StreamAppendResult<Types>> {
    let Answer::Append(reply) = answer else { return None };
    Some(match reply.result? {
        pb::append_reply::Result::Matching(m) => Ok(m.log_id.map(codec::log_id_from_pb)),
        pb::append_reply::Result::Conflict(id) => Err(StreamAppendError::Conflict(codec::log_id_from_pb(id))),
        pb::append_reply::Result::HigherVote(v) => Err(StreamAppendError::HigherVote(codec::vote_from_pb(v))),
    })
}

impl RaftNetworkV2<Types> for Network {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.call(Ask::Append(codec::append_to_pb(&request)), self.timeout).await?;
        match append_result(answer).ok_or_else(|| self.wrong_answer("an append"))? {
            Ok(_) => Ok(AppendEntriesResponse::Success),
            Err(StreamAppendError::Conflict(_)) => Ok(AppendEntriesResponse::Conflict),
            Err(StreamAppendError::HigherVote(vote)) => Ok(AppendEntriesResponse::HigherVote(vote)),
        }
    }

    /// Sends up to [`APPENDS_INFLIGHT_MAX`] requests ahead of their answers; the peer answers in order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        struct State<S> {
            input: S,
            input_done: bool,
            inflight: VecDeque<tokio::sync::oneshot::Receiver<Result<Answer, PeerError>>>,
            failed: bool,
        }
        let this = &*self;
        let state = State { input, input_done: false, inflight: VecDeque::new(), failed: false };
        let stream = futures::stream::unfold(state, move |mut state| async move {
            loop {
                if state.failed || (state.input_done && state.inflight.is_empty()) {
                    return None;
                }
                let may_send = !state.input_done && state.inflight.len() < APPENDS_INFLIGHT_MAX;
                let answered = tokio::select! {
                    biased;
                    answer = async {
                        match state.inflight.front_mut() {
                            Some(first) => tokio::time::timeout(this.timeout, first).await,
                            None => std::future::pending().await,
                        }
                    } => Some(answer),
                    request = state.input.next(), if may_send => {
                        match request {
                            Some(request) => {
                                let ask = Ask::Append(codec::append_to_pb(&request));
                                state.inflight.push_back(this.peers.send(this.target, this.group, ask));
                            }
                            None => state.input_done = true,
                        }
                        None
                    }
                };
                let Some(answer) = answered else { continue };
                state.inflight.pop_front();
                let result = match answer {
                    Err(_elapsed) => Err(rpc_error(PeerError::Timeout)),
                    Ok(Err(_dropped)) => Err(rpc_error(PeerError::Lost)),
                    Ok(Ok(Err(error))) => Err(rpc_error(error)),
                    Ok(Ok(Ok(answer))) => append_result(answer).ok_or_else(|| this.wrong_answer("an append")),
                };
                // After a refusal or an error, what was sent behind it is answered with refusals too: end the stream.
                state.failed = !matches!(result, Ok(Ok(_)));
                return Some((result, state));
            }
        });
        async move { Ok(stream.boxed()) }.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.call(Ask::Vote(codec::vote_request_to_pb(&request)), self.timeout).await?;
        let Answer::Vote(reply) = answer else { return Err(self.wrong_answer("a vote request")) };
        codec::vote_response_from_pb(reply).map_err(|e| network_error(e.to_string()))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let answer = self.call(Ask::PreVote(codec::vote_request_to_pb(&request)), self.timeout).await?;
        let Answer::Vote(reply) = answer else { return Err(self.wrong_answer("a pre-vote request")) };
        codec::vote_response_from_pb(reply).map_err(|e| network_error(e.to_string()))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, u64, MemberNode, SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotHandle::Export { store, floor } = snapshot.snapshot else {
            return Err(StreamingError::from(network_error("a received snapshot cannot be sent on".into())));
        };
        let transfer = self.send_snapshot(vote, &store);
        let result = tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            result = transfer => result.map_err(StreamingError::from),
        };
        drop(floor);
        result
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let ask = Ask::TransferLeader(pb::TransferLeader {
            from_leader: Some(codec::vote_to_pb(request.from_leader())),
            to_node_id: *request.to_node_id(),
            last_log_id: request.last_log_id().map(codec::log_id_to_pb),
        });
        let answer = self.call(ask, self.timeout).await?;
        let Answer::TransferLeader(reply) = answer else { return Err(self.wrong_answer("a leader transfer")) };
        // The caller only logs an error: the target did not take it up, and the leader goes on.
        if reply.error.is_empty() { Ok(Ok(())) } else { Err(network_error(reply.error)) }
    }

    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

impl Network {
    /// Streams the export over a connection of its own, one chunk ahead of the answers: what is in memory is two chunks.
    async fn send_snapshot(&self, vote: Vote, store: &Store) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let connection = self.peers.connect_for_snapshot(self.target).await.map_err(rpc_error)?;
        let mut export = store.export();
        let meta = export.meta();
        let membership = codec::decode_membership(&meta.membership).map_err(|e| network_error(e.to_string()))?;
        let begin = pb::SnapshotBegin {
            vote: Some(codec::vote_to_pb(&vote)),
            last_log_id: codec::last_of(meta.applied).map(|(term, index)| pb::LogId { term, index }),
            membership: Some(codec::stored_membership_to_pb(&membership)),
            meta: meta.encode(),
        };
        connection.call(self.group, Ask::SnapshotBegin(begin), SNAPSHOT_CHUNK_TIMEOUT).await.map_err(rpc_error)?;
        let mut sent: u64 = 0;
        let mut previous = None;
        loop {
            let bytes = if rarely!(SmallSnapshotChunk) { 1 } else { SNAPSHOT_CHUNK_BYTES };
            let records = export.next(bytes).map_err(|e| network_error(e.to_string()))?;
            if let Some(answer) = previous.take() {
                wait(answer).await?;
            }
            if records.is_empty() {
                break;
            }
            sent += records.len() as u64;
            let records = records.iter().map(crate::snapshot::encode_record).collect();
            previous = Some(connection.send(self.group, Ask::SnapshotChunk(pb::SnapshotChunk { records })));
            tokio::task::yield_now().await;
        }
        let end = Ask::SnapshotEnd(pb::SnapshotEnd { records: sent });
        let answer = connection.call(self.group, end, SNAPSHOT_CHUNK_TIMEOUT * 4).await.map_err(rpc_error)?;
        let Answer::Snapshot(pb::SnapshotReply { vote: Some(vote) }) = answer else {
            return Err(self.wrong_answer("a snapshot"));
        };
        Ok(SnapshotResponse::new(codec::vote_from_pb(vote)))
    }
}

async fn wait(answer: tokio::sync::oneshot::Receiver<Result<Answer, PeerError>>) -> Result<(), RPCError<Types>> {
    match tokio::time::timeout(SNAPSHOT_CHUNK_TIMEOUT, answer).await {
        Err(_elapsed) => Err(rpc_error(PeerError::Timeout)),
        Ok(Err(_dropped)) => Err(rpc_error(PeerError::Lost)),
        Ok(Ok(answer)) => answer.map(|_| ()).map_err(rpc_error),
    }
}
