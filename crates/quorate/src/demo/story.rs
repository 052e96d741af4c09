//! What happens in the cluster, one line per event.
//!
//! Knows no processes and no sockets: it turns what the others see into lines, and says nothing twice.

use std::time::Duration;

/// Answers that a running member may miss in a row before that is news.
const SILENCES_MAX: u32 = 4;

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of a sentence")]
pub enum Event {
    /// The process runs.
    Started { member: usize, pid: u32 },
    /// The process ended; it is started again after the pause.
    Ended { member: usize, why: String, pause: Duration },
    /// The process ends at once every time.
    GaveUp { member: usize, why: String },
    /// The member answered, or did not.
    Seen { member: usize, seen: Option<Seen> },
}

/// What a member said of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: u64,
    /// The id of the leader that it knows; 0 for none.
    pub leader: u64,
    /// The term of that.
    pub term: u64,
}

/// How a line is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Just so.
    Plain,
}

#[derive(Debug, Default)]
struct Member {
    name: String,
    pid: Option<u32>,
    /// The last answer, as long as the member answers.
    seen: Option<Seen>,
    silences: u32,
    /// It was lost, and that was told.
    lost: bool,
}

/// The state behind the lines.
#[derive(Debug)]
pub struct Story {
    members: Vec<Member>,
    /// The leader that was told last, and its term.
    leader: Option<(usize, u64)>,
    /// Who led before there was no leader.
    former: Option<usize>,
}

type Line = (Tone, String);

impl Story {
    /// The beginning, with members of these names.
    pub fn new(names: Vec<String>) -> Self {
        let members = names.into_iter().map(|name| Member { name, ..Member::default() }).collect();
        Story { members, leader: None, former: None }
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.leader.is_some()
    }

    /// The process of a member, if it runs.
    pub fn pid(&self, member: usize) -> Option<u32> {
        self.members[member].pid
    }

    /// The process of the leader.
    pub fn leader_pid(&self) -> Option<u32> {
        self.leader.and_then(|(member, _)| self.pid(member))
    }

    /// The lines for an event; mostly none.
    pub fn tell(&mut self, event: Event) -> Vec<Line> {
        let mut lines = Vec::new();
        match event {
            Event::Started { member, pid } => {
                let member = &mut self.members[member];
                member.pid = Some(pid);
                member.silences = 0;
                if member.lost {
                    lines.push((Tone::Plain, format!("{} started again, pid {pid}", member.name)));
                }
            }
            Event::Ended { member, why, pause } => {
                let member = &mut self.members[member];
                (member.pid, member.seen, member.lost) = (None, None, true);
                let seconds = pause.as_secs();
                lines.push((Tone::Bad, format!("{} lost: {why}; it starts again in {seconds} s", member.name)));
            }
            // Whoever gives up ends the story.
            Event::GaveUp { .. } => {}
            Event::Seen { member, seen: Some(seen) } => {
                let member = &mut self.members[member];
                // An answer may arrive after the end of the process that gave it.
                if member.pid.is_some() {
                    (member.seen, member.silences) = (Some(seen), 0);
                    if std::mem::take(&mut member.lost) {
                        lines.push((Tone::Good, format!("{} is back", member.name)));
                    }
                }
            }
            Event::Seen { member, seen: None } => {
                let member = &mut self.members[member];
                member.silences += 1;
                if member.silences == SILENCES_MAX && member.seen.take().is_some() {
                    member.lost = true;
                    lines.push((Tone::Bad, format!("{} does not answer", member.name)));
                }
            }
        }
        lines.extend(self.tell_leader());
        lines
    }

    fn tell_leader(&mut self) -> Option<Line> {
        let current = self.current_leader();
        let name = |member: usize| self.members[member].name.as_str();
        let line = match (self.leader, current) {
            (Some(told), Some(current)) if told == current => return None,
            (None, None) => return None,
            (Some((old, _)), None) => (Tone::Bad, format!("{} no longer leads: there is no leader", name(old))),
            (Some((old, _)), Some((new, term))) if old != new => {
                (Tone::Good, format!("{} leads instead of {} (term {term})", name(new), name(old)))
            }
            (None, Some((new, term))) => match self.former {
                Some(old) if old != new => {
                    (Tone::Good, format!("{} leads instead of {} (term {term})", name(new), name(old)))
                }
                Some(_) => (Tone::Good, format!("{} leads again (term {term})", name(new))),
                None => (Tone::Good, format!("{} leads (term {term})", name(new))),
            },
            (Some(_), Some((new, term))) => (Tone::Good, format!("{} leads again (term {term})", name(new))),
        };
        self.former = current.or(self.leader).map(|(member, _)| member);
        self.leader = current;
        Some(line)
    }

    /// The leader of the latest term that anyone speaks of, if it says so too. Members that have not noticed yet speak of
    /// one that is gone, or is back and no longer leads.
    fn current_leader(&self) -> Option<(usize, u64)> {
        let latest =
            self.members.iter().filter_map(|member| member.seen).max_by_key(|seen| (seen.term, seen.leader))?;
        let leads = |seen: Seen| seen.id == latest.leader && seen.leader == latest.leader;
        let leader = self.members.iter().position(|member| member.seen.is_some_and(leads));
        leader.map(|member| (member, latest.term))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `start 1`, `end 1`, `seen 1 LEADER TERM`, `silent 1`; members count from 1.
    fn check(script: &str, expected: Expect) {
        let mut story = Story::new(vec!["n1".into(), "n2".into(), "n3".into()]);
        let mut told = String::new();
        for step in script.split(';').map(str::trim) {
            let words: Vec<&str> = step.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            let member = usize::try_from(number(1)).unwrap() - 1;
            let event = match words[0] {
                "start" => Event::Started { member, pid: 100 },
                "end" => Event::Ended { member, why: "killed by signal 9".into(), pause: Duration::from_secs(3) },
                "seen" => {
                    let seen = Seen { id: number(1), leader: number(2), term: number(3) };
                    Event::Seen { member, seen: Some(seen) }
                }
                "silent" => Event::Seen { member, seen: None },
                other => panic!("unknown step {other}"),
            };
            told += &format!("{step}\n");
            for (tone, line) in story.tell(event) {
                told += &format!("    {tone:?}: {line}\n");
            }
        }
        expected.assert_eq(&told);
    }

    #[test]
    fn a_leader_dies_and_comes_back() {
        check(
            "start 1; start 2; start 3; silent 1; seen 1 0 1; seen 2 2 2; seen 1 2 2; seen 3 2 2; end 2; seen 1 2 2; \
             seen 3 3 3; seen 1 3 3; start 2; silent 2; seen 2 0 2; seen 2 3 3",
            expect![[r#"
                start 1
                start 2
                start 3
                silent 1
                seen 1 0 1
                seen 2 2 2
                    Good: n2 leads (term 2)
                seen 1 2 2
                seen 3 2 2
                end 2
                    Bad: n2 lost: killed by signal 9; it starts again in 3 s
                    Bad: n2 no longer leads: there is no leader
                seen 1 2 2
                seen 3 3 3
                    Good: n3 leads instead of n2 (term 3)
                seen 1 3 3
                start 2
                    Plain: n2 started again, pid 100
                silent 2
                seen 2 0 2
                    Good: n2 is back
                seen 2 3 3
            "#]],
        );
    }

    #[test]
    fn a_leader_comes_back_before_the_others_notice() {
        check(
            "start 1; start 2; start 3; seen 2 2 2; seen 1 2 2; seen 3 2 2; end 2; start 2; seen 2 0 2; seen 3 2 2; \
             seen 3 3 3; seen 2 3 3",
            expect![[r#"
                start 1
                start 2
                start 3
                seen 2 2 2
                    Good: n2 leads (term 2)
                seen 1 2 2
                seen 3 2 2
                end 2
                    Bad: n2 lost: killed by signal 9; it starts again in 3 s
                    Bad: n2 no longer leads: there is no leader
                start 2
                    Plain: n2 started again, pid 100
                seen 2 0 2
                    Good: n2 is back
                seen 3 2 2
                seen 3 3 3
                    Good: n3 leads instead of n2 (term 3)
                seen 2 3 3
            "#]],
        );
    }

    #[test]
    fn leadership_moves() {
        check(
            "start 1; start 2; seen 1 1 2; seen 2 1 2; seen 2 2 3; seen 1 1 2; seen 1 2 3; seen 1 0 4; seen 2 2 5",
            expect![[r#"
                start 1
                start 2
                seen 1 1 2
                    Good: n1 leads (term 2)
                seen 2 1 2
                seen 2 2 3
                    Good: n2 leads instead of n1 (term 3)
                seen 1 1 2
                seen 1 2 3
                seen 1 0 4
                    Bad: n2 no longer leads: there is no leader
                seen 2 2 5
                    Good: n2 leads again (term 5)
            "#]],
        );
    }

    #[test]
    fn a_member_hangs() {
        check(
            "start 1; seen 1 1 2; silent 1; silent 1; silent 1; silent 1; silent 1; seen 1 1 2",
            expect![[r#"
                start 1
                seen 1 1 2
                    Good: n1 leads (term 2)
                silent 1
                silent 1
                silent 1
                silent 1
                    Bad: n1 does not answer
                    Bad: n1 no longer leads: there is no leader
                silent 1
                seen 1 1 2
                    Good: n1 is back
                    Good: n1 leads again (term 2)
            "#]],
        );
    }

    #[test]
    fn an_answer_that_comes_late_revives_nobody() {
        check(
            "start 1; seen 1 1 2; end 1; seen 1 1 2; start 1; seen 1 1 3",
            expect![[r#"
            start 1
            seen 1 1 2
                Good: n1 leads (term 2)
            end 1
                Bad: n1 lost: killed by signal 9; it starts again in 3 s
                Bad: n1 no longer leads: there is no leader
            seen 1 1 2
            start 1
                Plain: n1 started again, pid 100
            seen 1 1 3
                Good: n1 is back
                Good: n1 leads again (term 3)
        "#]],
        );
    }
}
