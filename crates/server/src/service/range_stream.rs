//! A range in chunks, all at one revision: memory follows the chunk, not the range.

use super::{Answers, Outbox};
use crate::convert;
use crate::grpc::Session;
use crate::status::status;
use quorate_core::{RangeRequest, Revision, SortOrder, SortTarget};
use quorate_node::RangeReader;
use quorate_proto::etcdserverpb as pb;
use tonic::Status;

const FIRST_CHUNK_KEYS: usize = 10;

/// The chunks of one range.
pub struct RangeAnswers {
    session: Session,
    /// `None` once the totals were sent.
    reader: Option<RangeReader>,
    chunk_keys: usize,
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
    pub fn new(session: Session, reader: RangeReader) -> Self {
        Self { session, reader: Some(reader), chunk_keys: FIRST_CHUNK_KEYS }
    }
}

impl Answers for RangeAnswers {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn next(&mut self, out: &mut Outbox) -> Result<bool, Status> {
        let bytes_max = self.session.client.request_bytes_max;
        let Some(reader) = &mut self.reader else { return Ok(false) };
        let chunk = reader.next_chunk(self.chunk_keys, bytes_max).map_err(|error| status(&error))?;
        let mut response =
            pb::RangeResponse { kvs: chunk.kvs.into_iter().map(convert::key_value).collect(), ..Default::default() };
        // Header, more and count belong to the last message.
        if let Some(totals) = chunk.totals {
            response.header = Some(convert::header(reader.header()));
            (response.more, response.count) = (totals.more, totals.count);
            self.reader = None;
        }
        out.push(&pb::RangeStreamResponse { range_response: Some(response) });
        self.chunk_keys = next_chunk_keys(self.chunk_keys, out.bytes(), bytes_max);
        Ok(true)
    }
}

/// Doubles the chunk while it is small, halves it when it was large.
fn next_chunk_keys(keys: usize, bytes: usize, bytes_max: usize) -> usize {
    if bytes > bytes_max {
        (keys / 2).max(1)
    } else if bytes < bytes_max / 2 {
        keys.saturating_mul(2)
    } else {
        keys
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
}
