//! `member replace`: another member in the place of one that is lost, in one command.
//!
//! What to do is decided from what the cluster says of itself ([`plan`]), so a run that was interrupted is taken up by running
//! the command again. The lost member is removed first: it is no part of the quorum that is left, and with it the cluster would
//! not take another. The new one receives the log without a vote and counts only when it has caught up, so that nothing is at
//! risk if it never starts.

use std::collections::BTreeSet;

use clap::Args;
use quorate_client::Client;
use quorate_proto::etcdserverpb::{Member, MemberAddRequest, MemberListRequest, MemberRemoveRequest};
use quorate_proto::quorate_v1::ClusterHealthRequest;

use crate::context::Context;
use crate::failure::{Exit, Failure, describe};
use crate::member::{parse_id, print_start, split_urls};
use crate::print::line;

/// Arguments of `member replace`.
#[derive(Debug, Clone, Default, Args)]
pub struct ReplaceArgs {
    /// Member that is lost, in hexadecimal
    #[arg(value_name = "MEMBER_ID")]
    id: Option<String>,

    /// Name of the new member [default: that of the lost one]
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Peer addresses of the new member, separated by commas; those of the lost one may be used again
    #[arg(long, default_value = "", hide_default_value = true, value_name = "URLS")]
    peer_urls: String,
}

/// A change of the membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Add,
    Remove,
}

/// What is left to do.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    steps: Vec<Step>,
    /// Name of the new member, if it is known.
    name: Option<String>,
    /// The lost member has no vote, and so the new one gets none.
    is_learner: bool,
}

/// Decides what to do, or says why nothing should be done. `answering` are the members that answer.
fn plan(members: &[Member], answering: &BTreeSet<u64>, lost: u64, urls: &[String]) -> Result<Plan, String> {
    let same_urls = |member: &&Member| member.peer_urls.iter().collect::<BTreeSet<_>>() == urls.iter().collect();
    let new = members.iter().filter(|member| member.id != lost).find(same_urls);
    if let Some(new) = new.filter(|new| !new.name.is_empty()) {
        return Err(format!(
            "{} is the address of member {:x} ({}), which has been started: if it is the new one, finish with `quorate member \
             remove {lost:x}`, else give another --peer-urls",
            urls.join(","),
            new.id,
            new.name
        ));
    }
    let Some(member) = members.iter().find(|member| member.id == lost) else {
        return match new {
            Some(new) => Ok(Plan { steps: vec![], name: None, is_learner: new.is_learner }),
            // An earlier run has removed it. If the id is mistyped, the lost one is still there, and the cluster refuses.
            None => Ok(Plan { steps: vec![Step::Add], name: None, is_learner: false }),
        };
    };
    if answering.contains(&lost) {
        return Err(format!(
            "member {lost:x} ({}) answers, so it is not lost: stop it first. (To move a member that works, add the new one, wait \
             until it serves, and remove the old one.)",
            member.name
        ));
    }
    let voters: Vec<u64> = members.iter().filter(|member| !member.is_learner).map(|member| member.id).collect();
    let there = voters.iter().filter(|id| answering.contains(id)).count();
    // One that was added and not started has no vote yet, whatever the list says.
    let waiting = members.iter().filter(|m| !m.is_learner && m.name.is_empty() && !answering.contains(&m.id)).count();
    let votes = voters.len() - waiting;
    if there <= votes / 2 {
        return Err(format!(
            "only {there} of {votes} members with a vote answer, and {} have to agree to a change: the quorum is lost. Bring \
             another member back. If none comes back, see --force-new-cluster of `quorate server`, or restore a snapshot",
            votes / 2 + 1
        ));
    }
    let steps = if new.is_some() { vec![Step::Remove] } else { vec![Step::Remove, Step::Add] };
    let name = Some(member.name.clone()).filter(|name| !name.is_empty());
    Ok(Plan { steps, name, is_learner: member.is_learner })
}

impl ReplaceArgs {
    /// Runs the command.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let lost = parse_id(self.id.as_deref())?;
        let urls = split_urls(&self.peer_urls)?;
        let client = context.client().await?;
        let answering = who_answers(&client).await?;
        // As the member that is asked knows them: without a quorum nobody could say more, and the leader checks again.
        let members = list(&client, false).await?;
        let plan = plan(&members, &answering, lost, &urls).map_err(|why| Failure::new(Exit::Error, why))?;
        let name = self.name.or(plan.name);
        let name = name.ok_or_else(|| Failure::arguments("the name of the lost member is not known: give one"))?;
        for step in plan.steps {
            match step {
                Step::Add => {
                    let request = MemberAddRequest { peer_urls: urls.clone(), is_learner: plan.is_learner };
                    let answer = client.cluster().member_add(request).await.map_err(|error| {
                        let why = format!(
                            "{}: the new member cannot be added yet. All members that are left have to answer: bring them back, or \
                             replace them; then run the command again",
                            describe(&error)
                        );
                        Failure::new(Exit::Error, why)
                    })?;
                    line(format_args!("Member {:x} added", answer.member.map_or(0, |member| member.id)))?;
                }
                Step::Remove => {
                    let request = MemberRemoveRequest { id: lost };
                    client.cluster().member_remove(request).await.map_err(|error| Failure::call(&error))?;
                    line(format_args!("Member {lost:x} removed"))?;
                }
            }
        }
        line("Start the new member with an empty data directory and:")?;
        let members = list(&client, true).await?;
        let new = members.iter().find(|member| member.peer_urls.iter().any(|url| urls.contains(url)));
        print_start(&name, new.map_or(0, |member| member.id), &members, &self.peer_urls)
    }
}

/// The members that answer their peers.
async fn who_answers(client: &Client) -> Result<BTreeSet<u64>, Failure> {
    let health = client.quorate().cluster_health(ClusterHealthRequest {}).await.map_err(|error| {
        if error.is_unimplemented() {
            let why = "this is not a Quorate cluster: use `member remove`, then `member add`";
            return Failure::new(Exit::BadFeature, why);
        }
        Failure::call(&error)
    })?;
    // One that did not answer has not told its engine.
    Ok(health.members.into_iter().filter(|member| !member.engine.is_empty()).map(|member| member.id).collect())
}

async fn list(client: &Client, linearizable: bool) -> Result<Vec<Member>, Failure> {
    let request = MemberListRequest { linearizable };
    Ok(client.cluster().member_list(request).await.map_err(|error| Failure::call(&error))?.members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str) -> Member {
        Member { id, name: name.to_owned(), peer_urls: vec![format!("http://{id}:1")], ..Member::default() }
    }

    fn decide(members: &[Member], answering: &[u64], urls: &str) -> Result<Vec<Step>, String> {
        let answering = answering.iter().copied().collect();
        plan(members, &answering, 3, &[urls.to_owned()]).map(|plan| plan.steps)
    }

    #[test]
    fn a_lost_member_is_replaced_and_an_interrupted_run_is_taken_up() {
        let three = [member(1, "a"), member(2, "b"), member(3, "c")];
        let (new, same) = ("http://4:1", "http://3:1");
        assert_eq!(decide(&three, &[1, 2], new), Ok(vec![Step::Remove, Step::Add]));
        assert_eq!(decide(&three, &[1, 2], same), Ok(vec![Step::Remove, Step::Add]));
        assert_eq!(decide(&three[..2], &[1, 2], new), Ok(vec![Step::Add]));
        let added = [member(1, "a"), member(2, "b"), member(4, "")];
        assert_eq!(decide(&added, &[1, 2], new), Ok(vec![]));
        // Somebody has added it by hand.
        assert_eq!(decide(&[three.to_vec(), vec![member(4, "")]].concat(), &[1, 2], new), Ok(vec![Step::Remove]));
        let learner = Member { is_learner: true, ..member(3, "c") };
        assert_eq!(decide(&[member(1, "a"), learner], &[1], new), Ok(vec![Step::Remove, Step::Add]));
    }

    #[test]
    fn what_would_do_harm_is_refused_with_the_reason() {
        let three = [member(1, "a"), member(2, "b"), member(3, "c")];
        let refused = |members: &[Member], answering: &[u64], urls: &str| decide(members, answering, urls).unwrap_err();
        assert!(refused(&three, &[1, 2, 3], "http://4:1").starts_with("member 3 (c) answers"));
        assert!(
            refused(&three, &[1], "http://4:1")
                .starts_with("only 1 of 3 members with a vote answer, and 2 have to agree")
        );
        assert!(refused(&three, &[1, 2], "http://2:1").contains("is the address of member 2 (b)"));
        // A first replacement that has not been started does not make the quorum larger.
        let five = [three.to_vec(), vec![member(5, "e"), member(6, "f"), member(7, "")]].concat();
        assert_eq!(decide(&five, &[1, 2, 5], "http://8:1"), Ok(vec![Step::Remove, Step::Add]));
    }
}
