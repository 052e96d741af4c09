//! Figures of what goes to and comes from each member, under the names that etcd's dashboards and alerts know.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the buckets of round trips: 0.1 ms and doubles, as in etcd.
const ROUND_TRIP_BOUNDS: usize = 16;
const ROUND_TRIP_FIRST: Duration = Duration::from_micros(100);

/// Counters of one member.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    send_failures: AtomicU64,
    receive_failures: AtomicU64,
    connected: AtomicBool,
    disconnections: AtomicU64,
    /// One for each bound, and one beyond.
    round_trips: [AtomicU64; ROUND_TRIP_BOUNDS + 1],
    round_trip_nanos: AtomicU64,
}

impl Traffic {
    pub(super) fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// A request could not be sent.
    pub(super) fn send_failed(&self) {
        self.send_failures.fetch_add(1, Relaxed);
    }

    /// What the member sent could not be read.
    pub(super) fn receive_failed(&self) {
        self.receive_failures.fetch_add(1, Relaxed);
    }

    /// Whether there is a connection to the member now.
    pub(super) fn set_connected(&self, connected: bool) {
        if self.connected.swap(connected, Relaxed) && !connected {
            self.disconnections.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn round_trip(&self, took: Duration) {
        let bucket = (0..ROUND_TRIP_BOUNDS).find(|place| took <= bound(*place)).unwrap_or(ROUND_TRIP_BOUNDS);
        self.round_trips[bucket].fetch_add(1, Relaxed);
        self.round_trip_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

fn bound(place: usize) -> Duration {
    ROUND_TRIP_FIRST * (1 << place)
}

/// The figures of all members in Prometheus' text format. `local` is the member that has them.
pub(super) fn text(local: u64, members: &BTreeMap<u64, Arc<Traffic>>) -> String {
    type Read = fn(&Traffic) -> u64;
    let families: [(&str, &str, &str, &str, Read); 6] = [
        (
            "etcd_network_peer_sent_bytes_total",
            "counter",
            "The total number of bytes sent to peers.",
            "To",
            |traffic| traffic.sent_bytes.load(Relaxed),
        ),
        (
            "etcd_network_peer_received_bytes_total",
            "counter",
            "The total number of bytes received from peers.",
            "From",
            |traffic| traffic.received_bytes.load(Relaxed),
        ),
        (
            "etcd_network_peer_sent_failures_total",
            "counter",
            "The total number of send failures to peers.",
            "To",
            |traffic| traffic.send_failures.load(Relaxed),
        ),
        (
            "etcd_network_peer_received_failures_total",
            "counter",
            "The total number of receive failures from peers.",
            "From",
            |traffic| traffic.receive_failures.load(Relaxed),
        ),
        ("etcd_network_active_peers", "gauge", "The current number of active peer connections.", "Remote", |traffic| {
            traffic.connected.load(Relaxed).into()
        }),
        (
            "etcd_network_disconnected_peers_total",
            "counter",
            "The total number of disconnected peers.",
            "Remote",
            |traffic| traffic.disconnections.load(Relaxed),
        ),
    ];
    let mut out = String::new();
    for (name, kind, help, label, read) in families {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (member, traffic) in members {
            let local = if label == "Remote" { format!("Local=\"{local:x}\",") } else { String::new() };
            let _ = writeln!(out, "{name}{{{local}{label}=\"{member:x}\"}} {}", read(traffic));
        }
    }
    round_trips(&mut out, members);
    out
}

fn round_trips(out: &mut String, members: &BTreeMap<u64, Arc<Traffic>>) {
    let name = "etcd_network_peer_round_trip_time_seconds";
    let _ = writeln!(out, "# HELP {name} Round-Trip-Time histogram between peers.\n# TYPE {name} histogram");
    for (member, traffic) in members {
        let mut count = 0;
        for (place, bucket) in traffic.round_trips.iter().enumerate() {
            count += bucket.load(Relaxed);
            let bound = if place == ROUND_TRIP_BOUNDS { "+Inf".into() } else { bound(place).as_secs_f64().to_string() };
            let _ = writeln!(out, "{name}_bucket{{To=\"{member:x}\",le=\"{bound}\"}} {count}");
        }
        let sum = traffic.round_trip_nanos.load(Relaxed) as f64 / 1e9;
        let _ = writeln!(out, "{name}_sum{{To=\"{member:x}\"}} {sum}\n{name}_count{{To=\"{member:x}\"}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_names_and_labels_of_etcd() {
        let traffic = Arc::new(Traffic::default());
        traffic.sent(7);
        traffic.received(8);
        traffic.set_connected(true);
        traffic.set_connected(false);
        traffic.set_connected(true);
        traffic.round_trip(Duration::from_micros(150));
        traffic.round_trip(Duration::from_secs(60));
        let text = text(0xa, &BTreeMap::from([(0xb, traffic)]));
        for line in [
            "# TYPE etcd_network_peer_sent_bytes_total counter",
            "etcd_network_peer_sent_bytes_total{To=\"b\"} 7",
            "etcd_network_peer_received_bytes_total{From=\"b\"} 8",
            "etcd_network_peer_sent_failures_total{To=\"b\"} 0",
            "etcd_network_active_peers{Local=\"a\",Remote=\"b\"} 1",
            "etcd_network_disconnected_peers_total{Local=\"a\",Remote=\"b\"} 1",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"0.0001\"} 0",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"0.0002\"} 1",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"3.2768\"} 1",
            "etcd_network_peer_round_trip_time_seconds_bucket{To=\"b\",le=\"+Inf\"} 2",
            "etcd_network_peer_round_trip_time_seconds_sum{To=\"b\"} 60.00015",
            "etcd_network_peer_round_trip_time_seconds_count{To=\"b\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
        }
    }
}
