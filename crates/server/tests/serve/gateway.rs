//! The JSON gateway on the clients' port: bodies, streams, WebSockets, and where it is not.

use crate::harness::{TestServer, start};
use futures::{SinkExt, StreamExt};
use quorate_server::Serves;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Message;

const PATIENCE: Duration = Duration::from_secs(20);

/// Status and body of one request with a whole body.
async fn post(address: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that has heard enough may close before it has heard all.
    let _ = stream.write_all(body.as_bytes()).await;
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A request whose body goes on for as long as the test wants, and the lines of its answer.
pub struct Stream {
    reader: BufReader<TcpStream>,
}

impl Stream {
    async fn open(server: &TestServer, path: &str) -> Self {
        Self::open_as(server, path, None).await
    }

    /// With a token.
    pub async fn open_as(server: &TestServer, path: &str, token: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        let token = token.map_or_else(String::new, |token| format!("Authorization: {token}\r\n"));
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\n{token}Transfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { reader: BufReader::new(stream) }
    }

    pub async fn say(&mut self, json: &str) {
        let chunk = format!("{:x}\r\n{json}\r\n", json.len());
        self.reader.get_mut().write_all(chunk.as_bytes()).await.unwrap();
    }

    /// The next line of JSON.
    pub async fn hear(&mut self) -> String {
        let found = async {
            loop {
                let mut line = String::new();
                assert_ne!(self.reader.read_line(&mut line).await.unwrap(), 0, "the answer ended");
                if line.starts_with('{') {
                    return line.trim_end().to_owned();
                }
            }
        };
        timeout(PATIENCE, found).await.expect("a line in time")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_json_and_so_are_answers() {
    let server = start(&[]).await;
    let ask = async |path: &str, body: &str| post(&server.address, path, body).await;
    let (status, body) = ask("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#).await;
    assert!(status == 200 && body.contains(r#""revision":"2""#), "{status} {body}");
    let (_, body) = ask("/v3beta/kv/range", r#"{"key":"Zm9v"} and more"#).await;
    assert!(
        body.contains(
            r#""kvs":[{"key":"Zm9v","create_revision":"2","mod_revision":"2","version":"1","value":"YmFy"}]"#
        )
    );
    let refused = r#"{"error":"etcdserver: key is not provided","code":3,"message":"etcdserver: key is not provided"}"#;
    assert_eq!(ask("/v3/kv/range", "").await, (400, refused.to_owned()));
    let cut = r#"{"error":"unexpected EOF","code":3,"message":"unexpected EOF"}"#;
    assert_eq!(ask("/v3/kv/range", r#"{"key"#).await, (400, cut.to_owned()));
    let cut = r#"{"error":"unexpected EOF","code":2,"message":"unexpected EOF"}"#;
    assert_eq!(ask("/v3/watch", r#"{"create_request"#).await, (500, cut.to_owned()));
    assert_eq!(ask("/v3/nothing", "{}").await, (404, "Not Found\n".to_owned()));
    // The call was counted as the gRPC call that it is.
    let metrics = server.http("GET", "/metrics").await;
    let counted = "grpc_server_handled_total{grpc_code=\"InvalidArgument\",grpc_method=\"Range\",\
                   grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_requests_are_refused_by_the_size_of_their_message() {
    let server = start(&[]).await;
    let put = |bytes: usize| format!(r#"{{"key":"Zm9v","value":"{}"}}"#, "A".repeat(bytes / 3 * 4));
    let (status, body) = post(&server.address, "/v3/kv/put", &put(1_500_000)).await;
    assert_eq!(status, 200, "{body}");
    let (status, body) = post(&server.address, "/v3/kv/put", &put(1_800_000)).await;
    assert!(status == 400 && body.contains("etcdserver: request is too large"), "{status} {body}");
    let (status, body) = post(&server.address, "/v3/kv/put", &put(3_000_000)).await;
    let larger = "grpc: received message larger than max (3000010 vs. 2097152)";
    assert!(status == 429 && body.contains(larger), "{status} {body}");
    let (status, body) = post(&server.address, "/v3/kv/put", &put(9_000_000)).await;
    assert!(status == 429 && body.contains("grpc: received message larger than max"), "{status} {body}");
    // None of it is under way any more.
    assert_eq!(post(&server.address, "/v3/kv/put", &put(1_000_000)).await.0, 200);
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_lines_both_ways() {
    let server = start(&[]).await;
    let mut watch = Stream::open(&server, "/v3/watch").await;
    watch.say(r#"{"create_request":{"key":"YQ=="}}"#).await;
    assert!(watch.hear().await.ends_with(r#""created":true}}"#));
    // The client goes on while the server does.
    watch.say(r#"{"create_request":{"key":"Yg==","watc"#).await;
    watch.say(r#"h_id":"9"}}{"progress_request":{}}"#).await;
    assert!(watch.hear().await.ends_with(r#""watch_id":"9","created":true}}"#));
    assert!(watch.hear().await.ends_with(r#""watch_id":"-1"}}"#));
    post(&server.address, "/v3/kv/put", r#"{"key":"Yg==","value":"eA=="}"#).await;
    let event = watch.hear().await;
    assert!(event.contains(r#""watch_id":"9","events":[{"kv":{"key":"Yg=="#), "{event}");
    // What is no JSON ends what the client says, not what it hears.
    watch.say("x ").await;
    post(&server.address, "/v3/kv/put", r#"{"key":"YQ==","value":"eA=="}"#).await;
    assert!(watch.hear().await.contains(r#""kv":{"key":"YQ=="#));

    let (status, body) = post(&server.address, "/v3/lease/keepalive", r#"{"ID":7}{"ID":"8"}"#).await;
    let lines: Vec<_> = body.lines().filter(|line| line.starts_with('{')).collect();
    assert!(status == 200 && lines.len() == 2 && lines[1].ends_with(r#""ID":"8"}}"#), "{body}");
    assert_eq!(post(&server.address, "/v3/lease/keepalive", "").await, (200, String::new()));

    let (status, body) = post(&server.address, "/v3/kv/rangestream", r#"{"key":"AA==","range_end":"AA=="}"#).await;
    assert!(status == 200 && body.contains(r#"{"result":{"range_response":{"header""#), "{body}");
    let (status, body) = post(&server.address, "/v3/kv/rangestream", r#"{"key":"AA==","sort_order":"DESCEND"}"#).await;
    let text =
        r#""message":"RangeStream does not support custom sort orders","http_status":"Not Implemented","code":12}}"#;
    assert!(status == 501 && body.trim_end().ends_with(text), "{status} {body}");
    server.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_watches_over_a_websocket() {
    let server = start(&[]).await;
    let mut request = format!("ws://{}/v3/watch", server.address).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "Bearer, token.1".parse().unwrap());
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "Bearer");
    let mut hear = async |say: Option<&str>| {
        if let Some(say) = say {
            socket.send(Message::text(say)).await.unwrap();
        }
        let message = timeout(PATIENCE, socket.next()).await.unwrap();
        message.map(|message| message.unwrap().to_string())
    };
    let created = hear(Some(r#"{"create_request":{"key":"YQ=="}}"#)).await.unwrap();
    assert!(created.ends_with(r#""created":true}}"#), "{created}");
    post(&server.address, "/v3/kv/put", r#"{"key":"YQ==","value":"eA=="}"#).await;
    assert!(hear(None).await.unwrap().contains(r#""kv":{"key":"YQ=="#));

    // A method with one answer ends with it.
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let request = format!("ws://{}/v3/kv/range", server.address);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    socket.send(Message::text(r#"{"key":"YQ=="}"#)).await.unwrap();
    let answer = timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
    assert!(answer.to_string().ends_with(r#""count":"1"}"#), "{answer}");
    assert!(matches!(timeout(PATIENCE, socket.next()).await.unwrap(), Some(Ok(Message::Close(_))) | None));

    // A path that is not there does not become a socket.
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let request = format!("ws://{}/v3/nothing", server.address);
    assert!(tokio_tungstenite::client_async(request, stream).await.is_err());

    // An open socket does not hold the server up.
    let began = std::time::Instant::now();
    server.server.shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// Browsers let any page open a WebSocket to any site. Where `--cors` says which pages may read answers, only these may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_gets_no_websocket() {
    for (flags, origin, expected) in [
        (&[][..], Some("http://page.example"), 101),
        (&["--cors=http://page.example:80"], Some("http://page.example:80"), 101),
        (&["--cors=http://page.example:80"], Some("http://other.example:80"), 403),
        (&["--cors=http://page.example:80"], None, 101),
        (&["--host-whitelist=other.example"], None, 421),
    ] {
        let server = start(flags).await;
        let mut request = format!("ws://{}/v3/watch", server.address).into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let stream = TcpStream::connect(&server.address).await.unwrap();
        let status = match tokio_tungstenite::client_async(request, stream).await {
            Ok((_, response)) => response.status(),
            Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.status(),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(status, expected, "{flags:?} {origin:?}");
        server.server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_is_where_it_belongs() {
    let server = start(&["--enable-grpc-gateway=false"]).await;
    assert_eq!(post(&server.address, "/v3/kv/range", "{}").await, (404, "404 page not found\n".to_owned()));
    server.server.shutdown().await;

    let server =
        start(&["--listen-client-http-urls=http://127.0.0.1:0", "--listen-metrics-urls=http://127.0.0.1:0"]).await;
    let address = |wanted| {
        let found = server.server.addresses().iter().find(|(serves, _)| *serves == wanted);
        found.expect("a listener").1.clone()
    };
    assert_eq!(post(&address(Serves::Http), "/v3/kv/range", r#"{"key":"YQ=="}"#).await.0, 200);
    assert_eq!(post(&address(Serves::Metrics), "/v3/kv/range", r#"{"key":"YQ=="}"#).await.0, 404);
    assert_eq!(post(&address(Serves::Grpc), "/v3/kv/range", r#"{"key":"YQ=="}"#).await.0, 415);
    server.server.shutdown().await;
}
