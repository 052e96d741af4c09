//! What a page is made of. All numbers are little-endian.
//!
//! ```text
//! page    id u64 | flags u16 | elements u16 | further pages u32 | ...
//! leaf    per element: flags u32 | distance from here to the key u32 | key length u32 | value length u32; then keys and values
//! branch  per element: distance from here to the key u32 | key length u32 | page u64; then keys
//! meta    magic u32 | version u32 | page size u32 | flags u32 | root page u64 | sequence u64 | page of the free list u64 |
//!         pages of the file u64 | transaction u64 | FNV-1a 64 of all before
//! bucket  (value of an element with flag 1)  root page u64, or 0 if a leaf follows in the value | sequence u64
//! ```

/// Size of a page that is written.
pub const PAGE_BYTES: u64 = 4096;

pub(crate) const HEADER_BYTES: usize = 16;
/// Of an element, in branches and leaves, and of a bucket's value.
pub(crate) const ELEMENT_BYTES: usize = 16;
pub(crate) const META_BYTES: usize = 64;

pub(crate) const FLAG_BRANCH: u16 = 0x01;
pub(crate) const FLAG_LEAF: u16 = 0x02;
pub(crate) const FLAG_META: u16 = 0x04;
pub(crate) const FLAG_FREELIST: u16 = 0x10;
/// Of an element of a leaf whose value is a bucket.
pub(crate) const FLAG_BUCKET: u32 = 0x01;

pub(crate) const MAGIC: u32 = 0xED0C_DAED;
pub(crate) const VERSION: u32 = 2;

/// Front of every page.
pub(crate) fn header(id: u64, flags: u16, elements: u16, further_pages: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&id.to_le_bytes());
    header[8..10].copy_from_slice(&flags.to_le_bytes());
    header[10..12].copy_from_slice(&elements.to_le_bytes());
    header[12..].copy_from_slice(&further_pages.to_le_bytes());
    header
}

/// The hash over a meta page.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
