//! A disk in memory that fails as disks do: it loses and tears unsynced writes and names at a power cut, flips bits,
//! fails an fsync, runs full, can be slow, and can lose power at any operation. For tests and the simulation.
//!
//! The model is harsher than most file systems: a sector of 512 bytes is written whole or not at all, but of unsynced
//! writes any subset of sectors may survive, in any order; of unsynced creations, renames and removals any subset, too.
//! Nothing is durable without a sync: not the name of a file whose content was synced, nor the other way round. The length
//! that a file was set to is the old or the new one, and none between: it is not a page, and no write within it changes it.

use crate::disk::{Disk, DiskFile, SyncTime};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// Says how long the next sync takes.
type SyncTimer = Arc<dyn Fn() -> Option<SyncTime> + Send + Sync>;

/// The disk. Clones share it, as processes share a machine's disk.
#[derive(Clone, Default)]
pub struct FaultDisk {
    machine: Arc<Mutex<Machine>>,
}

#[derive(Default)]
struct Machine {
    files: BTreeMap<u64, Inode>,
    next_file: u64,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    /// Changes of names since the last sync of their directory, in order.
    pending_names: Vec<NameChange>,
    /// Handles from before the last power cut are dead.
    boots: u64,
    powered_off: bool,
    operations: u64,
    cut_at: Option<u64>,
    syncs: u64,
    fail_sync_at: Option<u64>,
    failed_syncs: u64,
    capacity_bytes: Option<u64>,
    sync_timer: Option<SyncTimer>,
}

/// A file's content: what programs see, what the disk has, and the difference.
#[derive(Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Change>,
    /// Open handles: a removed file lives as long as they do.
    handles: usize,
}

enum Change {
    Write {
        offset: u64,
        bytes: Vec<u8>,
        /// It made the file longer.
        extends: bool,
    },
    SetLen(u64),
}

enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn directory(&self) -> Option<&Path> {
        match self {
            NameChange::Create(path, _) | NameChange::Rename(path, _) | NameChange::Remove(path) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Create(path, file) => {
                names.insert(path.clone(), *file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes, .. } => write(content, *offset, bytes),
            Change::SetLen(len) => content.resize(*len as usize, 0),
        }
    }

    /// Applies what of it reaches the disk when the power fails.
    fn apply_torn(&self, content: &mut Vec<u8>, chance: &mut Chance) {
        match self {
            Change::Write { offset, bytes, extends } => {
                let (mut at, mut end) = (*offset, *offset + bytes.len() as u64);
                if !extends {
                    // Where the length that it was written within is lost, so is what lay behind the old one.
                    end = end.min(content.len() as u64);
                }
                while at < end {
                    let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
                    if chance.survives() {
                        write(content, at, &bytes[(at - offset) as usize..(next - offset) as usize]);
                    }
                    at = next;
                }
            }
            Change::SetLen(_) => {
                if chance.survives() {
                    self.apply(content);
                }
            }
        }
    }
}

fn write(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + bytes.len());
    if content.len() < to {
        content.resize(to, 0);
    }
    content[from..to].copy_from_slice(bytes);
}

/// Decides what survives a power cut: nothing, everything, or each piece with some probability.
struct Chance {
    state: u64,
    of_256: u64,
}

impl Chance {
    fn new(seed: u64) -> Chance {
        let mut chance = Chance { state: seed, of_256: 0 };
        chance.of_256 = match chance.next() % 4 {
            0 => 0,
            1 => 256,
            2 => 128,
            _ => chance.next() % 257,
        };
        chance
    }

    fn survives(&mut self) -> bool {
        self.next() % 256 < self.of_256
    }

    /// splitmix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl FaultDisk {
    /// An empty disk without faults.
    pub fn new() -> FaultDisk {
        FaultDisk::default()
    }

    /// Cuts the power and turns it on again. Of what was not synced, `seed` decides what survives. Handles from before
    /// do not work any more. A cut, failing sync or capacity that was set stays set only if it has not happened yet.
    pub fn power_cut(&self, seed: u64) {
        let mut machine = self.machine.lock();
        let mut chance = Chance::new(seed);
        let Machine { files, names, durable_names, pending_names, .. } = &mut *machine;
        for inode in files.values_mut() {
            for change in std::mem::take(&mut inode.pending) {
                change.apply_torn(&mut inode.durable, &mut chance);
            }
            inode.current = inode.durable.clone();
        }
        for change in std::mem::take(pending_names) {
            if chance.survives() {
                change.apply(durable_names);
            }
        }
        *names = durable_names.clone();
        files.retain(|file, _| names.values().any(|named| named == file));
        files.values_mut().for_each(|inode| inode.handles = 0);
        machine.boots += 1;
        machine.powered_off = false;
    }

    /// Ends all programs, and nothing else: what they wrote is still there to be read, and still not durable. Handles
    /// from before do not work any more.
    pub fn kill(&self) {
        let mut machine = self.machine.lock();
        machine.files.values_mut().for_each(|inode| inode.handles = 0);
        machine.boots += 1;
        machine.powered_off = false;
        machine.cut_at = None;
    }

    /// Lets the power fail at the operation with this number (see [`operations`](FaultDisk::operations)): it and all
    /// later ones fail, until [`power_cut`](FaultDisk::power_cut) turns the power on again. A write at that moment may
    /// reach the disk in part.
    pub fn cut_power_at(&self, operation: u64) {
        self.machine.lock().cut_at = Some(operation);
    }

    /// Operations so far that change something or sync it.
    pub fn operations(&self) -> u64 {
        self.machine.lock().operations
    }

    /// Whether the power is off: it failed at an operation, and nobody has turned it on again.
    pub fn is_off(&self) -> bool {
        self.machine.lock().powered_off
    }

    /// Fails the sync of a file's data with this number (from 0, over the disk's life). As on Linux, what it should
    /// have written stays readable and counts as clean, so the next sync succeeds without writing it. A length that was set
    /// is in the file system's journal, and still to come.
    pub fn fail_sync_at(&self, sync: u64) {
        self.machine.lock().fail_sync_at = Some(sync);
    }

    /// Syncs of files' data so far, failed ones included.
    pub fn syncs(&self) -> u64 {
        self.machine.lock().syncs
    }

    /// Syncs that have failed so far.
    pub fn failed_syncs(&self) -> u64 {
        self.machine.lock().failed_syncs
    }

    /// From now on `timer` says how long each sync takes; see [`Disk::sync_time`].
    pub fn set_sync_timer(&self, timer: impl Fn() -> Option<SyncTime> + Send + Sync + 'static) {
        self.machine.lock().sync_timer = Some(Arc::new(timer));
    }

    /// The files that there are now.
    pub fn files(&self) -> Vec<PathBuf> {
        self.machine.lock().names.keys().cloned().collect()
    }

    /// Limits the sum of all file lengths; a write past it fails with "no space". `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine.lock().capacity_bytes = bytes;
    }

    /// The sum of all file lengths.
    pub fn used_bytes(&self) -> u64 {
        self.machine.lock().used_bytes()
    }

    /// Flips one bit of a file, counted from its start, on the disk and for every reader.
    ///
    /// # Panics
    /// If there is no such file or bit.
    pub fn flip_bit(&self, path: &Path, bit: u64) {
        let mut machine = self.machine.lock();
        let file = machine.names[path];
        let inode = machine.files.get_mut(&file).expect("a name has a file");
        for content in [&mut inode.current, &mut inode.durable] {
            if let Some(byte) = content.get_mut((bit / 8) as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Writes `bytes` over what a file has at `offset`, on the disk and for every reader, as a write does that was meant for
    /// another place.
    ///
    /// # Panics
    /// If there is no such file, or it is shorter than that.
    pub fn overwrite(&self, path: &Path, offset: usize, bytes: &[u8]) {
        let mut machine = self.machine.lock();
        let file = machine.names[path];
        let inode = machine.files.get_mut(&file).expect("a name has a file");
        inode.current[offset..offset + bytes.len()].copy_from_slice(bytes);
        if let Some(durable) = inode.durable.get_mut(offset..offset + bytes.len()) {
            durable.copy_from_slice(bytes);
        }
    }

    /// What a reader of the file sees.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        let machine = self.machine.lock();
        machine.files[&machine.names[path]].current.clone()
    }

    fn handle(&self, machine: &mut Machine, file: u64) -> Arc<dyn DiskFile> {
        if let Some(inode) = machine.files.get_mut(&file) {
            inode.handles += 1;
        }
        Arc::new(FaultFile { machine: Arc::clone(&self.machine), file, boot: machine.boots })
    }

    /// A disk of its own with what a reader of this one sees, all of it durable, and without faults.
    pub fn copy(&self) -> FaultDisk {
        let machine = self.machine.lock();
        let file = |inode: &Inode| Inode {
            current: inode.current.clone(),
            durable: inode.current.clone(),
            ..Inode::default()
        };
        let copy = Machine {
            files: machine.files.iter().map(|(&number, inode)| (number, file(inode))).collect(),
            next_file: machine.next_file,
            names: machine.names.clone(),
            durable_names: machine.names.clone(),
            ..Machine::default()
        };
        FaultDisk { machine: Arc::new(Mutex::new(copy)) }
    }
}

impl Machine {
    fn used_bytes(&self) -> u64 {
        self.files.values().map(|inode| inode.current.len() as u64).sum()
    }

    /// Gives up files that have no name and no handle.
    fn collect(&mut self) {
        let Machine { files, names, durable_names, .. } = self;
        files.retain(|file, inode| {
            inode.handles > 0 || names.values().chain(durable_names.values()).any(|named| named == file)
        });
    }

    fn check_power(&self) -> io::Result<()> {
        if self.powered_off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    /// Counts an operation. `true` if the power fails during it.
    fn operate(&mut self) -> io::Result<bool> {
        self.check_power()?;
        let cut = self.cut_at == Some(self.operations);
        self.operations += 1;
        if cut {
            self.powered_off = true;
            self.cut_at = None;
        }
        Ok(cut)
    }

    fn rename_or_remove(&mut self, path: &Path, change: NameChange) -> io::Result<()> {
        let cut = self.operate()?;
        if !self.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        change.apply(&mut self.names);
        self.pending_names.push(change);
        failed_if(cut)
    }
}

fn failed_if(cut: bool) -> io::Result<()> {
    if cut { Err(io::Error::other("the power failed")) } else { Ok(()) }
}

impl Disk for FaultDisk {
    fn create_dir_all(&self, _dir: &Path) -> io::Result<()> {
        // Directories are not modelled: they are there, durably, as the contract of this call has it.
        self.machine.lock().check_power()
    }

    fn sync_time(&self) -> Option<SyncTime> {
        let timer = self.machine.lock().sync_timer.clone()?;
        timer()
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let machine = self.machine.lock();
        machine.check_power()?;
        let inside = machine.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut machine = self.machine.lock();
        machine.check_power()?;
        let file = *machine.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.handle(&mut machine, file))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut machine = self.machine.lock();
        let cut = machine.operate()?;
        if machine.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = machine.next_file;
        machine.next_file += 1;
        machine.files.insert(file, Inode::default());
        machine.names.insert(path.to_owned(), file);
        machine.pending_names.push(NameChange::Create(path.to_owned(), file));
        failed_if(cut)?;
        Ok(self.handle(&mut machine, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.machine.lock().rename_or_remove(from, NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.machine.lock().rename_or_remove(path, NameChange::Remove(path.to_owned()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        failed_if(machine.operate()?)?;
        let (synced, kept) = std::mem::take(&mut machine.pending_names)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.directory() == Some(dir));
        machine.pending_names = kept;
        for change in synced {
            change.apply(&mut machine.durable_names);
        }
        machine.collect();
        Ok(())
    }
}

struct FaultFile {
    machine: Arc<Mutex<Machine>>,
    file: u64,
    boot: u64,
}

impl FaultFile {
    fn with<T>(&self, f: impl FnOnce(&mut Machine) -> io::Result<T>) -> io::Result<T> {
        let mut machine = self.machine.lock();
        machine.check_power()?;
        if machine.boots != self.boot {
            return Err(io::Error::other("this handle is from before the power cut"));
        }
        f(&mut machine)
    }

    fn change(&self, mut change: Change) -> io::Result<()> {
        self.with(|machine| {
            let cut = machine.operate()?;
            let used_bytes = machine.used_bytes();
            let capacity_bytes = machine.capacity_bytes.unwrap_or(u64::MAX);
            let inode = machine.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            let before = inode.current.len() as u64;
            let after = match &change {
                Change::Write { offset, bytes, .. } => before.max(offset + bytes.len() as u64),
                Change::SetLen(len) => *len,
            };
            if let Change::Write { extends, .. } = &mut change {
                *extends = after > before;
            }
            if after > before && used_bytes - before + after > capacity_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            change.apply(&mut inode.current);
            inode.pending.push(change);
            failed_if(cut)
        })
    }
}

impl Drop for FaultFile {
    fn drop(&mut self) {
        let mut machine = self.machine.lock();
        if machine.boots == self.boot
            && let Some(inode) = machine.files.get_mut(&self.file)
        {
            inode.handles -= 1;
            machine.collect();
        }
    }
}

impl DiskFile for FaultFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|machine| {
            let inode = machine.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?;
            let rest = inode.current.get(offset as usize..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.change(Change::Write { offset, bytes: bytes.to_vec(), extends: false })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|machine| {
            failed_if(machine.operate()?)?;
            let failed = machine.fail_sync_at == Some(machine.syncs);
            machine.syncs += 1;
            let inode = machine.files.get_mut(&self.file).ok_or(io::ErrorKind::NotFound)?;
            let pending = std::mem::take(&mut inode.pending);
            if failed {
                machine.failed_syncs += 1;
                let lengths = pending.into_iter().filter(|change| matches!(change, Change::SetLen(_)));
                inode.pending = lengths.collect();
                return Err(io::Error::other("injected sync failure"));
            }
            for change in pending {
                change.apply(&mut inode.durable);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|machine| Ok(machine.files.get(&self.file).ok_or(io::ErrorKind::NotFound)?.current.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }
}
