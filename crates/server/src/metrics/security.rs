//! How connections are secured, in Prometheus' text format: what is open, which handshakes failed why, until when
//! certificates are valid, and whether new files were taken.

use super::render::Text;
use crate::tls::Security;
use quorate_tls::Reason;

pub fn render(text: &mut Text, security: &Security) {
    let name = "quorate_listener_insecure";
    text.family(
        name,
        "gauge",
        "Listeners that are neither encrypted nor on loopback: whoever reaches one has everything.",
    );
    for (flag, url) in &security.open {
        text.sample(name, &[("flag", flag), ("url", url)], 1);
    }
    let peers = security.peers.as_ref();
    let servers = [("client", security.clients.as_ref()), ("peer", peers.and_then(|peers| peers.server.as_ref()))];
    let servers: Vec<_> = servers.into_iter().filter_map(|(side, server)| Some((side, server?))).collect();

    let name = "quorate_tls_handshakes_total";
    text.family(name, "counter", "Handshakes that succeeded, by who dialled.");
    for (side, server) in &servers {
        text.sample(name, &[("side", side)], server.counts().succeeded());
    }
    let name = "quorate_tls_handshake_failures_total";
    text.family(name, "counter", "Handshakes that failed, by who dialled and why.");
    for (side, server) in &servers {
        for reason in Reason::ALL {
            text.sample(name, &[("side", side), ("reason", reason.label())], server.counts().failed(reason));
        }
    }
    let name = "quorate_tls_certificate_expiry_timestamp_seconds";
    text.family(name, "gauge", "The last second in which this member's certificate is valid.");
    for (side, server) in &servers {
        text.sample(name, &[("side", side)], server.not_after());
    }
    let dialling = peers.map(|peers| ("peer_dialling", peers.client.reloads()));
    let reloads: Vec<_> = servers.iter().map(|(side, server)| (*side, server.reloads())).chain(dialling).collect();
    let name = "quorate_tls_reloads_total";
    text.family(name, "counter", "Changed certificates, keys, authorities or revocation lists that are in use since.");
    for (side, (taken, _)) in &reloads {
        text.sample(name, &[("side", side)], taken);
    }
    let name = "quorate_tls_reload_failures_total";
    text.family(name, "counter", "Changed files that could not be used: the earlier ones stay in use.");
    for (side, (_, failed)) in &reloads {
        text.sample(name, &[("side", side)], failed);
    }
}
