//! Transcripts between a hub and a server that is played by the test. No stream is ever opened: requests are taken from
//! the outbox, and answers are handed in.

use quorate_proto::etcdserverpb::ResponseHeader;
use quorate_proto::mvccpb::{self, KeyValue};

use super::*;
use crate::ConnectOptions;

/// The near end of a watch.
struct Reader {
    batches: mpsc::Receiver<Batch>,
    end: Arc<Mutex<Option<Error>>>,
    confirmed: oneshot::Receiver<Result<i64, Error>>,
    _alive: oneshot::Sender<()>,
}

impl Reader {
    /// Everything that came since the last time: revisions of events, `progress`, the end.
    fn read(&mut self) -> String {
        let mut seen = Vec::new();
        while let Ok(batch) = self.batches.try_recv() {
            if batch.events.is_empty() {
                seen.push(format!("progress {}", batch.revision));
            }
            seen.extend(batch.events.iter().map(|event| event.kv.mod_revision.to_string()));
        }
        seen.extend(self.end.lock().take().map(|error| error.to_string()));
        seen.join(", ")
    }

    fn confirmation(&mut self) -> Option<Result<i64, Error>> {
        self.confirmed.try_recv().ok()
    }
}

fn hub_with(options: ConnectOptions) -> Hub {
    let (_, commands) = mpsc::channel(1);
    Hub::new(Arc::new(Transport::connect(&["127.0.0.1:1"], options).unwrap()), commands)
}

fn hub() -> Hub {
    hub_with(ConnectOptions::new())
}

fn watch(hub: &mut Hub, buffer: usize) -> Reader {
    let (sender, batches) = mpsc::channel(buffer);
    let (confirm, confirmed) = oneshot::channel();
    let (alive, reader) = oneshot::channel();
    let end = Arc::new(Mutex::new(None));
    let request = WatchCreateRequest { key: "k".into(), ..Default::default() };
    hub.handle(Input::Command(Command::Create(Create { request, batches: sender, reader, end: end.clone(), confirm })));
    Reader { batches, end, confirmed, _alive: alive }
}

/// Takes what the hub has to send.
fn sent(hub: &mut Hub) -> String {
    let text = |request: WatchRequest| match request.request_union.unwrap() {
        RequestUnion::CreateRequest(create) => format!("create {} from {}", create.watch_id, create.start_revision),
        RequestUnion::CancelRequest(cancel) => format!("cancel {}", cancel.watch_id),
        RequestUnion::ProgressRequest(_) => "progress".to_owned(),
    };
    hub.outbox.drain(..).map(text).collect::<Vec<_>>().join(", ")
}

fn answer(hub: &mut Hub, watch_id: i64, revision: i64, change: impl FnOnce(&mut WatchResponse)) {
    let header = Some(ResponseHeader { revision, ..Default::default() });
    let mut response = WatchResponse { header, watch_id, ..Default::default() };
    change(&mut response);
    hub.handle(Input::Response(response));
}

fn created(hub: &mut Hub, watch_id: i64, revision: i64) {
    answer(hub, watch_id, revision, |response| response.created = true);
}

fn refused(hub: &mut Hub, watch_id: i64, reason: &str) {
    answer(hub, watch_id, 9, |response| {
        (response.created, response.canceled) = (true, true);
        response.cancel_reason = reason.to_owned();
    });
}

fn events(hub: &mut Hub, watch_id: i64, revisions: &[i64]) {
    answer(hub, watch_id, *revisions.last().unwrap(), |response| {
        let event = |revision: &i64| {
            let kv = KeyValue { key: "k".into(), mod_revision: *revision, ..Default::default() };
            mvccpb::Event { kv: Some(kv), ..Default::default() }
        };
        response.events = revisions.iter().map(event).collect();
    });
}

/// The stream breaks, and the time to begin another comes.
fn reconnect(hub: &mut Hub) {
    hub.handle(Input::Lost(Status::unavailable("gone")));
    assert!(matches!(hub.link, Link::Waiting(_)));
    hub.handle(Input::Retry);
}

#[tokio::test]
async fn confirmations_find_their_watches_by_id_or_else_by_order() {
    let mut hub = hub();
    let (mut a, mut b, mut c) = (watch(&mut hub, 8), watch(&mut hub, 8), watch(&mut hub, 8));
    assert_eq!(sent(&mut hub), "create 1 from 0, create 2 from 0, create 3 from 0");
    // Out of order, but named.
    created(&mut hub, 2, 5);
    assert_eq!((a.confirmation(), b.confirmation()), (None, Some(Ok(5))));
    // A refusal without a name is for the first that has no answer; ids of the server's own are used from then on.
    refused(&mut hub, -1, "no");
    assert_eq!(a.confirmation(), Some(Err(Error::WatchCanceled { reason: "no".into() })));
    created(&mut hub, 70, 6);
    assert_eq!(c.confirmation(), Some(Ok(6)));
    events(&mut hub, 70, &[7]);
    events(&mut hub, 2, &[8]);
    assert_eq!((b.read(), c.read()), ("8".into(), "7".into()));
}

#[tokio::test]
async fn a_new_stream_begins_where_each_watch_was() {
    let mut hub = hub();
    let (mut a, mut b, mut c) = (watch(&mut hub, 8), watch(&mut hub, 8), watch(&mut hub, 8));
    created(&mut hub, 1, 5);
    created(&mut hub, 2, 5);
    events(&mut hub, 1, &[6, 7]);
    sent(&mut hub);
    reconnect(&mut hub);
    // The third was never confirmed, so it still begins "from now on".
    assert_eq!(sent(&mut hub), "create 4 from 8, create 5 from 6, create 6 from 0");
    created(&mut hub, 4, 9);
    created(&mut hub, 5, 9);
    created(&mut hub, 6, 9);
    // An event under an id of the old stream is nobody's.
    events(&mut hub, 1, &[8]);
    events(&mut hub, 4, &[8]);
    events(&mut hub, 5, &[6, 8]);
    assert_eq!((a.read(), b.read(), c.read()), ("6, 7, 8".into(), "6, 8".into(), "".into()));
    assert_eq!(c.confirmation(), Some(Ok(9)));
}

#[tokio::test]
async fn a_full_watch_leaves_the_stream_and_comes_back_where_it_was() {
    let mut hub = hub();
    let mut slow = watch(&mut hub, 1);
    created(&mut hub, 1, 1);
    sent(&mut hub);
    events(&mut hub, 1, &[2]);
    events(&mut hub, 1, &[3]);
    assert_eq!(sent(&mut hub), "cancel 1");
    // On their way before the cancel arrived, and the answer to it.
    events(&mut hub, 1, &[4]);
    answer(&mut hub, 1, 4, |response| response.canceled = true);
    // A new stream does not carry it either.
    let _other = watch(&mut hub, 1);
    reconnect(&mut hub);
    assert_eq!(sent(&mut hub), "create 3 from 0");
    assert_eq!(slow.read(), "2");
    let drained = hub.drained.next().await.unwrap();
    hub.handle(Input::Drained(drained));
    assert_eq!(sent(&mut hub), "create 4 from 3");
    created(&mut hub, 3, 4);
    created(&mut hub, 4, 4);
    events(&mut hub, 4, &[3, 4]);
    assert_eq!(slow.read(), "3, 4");
}

#[tokio::test]
async fn a_watch_dropped_before_its_confirmation_is_canceled_after_it() {
    let mut hub = hub();
    let dropped = watch(&mut hub, 8);
    let mut kept = watch(&mut hub, 8);
    sent(&mut hub);
    drop(dropped);
    let key = hub.dropped.next().await.unwrap();
    hub.handle(Input::Dropped(key));
    created(&mut hub, 1, 5);
    assert_eq!(sent(&mut hub), "cancel 1");
    created(&mut hub, 2, 5);
    events(&mut hub, 2, &[6]);
    assert_eq!(kept.read(), "6");
    // The last one takes the stream with it.
    drop(kept);
    let key = hub.dropped.next().await.unwrap();
    hub.handle(Input::Dropped(key));
    assert!(matches!(hub.link, Link::Idle));
}

#[tokio::test]
async fn progress_moves_the_place_to_resume_from() {
    let mut hub = hub();
    let mut reader = watch(&mut hub, 8);
    created(&mut hub, 1, 5);
    // Not asked for by this watch, but useful.
    answer(&mut hub, 1, 20, |_| {});
    assert_eq!(reader.read(), "");
    answer(&mut hub, ALL_WATCHES, 30, |_| {});
    assert_eq!(reader.read(), "progress 30");
    sent(&mut hub);
    reconnect(&mut hub);
    assert_eq!(sent(&mut hub), "create 2 from 31");
}

#[tokio::test]
async fn a_final_refusal_of_the_stream_ends_all_watches() {
    let mut hub = hub();
    let (mut waiting, mut live) = (watch(&mut hub, 8), watch(&mut hub, 8));
    created(&mut hub, 2, 5);
    hub.handle(Input::Lost(Status::permission_denied("etcdserver: permission denied")));
    assert!(waiting.confirmation().unwrap().unwrap_err().is_permission_denied());
    assert_eq!(live.read(), "etcdserver: permission denied");
    assert!(matches!(hub.link, Link::Idle));
}

#[tokio::test(start_paused = true)]
async fn new_tokens_are_tried_for_a_time_before_it_is_believed_that_none_will_do() {
    let mut hub = hub_with(ConnectOptions::new().user("app", "secret"));
    let mut reader = watch(&mut hub, 8);
    let reason = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
    let (begin, mut round) = (Instant::now(), 0);
    loop {
        round += 1;
        assert_eq!(sent(&mut hub), format!("create {round} from 0"));
        refused(&mut hub, round, reason);
        let Link::Waiting(until) = hub.link else { break };
        assert!(reader.confirmation().is_none());
        sleep_until(until).await;
        hub.handle(Input::Retry);
    }
    assert!(matches!(reader.confirmation(), Some(Err(Error::WatchCanceled { .. }))));
    assert!(round > 6 && begin.elapsed() <= crate::auth::PAUSES_MAX, "{round} in {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_refusal_is_believed_the_second_time_if_there_is_a_user() {
    let mut hub = hub_with(ConnectOptions::new().user("app", "secret"));
    let mut other = watch(&mut hub, 8);
    let mut reader = watch(&mut hub, 8);
    created(&mut hub, 1, 5);
    sent(&mut hub);
    refused(&mut hub, 2, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    hub.handle(Input::Retry);
    assert_eq!(sent(&mut hub), "create 3 from 6, create 4 from 0");
    created(&mut hub, 3, 5);
    refused(&mut hub, 4, "rpc error: code = PermissionDenied desc = etcdserver: permission denied");
    assert!(matches!(reader.confirmation(), Some(Err(Error::WatchCanceled { .. }))));
    events(&mut hub, 3, &[6]);
    assert_eq!(other.read(), "6");
}
