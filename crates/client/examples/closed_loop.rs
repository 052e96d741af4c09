//! Puts in a closed loop: each of some clients waits for its answer and puts again. Prints puts per second and the time of
//! one.
//!
//!     cargo run --release -p quorate-client --example closed_loop -- 127.0.0.1:2379 64 10 [ca.pem app.pem app.key]
//!
//! The arguments: endpoint, clients (each with a connection of its own), seconds, and files if the endpoint speaks TLS.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use quorate_client::{Client, ConnectOptions, Error, TlsOptions};
use tokio::task::JoinSet;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (endpoint, clients, seconds, tls) = match arguments.as_slice() {
        [endpoint, clients, seconds] => (endpoint, clients, seconds, None),
        [endpoint, clients, seconds, ca, cert, key] => {
            (endpoint, clients, seconds, Some(TlsOptions::new().ca_file(ca).identity(cert, key)))
        }
        _ => return usage(),
    };
    let (Ok(clients), Ok(seconds)) = (clients.parse::<usize>(), seconds.parse()) else { return usage() };
    match run(endpoint, clients, Duration::from_secs(seconds), tls).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("closed_loop ENDPOINT CLIENTS SECONDS [CA CERT KEY]");
    ExitCode::FAILURE
}

async fn run(endpoint: &str, clients: usize, time: Duration, tls: Option<TlsOptions>) -> Result<(), Error> {
    let mut loops = JoinSet::new();
    for number in 0..clients {
        let mut options = ConnectOptions::new();
        if let Some(tls) = &tls {
            options = options.tls(tls.clone());
        }
        let client = Client::connect([endpoint], options).await?;
        // The handshake is not what is measured.
        client.put("warm", "up", None).await?;
        loops.spawn(put_until(client, format!("loop/{number}"), Instant::now() + time));
    }
    let mut times = Vec::new();
    while let Some(done) = loops.join_next().await {
        times.extend(done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?);
    }
    times.sort_unstable();
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().unwrap_or_default();
    println!(
        "{} puts, {:.0}/s, median {:.2?}, p99 {:.2?}",
        times.len(),
        times.len() as f64 / time.as_secs_f64(),
        at(0.5),
        at(0.99)
    );
    Ok(())
}

async fn put_until(client: Client, key: String, end: Instant) -> Result<Vec<Duration>, Error> {
    let (mut times, value) = (Vec::new(), vec![b'x'; 256]);
    while Instant::now() < end {
        let start = Instant::now();
        client.put(key.clone(), value.clone(), None).await?;
        times.push(start.elapsed());
    }
    Ok(times)
}
