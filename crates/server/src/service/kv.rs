//! The KV service: range, put, delete, txn, compact.

use super::range_stream::{RangeAnswers, check_streamable};
use crate::client::Client;
use crate::convert;
use crate::grpc::{Body, Session};
use crate::limits::Limit;
use crate::status::{rejected, status};
use quorate_core::{Op, Revision, Txn, TxnReply, check_delete, check_put, check_txn};
use quorate_node::Answer;
use quorate_proto::etcdserverpb as pb;
use quorate_sabotage::sabotage;
use tonic::Status;

/// Reads a range.
pub async fn range(client: &Client, request: pb::RangeRequest) -> Result<pb::RangeResponse, Status> {
    let mut request = convert::range_request(request)?;
    if sabotage!(FrontReadsSerializable) {
        request.serializable = true;
    }
    let answer = client.ask(request, |node, request| async move { node.range(request).await }).await?;
    let mut response = convert::range_response(convert::header(answer.header), answer.body);
    if sabotage!(FrontLimitDropsMore) {
        response.more = false;
    }
    Ok(response)
}

/// Reads a range as a stream of chunks.
pub async fn range_stream(session: Session, request: pb::RangeRequest) -> Result<Body, (Session, Status)> {
    let request = match convert::range_request(request).and_then(check_streamable) {
        Ok(request) => request,
        Err(failure) => return Err((session, failure)),
    };
    match session.client.node.range_chunks(request).await {
        Ok(reader) => Ok(super::body(RangeAnswers::new(session, reader))),
        Err(error) => Err((session, status(&error))),
    }
}

/// Writes one key.
pub async fn put(client: &Client, request: pb::PutRequest) -> Result<pb::PutResponse, Status> {
    let put = convert::put_request(request);
    check_put(&put).map_err(rejected)?;
    convert::put_answer(carry_out(client, only(Op::Put(put))).await?)
}

/// Deletes keys.
pub async fn delete_range(client: &Client, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Status> {
    let delete = convert::delete_request(request);
    check_delete(&delete).map_err(rejected)?;
    convert::delete_answer(carry_out(client, only(Op::DeleteRange(delete))).await?)
}

fn only(op: Op) -> Txn {
    Txn { compares: Vec::new(), success: vec![op], failure: Vec::new() }
}

/// Runs a transaction.
pub async fn txn(client: &Client, request: pb::TxnRequest) -> Result<pb::TxnResponse, Status> {
    let txn = convert::txn_request(request, client.txn_ops_max)?;
    check_txn(&txn, client.txn_ops_max).map_err(rejected)?;
    Ok(convert::txn_answer(carry_out(client, txn).await?))
}

/// Puts, deletes and transactions are all transactions from here on.
async fn carry_out(client: &Client, txn: Txn) -> Result<Answer<TxnReply>, Status> {
    admit_answer(client, &txn)?;
    client.ask(txn, |node, txn| async move { node.txn(txn).await }).await
}

/// Refuses beforehand what could not be refused any more when its answer turns out to be large: where an operation changes
/// something and another, or the same, tells what is or was there.
fn admit_answer(client: &Client, txn: &Txn) -> Result<(), Status> {
    let both = |ops: &[Op]| ops.iter().any(changes) && ops.iter().any(tells);
    if client.answers.is_full() && (both(&txn.success) || both(&txn.failure)) {
        return Err(Limit::AnswerBytes.refusal());
    }
    Ok(())
}

fn changes(op: &Op) -> bool {
    match op {
        Op::Range(_) => false,
        Op::Put(_) | Op::DeleteRange(_) => true,
        Op::Txn(txn) => !txn.is_read_only(),
    }
}

fn tells(op: &Op) -> bool {
    match op {
        Op::Range(_) => true,
        Op::Put(put) => put.prev_kv,
        Op::DeleteRange(delete) => delete.prev_kv,
        Op::Txn(txn) => txn.success.iter().chain(&txn.failure).any(tells),
    }
}

/// Whether the transaction that this answers has changed something. If all that it did was to read, as one does whose comparison
/// failed, it was as if it had not been.
pub fn has_changed(answer: &pb::TxnResponse) -> bool {
    use pb::response_op::Response;
    answer.responses.iter().any(|op| match &op.response {
        None | Some(Response::ResponseRange(_)) => false,
        Some(Response::ResponsePut(_)) => true,
        Some(Response::ResponseDeleteRange(delete)) => delete.deleted > 0,
        Some(Response::ResponseTxn(txn)) => has_changed(txn),
    })
}

/// Forgets history.
pub async fn compact(client: &Client, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, Status> {
    let revision = Revision::new(request.revision);
    let answer = client.node.compact(revision, request.physical).await.map_err(|error| status(&error))?;
    Ok(pb::CompactionResponse { header: Some(convert::header(answer.header)) })
}
