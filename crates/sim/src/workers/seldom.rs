//! Clients with little to do: one that writes a key now and then, which watchers look at as seldom; and one that reads a list
//! slowly, part by part.

use super::Worker;
use crate::client::read_in_parts;
use crate::history::{Op, Outcome, Span};
use crate::oracle::Rule;
use std::time::Duration;

/// The key that is written now and then.
pub const QUIET_KEY: &str = "q0";

impl Worker {
    /// Writes [`QUIET_KEY`], and deletes it, with long pauses.
    pub async fn write_seldom(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            let pause = self.random.millis(200, 5000);
            tokio::time::sleep(pause).await;
            counter += 1;
            let (member, key) = (self.any_member(), QUIET_KEY.to_owned());
            let op = if self.random.chance(200) {
                Op::Delete { span: Span::key(&key) }
            } else {
                Op::Put { key, value: self.mark(counter), lease: 0 }
            };
            self.rpc.run(self.number, member, op).await;
        }
    }

    /// Reads a list in parts, all of one revision, and takes its time: compaction and snapshots come in between.
    pub async fn read_slowly(mut self) {
        while !self.stop.is_set() {
            self.pause().await;
            let member = self.any_member();
            let span = if self.random.chance(500) { Span::prefix("k") } else { Span::all() };
            let (keys, pause) = (self.random.between(1, 5) as usize, self.random.millis(0, 300));
            let (asked, start) = (span.clone(), self.rpc.clock.world_now());
            let read = match &self.rpc.library {
                Some(library) => library.read_in_parts(member, &asked, pause).await,
                None => {
                    let read = self.rpc.call(member, move |node| read_in_parts(node, asked, keys, pause)).await;
                    read.unwrap_or(Ok(Outcome::Unknown))
                }
            };
            let outcome = read.unwrap_or_else(|text| {
                self.rpc.wrong(Rule::Call, format!("m{member} broke off a list that it had begun to read: {text}"));
                Outcome::Unknown
            });
            self.rpc.note(self.number, member, start, Op::Get { span, serializable: false, revision: 0 }, outcome);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
