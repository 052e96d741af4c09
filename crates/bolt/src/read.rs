//! Reading what may be anything.

use crate::page::{
    ELEMENT_BYTES, FLAG_BRANCH, FLAG_BUCKET, FLAG_LEAF, FLAG_META, HEADER_BYTES, MAGIC, META_BYTES, VERSION, fnv1a,
};
use bytes::{Buf, Bytes};
use std::io;

/// Deeper than any tree of bbolt: each branch has at least two children.
const DEPTH_MAX: usize = 64;
/// Larger than any page that bbolt writes: a value ends at 2 GiB, and requests of etcd far before that.
const PAGE_BYTES_MAX: u64 = 1 << 30;
/// Of the two meta pages that are written.
const WRITTEN_TRANSACTION: u64 = 1;
/// Page sizes that there are: bbolt takes that of the system.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 9..=16;

/// Where the bytes come from.
pub trait Source {
    /// How many there are.
    ///
    /// # Errors
    /// What the disk says.
    fn size(&self) -> io::Result<u64>;

    /// Fills `buffer` from `offset` on; fewer bytes only at the end of the file. Returns how many.
    ///
    /// # Errors
    /// What the disk says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not what bbolt writes.
    #[error("{what}")]
    Damaged {
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An open file.
pub struct Database<S> {
    source: S,
    page_bytes: u64,
    pages: u64,
    root: u64,
    transaction: u64,
}

/// A bucket of a file.
#[derive(Clone, Debug)]
pub struct Bucket {
    name: Bytes,
    start: Start,
}

#[derive(Clone, Debug)]
enum Start {
    Page(u64),
    /// A small bucket is a leaf inside the element; where that element's page is.
    Inline {
        leaf: Bytes,
        offset: u64,
    },
}

impl Bucket {
    /// Its name.
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// A walk over its elements.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.start.clone())
    }
}

struct Meta {
    page_bytes: u64,
    root: u64,
    pages: u64,
    transaction: u64,
}

fn damaged(offset: u64, what: impl Into<String>) -> ReadError {
    ReadError::Damaged { offset, what: what.into() }
}

impl<S: Source> Database<S> {
    /// Reads the front of the file.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if it has no valid front, or is shorter than that says.
    pub fn open(source: S) -> Result<Self, ReadError> {
        let size = source.size()?;
        let first = read_meta(&source, 0)?;
        let sizes: Vec<u64> = match &first {
            Some(meta) => vec![meta.page_bytes],
            None => PAGE_SIZES.map(|power| 1 << power).collect(),
        };
        let mut second = None;
        for page_bytes in sizes {
            second = read_meta(&source, page_bytes)?.filter(|meta| meta.page_bytes == page_bytes);
            if second.is_some() {
                break;
            }
        }
        let meta = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let meta = meta.ok_or_else(|| damaged(0, "neither of the two meta pages is valid"))?;
        let pages = meta.pages;
        if pages.checked_mul(meta.page_bytes).is_none_or(|bytes| bytes > size) {
            let what = format!("the file should have {pages} pages of {} bytes: it was cut off", meta.page_bytes);
            return Err(damaged(size, what));
        }
        Ok(Self { source, page_bytes: meta.page_bytes, pages, root: meta.root, transaction: meta.transaction })
    }

    /// How many bytes of the file are pages.
    pub fn size(&self) -> u64 {
        self.pages * self.page_bytes
    }

    /// Whether the file is as [`crate::Writer`] made it: bbolt counts on with the first transaction that it commits.
    pub fn is_as_written(&self) -> bool {
        self.transaction <= WRITTEN_TRANSACTION
    }

    /// The buckets, by name.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn buckets(&self) -> Result<Vec<Bucket>, ReadError> {
        let mut cursor = Cursor::new(Start::Page(self.root));
        let mut buckets = Vec::new();
        while let Some((offset, elements)) = cursor.next_elements(self)? {
            for element in elements {
                if element.flags & FLAG_BUCKET == 0 {
                    return Err(damaged(offset, "an element of the root is not a bucket"));
                }
                let mut value = element.value;
                if value.len() < ELEMENT_BYTES {
                    return Err(damaged(offset, "a bucket is cut off"));
                }
                let root = value.get_u64_le();
                value.advance(8);
                let start = if root == 0 { Start::Inline { leaf: value, offset } } else { Start::Page(root) };
                buckets.push(Bucket { name: element.key, start });
            }
        }
        Ok(buckets)
    }

    /// A page and those that it spans, with its flags.
    fn page(&self, id: u64) -> Result<Page, ReadError> {
        let offset = id.saturating_mul(self.page_bytes);
        if id < 2 || id >= self.pages {
            return Err(damaged(offset, format!("there is no page {id}")));
        }
        let mut header = [0; HEADER_BYTES];
        self.read(offset, &mut header)?;
        let further = u64::from(u32::from_le_bytes([header[12], header[13], header[14], header[15]]));
        let bytes = (further + 1).saturating_mul(self.page_bytes);
        if further >= self.pages - id || bytes > PAGE_BYTES_MAX {
            return Err(damaged(offset, format!("page {id} says that it spans {} pages", further + 1)));
        }
        let mut content = vec![0; bytes as usize];
        self.read(offset, &mut content)?;
        Page::parse(content.into(), offset, Some(id))
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let read = self.source.read_at(offset, buffer)?;
        if read < buffer.len() {
            return Err(damaged(offset + read as u64, "the file ends too early: it was cut off"));
        }
        Ok(())
    }
}

/// The meta page at `offset`, if it is one.
fn read_meta(source: &impl Source, offset: u64) -> Result<Option<Meta>, ReadError> {
    let mut page = [0; HEADER_BYTES + META_BYTES];
    if source.read_at(offset, &mut page)? < page.len() {
        return Ok(None);
    }
    let flags = u16::from_le_bytes([page[8], page[9]]);
    let content = &page[HEADER_BYTES..];
    let (hashed, mut hash) = content.split_at(META_BYTES - 8);
    let mut fields = hashed;
    let (magic, version, page_bytes, _) =
        (fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le());
    let (root, _, _, pages, transaction) =
        (fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le(), fields.get_u64_le());
    let known_size = page_bytes.is_power_of_two() && PAGE_SIZES.contains(&page_bytes.trailing_zeros());
    let valid = flags & FLAG_META != 0
        && magic == MAGIC
        && version == VERSION
        && known_size
        && hash.get_u64_le() == fnv1a(hashed);
    Ok(valid.then_some(Meta { page_bytes: page_bytes.into(), root, pages, transaction }))
}

struct Page {
    offset: u64,
    flags: u16,
    elements: usize,
    bytes: Bytes,
}

struct Element {
    flags: u32,
    key: Bytes,
    value: Bytes,
}

impl Page {
    fn parse(bytes: Bytes, offset: u64, id: Option<u64>) -> Result<Self, ReadError> {
        let mut header = bytes.get(..HEADER_BYTES).ok_or_else(|| damaged(offset, "a page is cut off"))?;
        let (found, flags, elements) = (header.get_u64_le(), header.get_u16_le(), header.get_u16_le());
        if id.is_some_and(|id| id != found) {
            return Err(damaged(offset, format!("the page says that it is page {found}")));
        }
        Ok(Self { offset, flags, elements: elements.into(), bytes })
    }

    /// The fields of an element, and where it begins.
    fn element(&self, index: usize) -> Result<(&[u8], usize), ReadError> {
        let at = HEADER_BYTES + index * ELEMENT_BYTES;
        let element = self.bytes.get(at..at + ELEMENT_BYTES);
        element.map(|element| (element, at)).ok_or_else(|| damaged(self.offset, "the elements of the page are cut off"))
    }

    fn slice(&self, from: usize, length: usize) -> Result<Bytes, ReadError> {
        let end = from.checked_add(length).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| damaged(self.offset, "an element reaches beyond its page"))?;
        Ok(self.bytes.slice(from..end))
    }

    fn leaf(&self) -> Result<Vec<Element>, ReadError> {
        let mut bytes = HEADER_BYTES;
        let mut element = |index| {
            let (mut fields, at) = self.element(index)?;
            let flags = fields.get_u32_le();
            let (distance, key, value) =
                (fields.get_u32_le() as usize, fields.get_u32_le() as usize, fields.get_u32_le() as usize);
            let content = self.slice(at.saturating_add(distance), key.saturating_add(value))?;
            // Elements that share their bytes would make a small page a large one.
            bytes = bytes.saturating_add(ELEMENT_BYTES).saturating_add(content.len());
            if bytes > self.bytes.len() {
                return Err(damaged(self.offset, "the elements of the page overlap"));
            }
            Ok(Element { flags, key: content.slice(..key), value: content.slice(key..) })
        };
        (0..self.elements).map(&mut element).collect()
    }

    /// The pages below.
    fn branch(&self) -> Result<Vec<u64>, ReadError> {
        let child = |index| {
            let (mut fields, _) = self.element(index)?;
            fields.advance(8);
            Ok(fields.get_u64_le())
        };
        (0..self.elements).map(child).collect()
    }
}

/// Where in the file a leaf is, and its keys and values.
pub type Leaf = (u64, Vec<(Bytes, Bytes)>);

/// Walks over a bucket in the order of its keys. Holds one leaf, and the branches above it.
pub struct Cursor {
    /// Pages that are still to be walked over on each level, the next one last.
    levels: Vec<Vec<u64>>,
    inline: Option<(Bytes, u64)>,
    last: Option<Bytes>,
}

impl Cursor {
    fn new(start: Start) -> Self {
        let (levels, inline) = match start {
            Start::Page(id) => (vec![vec![id]], None),
            Start::Inline { leaf, offset } => (Vec::new(), Some((leaf, offset))),
        };
        Self { levels, inline, last: None }
    }

    /// Keys and values of the next leaf, and its offset; `None` at the end. A leaf may be empty. `database` is the one that
    /// the bucket is of.
    ///
    /// # Errors
    /// [`ReadError`]; also if there is a bucket inside the bucket, which etcd never has.
    pub fn next_leaf<S: Source>(&mut self, database: &Database<S>) -> Result<Option<Leaf>, ReadError> {
        let Some((offset, elements)) = self.next_elements(database)? else { return Ok(None) };
        if elements.iter().any(|element| element.flags & FLAG_BUCKET != 0) {
            return Err(damaged(offset, "a bucket is inside another one"));
        }
        Ok(Some((offset, elements.into_iter().map(|element| (element.key, element.value)).collect())))
    }

    fn next_elements<S: Source>(&mut self, database: &Database<S>) -> Result<Option<(u64, Vec<Element>)>, ReadError> {
        if let Some((leaf, offset)) = self.inline.take() {
            let page = Page::parse(leaf, offset, None)?;
            return self.leaf(&page).map(Some);
        }
        while let Some(level) = self.levels.last_mut() {
            let Some(id) = level.pop() else {
                self.levels.pop();
                continue;
            };
            let page = database.page(id)?;
            match page.flags {
                FLAG_LEAF => return self.leaf(&page).map(Some),
                FLAG_BRANCH if self.levels.len() < DEPTH_MAX && page.elements > 0 => {
                    let mut children = page.branch()?;
                    children.reverse();
                    self.levels.push(children);
                }
                flags => return Err(damaged(page.offset, format!("page {id} is no part of a tree: flags {flags:#x}"))),
            }
        }
        Ok(None)
    }

    /// What ends a walk in a circle, too: no key comes twice.
    fn leaf(&mut self, page: &Page) -> Result<(u64, Vec<Element>), ReadError> {
        if page.flags != FLAG_LEAF {
            return Err(damaged(page.offset, format!("a bucket has the flags {:#x}", page.flags)));
        }
        let elements = page.leaf()?;
        for element in &elements {
            if self.last.as_ref().is_some_and(|last| *last >= element.key) {
                return Err(damaged(page.offset, "keys are out of order"));
            }
            self.last = Some(element.key.clone());
        }
        // An empty leaf is the root of an empty bucket; anywhere else it could be met again and again.
        if elements.is_empty() && (self.last.is_some() || self.levels.len() > 1) {
            return Err(damaged(page.offset, "a leaf is empty"));
        }
        Ok((page.offset, elements))
    }
}
