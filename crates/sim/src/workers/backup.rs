//! A client that saves copies of the data now and then, as an operator does.

use super::Worker;
use crate::oracle::Rule;
use parking_lot::Mutex;
use quorate_node::{Error, Node};
use std::sync::Arc;
use std::time::Duration;

/// The last copy: the bytes of the file.
pub type Backup = Arc<Mutex<Option<Vec<u8>>>>;

impl Worker {
    /// Saves a copy every few seconds. Reads it slowly, while compactions go on.
    pub async fn save_copies(mut self, place: Backup) {
        while !self.stop.is_set() {
            let pause = self.random.millis(500, 4000);
            tokio::time::sleep(pause).await;
            let (member, slow) = (self.any_member(), self.random.millis(0, 400));
            let saved = match &self.rpc.library {
                Some(library) => library.copy(member, slow).await,
                None => self.rpc.call(member, move |node| save(node, slow)).await.unwrap_or(Err(String::new())),
            };
            match saved {
                Ok(bytes) => *place.lock() = Some(bytes),
                // A row that was changed on the disk is found.
                Err(text)
                    if ["damaged", "missing", "not complete"].iter().any(|word| text.contains(word))
                        && !text.contains("the checksum does not match") =>
                {
                    self.rpc.wrong(Rule::Backup, format!("m{member} cannot copy its data: {text}"));
                }
                // A process that ends, or a group that has stopped, breaks off.
                Err(_) => {}
            }
        }
    }
}

async fn save(node: Node, pause: Duration) -> Result<Vec<u8>, String> {
    let in_words = |error: Error| error.to_string();
    let mut reader = node.snapshot().await.map_err(in_words)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = reader.next().await.map_err(in_words)? {
        bytes.extend_from_slice(&chunk);
        tokio::time::sleep(pause).await;
    }
    Ok(bytes)
}
