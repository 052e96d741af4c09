//! A range in chunks, all at one revision: memory follows the chunk, not the range.

use super::{Answers, Outbox};
use crate::convert;
use crate::grpc::Session;
use crate::status::status;
use quorate_core::{KeyRange, RangeRequest, Revision, SortOrder, SortTarget};
use quorate_node::Header;
use quorate_proto::etcdserverpb as pb;
use tonic::Status;

const FIRST_CHUNK_KEYS: i64 = 10;

/// The chunks of one range.
pub struct RangeAnswers {
    session: Session,
    state: State,
}

enum State {
    /// Not started, or within the range.
    Reading {
        /// What is left to read; its limit is what is left of the client's.
        request: Box<RangeRequest>,
        chunk_keys: i64,
        /// Header and count of the first chunk, for the last message.
        first: Option<(Header, i64)>,
    },
    Done,
}

/// Passes a request on if its answer can be made in chunks.
///
/// # Errors
/// etcd's: an order other than the keys', or a filter by revision.
pub fn check_streamable(request: RangeRequest) -> Result<RangeRequest, Status> {
    let key_order = match (request.sort_order, request.sort_target) {
        (SortOrder::None | SortOrder::Ascend, target) => target == SortTarget::Key,
        (SortOrder::Descend, _) => false,
    };
    if !key_order {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    if filters.iter().any(|revision| *revision != Revision::ZERO) {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(request)
}

impl RangeAnswers {
    /// Reads nothing yet.
    pub fn new(session: Session, request: RangeRequest) -> Self {
        let request = Box::new(request);
        Self { session, state: State::Reading { request, chunk_keys: FIRST_CHUNK_KEYS, first: None } }
    }
}

impl Answers for RangeAnswers {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn next(&mut self, out: &mut Outbox) -> Result<bool, Status> {
        let State::Reading { request, chunk_keys, first } = &mut self.state else { return Ok(false) };
        let mut chunk = (**request).clone();
        if !request.count_only {
            chunk.limit = if request.limit > 0 { request.limit.min(*chunk_keys) } else { *chunk_keys };
        }
        let answer = self.session.shared.node.range(chunk).await.map_err(|error| status(&error))?;
        let (header, count) = *first.get_or_insert((answer.header, answer.body.count));
        if request.revision.get() <= 0 {
            request.revision = header.revision;
        }
        // The revision is pinned and this member has it: the other chunks need no leader.
        request.serializable = true;
        let sent = i64::try_from(answer.body.kvs.len()).unwrap_or(i64::MAX);
        let last_key = answer.body.kvs.last().map(|kv| kv.key.clone());
        let limit_reached = request.limit > 0 && sent >= request.limit;
        let more = answer.body.more;
        let mut response = convert::range_response(convert::header(header), answer.body);
        match last_key {
            Some(key) if more && !limit_reached => {
                request.range = after(&request.range, &key);
                if request.limit > 0 {
                    request.limit -= sent;
                }
                // Header, more and count belong to the last message.
                (response.header, response.more, response.count) = (None, false, 0);
                out.push(&pb::RangeStreamResponse { range_response: Some(response) });
                *chunk_keys = next_chunk_keys(*chunk_keys, out.bytes(), self.session.shared.request_bytes_max);
            }
            _ => {
                response.count = count;
                out.push(&pb::RangeStreamResponse { range_response: Some(response) });
                self.state = State::Done;
            }
        }
        Ok(true)
    }
}

/// Doubles the chunk while it is small, halves it when it was large.
fn next_chunk_keys(keys: i64, bytes: usize, bytes_max: usize) -> i64 {
    if bytes > bytes_max {
        (keys / 2).max(1)
    } else if bytes < bytes_max / 2 {
        keys.saturating_mul(2)
    } else {
        keys
    }
}

/// The part of `range` behind `key`.
fn after(range: &KeyRange, key: &[u8]) -> KeyRange {
    let start = [key, b"\0"].concat().into();
    match range {
        KeyRange::Single(_) => KeyRange::Interval { start, end: bytes::Bytes::copy_from_slice(key) },
        KeyRange::Interval { end, .. } => KeyRange::Interval { start, end: end.clone() },
        KeyRange::From { .. } => KeyRange::From { start },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_grow_while_small_and_shrink_when_large() {
        assert_eq!(next_chunk_keys(10, 100, 1000), 20);
        assert_eq!(next_chunk_keys(10, 700, 1000), 10);
        assert_eq!(next_chunk_keys(10, 1100, 1000), 5);
        assert_eq!(next_chunk_keys(1, 1100, 1000), 1);
    }

    #[test]
    fn what_is_left_of_a_range_starts_behind_the_key() {
        let interval = KeyRange::Interval { start: "a".into(), end: "z".into() };
        assert_eq!(after(&interval, b"b"), KeyRange::Interval { start: "b\0".into(), end: "z".into() });
        assert_eq!(after(&KeyRange::From { start: "a".into() }, b"b"), KeyRange::From { start: "b\0".into() });
        assert!(after(&KeyRange::Single("a".into()), b"a").is_empty());
    }
}
