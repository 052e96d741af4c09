//! Numbers, byte strings and tags; the reader that all decoders share.

use crate::Revision;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodecError {
    /// Where, from the start of what was to be decoded.
    pub offset: usize,
    /// What is wrong there.
    pub kind: CodecErrorKind,
}

/// What is wrong with bytes that could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecErrorKind {
    /// They end too early.
    UnexpectedEnd,
    /// They go on after the end.
    TrailingBytes,
    /// A number does not fit its type.
    NumberTooLarge,
    /// The version is not one that this build knows.
    UnknownVersion(u8),
    /// A tag is not one that this build knows.
    UnknownTag {
        /// The tag of what.
        what: &'static str,
        /// The tag.
        tag: u8,
    },
    /// Transactions are nested deeper than [`TXN_DEPTH_MAX`](crate::TXN_DEPTH_MAX).
    TooDeep,
    /// A text is not UTF-8.
    NotUtf8,
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            CodecErrorKind::UnexpectedEnd => f.write_str("unexpected end")?,
            CodecErrorKind::TrailingBytes => f.write_str("trailing bytes")?,
            CodecErrorKind::NumberTooLarge => f.write_str("number too large")?,
            CodecErrorKind::UnknownVersion(version) => write!(f, "unknown version {version}")?,
            CodecErrorKind::UnknownTag { what, tag } => write!(f, "unknown {what} tag {tag:#04x}")?,
            CodecErrorKind::TooDeep => f.write_str("transactions nested too deep")?,
            CodecErrorKind::NotUtf8 => f.write_str("text is not UTF-8")?,
        }
        write!(f, " at byte {}", self.offset)
    }
}

impl core::error::Error for CodecError {}

pub(super) fn write_number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn write_signed(value: i64, out: &mut Vec<u8>) {
    write_number(value as u64, out);
}

pub(super) fn write_revision(revision: Revision, out: &mut Vec<u8>) {
    write_signed(revision.get(), out);
}

pub(super) fn write_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    write_number(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Reads from front to back. After an error nothing more can be read usefully.
pub(super) struct Reader {
    buffer: Bytes,
    at: usize,
    /// End of what may be read: that of the buffer, or of the part at work.
    end: usize,
}

impl Reader {
    pub(super) fn new(buffer: Bytes) -> Self {
        let end = buffer.len();
        Self { buffer, at: 0, end }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.end
    }

    /// An error at the byte that was read last.
    pub(super) fn fail<T>(&self, kind: CodecErrorKind) -> Result<T, CodecError> {
        Err(CodecError { offset: self.at.saturating_sub(1), kind })
    }

    pub(super) fn unknown_tag<T>(&self, what: &'static str, tag: u8) -> Result<T, CodecError> {
        self.fail(CodecErrorKind::UnknownTag { what, tag })
    }

    /// Ends the decoding.
    pub(super) fn finish(self) -> Result<(), CodecError> {
        if self.is_at_end() { Ok(()) } else { Err(CodecError { offset: self.at, kind: CodecErrorKind::TrailingBytes }) }
    }

    pub(super) fn byte(&mut self) -> Result<u8, CodecError> {
        if self.is_at_end() {
            return Err(CodecError { offset: self.at, kind: CodecErrorKind::UnexpectedEnd });
        }
        let byte = self.buffer[self.at];
        self.at += 1;
        Ok(byte)
    }

    /// Goes over the next byte if it is this one. Whether it was.
    pub(super) fn skip(&mut self, wanted: u8) -> bool {
        let there = !self.is_at_end() && self.buffer[self.at] == wanted;
        self.at += usize::from(there);
        there
    }

    /// Reads as many bytes as the array has.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let bytes = self.buffer[self.at..self.end].first_chunk::<N>().copied();
        let bytes = bytes.ok_or(CodecError { offset: self.end, kind: CodecErrorKind::UnexpectedEnd })?;
        self.at += N;
        Ok(bytes)
    }

    /// Reads the version, which must be `known`.
    pub(super) fn version(&mut self, known: u8) -> Result<(), CodecError> {
        let version = self.byte()?;
        if version == known { Ok(()) } else { self.fail(CodecErrorKind::UnknownVersion(version)) }
    }

    pub(super) fn number(&mut self) -> Result<u64, CodecError> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return self.fail(CodecErrorKind::NumberTooLarge);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        self.fail(CodecErrorKind::NumberTooLarge)
    }

    pub(super) fn signed(&mut self) -> Result<i64, CodecError> {
        Ok(self.number()? as i64)
    }

    pub(super) fn revision(&mut self) -> Result<Revision, CodecError> {
        Ok(Revision::new(self.signed()?))
    }

    pub(super) fn number32(&mut self) -> Result<u32, CodecError> {
        match u32::try_from(self.number()?) {
            Ok(number) => Ok(number),
            Err(_) => self.fail(CodecErrorKind::NumberTooLarge),
        }
    }

    /// How many bytes or items follow. Each takes a byte at least, so a count beyond what is left is refused before
    /// anything is allocated for it.
    pub(super) fn count(&mut self) -> Result<usize, CodecError> {
        match usize::try_from(self.number()?) {
            Ok(count) if count <= self.end - self.at => Ok(count),
            Ok(_) | Err(_) => Err(CodecError { offset: self.end, kind: CodecErrorKind::UnexpectedEnd }),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, CodecError> {
        let count = self.count()?;
        let bytes = self.buffer.slice(self.at..self.at + count);
        self.at += count;
        Ok(bytes)
    }

    pub(super) fn text(&mut self) -> Result<String, CodecError> {
        let bytes = self.bytes()?;
        match core::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.into()),
            Err(_) => self.fail(CodecErrorKind::NotUtf8),
        }
    }

    /// Reads a count, then as many items.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, CodecError>,
    ) -> Result<Vec<T>, CodecError> {
        let count = self.count()?;
        // An item can be larger in memory than in bytes: grow with what is there, do not trust the count.
        let mut items = Vec::with_capacity(count.min(LIST_CAPACITY_MAX));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// Reads bytes, and within them, to their end, whatever `part` reads.
    pub(super) fn part<T>(&mut self, part: impl FnOnce(&mut Self) -> Result<T, CodecError>) -> Result<T, CodecError> {
        let count = self.count()?;
        let outer_end = core::mem::replace(&mut self.end, self.at + count);
        let value = part(self)?;
        if !self.is_at_end() {
            return Err(CodecError { offset: self.at, kind: CodecErrorKind::TrailingBytes });
        }
        self.end = outer_end;
        Ok(value)
    }
}

/// Most items to make room for before the first is read.
const LIST_CAPACITY_MAX: usize = 128;
