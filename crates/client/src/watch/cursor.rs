//! Where a watch is in the history.
//!
//! Knows revisions, not streams. Guarantees that every event is let through exactly once, in order, however often the
//! history is begun anew, even if it breaks off within a revision.

use quorate_proto::mvccpb::Event;
use quorate_sabotage::sabotage;

/// Position before the next event.
///
/// A revision can have many events, and a server may send it in several pieces; so the position is a revision and the
/// number of its events that are done. Their order within the revision is always the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// Revision of the next event; 0 while it is "from now on".
    next_revision: i64,
    /// Events of `next_revision` that have been let through.
    done: usize,
    /// Events of `next_revision` that will be sent again, since the history was begun anew.
    repeats: usize,
}

impl Cursor {
    pub(crate) fn new(start_revision: i64) -> Self {
        Cursor { next_revision: start_revision, ..Cursor::default() }
    }

    /// Revision to begin at; 0 for "from now on".
    pub(crate) fn start_revision(&self) -> i64 {
        self.next_revision
    }

    /// All events up to this revision, which may be 0, have been let through.
    pub(crate) fn complete_revision(&self) -> i64 {
        (self.next_revision - 1).max(0)
    }

    /// The history is begun anew from [`start_revision`](Self::start_revision).
    pub(crate) fn restart(&mut self) {
        self.repeats = self.done;
        if sabotage!(ClientWatchRepeats) && self.next_revision > 1 {
            *self = Cursor::new(self.next_revision - 1);
        }
        if sabotage!(ClientWatchResumesLate) && self.next_revision > 0 {
            self.next_revision += 1;
        }
    }

    /// The server confirmed the watch at a revision of the store.
    pub(crate) fn created(&mut self, revision: i64) {
        if self.next_revision == 0 {
            self.next_revision = revision + 1;
        }
    }

    /// The server has nothing to send up to a revision.
    pub(crate) fn progress(&mut self, revision: i64) {
        if revision >= self.next_revision {
            *self = Cursor::new(revision + 1);
        }
    }

    /// Lets the new ones of some events through. With `more_follow`, the last revision may be incomplete.
    pub(crate) fn advance(&mut self, mut events: Vec<Event>, more_follow: bool) -> Vec<Event> {
        let last_revision = events.last().map(revision_of);
        events.retain(|event| self.let_through(revision_of(event)));
        if last_revision == Some(self.next_revision) && !more_follow {
            *self = Cursor::new(self.next_revision + 1);
        }
        events
    }

    fn let_through(&mut self, revision: i64) -> bool {
        if revision < self.next_revision {
            return false;
        }
        if revision > self.next_revision {
            *self = Cursor::new(revision);
        }
        if self.repeats > 0 {
            self.repeats -= 1;
            return false;
        }
        self.done += 1;
        true
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

#[cfg(test)]
mod tests {
    use quorate_proto::mvccpb::KeyValue;

    use super::*;

    /// Events written as `5a 5b 6c`: revision and key.
    fn events(text: &str) -> Vec<Event> {
        let event = |word: &str| {
            let (revision, key) = word.split_at(word.len() - 1);
            let kv =
                KeyValue { key: key.to_owned().into(), mod_revision: revision.parse().unwrap(), ..Default::default() };
            Event { kv: Some(kv), ..Default::default() }
        };
        text.split_whitespace().map(event).collect()
    }

    fn text(events: &[Event]) -> String {
        let word = |event: &Event| {
            let kv = event.kv.as_ref().unwrap();
            format!("{}{}", kv.mod_revision, String::from_utf8_lossy(&kv.key))
        };
        events.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    fn check(cursor: &mut Cursor, sent: &str, more_follow: bool, expected: &str) {
        assert_eq!(text(&cursor.advance(events(sent), more_follow)), expected, "of {sent}");
    }

    #[test]
    fn a_watch_from_now_on_resumes_after_the_revision_of_its_confirmation() {
        let mut cursor = Cursor::new(0);
        cursor.created(7);
        assert_eq!(cursor.start_revision(), 8);
        cursor.restart();
        cursor.created(20);
        assert_eq!(cursor.start_revision(), 8, "a later confirmation moves nothing");
        check(&mut cursor, "8a", false, "8a");
        assert_eq!(cursor.start_revision(), 9);
    }

    #[test]
    fn what_came_before_is_dropped() {
        let mut cursor = Cursor::new(5);
        check(&mut cursor, "3a 4b 5c 5d 7e", false, "5c 5d 7e");
        check(&mut cursor, "7e 8f", false, "8f");
        assert_eq!((cursor.start_revision(), cursor.complete_revision()), (9, 8));
    }

    #[test]
    fn a_revision_in_pieces_is_resumed_in_its_midst() {
        let mut cursor = Cursor::new(5);
        check(&mut cursor, "5a 6b 6c", true, "5a 6b 6c");
        assert_eq!((cursor.start_revision(), cursor.complete_revision()), (6, 5));
        cursor.restart();
        check(&mut cursor, "6b", true, "");
        // Breaks off again, before the known part is over.
        cursor.restart();
        check(&mut cursor, "6b 6c 6d", true, "6d");
        check(&mut cursor, "6e 7f", false, "6e 7f");
        assert_eq!(cursor.start_revision(), 8);
    }

    #[test]
    fn pieces_of_an_unbroken_stream_all_come_through() {
        let mut cursor = Cursor::new(1);
        check(&mut cursor, "5a 5b", true, "5a 5b");
        check(&mut cursor, "5c", true, "5c");
        check(&mut cursor, "5d", false, "5d");
        assert_eq!(cursor.start_revision(), 6);
    }

    #[test]
    fn a_last_piece_that_only_repeats_completes_the_revision() {
        let mut cursor = Cursor::new(5);
        check(&mut cursor, "5a 5b", true, "5a 5b");
        cursor.restart();
        check(&mut cursor, "5a 5b", false, "");
        assert_eq!(cursor.start_revision(), 6);
    }

    #[test]
    fn progress_moves_forward_only() {
        let mut cursor = Cursor::new(5);
        cursor.progress(3);
        assert_eq!(cursor.start_revision(), 5);
        cursor.progress(9);
        assert_eq!(cursor.start_revision(), 10);
        check(&mut cursor, "9a 10b", false, "10b");
    }

    #[test]
    fn nothing_new_changes_nothing() {
        let mut cursor = Cursor::new(5);
        check(&mut cursor, "4a", false, "");
        assert_eq!(cursor, Cursor::new(5));
    }
}
