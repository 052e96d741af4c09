//! The file `REBUILD`: that this member has to rebuild itself before it takes part again, why, and how often it has done so.

use crate::Error;
use crate::bootstrap::{read_text, write_text};
use crate::env::Env;
use std::path::Path;

const FILE: &str = "REBUILD";

/// Version of the file.
const FORMAT: &str = "quorate-rebuild-1";

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Rebuilds that were begun since the member was last in service for long.
    pub attempts: u32,
    /// Why one is due; `None`: the last one is done.
    pub due: Option<String>,
    /// Peer URLs of other members, when it became due.
    pub peer_urls: Vec<String>,
}

impl Record {
    /// The record of a data directory; `None` if there is none.
    ///
    /// # Errors
    /// The file is not what was written.
    pub(crate) fn read(data_dir: &Path, env: &dyn Env) -> Result<Option<Self>, Error> {
        let path = data_dir.join(FILE);
        let Some(text) = read_text(env.disk().as_ref(), &path)? else { return Ok(None) };
        Self::parse(&text).map(Some).ok_or_else(|| {
            Error::Fatal(format!(
                "{}: the file is damaged: whether the member has to rebuild itself is not known; remove the member and add it \
                 again with an empty data directory",
                path.display()
            ))
        })
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn write(&self, data_dir: &Path, env: &dyn Env) -> Result<(), Error> {
        write_text(env.disk().as_ref(), data_dir, &data_dir.join(FILE), &self.format())
    }

    /// Forgets that there ever was a rebuild.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn remove(data_dir: &Path, env: &dyn Env) -> Result<(), Error> {
        let path = data_dir.join(FILE);
        let disk = env.disk();
        disk.remove(&path)
            .and_then(|()| disk.sync_dir(data_dir))
            .map_err(|error| Error::Fatal(format!("{}: {error}", path.display())))
    }

    fn format(&self) -> String {
        let mut text = format!("{FORMAT}\nattempts {}\n", self.attempts);
        if let Some(due) = &self.due {
            // One line each.
            text.push_str(&format!("due {}\n", due.replace('\n', " ")));
        }
        for url in &self.peer_urls {
            text.push_str(&format!("peer {url}\n"));
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text.push_str(&format!("crc32c {crc:08x}\n"));
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (body, crc) = text.rsplit_once("crc32c ")?;
        if u32::from_str_radix(crc.trim_end(), 16) != Ok(crc32c::crc32c(body.as_bytes())) {
            return None;
        }
        let mut lines = body.lines();
        if lines.next() != Some(FORMAT) {
            return None;
        }
        let mut record = Self::default();
        for line in lines {
            match line.split_once(' ')? {
                ("attempts", number) => record.attempts = number.parse().ok()?,
                ("due", why) => record.due = Some(why.to_owned()),
                ("peer", url) => record.peer_urls.push(url.to_owned()),
                (_, _) => return None,
            }
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_these_bytes_and_any_flip_is_found() {
        let record = Record {
            attempts: 2,
            due: Some("row 7\nis damaged".into()),
            peer_urls: vec!["http://10.0.0.1:2380".into(), "http://10.0.0.2:2380".into()],
        };
        let text = record.format();
        assert_eq!(
            text,
            "quorate-rebuild-1\nattempts 2\ndue row 7 is damaged\npeer http://10.0.0.1:2380\npeer http://10.0.0.2:2380\n\
             crc32c 6e550cd5\n"
        );
        assert_eq!(Record::parse(&text), Some(Record { due: Some("row 7 is damaged".into()), ..record }));
        assert_eq!(Record::parse(&Record::default().format()), Some(Record::default()));
        for at in 0..text.len() - 1 {
            let mut flipped = text.clone().into_bytes();
            flipped[at] ^= 1;
            assert_eq!(Record::parse(&String::from_utf8_lossy(&flipped)), None, "byte {at}");
        }
    }
}
