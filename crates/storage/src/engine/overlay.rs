//! A file that is read and never written: what is written goes to memory, in front of it.

use redb::StorageBackend;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use parking_lot::Mutex;
use std::path::Path;

const PAGE_BYTES: u64 = 4096;

/// Pages in memory: a check after a crash repairs little, and writes down what it has counted.
const PAGES_MAX: usize = (256 << 20) / PAGE_BYTES as usize;

/// The file, and what was written since.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    pages: BTreeMap<u64, Box<[u8; PAGE_BYTES as usize]>>,
    len: u64,
    /// The file counts up to here: it may have been cut in between.
    file_len: u64,
}

impl Overlay {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, written: Mutex::new(Written { pages: BTreeMap::new(), len, file_len: len }) })
    }

    /// One page as it is now. Beyond the end there are zeros.
    fn page(&self, written: &Written, number: u64) -> io::Result<Box<[u8; PAGE_BYTES as usize]>> {
        if let Some(page) = written.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = Box::new([0; PAGE_BYTES as usize]);
        let start = number * PAGE_BYTES;
        let there = written.file_len.saturating_sub(start).min(PAGE_BYTES) as usize;
        self.file.read_exact_at(&mut page[..there], start)?;
        Ok(page)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written.lock();
        if offset + out.len() as u64 > written.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if written.pages.is_empty() && offset + out.len() as u64 <= written.file_len {
            return self.file.read_exact_at(out, offset);
        }
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let page = self.page(&written, at / PAGE_BYTES)?;
            let from = (at % PAGE_BYTES) as usize;
            let part = (PAGE_BYTES as usize - from).min(out.len() - done);
            out[done..done + part].copy_from_slice(&page[from..from + part]);
            done += part;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written.lock();
        if len < written.len {
            // What is cut off must not come back when the file grows again.
            written.pages.split_off(&len.div_ceil(PAGE_BYTES));
            written.file_len = written.file_len.min(len);
            if let Some(page) = written.pages.get_mut(&(len / PAGE_BYTES)) {
                page[(len % PAGE_BYTES) as usize..].fill(0);
            }
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written.lock();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let mut page = self.page(&written, at / PAGE_BYTES)?;
            let from = (at % PAGE_BYTES) as usize;
            let part = (PAGE_BYTES as usize - from).min(data.len() - done);
            page[from..from + part].copy_from_slice(&data[done..done + part]);
            written.pages.insert(at / PAGE_BYTES, page);
            done += part;
        }
        if written.pages.len() > PAGES_MAX {
            return Err(io::Error::other(
                "so much has to be repaired that it does not fit into memory: start the member once",
            ));
        }
        written.len = written.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_the_file_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..10_000_u32).map(|i| i as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let overlay = Overlay::open(&path).unwrap();
        let read = |at: u64, bytes: usize| {
            let mut out = vec![0; bytes];
            overlay.read(at, &mut out).map(|()| out)
        };
        assert_eq!(read(0, 10_000).unwrap(), content);
        overlay.write(4090, b"over the edge").unwrap();
        assert_eq!(read(4090, 13).unwrap(), b"over the edge");
        assert_eq!(read(4080, 10).unwrap(), content[4080..4090]);
        assert_eq!(read(4103, 100).unwrap(), content[4103..4203]);
        overlay.set_len(9000).unwrap();
        assert!(read(8999, 2).is_err());
        overlay.set_len(20_000).unwrap();
        assert_eq!(read(8999, 3).unwrap(), [content[8999], 0, 0]);
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}
