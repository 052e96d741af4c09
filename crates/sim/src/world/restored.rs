//! A copy of the data, saved in the midst of it all, becomes a cluster of its own: it must hold what the ledger says of its
//! revision.

use super::ending::read_story;
use super::{config, runs};
use crate::machine::{Door, Doors, Machine};
use crate::network::Network;
use crate::oracle::{Ledger, state};
use crate::plan::Plan;
use crate::random::Random;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How long a cluster of one may take until it serves.
const START_MAX: Duration = Duration::from_secs(20);

const TICK: Duration = Duration::from_millis(5);

/// Restores `copy` and reads it.
///
/// # Errors
/// What is wrong, in words.
pub fn check(copy: &[u8], plan: &Plan, ledger: &Ledger) -> Result<(), String> {
    let root = Random::new(plan.seed).fork("restored");
    let network = Network::new(1, &plan.link, root.fork("network"));
    let doors: Doors = Arc::new(vec![Arc::new(Door::default())]);
    let alone = Plan { members: 1, learners: 0, ..plan.clone() };
    let mut machine =
        Machine::new(0, network, doors.clone(), config(&alone, 0), runs(&alone), root.fork("machine").number());
    let restored = machine.restore(copy).map_err(|text| format!("the copy cannot be restored: {text}"))?;
    machine.start(Duration::ZERO);
    let (mut now, revision) = (Duration::ZERO, restored.revision.get());
    let story = Arc::new(Mutex::new(None));
    let mut asked = false;
    while story.lock().is_none() && now < START_MAX {
        if let Some(failure) = doors[0].fatal().or(doors[0].failure()) {
            return Err(format!("the restored member does not start: {failure}"));
        }
        if !asked && doors[0].node().is_some_and(|node| node.has_leader()) {
            let place = story.clone();
            asked = doors[0].send(Box::new(move |node| {
                Box::pin(async move { *place.lock() = Some(read_story(node, revision).await) })
            }));
        }
        machine.tick(now, TICK);
        now += TICK;
    }
    let story = story.lock().take().ok_or("the restored member does not answer")??;
    let expected = state(ledger, revision);
    // Leases run, and may have ended meanwhile.
    let lasting = |seen: &&crate::history::Seen| seen.lease == 0;
    let (found, expected): (Vec<_>, Vec<_>) =
        (story.state.iter().filter(lasting).collect(), expected.iter().filter(lasting).collect());
    if ledger.compacted < revision && found != expected {
        return Err(format!("the copy of revision {revision} holds {found:?}, but the state was {expected:?}"));
    }
    Ok(())
}
