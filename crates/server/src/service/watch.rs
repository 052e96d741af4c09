//! The Watch service: one stream of the client is one watch stream of the node. Keeps nothing of events: the node's queue
//! is bounded, and the next message is asked for when the client has taken the last one.

use super::{Answers, Outbox, body};
use crate::convert;
use crate::grpc::{Body, Method, OVERHEAD_BYTES, Session, decode, end};
use crate::limits::Limit;
use crate::status::{rejected, status};
use bytes::Bytes;
use futures::FutureExt;
use prost::Message;
use quorate_core::Revision;
use quorate_node::{Error, WatchControl, WatchCreate, WatchEvent, WatchMessage, WatchStream};
use quorate_proto::etcdserverpb as pb;
use std::collections::{HashSet, VecDeque};
use tonic::{Code, Status};

/// Messages that are ready are sent together up to this size.
const BATCH_BYTES: usize = 32 << 10;

/// Opens a stream of watchers.
pub fn watch(session: Session) -> Body {
    let (control, stream) = session.client.node.watch_stream();
    body(WatchAnswers {
        session,
        control,
        stream,
        creates: VecDeque::new(),
        fragmenting: HashSet::new(),
        requests_end: false,
    })
}

struct WatchAnswers {
    session: Session,
    control: WatchControl,
    stream: WatchStream,
    /// Creates that are not answered yet, in order.
    creates: VecDeque<Pending>,
    /// Watchers whose large messages are to be cut.
    fragmenting: HashSet<i64>,
    /// The client has said all that it will. The watchers go on.
    requests_end: bool,
}

/// A create that is not answered yet.
enum Pending {
    /// The node was asked.
    Asked { fragment: bool },
    /// The client may not have it: the answer only waits for those before it.
    Denied { reason: String },
}

enum Event {
    Message(Option<WatchMessage>),
    Request(Option<Bytes>),
}

impl Answers for WatchAnswers {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn next(&mut self, out: &mut Outbox) -> Result<bool, Status> {
        while out.messages == 0 {
            let Session { requests, client, no_leader, .. } = &mut self.session;
            // A client that does not read its answers is not read from.
            let request = async {
                self.control.ready().await;
                requests.next().await
            };
            // The end comes last: it is looked at only when there is nothing else to do.
            let event = tokio::select! {
                biased;
                request = request, if !self.requests_end => Event::Request(request?),
                message = self.stream.next() => Event::Message(message),
                failure = end(client, no_leader) => return Err(failure),
            };
            match event {
                Event::Message(Some(message)) => self.send(message, out),
                Event::Message(None) => return Err(status(&Error::Stopped)),
                Event::Request(Some(request)) => {
                    self.audit(&request).await;
                    self.request(request, out).await?;
                }
                Event::Request(None) => self.requests_end = true,
            }
        }
        while out.bytes() < BATCH_BYTES {
            match self.stream.next().now_or_never() {
                Some(Some(message)) => self.send(message, out),
                // The end is found again by the next call.
                Some(None) | None => break,
            }
        }
        Ok(true)
    }
}

impl WatchAnswers {
    /// Each watcher is written down; the stream itself was.
    async fn audit(&self, message: &Bytes) {
        let Session { client, who, .. } = &self.session;
        if let Some(audit) = client.audit.as_ref().filter(|audit| audit.wants(Method::Watch)) {
            let creates = pb::WatchRequest::decode(message.clone()).is_ok_and(|request| {
                matches!(request.request_union, Some(pb::watch_request::RequestUnion::CreateRequest(_)))
            });
            if creates {
                audit.ended(who, Method::Watch, Some(message.clone()), None, (Code::Ok, "")).await;
            }
        }
    }

    async fn request(&mut self, message: Bytes, out: &mut Outbox) -> Result<(), Status> {
        use pb::watch_request::RequestUnion;
        self.session.track.received(message.len());
        let request: pb::WatchRequest = decode(message)?;
        match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let fragment = create.fragment;
                let create = convert::watch_create(create);
                match self.permit(&create).await {
                    Ok(()) => {
                        self.creates.push_back(Pending::Asked { fragment });
                        self.control.create(create);
                    }
                    Err(denial) => {
                        self.session.client.metrics.denied.increment();
                        // grpc-go's way to print an error; clients look for what is in it.
                        let reason = format!("rpc error: code = {:?} desc = {}", denial.code(), denial.message());
                        self.creates.push_back(Pending::Denied { reason });
                        self.answer_denied(out);
                    }
                }
            }
            Some(RequestUnion::CancelRequest(cancel)) => self.control.cancel(cancel.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.control.request_progress(),
            // As in etcd: a request of a kind that is not known yet is left alone.
            None => {}
        }
        Ok(())
    }

    /// Whether the client may have the watcher. Asked for at its creation, and not again, as in etcd.
    async fn permit(&self, create: &WatchCreate) -> Result<(), Status> {
        let client = self.session.client.proven().await?;
        client.node.check_read(&create.range).map_err(rejected)
    }

    /// Answers the denied creates that no earlier one holds up.
    fn answer_denied(&mut self, out: &mut Outbox) {
        while let Some(Pending::Denied { reason }) = self.creates.front() {
            let revision = self.session.client.node.header().revision;
            out.push(&pb::WatchResponse {
                created: true,
                canceled: true,
                cancel_reason: reason.clone(),
                ..self.response(-1, revision)
            });
            self.creates.pop_front();
        }
    }

    fn response(&self, watch_id: i64, revision: Revision) -> pb::WatchResponse {
        let header = quorate_node::Header { revision, ..self.session.client.node.header() };
        pb::WatchResponse { header: Some(convert::header(header)), watch_id, ..Default::default() }
    }

    fn send(&mut self, message: WatchMessage, out: &mut Outbox) {
        match message {
            WatchMessage::Created { watch_id, revision } => {
                if let Some(Pending::Asked { fragment: true }) = self.creates.pop_front() {
                    self.fragmenting.insert(watch_id);
                }
                out.push(&pb::WatchResponse { created: true, ..self.response(watch_id, revision) });
                self.answer_denied(out);
            }
            WatchMessage::Refused { revision, reason } => {
                self.creates.pop_front();
                if let Some(limit) = Limit::of_watcher(reason) {
                    self.session.client.metrics.refused(limit);
                }
                out.push(&pb::WatchResponse {
                    created: true,
                    canceled: true,
                    cancel_reason: reason.to_owned(),
                    ..self.response(-1, revision)
                });
                self.answer_denied(out);
            }
            WatchMessage::Events { watch_id, revision, events } => self.send_events(watch_id, revision, events, out),
            WatchMessage::Progress { watch_id, revision } => out.push(&self.response(watch_id, revision)),
            WatchMessage::Canceled { watch_id, revision, compact_revision } => {
                self.fragmenting.remove(&watch_id);
                out.push(&pb::WatchResponse {
                    canceled: true,
                    compact_revision: compact_revision.get(),
                    ..self.response(watch_id, revision)
                });
            }
        }
    }

    fn send_events(&self, watch_id: i64, revision: Revision, events: Vec<WatchEvent>, out: &mut Outbox) {
        let events = events.into_iter().map(convert::event).collect();
        let response = pb::WatchResponse { events, ..self.response(watch_id, revision) };
        let bytes_max = self.session.client.request_bytes_max + OVERHEAD_BYTES;
        if self.fragmenting.contains(&watch_id) && response.encoded_len() >= bytes_max {
            for fragment in fragments(response, bytes_max) {
                out.push(&fragment);
            }
        } else {
            out.push(&response);
        }
    }
}

/// Cuts a response between events, so that each part is smaller than `bytes_max`, unless it is a single event.
fn fragments(mut response: pb::WatchResponse, bytes_max: usize) -> Vec<pb::WatchResponse> {
    let events = std::mem::take(&mut response.events);
    let empty_bytes = response.encoded_len() + 2;
    let mut parts = vec![response.clone()];
    let mut bytes = empty_bytes;
    for event in events {
        let length = event.encoded_len();
        let event_bytes = 1 + prost::length_delimiter_len(length) + length;
        let full = parts.last().is_some_and(|part| !part.events.is_empty()) && bytes + event_bytes >= bytes_max;
        if full {
            parts.push(response.clone());
            bytes = empty_bytes;
        }
        bytes += event_bytes;
        if let Some(part) = parts.last_mut() {
            part.events.push(event);
        }
    }
    let last = parts.len() - 1;
    for part in &mut parts[..last] {
        part.fragment = true;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_proto::mvccpb;

    fn response(values: &[usize]) -> pb::WatchResponse {
        let event = |bytes: &usize| mvccpb::Event {
            kv: Some(mvccpb::KeyValue { value: vec![0; *bytes].into(), ..Default::default() }),
            ..Default::default()
        };
        pb::WatchResponse { watch_id: 5, events: values.iter().map(event).collect(), ..Default::default() }
    }

    #[test]
    fn fragments_are_cut_between_events_and_all_but_the_last_say_so() {
        for (values, expected) in [
            (&[10, 10][..], vec![2]),
            (&[60, 60, 60], vec![1, 1, 1]),
            (&[20, 20, 80, 10], vec![2, 1, 1]),
            (&[500, 10], vec![1, 1]),
        ] {
            let parts = fragments(response(values), 100);
            let sizes: Vec<_> = parts.iter().map(|part| part.events.len()).collect();
            assert_eq!(sizes, expected, "{values:?}");
            for (place, part) in parts.iter().enumerate() {
                assert_eq!((part.watch_id, part.fragment), (5, place + 1 < parts.len()));
                assert!(part.encoded_len() < 100 || part.events.len() == 1);
            }
        }
    }
}
