//! Asks a DNS server for SRV records (RFC 1035, RFC 2782): one question over UDP, over TCP if the answer does not fit.
//!
//! By hand, because a resolver library brings three dozen crates for this one question. Names of hosts are resolved by the
//! system, not here. Knows nothing of members. What comes from the network is bounded and checked: the id, the question, every
//! length and every compression pointer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// How long one server may take for one attempt.
const TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;

/// Largest answer over UDP that is accepted without EDNS.
const UDP_BYTES_MAX: usize = 512;
/// Longest name, in its text form.
const NAME_BYTES_MAX: usize = 255;
/// Most compression pointers in one name.
const POINTERS_MAX: usize = 32;

const HEADER_BYTES: usize = 12;
const TYPE_SRV: u16 = 33;
const CLASS_IN: u16 = 1;
const FLAG_RESPONSE: u16 = 0x8000;
const FLAG_TRUNCATED: u16 = 0x0200;
const FLAG_RECURSION_DESIRED: u16 = 0x0100;
const CODE_MASK: u16 = 0x000f;
const CODE_NO_SUCH_NAME: u16 = 3;

/// A service at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower comes first.
    pub priority: u16,
    /// Among equals, larger comes more often.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without a dot at the end.
    pub target: String,
}

/// Servers to ask: those of the system, from `/etc/resolv.conf`.
///
/// # Errors
/// If the file cannot be read or names none.
pub fn system_servers() -> io::Result<Vec<SocketAddr>> {
    let servers = parse_resolv_conf(&std::fs::read_to_string("/etc/resolv.conf")?);
    if servers.is_empty() { Err(io::Error::other("/etc/resolv.conf names no server")) } else { Ok(servers) }
}

fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        // A zone (`fe80::1%eth0`) is a matter of the system's own resolver.
        let server: IpAddr = words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        Some(SocketAddr::new(server, 53))
    };
    text.lines().filter_map(address).collect()
}

/// The SRV records of `name`, by priority, larger weights first.
///
/// # Errors
/// `NotFound` if there are none, else why no server could be asked.
pub async fn lookup_srv(servers: &[SocketAddr], name: &str) -> io::Result<Vec<Srv>> {
    let mut last = io::Error::other("there is no DNS server to ask");
    for _ in 0..ATTEMPTS {
        for server in servers {
            match ask(*server, name).await {
                Ok(mut records) => {
                    records.sort_by_key(|srv| (srv.priority, u16::MAX - srv.weight));
                    return Ok(records);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
                Err(error) => last = io::Error::new(error.kind(), format!("lookup {name} on {server}: {error}")),
            }
        }
    }
    Err(last)
}

async fn ask(server: SocketAddr, name: &str) -> io::Result<Vec<Srv>> {
    let id = random_id();
    let question = encode_question(id, name)?;
    let in_time = |_| io::Error::from(io::ErrorKind::TimedOut);
    let answer = tokio::time::timeout(TIMEOUT, ask_udp(server, &question)).await.map_err(in_time)??;
    match decode(&answer, &question, name)? {
        Some(records) => Ok(records),
        None => {
            let answer = tokio::time::timeout(TIMEOUT, ask_tcp(server, &question)).await.map_err(in_time)??;
            decode(&answer, &question, name)?.ok_or_else(|| malformed("it is cut off over TCP, too"))
        }
    }
}

/// Unpredictable enough that a stranger who does not see the question cannot answer it.
fn random_id() -> u16 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    random as u16
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Only this server's answers come in.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; UDP_BYTES_MAX];
    loop {
        let length = socket.recv(&mut answer).await?;
        // One with another id is late, or forged.
        if answer[..length].get(..2) == question.get(..2) {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn encode_question(id: u16, name: &str) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(HEADER_BYTES + name.len() + 6);
    for word in [id, FLAG_RECURSION_DESIRED, 1, 0, 0, 0] {
        out.extend_from_slice(&word.to_be_bytes());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > NAME_BYTES_MAX - 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: the name is too long")));
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length));
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{name}: this is not a name of DNS"));
        out.push(length.ok_or_else(bad)?);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    out.extend_from_slice(&TYPE_SRV.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    Ok(out)
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer makes no sense: {what}"))
}

/// The records of an answer to `question`; `None` if it was cut off.
fn decode(answer: &[u8], question: &[u8], name: &str) -> io::Result<Option<Vec<Srv>>> {
    let mut message = Message { bytes: answer, at: 0 };
    let short = || malformed("it is cut off");
    let id = message.u16().ok_or_else(short)?;
    let flags = message.u16().ok_or_else(short)?;
    let questions = message.u16().ok_or_else(short)?;
    let answers = message.u16().ok_or_else(short)?;
    if question.get(..2) != Some(&id.to_be_bytes()) || flags & FLAG_RESPONSE == 0 || questions != 1 {
        return Err(malformed("it answers another question"));
    }
    if flags & FLAG_TRUNCATED != 0 {
        return Ok(None);
    }
    let not_found = || io::Error::new(io::ErrorKind::NotFound, format!("lookup {name}: no such host"));
    match flags & CODE_MASK {
        0 => {}
        CODE_NO_SUCH_NAME => return Err(not_found()),
        code => return Err(io::Error::other(format!("the server answers with error {code}"))),
    }
    // The name of the question may come back in other letters.
    let asked = &question[HEADER_BYTES..];
    let repeated = answer.get(HEADER_BYTES..HEADER_BYTES + asked.len());
    if !repeated.is_some_and(|repeated| repeated.eq_ignore_ascii_case(asked)) {
        return Err(malformed("it answers another question"));
    }
    message.at = HEADER_BYTES + asked.len();
    let mut records = Vec::new();
    for _ in 0..answers {
        // Aliases may come before what they lead to.
        records.extend(message.record().ok_or_else(|| malformed("a record is cut off, or a name has a loop"))?);
    }
    if records.is_empty() { Err(not_found()) } else { Ok(Some(records)) }
}

/// A message that is read.
struct Message<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Message<'_> {
    fn u16(&mut self) -> Option<u16> {
        let bytes = self.bytes.get(self.at..)?.first_chunk::<2>()?;
        self.at += 2;
        Some(u16::from_be_bytes(*bytes))
    }

    /// The next record: `Some(None)` if it is not a service.
    fn record(&mut self) -> Option<Option<Srv>> {
        self.name()?;
        let (kind, class) = (self.u16()?, self.u16()?);
        // How long it may be cached: it is not.
        let (_, _) = (self.u16()?, self.u16()?);
        let length = usize::from(self.u16()?);
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len())?;
        let srv = if kind == TYPE_SRV && class == CLASS_IN {
            let (priority, weight, port) = (self.u16()?, self.u16()?, self.u16()?);
            let target = self.name().filter(|_| self.at == end)?;
            // A dot alone says that the service is not there.
            Some(Srv { priority, weight, port, target }).filter(|srv| !srv.target.is_empty())
        } else {
            None
        };
        self.at = end;
        Some(srv)
    }

    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut at = self.at;
        let mut behind = None;
        for _ in 0..=POINTERS_MAX {
            loop {
                let length = usize::from(*self.bytes.get(at)?);
                match length {
                    0 => {
                        self.at = behind.unwrap_or(at + 1);
                        return Some(name);
                    }
                    1..=63 => {
                        let label = self.bytes.get(at + 1..at + 1 + length)?;
                        if !name.is_empty() {
                            name.push('.');
                        }
                        name.push_str(std::str::from_utf8(label).ok().filter(|label| label.is_ascii())?);
                        if name.len() > NAME_BYTES_MAX {
                            return None;
                        }
                        at += 1 + length;
                    }
                    0xc0..=0xff => {
                        behind = behind.or(Some(at + 2));
                        at = (length & 0x3f) << 8 | usize::from(*self.bytes.get(at + 1)?);
                        break;
                    }
                    _ => return None,
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "_etcd-server._tcp.example.org";

    fn answer(records: &[(&[u8], u16)]) -> (Vec<u8>, Vec<u8>) {
        let question = encode_question(7, NAME).unwrap();
        let mut answer = question.clone();
        answer[2] = 0x80;
        answer[7] = records.len() as u8;
        for (target, port) in records {
            answer.extend_from_slice(&[0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60]);
            answer.extend_from_slice(&(6 + target.len() as u16).to_be_bytes());
            answer.extend_from_slice(&[0, 1, 0, 2]);
            answer.extend_from_slice(&port.to_be_bytes());
            answer.extend_from_slice(target);
        }
        (question, answer)
    }

    #[test]
    fn records_are_read_with_and_without_compression() {
        // "n2" and a pointer to "example.org" in the question.
        let example = 12 + NAME.find("example").unwrap() as u8;
        let (question, answer) = answer(&[(b"\x02n1\x03net\0", 2380), (&[2, b'n', b'2', 0xc0, example], 2381)]);
        let records = decode(&answer, &question, NAME).unwrap().unwrap();
        let read: Vec<_> =
            records.iter().map(|srv| (srv.target.as_str(), srv.port, srv.priority, srv.weight)).collect();
        assert_eq!(read, [("n1.net", 2380, 1, 2), ("n2.example.org", 2381, 1, 2)]);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        let (question, good) = answer(&[(b"\x02n1\x03net\0", 2380)]);
        let kind = |answer: &[u8]| decode(answer, &question, NAME).unwrap_err().kind();
        for length in 0..good.len() {
            assert_eq!(kind(&good[..length]), io::ErrorKind::InvalidData, "{length} bytes");
        }
        let with = |at: usize, byte: u8| {
            let mut answer = good.clone();
            answer[at] = byte;
            answer
        };
        assert_eq!(kind(&with(0, 9)), io::ErrorKind::InvalidData, "another id");
        assert_eq!(kind(&with(14, b'x')), io::ErrorKind::InvalidData, "another name");
        assert_eq!(kind(&with(3, 3)), io::ErrorKind::NotFound);
        assert_eq!(kind(&answer(&[]).1), io::ErrorKind::NotFound);
        assert_eq!(kind(&with(3, 2)), io::ErrorKind::Other, "the server has failed");
        assert_eq!(decode(&with(2, 0x82), &question, NAME).unwrap(), None, "cut off");
        // A name that points to itself.
        let itself = good.len() as u8 - 8;
        let (question, looped) = answer(&[(&[0xc0, itself], 2380)]);
        assert_eq!(decode(&looped, &question, NAME).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_does_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..100, byte: u8) {
            let (question, mut near) = answer(&[(b"\x02n1\x03net\0", 2380), (&[0xc0, 12], 2381)]);
            let _ = decode(&bytes, &question, NAME);
            let at = at % near.len();
            near[at] = byte;
            let _ = decode(&near, &question, NAME);
        }
    }

    #[test]
    fn names_that_cannot_be_asked_for_are_refused() {
        assert!(encode_question(1, "example.org.").is_ok());
        for bad in ["", "a..b", ".a", &"x".repeat(64), &"a.".repeat(150)] {
            assert!(encode_question(1, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn resolv_conf_is_read() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 10.0.0.1\n nameserver\t::1 # x\nnameserver bad\n";
        assert_eq!(parse_resolv_conf(text), ["10.0.0.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()]);
    }
}
