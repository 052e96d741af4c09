//! Sockets that the service manager has opened for us (systemd's socket activation: `LISTEN_FDS`, `LISTEN_PID`). One is taken
//! by the URL whose address it has, so that URLs say what each is for; names (`LISTEN_FDNAMES`) are not needed.

use listenfd::ListenFd;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// Sockets that nobody has taken yet.
#[derive(Default)]
pub struct Inherited {
    tcp: Vec<TcpListener>,
    unix: Vec<UnixListener>,
}

impl Inherited {
    /// Takes what there is; nothing without the variables, or if they are meant for another process.
    ///
    /// # Errors
    /// What was passed is no listening socket.
    pub fn take() -> io::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        for place in 0..passed.len() {
            // It says of a socket of the other kind that it is not one, and leaves it.
            if let Ok(Some(listener)) = passed.take_tcp_listener(place) {
                listener.set_nonblocking(true)?;
                inherited.tcp.push(listener);
            } else if let Some(listener) = passed.take_unix_listener(place)? {
                listener.set_nonblocking(true)?;
                inherited.unix.push(listener);
            }
        }
        Ok(inherited)
    }

    /// The socket with this address.
    pub fn tcp(&mut self, host: &str, port: u16) -> Option<TcpListener> {
        let wanted: IpAddr = host.parse().ok()?;
        let same = |listener: &TcpListener| {
            listener.local_addr().is_ok_and(|address| address.ip() == wanted && address.port() == port)
        };
        let place = self.tcp.iter().position(same)?;
        Some(self.tcp.swap_remove(place))
    }

    /// The socket with this path.
    pub fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let same =
            |listener: &UnixListener| listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(path));
        let place = self.unix.iter().position(same)?;
        Some(self.unix.swap_remove(place))
    }

    /// Where the others listen.
    pub fn unused(&self) -> Vec<String> {
        let tcp = self.tcp.iter().filter_map(|listener| listener.local_addr().ok().map(|address| address.to_string()));
        let path = |listener: &UnixListener| Some(listener.local_addr().ok()?.as_pathname()?.display().to_string());
        tcp.chain(self.unix.iter().filter_map(path)).collect()
    }
}
