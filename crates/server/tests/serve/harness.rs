//! A server with a node in memory, and clients for it.

use quorate_proto::etcdserverpb::{
    kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use quorate_server::{Server, ServerConfig};
use std::ffi::OsString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

/// A running server of one member.
pub struct TestServer {
    pub server: Server,
    pub address: String,
    _dir: tempfile::TempDir,
}

/// Starts a server with `flags` on top of what a test needs, and waits until it serves.
pub async fn start(flags: &[&str]) -> TestServer {
    let dir = tempfile::tempdir().unwrap();
    let mut args: Vec<OsString> = [
        "--storage-engine=memory",
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--heartbeat-interval=20",
        "--election-timeout=200",
    ]
    .iter()
    .chain(flags)
    .map(OsString::from)
    .collect();
    args.push(format!("--data-dir={}", dir.path().join("data").display()).into());
    let server = Server::start(ServerConfig::parse(args, []).unwrap()).await.unwrap();
    server.node().wait_ready().await.unwrap();
    let address = server.addresses()[0].1.clone();
    TestServer { server, address, _dir: dir }
}

impl TestServer {
    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }

    pub async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await).max_decoding_message_size(usize::MAX)
    }

    pub async fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel().await).max_decoding_message_size(usize::MAX)
    }

    pub async fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel().await)
    }

    pub async fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel().await)
    }

    /// One HTTP/1.1 request; the whole response.
    pub async fn http(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }
}

/// Code and text of a failure, or "ok".
pub fn outcome<T>(result: Result<T, tonic::Status>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(status) => format!("{} {}", status.code() as i32, status.message()),
    }
}
