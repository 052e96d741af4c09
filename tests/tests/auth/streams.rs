//! Streams that are open when the token that they were opened with ends: what they have goes on, what they ask for then does not.

use std::time::Duration;

use quorate_proto::etcdserverpb::lease_client::LeaseClient;
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, WatchCancelRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::calls::{drain, get, put, request, show, single, watch_request};
use crate::deviations::WATCHERS_ARE_TOLD;
use crate::gateway::with_users;
use crate::other::lease_grant;
use crate::pair::{Pair, Side};
use crate::users::auth_disable;

const LEASE: i64 = 0x11;

/// The watcher that is there. Not 0: that is the id with which etcd 3.5.1 refuses another, and it then forgets the one that has it.
const WATCHER: i64 = 5;

/// How long nothing comes from a stream until nothing more is waited for.
const SILENCE: Duration = Duration::from_secs(2);

/// Streams of one server.
struct Streams {
    watches: mpsc::Sender<WatchRequest>,
    watched: Streaming<WatchResponse>,
    renewals: mpsc::Sender<LeaseKeepAliveRequest>,
    renewed: Streaming<LeaseKeepAliveResponse>,
}

impl Streams {
    /// Opens a stream of watches and one of renewals; the first request of each is sent, as a server may answer nothing before it.
    async fn open(side: &Side, who: &str) -> Streams {
        let (watches, requests) = mpsc::channel(4);
        let create = WatchCreateRequest { key: "a/1".into(), watch_id: WATCHER, ..Default::default() };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        watches.send(create).await.expect("room for it");
        let requests = request(ReceiverStream::new(requests), side.credentials(who));
        let watched = WatchClient::new(side.channel(0).clone()).watch(requests).await.expect("a stream").into_inner();
        let (renewals, requests) = mpsc::channel(4);
        renewals.send(LeaseKeepAliveRequest { id: LEASE }).await.expect("room for it");
        let requests = request(ReceiverStream::new(requests), side.credentials(who));
        let renewed = LeaseClient::new(side.channel(0).clone()).lease_keep_alive(requests).await;
        Streams { watches, watched, renewals, renewed: renewed.expect("a stream").into_inner() }
    }

    async fn heard(&mut self) -> String {
        format!("{:?}", drain(&mut self.watched, SILENCE).await)
    }

    async fn ask(&mut self, request: WatchRequest) -> String {
        self.watches.send(request).await.expect("the stream takes requests");
        self.heard().await
    }

    async fn renew(&mut self) -> String {
        self.renewals.send(LeaseKeepAliveRequest { id: LEASE }).await.expect("the stream takes requests");
        self.renewal().await
    }

    async fn renewal(&mut self) -> String {
        show(self.renewed.message().await.map(|answer| answer.expect("the stream goes on")))
    }
}

/// The same of both servers.
struct Both {
    theirs: Streams,
    ours: Streams,
}

impl Both {
    async fn ask(&mut self, pair: &mut Pair, what: &str, request: WatchRequest) {
        let (theirs, ours) = tokio::join!(self.theirs.ask(request.clone()), self.ours.ask(request));
        pair.compare("ann", what.to_owned(), theirs, ours);
    }

    async fn renew(&mut self, pair: &mut Pair) {
        let (theirs, ours) = tokio::join!(self.theirs.renew(), self.ours.renew());
        assert!(ours.starts_with("ok"), "{ours}");
        pair.compare("ann", "lease keep-alive on the open stream".to_owned(), theirs, ours);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_streams_outlive_a_token_as_etcds_do() {
    let Some(mut pair) = with_users(&["--auth-token-ttl=2"]).await else { return };
    // Nothing is set right in the name of root, whose token ends like the others.
    pair.forget("root");
    pair.log_in("ann", "pw").await;
    pair.both_do("ann", &lease_grant(LEASE, 60)).await;
    let (theirs, ours) = tokio::join!(Streams::open(&pair.theirs, "ann"), Streams::open(&pair.ours, "ann"));
    let mut both = Both { theirs, ours };
    let (theirs, ours) = tokio::join!(both.theirs.renewal(), both.ours.renewal());
    pair.compare("ann", "lease keep-alive".to_owned(), theirs, ours);
    let (theirs, ours) = tokio::join!(both.theirs.heard(), both.ours.heard());
    assert!(ours.contains("created: true, canceled: false"), "{ours}");
    pair.compare("ann", "watch".to_owned(), theirs, ours);

    tokio::time::sleep(Duration::from_secs(3)).await;
    pair.ask_at(0, "ann", get(&single("a/1"))).await;
    both.ask(&mut pair, "watch more", watch_request(&single("a/2"))).await;
    both.renew(&mut pair).await;
    pair.log_in("root", "pw").await;
    pair.both_do("root", &put("a/1")).await;
    let (theirs, ours) = tokio::join!(both.theirs.heard(), both.ours.heard());
    assert!(ours.contains("a/1"), "{ours}");
    pair.compare("ann", "the watcher that was there".to_owned(), theirs, ours);

    // A new token does not help a stream that has the old one.
    pair.log_in("ann", "pw").await;
    both.ask(&mut pair, "watch more with another token elsewhere", watch_request(&single("a/2"))).await;
    let cancel = RequestUnion::CancelRequest(WatchCancelRequest { watch_id: WATCHER });
    both.ask(&mut pair, "cancel", WatchRequest { request_union: Some(cancel) }).await;
    both.renew(&mut pair).await;
    pair.log_in("root", "pw").await;
    pair.both_do("root", &auth_disable()).await;
    pair.finish(8, &[WATCHERS_ARE_TOLD]).await;
}
