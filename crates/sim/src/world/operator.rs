//! What an operator does with the cluster: to a node itself in mode `fast`, through the client library in mode `full`.

use super::World;
use crate::client::Rpc;
use crate::library::{Library, client_url};
use crate::replacement::Answer;
use parking_lot::Mutex;
use quorate_core::MemberId;
use quorate_node::Node;
use std::sync::Arc;
use std::time::Duration;

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an operator asks for.
#[derive(Clone, Debug)]
pub(super) enum Order {
    /// A new member.
    Add {
        /// Where its peers reach it.
        urls: Vec<String>,
        /// It does not vote yet.
        learner: bool,
    },
    /// A member leaves.
    Remove(MemberId),
    /// A learner votes from now on.
    Promote(MemberId),
    /// The leader hands over to this one.
    MoveLeader(MemberId),
    /// The member that is asked writes a smaller file.
    Defragment,
}

impl Order {
    async fn ask_node(self, node: Node) -> Result<(), String> {
        match self {
            Order::Add { urls, learner } => node.member_add(urls, learner).await.map(drop).map_err(words),
            Order::Remove(member) => node.member_remove(member).await.map(drop).map_err(words),
            Order::Promote(member) => node.member_promote(member).await.map(drop).map_err(words),
            Order::MoveLeader(heir) => node.move_leader(heir).await.map_err(words),
            Order::Defragment => node.defragment().await.map(drop).map_err(words),
        }
    }

    async fn ask_library(self, library: Library, member: usize) -> Result<(), String> {
        let client = library.all().with_timeout(PATIENCE);
        match self {
            Order::Add { urls, learner } => client.member_add(urls, learner).await.map(drop).map_err(words),
            Order::Remove(member) => client.member_remove(member.get()).await.map(drop).map_err(words),
            Order::Promote(member) => client.member_promote(member.get()).await.map(drop).map_err(words),
            Order::MoveLeader(heir) => client.move_leader(heir.get()).await.map_err(words),
            Order::Defragment => client.defragment(&client_url(member)).await.map_err(words),
        }
    }
}

fn words(error: impl ToString) -> String {
    error.to_string()
}

impl World {
    /// Asks for something, of `member` or of whoever the library asks; whether it is acknowledged is there later.
    pub(super) fn order(&self, member: usize, order: Order) -> Answer<bool> {
        let place: Answer<bool> = Arc::new(Mutex::new(None));
        let answer = place.clone();
        let (rpc, operator) = (Rpc { deadline: PATIENCE, ..self.rpc() }, self.operator.lock().clone());
        let refusals = self.refusals.clone();
        self.clients.spawn(async move {
            let asked = order.clone();
            let result = match operator {
                Some(library) => tokio::time::timeout(PATIENCE, asked.ask_library(library, member)).await.ok(),
                None => rpc.call(member, move |node| asked.ask_node(node)).await,
            };
            if let Some(Err(text)) = &result {
                refusals.lock().push(format!("{order:?} is refused: {text}"));
            }
            *answer.lock() = Some(result.map(|result| result.is_ok()));
        });
        place
    }
}
