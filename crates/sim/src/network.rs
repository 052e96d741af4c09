//! The network between machines: byte streams that are delayed, stalled by partitions, and reset. As with TCP, bytes are
//! never lost or reordered while a connection lives; a lost packet is a delay.
//!
//! All machines run on one thread, so that locks are never waited for.

use crate::clock::MachineClock;
use crate::determinism::TraceHash;
use crate::random::Random;
use parking_lot::Mutex;
use quorate_node::env::{Accepted, ByteStream};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::Sleep;

/// Bytes that one direction of a connection holds; a writer waits beyond.
const PIPE_BYTES_MAX: usize = 256 << 10;

/// A packet that was lost comes again after this long, as TCP's first retransmission does.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// How long a dial waits for an answer from a machine that does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One direction between two machines.
#[derive(Clone, Debug)]
pub struct Link {
    /// Nothing arrives.
    pub blocked: bool,
    /// Least and most delay, in milliseconds.
    pub delay_ms: (u64, u64),
    /// Packets lost, of 1000.
    pub loss: u64,
}

/// All machines' network.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    links: Vec<Vec<Link>>,
    /// Host and port -> machine and where its listener takes streams.
    listeners: BTreeMap<String, (usize, mpsc::UnboundedSender<Accepted>)>,
    pipes: Vec<Weak<Mutex<Pipe>>>,
    random: Random,
    /// Writes are taken in part, of 1000.
    splits: u64,
    wire: TraceHash,
}

struct Pipe {
    from: usize,
    to: usize,
    /// When each piece arrives, in world time, and the piece.
    queue: VecDeque<(Duration, Vec<u8>)>,
    bytes: usize,
    last_arrival: Duration,
    closed: bool,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }
}

impl Network {
    /// A network of `machines` with delays as in `link`.
    pub fn new(machines: usize, link: &Link, random: Random) -> Network {
        let links = vec![vec![link.clone(); machines]; machines];
        let (listeners, pipes, wire) = (BTreeMap::new(), Vec::new(), TraceHash::default());
        Network { inner: Arc::new(Mutex::new(Inner { links, listeners, pipes, random, splits: 0, wire })) }
    }

    /// From now on so many of 1000 writes are taken in part, as a socket does whose buffer is short: what was one message comes in
    /// pieces, and of one whose connection breaks, a part may have come.
    pub fn split_writes(&self, of_1000: u64) {
        self.inner.lock().splits = of_1000;
    }

    /// Changes one direction between two machines.
    pub fn set_link(&self, from: usize, to: usize, change: impl FnOnce(&mut Link)) {
        let mut inner = self.inner.lock();
        change(&mut inner.links[from][to]);
        inner.each_pipe(|pipe| {
            if (pipe.from, pipe.to) == (from, to) {
                pipe.wake();
            }
        });
    }

    /// Whether nothing arrives at `to` from `from`.
    pub fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.inner.lock().links[from][to].blocked
    }

    /// A delay for a message from `from` to `to`.
    pub fn delay(&self, from: usize, to: usize) -> Duration {
        self.inner.lock().delay(from, to)
    }

    /// Breaks all connections between two machines, whatever is under way in them.
    pub fn reset(&self, one: usize, other: usize) {
        self.inner.lock().each_pipe(|pipe| {
            if (pipe.from, pipe.to) == (one, other) || (pipe.from, pipe.to) == (other, one) {
                pipe.reset = true;
                pipe.queue.clear();
                pipe.wake();
            }
        });
    }

    /// Breaks all connections of a machine whose process ends, and takes nothing more from it. What is on its way already
    /// arrives.
    pub fn silence(&self, machine: usize) {
        self.inner.lock().each_pipe(|pipe| {
            if pipe.to == machine {
                pipe.reset = true;
                pipe.queue.clear();
            } else if pipe.from == machine {
                pipe.closed = true;
            }
            pipe.wake();
        });
    }

    /// Forgets the listeners of a machine that is down.
    pub fn forget(&self, machine: usize) {
        self.inner.lock().listeners.retain(|_, (owner, _)| *owner != machine);
    }

    /// Hash of all bytes that were sent.
    pub fn wire_hash(&self) -> u64 {
        self.inner.lock().wire.value()
    }

    /// Listens for `machine`.
    ///
    /// # Errors
    /// `AddrInUse`.
    pub fn listen(&self, machine: usize, address: String) -> io::Result<mpsc::UnboundedReceiver<Accepted>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut inner = self.inner.lock();
        if inner.listeners.get(&address).is_some_and(|(_, sender)| !sender.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        inner.listeners.insert(address, (machine, sender));
        Ok(receiver)
    }

    /// Dials for `machine`.
    ///
    /// # Errors
    /// As a socket has them: refused, timed out.
    pub async fn connect(
        self,
        machine: usize,
        clock: Arc<MachineClock>,
        peer_clock: impl Fn(usize) -> Option<Arc<MachineClock>>,
        address: String,
    ) -> io::Result<Box<dyn ByteStream>> {
        let owner = self.inner.lock().listeners.get(&address).map(|(owner, _)| *owner);
        let there = owner.unwrap_or(machine);
        let delay = self.delay(machine, there) + self.delay(there, machine);
        tokio::time::sleep(clock.own(delay)).await;
        if self.is_blocked(machine, there) || self.is_blocked(there, machine) {
            tokio::time::sleep(CONNECT_TIMEOUT).await;
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut inner = self.inner.lock();
        let Some((owner, accept)) = inner.listeners.get(&address).cloned() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let Some(peer_clock) = peer_clock(owner) else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let out = inner.pipe(machine, owner);
        let back = inner.pipe(owner, machine);
        drop(inner);
        let near = Stream::new(self.clone(), clock, back.clone(), out.clone());
        let far = Stream::new(self.clone(), peer_clock, out, back);
        let accepted = Accepted {
            opening: Box::pin(async move { Ok(Box::new(far) as Box<dyn ByteStream>) }),
            from: format!("m{machine}"),
        };
        match accept.send(accepted) {
            Ok(()) => Ok(Box::new(near)),
            Err(_gone) => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

impl Inner {
    fn pipe(&mut self, from: usize, to: usize) -> Arc<Mutex<Pipe>> {
        let pipe = Arc::new(Mutex::new(Pipe {
            from,
            to,
            queue: VecDeque::new(),
            bytes: 0,
            last_arrival: Duration::ZERO,
            closed: false,
            reset: false,
            reader: None,
            writer: None,
        }));
        self.pipes.retain(|pipe| pipe.strong_count() > 0);
        self.pipes.push(Arc::downgrade(&pipe));
        pipe
    }

    fn each_pipe(&self, mut act: impl FnMut(&mut Pipe)) {
        for pipe in self.pipes.iter().filter_map(Weak::upgrade) {
            act(&mut pipe.lock());
        }
    }

    fn delay(&mut self, from: usize, to: usize) -> Duration {
        let link = self.links[from][to].clone();
        let mut delay = self.random.millis(link.delay_ms.0, link.delay_ms.1);
        while self.random.chance(link.loss.min(900)) {
            delay += RETRANSMIT;
        }
        delay
    }
}

/// One end of a connection.
struct Stream {
    network: Network,
    clock: Arc<MachineClock>,
    read: Arc<Mutex<Pipe>>,
    write: Arc<Mutex<Pipe>>,
    arrival: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    fn new(network: Network, clock: Arc<MachineClock>, read: Arc<Mutex<Pipe>>, write: Arc<Mutex<Pipe>>) -> Stream {
        Stream { network, clock, read, write, arrival: None }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut write = self.write.lock();
        write.closed = true;
        write.wake();
        drop(write);
        // Whoever still writes to this end is told so.
        let mut read = self.read.lock();
        read.reset = true;
        read.wake();
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let wait = {
                let mut pipe = self.read.lock();
                if pipe.reset {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                let now = self.clock.world_now();
                match pipe.queue.front().map(|(arrival, _)| *arrival) {
                    None if pipe.closed => return Poll::Ready(Ok(())),
                    Some(arrival) if arrival <= now && !self.network.is_blocked(pipe.from, pipe.to) => {
                        take(&mut pipe, buf);
                        return Poll::Ready(Ok(()));
                    }
                    Some(arrival) if arrival > now => arrival - now,
                    // Blocked, or nothing is under way: whoever changes that wakes this task.
                    Some(_) | None => {
                        pipe.reader = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                }
            };
            // Rounded up, or a wait of less than the timer's step would spin.
            let own = self.clock.own(wait).max(Duration::from_millis(1));
            let mut sleep = Box::pin(tokio::time::sleep(own));
            let pending = sleep.as_mut().poll(cx).is_pending();
            self.arrival = Some(sleep);
            if pending {
                self.read.lock().reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        }
    }
}

fn take(pipe: &mut Pipe, buf: &mut ReadBuf<'_>) {
    if let Some((arrival, mut piece)) = pipe.queue.pop_front() {
        let size = piece.len().min(buf.remaining());
        buf.put_slice(&piece[..size]);
        pipe.bytes -= size;
        if size < piece.len() {
            piece.drain(..size);
            pipe.queue.push_front((arrival, piece));
        }
        if let Some(writer) = pipe.writer.take() {
            writer.wake();
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.write.lock();
        if pipe.reset || pipe.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.bytes >= PIPE_BYTES_MAX {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut inner = self.network.inner.lock();
        let splits = inner.splits;
        let bytes = match bytes.len() as u64 {
            size @ 2.. if splits > 0 && inner.random.chance(splits) => {
                &bytes[..inner.random.between(1, size - 1) as usize]
            }
            _ => bytes,
        };
        let arrival = (self.clock.world_now() + inner.delay(pipe.from, pipe.to)).max(pipe.last_arrival);
        inner.wire.add_u64(arrival.as_nanos() as u64);
        inner.wire.add(bytes);
        drop(inner);
        pipe.last_arrival = arrival;
        pipe.bytes += bytes.len();
        pipe.queue.push_back((arrival, bytes.to_vec()));
        if let Some(reader) = pipe.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.write.lock();
        pipe.closed = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}
