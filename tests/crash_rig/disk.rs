//! A disk that keeps live and durable bytes apart, remembers every moment, and can be asked for any image
//! that a power cut at that moment may leave.
//!
//! Unlike the simulator's, which draws what a crash leaves, this one lists what is unflushed and lets the
//! caller choose, piece by piece: pages, each in any state since its last flush, whole or torn at sectors;
//! lengths; and changes of directories. Pages are shared between moments, so a moment costs little.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oarlock::storage::{OpenMode, Storage, StorageFile, StorageLock};
use parking_lot::Mutex;

use super::promise::Promise;

pub(crate) const PAGE_BYTES: usize = 4096;
const SECTOR_BYTES: usize = 512;

/// A page and the hash of its bytes.
struct Page {
    bytes: [u8; PAGE_BYTES],
    hash: u64,
}

impl Page {
    fn new(bytes: &[u8; PAGE_BYTES]) -> Arc<Self> {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Arc::new(Self { bytes: *bytes, hash: hasher.finish() })
    }
}

type FileId = u64;

#[derive(Clone, Default)]
struct FileState {
    live: Vec<Arc<Page>>,
    len: usize,
    durable: Vec<Arc<Page>>,
    durable_len: usize,
    /// Pages written since the last flush, each in all the states it has been in.
    dirty: BTreeMap<usize, Vec<Arc<Page>>>,
}

/// A change of a directory, which happens whole or not at all.
#[derive(Clone, Hash)]
struct Change {
    unlink: Option<String>,
    link: Option<(String, FileId)>,
}

#[derive(Clone, Default)]
struct DirState {
    live: BTreeMap<String, FileId>,
    durable: BTreeMap<String, FileId>,
    pending: Vec<Change>,
}

/// All that is on the disk, flushed and not.
#[derive(Clone)]
pub(crate) struct Content {
    files: BTreeMap<FileId, FileState>,
    dirs: BTreeMap<PathBuf, DirState>,
    zeros: Arc<Page>,
    last_id: FileId,
    drawn: u128,
}

/// Something unflushed, which a power cut may lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// A page that has been in so many states since the last flush.
    Page { states: usize },
    /// The length of a file.
    Length,
    /// A change of a directory.
    Name,
}

/// What becomes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fate {
    Lost,
    /// On the disk, a page as it was last.
    Kept,
    /// On the disk as the page was once, by the number of that state.
    Earlier(usize),
    /// The sectors whose bits are set are on the disk as they were last.
    Torn(u8),
}

impl Content {
    fn new(name: u64) -> Self {
        let zeros = Page::new(&[0; PAGE_BYTES]);
        let drawn = u128::from(name) << 64;
        Self { files: BTreeMap::new(), dirs: BTreeMap::new(), zeros, last_id: 0, drawn }
    }

    /// Everything unflushed, in the order in which [`image`](Self::image) asks for fates.
    pub(crate) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for file in self.files.values() {
            pieces.extend(file.dirty.values().map(|states| Piece::Page { states: states.len() }));
            if file.len != file.durable_len {
                pieces.push(Piece::Length);
            }
        }
        for dir in self.dirs.values() {
            pieces.extend(dir.pending.iter().map(|_| Piece::Name));
        }
        pieces
    }

    /// The disk after a power cut, `fates` for its [`pieces`](Self::pieces).
    pub(crate) fn image(&self, fates: &[Fate]) -> Self {
        let mut fates = fates.iter().copied();
        let mut fate = || fates.next().expect("a fate for each piece");
        let mut image = self.clone();
        for file in image.files.values_mut() {
            for (page, states) in std::mem::take(&mut file.dirty) {
                let last = states.last().expect("a dirty page was written");
                let survivor = match fate() {
                    Fate::Lost => continue,
                    Fate::Kept => Arc::clone(last),
                    Fate::Earlier(state) => Arc::clone(&states[state]),
                    Fate::Torn(sectors) => {
                        let old = file.durable.get(page).unwrap_or(&image.zeros);
                        let mut bytes = old.bytes;
                        for sector in (0..8).filter(|sector| sectors & 1 << sector != 0) {
                            let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
                            bytes[range.clone()].copy_from_slice(&last.bytes[range]);
                        }
                        Page::new(&bytes)
                    }
                };
                put(&mut file.durable, page, survivor, &image.zeros);
            }
            if file.len != file.durable_len && fate() != Fate::Lost {
                file.durable_len = file.len;
            }
            file.become_durable(&image.zeros);
        }
        for dir in image.dirs.values_mut() {
            for change in std::mem::take(&mut dir.pending) {
                if fate() != Fate::Lost {
                    change.apply(&mut dir.durable);
                }
            }
            dir.live.clone_from(&dir.durable);
        }
        image
    }

    /// The disk after a power cut that takes everything unflushed.
    pub(crate) fn flushed(&self) -> Self {
        self.image(&vec![Fate::Lost; self.pieces().len()])
    }

    /// All files, by path.
    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        let of = |(path, dir): (&PathBuf, &DirState)| -> Vec<PathBuf> {
            dir.live.keys().map(|name| path.join(name)).collect()
        };
        self.dirs.iter().flat_map(of).collect()
    }

    /// A file's bytes.
    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        let file = &self.files[&self.find(path).expect("a file")];
        let mut bytes: Vec<u8> = file.live.iter().flat_map(|page| page.bytes).collect();
        bytes.resize(file.len, 0);
        bytes
    }

    /// The same disk with other bytes in a file, durably and behind everybody's back.
    pub(crate) fn with(&self, path: &Path, bytes: &[u8]) -> Self {
        let mut changed = self.clone();
        let id = changed.find(path).expect("a file");
        let zeros = Arc::clone(&changed.zeros);
        let file = changed.files.get_mut(&id).expect("a file");
        let old = std::mem::take(&mut file.durable);
        for (at, chunk) in bytes.chunks(PAGE_BYTES).enumerate() {
            let mut page = [0; PAGE_BYTES];
            page[..chunk.len()].copy_from_slice(chunk);
            let same = old.get(at).filter(|old| old.bytes == page);
            file.durable.push(same.map_or_else(|| Page::new(&page), Arc::clone));
        }
        file.dirty.clear();
        file.durable_len = bytes.len();
        file.become_durable(&zeros);
        changed
    }

    /// The same disk without a file.
    pub(crate) fn without(&self, path: &Path) -> Self {
        let mut changed = self.clone();
        let (dir, name) = split(path);
        let dir = changed.dirs.get_mut(&dir).expect("a directory");
        dir.live.remove(&name);
        dir.durable.remove(&name);
        changed
    }

    /// Two disks with the same hash hold the same, as far as programs can see.
    pub(crate) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (path, dir) in &self.dirs {
            path.hash(&mut hasher);
            for (name, id) in &dir.live {
                let file = &self.files[id];
                (name, file.len).hash(&mut hasher);
                file.live.iter().for_each(|page| page.hash.hash(&mut hasher));
                // What is readable and not durable will be lost differently.
                file.durable.iter().for_each(|page| page.hash.hash(&mut hasher));
            }
            dir.pending.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Drops files that have no name, and of which no handle is left.
    fn forget_deleted(&mut self) {
        let mut named: Vec<FileId> = Vec::new();
        for dir in self.dirs.values() {
            named.extend(dir.live.values().chain(dir.durable.values()));
            named.extend(dir.pending.iter().filter_map(|change| Some(change.link.as_ref()?.1)));
        }
        self.files.retain(|id, _| named.contains(id));
    }

    fn find(&self, path: &Path) -> io::Result<FileId> {
        let (dir, name) = split(path);
        let dir = self.dirs.get(&dir).ok_or(io::ErrorKind::NotFound)?;
        dir.live.get(&name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, path: &Path) -> io::Result<FileId> {
        let (dir, name) = split(path);
        self.last_id += 1;
        let id = self.last_id;
        self.change(&dir, Change { unlink: None, link: Some((name, id)) })?;
        self.files.insert(id, FileState::default());
        Ok(id)
    }

    fn change(&mut self, dir: &Path, change: Change) -> io::Result<()> {
        let dir = self.dirs.get_mut(dir).ok_or(io::ErrorKind::NotFound)?;
        change.apply(&mut dir.live);
        dir.pending.push(change);
        Ok(())
    }
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        if let Some(name) = &self.unlink {
            names.remove(name);
        }
        if let Some((name, id)) = &self.link {
            names.insert(name.clone(), *id);
        }
    }
}

impl FileState {
    fn write(&mut self, bytes: &[u8], offset: usize, zeros: &Arc<Page>) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (page, start) = (at / PAGE_BYTES, at % PAGE_BYTES);
            let (now, later) = rest.split_at(rest.len().min(PAGE_BYTES - start));
            let mut content = self.live.get(page).unwrap_or(zeros).bytes;
            content[start..start + now.len()].copy_from_slice(now);
            let written = Page::new(&content);
            put(&mut self.live, page, Arc::clone(&written), zeros);
            self.dirty.entry(page).or_default().push(written);
            at += now.len();
            rest = later;
        }
        self.len = self.len.max(offset + bytes.len());
    }

    fn flush(&mut self, zeros: &Arc<Page>) {
        for (page, states) in std::mem::take(&mut self.dirty) {
            let last = states.last().expect("a dirty page was written");
            put(&mut self.durable, page, Arc::clone(last), zeros);
        }
        self.durable_len = self.len;
    }

    /// What is durable is all there is.
    fn become_durable(&mut self, zeros: &Arc<Page>) {
        let pages = self.durable_len.div_ceil(PAGE_BYTES);
        self.durable.resize(pages, Arc::clone(zeros));
        self.len = self.durable_len;
        let end = self.len % PAGE_BYTES;
        if let Some(last) = self.durable.last_mut()
            && end != 0
            && last.bytes[end..].iter().any(|&byte| byte != 0)
        {
            let mut bytes = last.bytes;
            bytes[end..].fill(0);
            *last = Page::new(&bytes);
        }
        self.live.clone_from(&self.durable);
    }
}

fn put(pages: &mut Vec<Arc<Page>>, at: usize, page: Arc<Page>, zeros: &Arc<Page>) {
    if pages.len() <= at {
        pages.resize(at + 1, Arc::clone(zeros));
    }
    pages[at] = page;
}

fn split(path: &Path) -> (PathBuf, String) {
    let name = path.file_name().expect("a path of a file").to_string_lossy().into_owned();
    (path.parent().expect("a path of a file").to_path_buf(), name)
}

/// The disk as it was right after an operation, and what had been promised then.
#[derive(Clone)]
pub(crate) struct Moment {
    pub(crate) content: Content,
    pub(crate) promise: Arc<Promise>,
    /// The operation, for messages.
    pub(crate) after: String,
}

struct World {
    content: Content,
    locks: HashMap<PathBuf, u64>,
    lock_count: u64,
    promise: Arc<Promise>,
    /// What has happened so far, if that is wanted.
    moments: Option<Vec<Moment>>,
}

impl World {
    fn note(&mut self, after: impl FnOnce() -> String) {
        if let Some(moments) = &mut self.moments {
            let (content, promise) = (self.content.clone(), Arc::clone(&self.promise));
            moments.push(Moment { content, promise, after: after() });
        }
    }
}

/// The disk that programs use. Clones are the same disk.
#[derive(Clone)]
pub(crate) struct CrashDisk(Arc<Mutex<World>>);

impl CrashDisk {
    /// An empty disk that remembers every moment. The number is what its directories' names begin with.
    pub(crate) fn recording(promise: Promise, name: u64) -> Self {
        let disk = Self::of(Content::new(name), Arc::new(promise));
        disk.0.lock().moments = Some(Vec::new());
        disk
    }

    /// A disk that holds this.
    pub(crate) fn of(content: Content, promise: Arc<Promise>) -> Self {
        let (locks, moments) = (HashMap::new(), None);
        Self(Arc::new(Mutex::new(World { content, locks, lock_count: 0, promise, moments })))
    }

    pub(crate) fn record(&self) {
        self.0.lock().moments = Some(Vec::new());
    }

    pub(crate) fn moments(&self) -> Vec<Moment> {
        self.0.lock().moments.take().unwrap_or_default()
    }

    pub(crate) fn promise(&self, promise: Promise) {
        self.0.lock().promise = Arc::new(promise);
    }

    pub(crate) fn content(&self) -> Content {
        self.0.lock().content.clone()
    }

    /// Puts something else on the disk.
    pub(crate) fn hold(&self, content: Content) {
        self.0.lock().content = content;
    }

    /// Kills the programs that use it.
    pub(crate) fn kill(&self) {
        self.0.lock().locks.clear();
    }
}

impl fmt::Debug for CrashDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CrashDisk")
    }
}

impl Storage for CrashDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        if world.content.dirs.contains_key(dir) {
            return Ok(());
        }
        for dir in dir.ancestors().filter(|dir| !dir.as_os_str().is_empty()) {
            world.content.dirs.entry(dir.to_path_buf()).or_default();
        }
        world.note(|| format!("creating {}", dir.display()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let world = self.0.lock();
        let dir = world.content.dirs.get(dir).ok_or(io::ErrorKind::NotFound)?;
        Ok(dir.live.keys().cloned().collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut world = self.0.lock();
        let id = match (world.content.find(path), mode) {
            (Ok(_), OpenMode::Create) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Err(_), OpenMode::Create) => {
                let id = world.content.create(path)?;
                world.note(|| format!("creating {}", path.display()));
                id
            }
            (found, OpenMode::Read | OpenMode::Write) => found?,
        };
        Ok(Arc::new(CrashFile { world: Arc::clone(&self.0), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        let id = world.content.find(from)?;
        let ((dir, unlink), (_, link)) = (split(from), split(to));
        let change = Change { unlink: Some(unlink), link: Some((link, id)) };
        world.content.change(&dir, change)?;
        world.note(|| format!("renaming {} to {}", from.display(), to.display()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.content.find(path)?;
        let (dir, name) = split(path);
        world.content.change(&dir, Change { unlink: Some(name), link: None })?;
        world.note(|| format!("removing {}", path.display()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        let state = world.content.dirs.get_mut(dir).ok_or(io::ErrorKind::NotFound)?;
        for change in std::mem::take(&mut state.pending) {
            change.apply(&mut state.durable);
        }
        world.content.forget_deleted();
        world.note(|| format!("flushing {}", dir.display()));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn StorageLock>>> {
        let mut world = self.0.lock();
        if world.content.find(path).is_err() {
            world.content.create(path)?;
            world.note(|| format!("creating {}", path.display()));
        }
        if world.locks.contains_key(path) {
            return Ok(None);
        }
        world.lock_count += 1;
        let holder = world.lock_count;
        world.locks.insert(path.to_path_buf(), holder);
        let path = path.to_path_buf();
        Ok(Some(Box::new(CrashLock { world: Arc::clone(&self.0), path, holder })))
    }

    fn random(&self) -> io::Result<u128> {
        let mut world = self.0.lock();
        world.content.drawn += 1;
        Ok(world.content.drawn)
    }
}

struct CrashFile {
    world: Arc<Mutex<World>>,
    id: FileId,
}

impl CrashFile {
    /// Changes the file, unless it was deleted for good.
    fn change(&self, operation: &str, change: impl FnOnce(&mut FileState, &Arc<Page>)) {
        let mut world = self.world.lock();
        let zeros = Arc::clone(&world.content.zeros);
        if let Some(file) = world.content.files.get_mut(&self.id) {
            change(file, &zeros);
            world.note(|| format!("{operation} file {}", self.id));
        }
    }
}

impl StorageFile for CrashFile {
    fn len(&self) -> io::Result<u64> {
        let world = self.world.lock();
        Ok(world.content.files.get(&self.id).map_or(0, |file| file.len as u64))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let world = self.world.lock();
        let file = world.content.files.get(&self.id).ok_or(io::ErrorKind::NotFound)?;
        let mut at = offset as usize;
        if at + buffer.len() > file.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        while done < buffer.len() {
            let start = at % PAGE_BYTES;
            let step = (PAGE_BYTES - start).min(buffer.len() - done);
            let page = file.live.get(at / PAGE_BYTES).unwrap_or(&world.content.zeros);
            buffer[done..done + step].copy_from_slice(&page.bytes[start..start + step]);
            at += step;
            done += step;
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change("writing to", |file, zeros| file.write(bytes, offset as usize, zeros));
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.change("allocating", |file, _| file.len = file.len.max(len as usize));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.change("flushing", FileState::flush);
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        None
    }
}

impl fmt::Debug for CrashFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrashFile({})", self.id)
    }
}

struct CrashLock {
    world: Arc<Mutex<World>>,
    path: PathBuf,
    holder: u64,
}

impl StorageLock for CrashLock {}

impl Drop for CrashLock {
    fn drop(&mut self) {
        let mut world = self.world.lock();
        if world.locks.get(&self.path) == Some(&self.holder) {
            world.locks.remove(&self.path);
        }
    }
}

impl fmt::Debug for CrashLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrashLock({})", self.path.display())
    }
}
