//! Finds members by SRV records, as etcd does: `_etcd-server-ssl._tcp` and `_etcd-server._tcp` for peers, `_etcd-client-ssl._tcp`
//! and `_etcd-client._tcp` for clients, with `-<name>` behind the service if a name is given.

use crate::dns::{self, Srv};
use std::io;
use std::net::SocketAddr;

/// Where records are looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// The domain.
    pub domain: String,
    /// Tells clusters of one domain apart; empty for none.
    pub service_name: String,
    /// `address:port` of the DNS server to ask; empty for those of the system.
    pub server: String,
}

impl Discovery {
    /// `name=url` of every member, for `--initial-cluster`. The one whose address is among `advertised` is called `name`; the
    /// others are called by their address.
    ///
    /// # Errors
    /// In etcd's words what was not found, or that a record has another scheme than this member's URL.
    pub async fn peers(&self, name: &str, advertised: &[String]) -> Result<Vec<(String, String)>, String> {
        let mut mine = Vec::new();
        for url in advertised {
            let host = url.split_once("://").map_or(url.as_str(), |(_, host)| host);
            for address in resolve(host).await.map_err(|error| format!("cannot resolve {url}: {error}"))? {
                mine.push((address, url.as_str()));
            }
        }
        let mut members = Vec::new();
        let mut errors = Vec::new();
        for (scheme, service) in [("https", "etcd-server-ssl"), ("http", "etcd-server")] {
            let records = match self.lookup(service).await {
                Ok(records) => records,
                Err(error) => {
                    errors.push(format!("error querying DNS SRV records for _{} {error}", self.service(service)));
                    continue;
                }
            };
            for srv in records {
                let host = host_port(&srv);
                let url = format!("{scheme}://{host}");
                // A member that is not up yet may have no address yet, in a container platform.
                let addresses = resolve(&host).await.unwrap_or_default();
                let me = mine.iter().find(|(address, _)| addresses.contains(address)).map(|(_, url)| *url);
                match me {
                    Some(mine) if !mine.starts_with(&format!("{scheme}://")) => errors.push(format!(
                        "bootstrap at {url} from DNS for {service} has scheme mismatch with expected peer {mine}"
                    )),
                    Some(_) => members.push((name.to_owned(), url)),
                    None => members.push((host, url)),
                }
            }
        }
        if members.is_empty() {
            return Err(errors.join("; "));
        }
        if !members.iter().any(|(member, _)| member == name) {
            return Err(format!(
                "cannot find local etcd member {name:?} in SRV records: no record leads to the address of \
                 --initial-advertise-peer-urls"
            ));
        }
        Ok(members)
    }

    /// Client URLs of the members.
    ///
    /// # Errors
    /// If there are none, in etcd's words.
    pub async fn clients(&self) -> Result<Vec<String>, String> {
        let mut urls = Vec::new();
        let mut errors = Vec::new();
        for (scheme, service) in [("https", "etcd-client-ssl"), ("http", "etcd-client")] {
            match self.lookup(service).await {
                Ok(records) => urls.extend(records.iter().map(|srv| format!("{scheme}://{}", host_port(srv)))),
                Err(error) => errors.push(error.to_string()),
            }
        }
        if urls.is_empty() { Err(format!("dns lookup errors: {}", errors.join(" and "))) } else { Ok(urls) }
    }

    fn service(&self, service: &str) -> String {
        if self.service_name.is_empty() { service.to_owned() } else { format!("{service}-{}", self.service_name) }
    }

    async fn lookup(&self, service: &str) -> io::Result<Vec<Srv>> {
        let servers = if self.server.is_empty() {
            dns::system_servers()?
        } else {
            let bad = |_| io::Error::other(format!("{:?} is not address:port of a DNS server", self.server));
            vec![self.server.parse::<SocketAddr>().map_err(bad)?]
        };
        dns::lookup_srv(&servers, &format!("_{}._tcp.{}", self.service(service), self.domain)).await
    }
}

fn host_port(srv: &Srv) -> String {
    format!("{}:{}", srv.target, srv.port)
}

async fn resolve(host_port: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host(host_port).await?.collect())
}
