//! Where rows live in the engine: `table tag u8 | group u32 BE | generation u32 BE | rest`. One snapshot install makes one
//! new generation of a group; the group's state row (generation 0) says which one is in force.

use quorate_core::{GroupId, Rev, Revision};

const TAG_FORMAT: u8 = 0;
const TAG_STATE: u8 = 1;
const TAG_RECORD: u8 = 2;
const TAG_INDEX: u8 = 3;
const TAG_SYSTEM: u8 = 4;

/// The tables that have generations.
pub(crate) const GENERATION_TAGS: [u8; 3] = [TAG_RECORD, TAG_INDEX, TAG_SYSTEM];

/// The row that names the format version of all rows.
pub(crate) const FORMAT_KEY: [u8; 1] = [TAG_FORMAT];

const PREFIX_BYTES: usize = 9;

fn prefix(tag: u8, group: GroupId, generation: u32, rest_bytes: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(PREFIX_BYTES + rest_bytes);
    key.push(tag);
    key.extend_from_slice(&group.get().to_be_bytes());
    key.extend_from_slice(&generation.to_be_bytes());
    key
}

/// The state row of a group.
pub(crate) fn state_key(group: GroupId) -> Vec<u8> {
    prefix(TAG_STATE, group, 0, 0)
}

/// First key of a group's generation in a table; with `generation + 1`, the end of it.
pub(crate) fn generation_start(tag: u8, group: GroupId, generation: u32) -> Vec<u8> {
    prefix(tag, group, generation, 0)
}

/// First key after all generations of a group in a table.
pub(crate) fn group_end(tag: u8, group: GroupId) -> Vec<u8> {
    match group.get().checked_add(1) {
        Some(next) => prefix(tag, GroupId::new(next), 0, 0),
        None => vec![tag + 1],
    }
}

/// Behind all rows. (An engine may have a row of its own there.)
pub(crate) const END: &[u8] = &[u8::MAX];

/// First key of the state rows, and the one behind them.
pub(crate) fn states() -> (Vec<u8>, Vec<u8>) {
    (vec![TAG_STATE], vec![TAG_STATE + 1])
}

/// The tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    Format,
    State,
    Record,
    Index,
    System,
}

impl Table {
    pub fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::State => "state",
            Self::Record => "record",
            Self::Index => "index",
            Self::System => "small-table",
        }
    }

    pub fn has_generations(self) -> bool {
        match self {
            Self::Record | Self::Index | Self::System => true,
            Self::Format | Self::State => false,
        }
    }
}

/// What a row's key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowPlace<'a> {
    pub table: Table,
    pub group: GroupId,
    pub generation: u32,
    /// See [`Keys::rest`].
    pub rest: &'a [u8],
}

impl<'a> RowPlace<'a> {
    /// `None` if it is not one of ours.
    pub fn of(key: &'a [u8]) -> Option<Self> {
        if key == FORMAT_KEY {
            return Some(Self { table: Table::Format, group: GroupId::DEFAULT, generation: 0, rest: &[] });
        }
        let (&tag, rest) = key.split_first()?;
        let table = match tag {
            TAG_STATE => Table::State,
            TAG_RECORD => Table::Record,
            TAG_INDEX => Table::Index,
            TAG_SYSTEM => Table::System,
            _ => return None,
        };
        let (group, rest) = rest.split_first_chunk::<4>()?;
        let (generation, rest) = rest.split_first_chunk::<4>()?;
        let group = GroupId::new(u32::from_be_bytes(*group));
        Some(Self { table, group, generation: u32::from_be_bytes(*generation), rest })
    }

    pub fn keys(self) -> Keys {
        Keys { group: self.group, generation: self.generation }
    }
}

/// Makes the keys of one generation of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub group: GroupId,
    pub generation: u32,
}

impl Keys {
    pub fn record(self, rev: Rev) -> Vec<u8> {
        let mut key = prefix(TAG_RECORD, self.group, self.generation, 12);
        // Revisions are positive, so that unsigned big-endian bytes sort as they do.
        key.extend_from_slice(&rev.main.get().cast_unsigned().to_be_bytes());
        key.extend_from_slice(&rev.sub.to_be_bytes());
        key
    }

    /// The revision that a record's row key names.
    pub fn rev_of(key: &[u8]) -> Option<Rev> {
        let (main, sub) = key.get(PREFIX_BYTES..)?.split_first_chunk::<8>()?;
        let sub: [u8; 4] = sub.try_into().ok()?;
        let main = u64::from_be_bytes(*main).cast_signed();
        Some(Rev::new(Revision::new(main), u32::from_be_bytes(sub)))
    }

    pub fn index(self, key: &[u8]) -> Vec<u8> {
        let mut row = prefix(TAG_INDEX, self.group, self.generation, key.len());
        row.extend_from_slice(key);
        row
    }

    pub fn index_start(self) -> Vec<u8> {
        generation_start(TAG_INDEX, self.group, self.generation)
    }

    pub fn index_end(self) -> Vec<u8> {
        generation_start(TAG_INDEX, self.group, self.generation + 1)
    }

    pub fn system(self, rest: &[u8]) -> Vec<u8> {
        let mut row = prefix(TAG_SYSTEM, self.group, self.generation, rest.len());
        row.extend_from_slice(rest);
        row
    }

    pub fn system_start(self) -> Vec<u8> {
        generation_start(TAG_SYSTEM, self.group, self.generation)
    }

    pub fn system_end(self) -> Vec<u8> {
        generation_start(TAG_SYSTEM, self.group, self.generation + 1)
    }

    /// What follows the prefix: the user's key in the index, the row's name in the small tables.
    pub fn rest(key: &[u8]) -> Option<&[u8]> {
        key.get(PREFIX_BYTES..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_keys_sort_by_revision_and_read_back() {
        let keys = Keys { group: GroupId::new(7), generation: 3 };
        let revs =
            [(1, 0), (1, 1), (255, 0), (256, 0), (i64::MAX, u32::MAX)].map(|(m, s)| Rev::new(Revision::new(m), s));
        let rows: Vec<_> = revs.iter().map(|rev| keys.record(*rev)).collect();
        assert!(rows.is_sorted());
        for (rev, row) in revs.iter().zip(&rows) {
            assert_eq!(Keys::rev_of(row), Some(*rev));
        }
    }

    #[test]
    fn the_last_group_ends_before_the_next_table() {
        let last = GroupId::new(u32::MAX);
        let row = Keys { group: last, generation: u32::MAX - 1 }.index(b"\xff\xff");
        assert!(row < group_end(TAG_INDEX, last));
        assert!(group_end(TAG_INDEX, last) <= vec![TAG_SYSTEM]);
    }
}
