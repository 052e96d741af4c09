//! A file that is appended to, and that is put aside when it becomes too large. For logs. Knows bytes and names.
//!
//! Files that are put aside are called as etcd's (lumberjack's) are: `etcd.log` becomes `etcd-2026-11-24T21-40-12.123.log`.

use crate::utc;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Names tell times that are at least so far apart.
const STAMP_STEP: Duration = Duration::from_millis(1);

/// When files are put aside, and how many of them stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file does not become larger, but for a single line that is.
    pub bytes_max: u64,
    /// Files that were put aside and stay; `None`: all.
    pub files_max: Option<usize>,
    /// How long they stay; `None`: for ever.
    pub age_max: Option<Duration>,
}

/// A file that is appended to.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<Rotation>,
    /// In the name of the file that was put aside last.
    last_stamp: Option<SystemTime>,
}

impl RotatingFile {
    /// Opens it, readable for its owner alone if it is new. `None`: it is never put aside.
    pub fn open(path: &Path, rotation: Option<Rotation>) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, rotation, last_stamp: None })
    }

    /// Appends whole lines.
    pub fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Some(rotation) = self.rotation
            && self.bytes > 0
            && self.bytes + lines.len() as u64 > rotation.bytes_max
        {
            self.put_aside(rotation)?;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn put_aside(&mut self, rotation: Rotation) -> io::Result<()> {
        let now = SystemTime::now();
        // Names have milliseconds. They must sort by time, also when files fill faster than that or the clock is set back, and
        // one that is taken must not be written over.
        let mut stamp = self.last_stamp.map_or(now, |last| now.max(last + STAMP_STEP));
        while self.aside(&utc::file_stamp(stamp)).exists() {
            stamp += STAMP_STEP;
        }
        self.last_stamp = Some(stamp);
        match std::fs::rename(&self.path, self.aside(&utc::file_stamp(stamp))) {
            // An earlier attempt came so far, or somebody else moved it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
        self.file = open(&self.path)?;
        self.bytes = 0;
        self.remove_old(rotation, now)
    }

    fn aside(&self, stamp: &str) -> PathBuf {
        let (stem, extension) = self.name();
        self.path.with_file_name(format!("{stem}-{stamp}{extension}"))
    }

    /// The name without, and the extension with its dot.
    fn name(&self) -> (String, String) {
        let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
        let extension = text(self.path.extension()).map(|extension| format!(".{extension}"));
        (text(self.path.file_stem()).unwrap_or_default(), extension.unwrap_or_default())
    }

    fn remove_old(&self, rotation: Rotation, now: SystemTime) -> io::Result<()> {
        let mut aside = self.list_aside()?;
        // Names sort by time; the newest come first.
        aside.sort_unstable_by(|a, b| b.cmp(a));
        for (place, path) in aside.iter().enumerate() {
            let too_many = rotation.files_max.is_some_and(|max| place >= max);
            let too_old = rotation.age_max.is_some_and(|max| {
                let written = std::fs::metadata(path).and_then(|metadata| metadata.modified());
                written.is_ok_and(|written| now.duration_since(written).is_ok_and(|age| age > max))
            });
            if too_many || too_old {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn list_aside(&self) -> io::Result<Vec<PathBuf>> {
        let (stem, extension) = self.name();
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut aside = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let stamp = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
            if stamp.is_some_and(utc::is_file_stamp) {
                aside.push(path);
            }
        }
        Ok(aside)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_put_aside_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        std::fs::write(dir.path().join("a-other.log"), "not ours").unwrap();
        let rotation = Rotation { bytes_max: 10, files_max: Some(2), age_max: None };
        let mut file = RotatingFile::open(&path, Some(rotation)).unwrap();
        for line in 0..8 {
            file.append(format!("line{line}\n").as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line7\n");
        let mut kept: Vec<String> =
            file.list_aside().unwrap().iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
        kept.sort_unstable();
        assert_eq!(kept, ["line5\n", "line6\n"]);
        assert!(dir.path().join("a-other.log").exists());
    }

    #[test]
    fn what_is_there_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plain");
        for _ in 0..2 {
            RotatingFile::open(&path, None).unwrap().append(b"x\n").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "x\nx\n");
    }
}
