//! Keeps segments ready before they are needed, and does away with those that are not needed any more.
//!
//! A roll on the core thread takes a microsecond because all of this has happened before, on a thread of
//! its own, in steps of at most [`STEP_BYTES`], so that a step never keeps the disk from a flush for long.
//!
//! A new segment is allocated (a full disk is an error here, not a SIGBUS or a failed flush later), filled
//! with zeros (or each first flush would change the file's metadata as well), given its header, and only
//! then its name; then it is mapped and its pages are populated. Under a name that ends in `.new` nothing
//! counts, so a crash in between leaves nothing that could be taken for a segment.
//!
//! A segment that is not needed any more is used again with its mapping where it still has one, for fresh
//! memory and fresh extents are the largest cost of a segment. It first gives up its old name, durably:
//! never is there a file whose name and header disagree.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog::{ColdSegment, Place};
use super::format::{Salt, SegmentHeader};
use super::identity::Directory;
use super::pool::{Ready, Shared};
use super::segment::{Backing, Segment};
use super::{LogOptions, NEW_SUFFIX, segment_name};
use crate::error::{StorageError, StorageErrorKind};
use crate::storage::{OpenMode, Storage, StorageFile};
use crate::types::Sender;

/// The most that one step writes or populates.
const STEP_BYTES: usize = 1 << 20;

/// Owned by the `seg` thread; see [`wal`](super).
#[derive(Debug)]
pub struct Preparer {
    shared: Arc<Shared>,
    ground: Ground,
    segment_bytes: usize,
    ready_segments: usize,
    next_sequence: u32,
    zeros: Vec<u8>,
    job: Option<Job>,
    /// Sealed segments that are to lose their mappings.
    cooling: Vec<Arc<Segment>>,
    /// Of these, the ones that new readers read from the file already.
    cooled: Vec<Arc<Segment>>,
    /// Segments that nobody needs and somebody may still hold.
    retired: Vec<Place>,
    spares: VecDeque<Spare>,
    poisoned: bool,
    /// Keeps the data directory locked.
    directory: Option<Arc<Directory>>,
}

/// What segments are made of.
#[derive(Debug)]
pub(super) enum Ground {
    Memory,
    Files(Files),
}

/// Where segment files are made.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) storage: Arc<dyn Storage>,
    /// The log's directory.
    pub(super) path: PathBuf,
    pub(super) sender: Sender,
    /// Of the directory: see [`Salt`].
    pub(super) secret: u64,
}

/// A segment being made.
#[derive(Debug)]
enum Job {
    /// Its file is filled with zeros, up to `at` so far.
    Fill { file: Arc<dyn StorageFile>, temporary: PathBuf, sequence: u32, at: usize },
    /// Its pages are populated, up to `at` so far.
    Populate { segment: Segment, at: usize },
}

/// A segment that can be used again.
#[derive(Debug)]
enum Spare {
    Mapped(Segment),
    File(PathBuf),
}

impl Preparer {
    pub(super) fn new(
        shared: Arc<Shared>,
        ground: Ground,
        options: &LogOptions,
        next_sequence: u32,
    ) -> Self {
        let zeros = match &ground {
            Ground::Memory => Vec::new(),
            Ground::Files(_) => vec![0; STEP_BYTES.min(options.segment_bytes)],
        };
        Self {
            shared,
            ground,
            segment_bytes: options.segment_bytes,
            ready_segments: options.ready_segments,
            next_sequence,
            zeros,
            job: None,
            cooling: Vec::new(),
            cooled: Vec::new(),
            retired: Vec::new(),
            spares: VecDeque::new(),
            poisoned: false,
            directory: None,
        }
    }

    /// From here on the directory stays locked as long as this lives.
    pub(super) fn hold(&mut self, directory: Arc<Directory>) {
        self.directory = Some(directory);
    }

    /// Makes the segment that a log begins to append to.
    pub(super) fn first_segment(&mut self) -> Result<Ready, StorageError> {
        loop {
            if let Some(ready) = self.shared.pool.take() {
                return Ok(ready);
            }
            self.step()?;
        }
    }

    /// Numbers further segments from `next_sequence` on, if that is higher.
    pub(super) fn continue_from(&mut self, next_sequence: u32) {
        self.next_sequence = self.next_sequence.max(next_sequence);
    }

    /// Does one thing that has to be done, of at most a mebibyte; returns whether there may be more to
    /// do. A segment that somebody still holds is left for a later call: call again when
    /// [`Log::wants_preparing`](super::Log::wants_preparing) says so.
    ///
    /// # Errors
    /// `Io`. After a full disk, or another failure to create a file, the next step tries again; after
    /// any other failure `Poisoned` is all there is.
    pub fn step(&mut self) -> Result<bool, StorageError> {
        if self.poisoned {
            let path = match &self.ground {
                Ground::Memory => Path::new("memory"),
                Ground::Files(files) => &files.path,
            };
            return Err(StorageError::new(path, StorageErrorKind::Poisoned));
        }
        self.shared.pool.listen();
        let returned = self.shared.pool.collect();
        self.cooling.extend(returned.cooling);
        self.retired.extend(returned.retired);
        self.cool();
        if self.sort_out_one()? {
            return Ok(true);
        }
        match self.job.take() {
            Some(job) => self.advance(job)?,
            None if self.shared.pool.count() < self.ready_segments => self.begin()?,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Whether a failure was final.
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned
    }

    /// Has sealed segments read from their files once all of them is there, and unmaps those that nobody
    /// holds any more.
    fn cool(&mut self) {
        let flushed = self.shared.flushed();
        let Ground::Files(files) = &self.ground else {
            return;
        };
        for segment in
            self.cooling.extract_if(.., |segment| segment.position(segment.published()) <= flushed)
        {
            let backing = segment.backing().expect("a log in memory cools nothing");
            let is_cold = self.shared.catalog.cool(ColdSegment {
                storage: Arc::clone(&files.storage),
                sequence: segment.sequence(),
                path: backing.path.clone(),
                salt: backing.salt,
                end: segment.published(),
                file_bytes: segment.capacity(),
            });
            // One that was let go of meanwhile comes back with its mapping, and must not wait for itself.
            if is_cold {
                self.cooled.push(segment);
            }
        }
        // The catalog has let go of it, so nobody can get hold of it again.
        self.cooled.retain(|segment| Arc::strong_count(segment) > 1);
    }

    /// Keeps or deletes one segment that nobody needs and nobody holds; returns whether there was one.
    fn sort_out_one(&mut self) -> Result<bool, StorageError> {
        for place in &self.retired {
            let sequence = place.sequence();
            self.cooling.retain(|segment| segment.sequence() != sequence);
        }
        for at in 0..self.retired.len() {
            let sequence = self.retired[at].sequence();
            if self.cooled.iter().any(|segment| segment.sequence() == sequence) {
                // Somebody holds a slice of its mapping.
                continue;
            }
            match self.retired.swap_remove(at) {
                Place::Mapped(segment) => match Arc::try_unwrap(segment) {
                    Ok(segment) => return self.keep_mapped(segment).map(|()| true),
                    Err(held) => self.put_back(at, Place::Mapped(held)),
                },
                Place::Cold(segment) => match Arc::try_unwrap(segment) {
                    Ok(segment) => {
                        let file_bytes = segment.file_bytes;
                        return self.keep_file(segment.path, file_bytes).map(|()| true);
                    }
                    Err(held) => self.put_back(at, Place::Cold(held)),
                },
            }
        }
        Ok(false)
    }

    fn put_back(&mut self, at: usize, place: Place) {
        self.retired.push(place);
        let last = self.retired.len() - 1;
        self.retired.swap(at, last);
    }

    fn keep_mapped(&mut self, segment: Segment) -> Result<(), StorageError> {
        let mapped = self.spares.iter().filter(|spare| matches!(spare, Spare::Mapped(_))).count();
        if mapped < self.ready_segments && segment.capacity() == self.segment_bytes {
            // In front: it is ready sooner than a file, one of which makes way.
            self.spares.push_front(Spare::Mapped(segment));
            if self.spares.len() > self.ready_segments
                && let Some(Spare::File(path)) = self.spares.pop_back()
            {
                self.delete(&path, self.segment_bytes)?;
            }
            return Ok(());
        }
        if let Some(backing) = segment.backing() {
            return self.keep_file(backing.path.clone(), segment.capacity());
        }
        self.shared.take_bytes(segment.capacity() as u64);
        Ok(())
    }

    fn keep_file(&mut self, path: PathBuf, file_bytes: usize) -> Result<(), StorageError> {
        if self.spares.len() < self.ready_segments && file_bytes == self.segment_bytes {
            self.spares.push_back(Spare::File(path));
            return Ok(());
        }
        self.delete(&path, file_bytes)
    }

    fn delete(&self, path: &Path, file_bytes: usize) -> Result<(), StorageError> {
        // Needs no flush of the directory: a file that comes back after a crash lies below the oldest
        // segment that counts, and is deleted again.
        let Ground::Files(files) = &self.ground else {
            unreachable!("a log in memory has no files");
        };
        files.storage.remove(path).map_err(|error| StorageError::io(path, "remove", error))?;
        self.shared.take_bytes(file_bytes as u64);
        Ok(())
    }

    /// Takes in a file that no log needs, found at the start.
    pub(super) fn adopt(&mut self, path: PathBuf, file_bytes: usize) -> Result<(), StorageError> {
        self.shared.add_bytes(file_bytes as u64);
        self.keep_file(path, file_bytes)
    }

    fn begin(&mut self) -> Result<(), StorageError> {
        let sequence = self.next_sequence;
        self.job = match &self.ground {
            Ground::Memory => self.begin_in_memory(sequence)?,
            Ground::Files(files) => {
                let files = files.clone();
                self.begin_file(&files, sequence)?
            }
        };
        self.next_sequence = sequence.checked_add(1).expect("four thousand million segments");
        Ok(())
    }

    fn begin_in_memory(&mut self, sequence: u32) -> Result<Option<Job>, StorageError> {
        if let Some(Spare::Mapped(mut segment)) = self.spares.pop_front() {
            segment.reuse(sequence, None);
            self.add(segment);
            return Ok(None);
        }
        let segment = Segment::anonymous(sequence, self.segment_bytes)
            .map_err(|error| StorageError::io("memory", "map", error))?;
        self.shared.add_bytes(self.segment_bytes as u64);
        Ok(Some(Job::Populate { segment, at: 0 }))
    }

    fn begin_file(&mut self, files: &Files, sequence: u32) -> Result<Option<Job>, StorageError> {
        match self.spares.pop_front() {
            Some(Spare::Mapped(mut segment)) => self.poisoning(|this| {
                let Backing { file, path, .. } =
                    segment.backing().expect("a log on disk has files").clone();
                files.withdraw(&path, sequence)?;
                let path = files.install(&*file, sequence, this.segment_bytes)?;
                segment.reuse(sequence, Some(path));
                this.add(segment);
                Ok(None)
            }),
            Some(Spare::File(path)) => self.poisoning(|this| {
                let temporary = files.withdraw(&path, sequence)?;
                let file = files
                    .storage
                    .open(&temporary, OpenMode::Write)
                    .map_err(|error| StorageError::io(&temporary, "open", error))?;
                this.map(files, file, sequence).map(Some)
            }),
            None => {
                let (file, temporary) = files.create(sequence, self.segment_bytes)?;
                self.shared.add_bytes(self.segment_bytes as u64);
                Ok(Some(Job::Fill { file, temporary, sequence, at: 0 }))
            }
        }
    }

    fn advance(&mut self, job: Job) -> Result<(), StorageError> {
        match job {
            Job::Fill { file, temporary, sequence, at } if at < self.segment_bytes => {
                let step = self.zeros.len().min(self.segment_bytes - at);
                let filled = file.write_at(&self.zeros[..step], at as u64);
                if let Err(error) = filled.and_then(|()| file.sync()) {
                    self.discard(&temporary);
                    return Err(StorageError::io(&temporary, "fill", error).at_offset(at as u64));
                }
                self.job = Some(Job::Fill { file, temporary, sequence, at: at + step });
            }
            Job::Fill { file, sequence, .. } => {
                let Ground::Files(files) = &self.ground else {
                    unreachable!("a log in memory fills no files");
                };
                let files = files.clone();
                self.job = self.poisoning(|this| this.map(&files, file, sequence).map(Some))?;
            }
            Job::Populate { mut segment, at } if at < self.segment_bytes => {
                let step = STEP_BYTES.min(self.segment_bytes - at);
                self.poisoning(|_| {
                    segment.populate(at, step).map_err(|error| {
                        let path = segment.backing().map(|backing| backing.path.clone());
                        StorageError::io(path.unwrap_or_default(), "populate", error)
                    })
                })?;
                self.job = Some(Job::Populate { segment, at: at + step });
            }
            Job::Populate { segment, .. } => self.add(segment),
        }
        Ok(())
    }

    /// Gives a file its header and its name, and maps it.
    fn map(
        &self,
        files: &Files,
        file: Arc<dyn StorageFile>,
        sequence: u32,
    ) -> Result<Job, StorageError> {
        let path = files.install(&*file, sequence, self.segment_bytes)?;
        let backing = Backing { file, path: path.clone(), salt: files.salt() };
        let segment = Segment::of_file(sequence, backing, self.segment_bytes)
            .map_err(|error| StorageError::io(path, "map", error))?;
        Ok(Job::Populate { segment, at: 0 })
    }

    fn add(&mut self, segment: Segment) {
        let (writer, write_back) = segment.split();
        self.shared.pool.add(Ready { writer, write_back });
    }

    /// Deletes a file that never became a segment, as far as that is possible.
    fn discard(&self, temporary: &Path) {
        if let Ground::Files(files) = &self.ground {
            let _ = files.storage.remove(temporary);
            self.shared.take_bytes(self.segment_bytes as u64);
        }
    }

    /// Does what must not be tried again after a failure.
    fn poisoning<T>(
        &mut self,
        attempt: impl FnOnce(&mut Self) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.poisoned = true;
        let value = attempt(self)?;
        self.poisoned = false;
        Ok(value)
    }
}

impl Files {
    pub(super) fn segment(&self, sequence: u32) -> PathBuf {
        self.path.join(segment_name(sequence))
    }

    /// What segment `sequence` is called until it counts.
    pub(super) fn temporary(&self, sequence: u32) -> PathBuf {
        self.path.join(format!("{}{NEW_SUFFIX}", segment_name(sequence)))
    }

    pub(super) fn salt(&self) -> Salt {
        Salt::of(self.secret)
    }

    pub(super) fn sync_dir(&self) -> Result<(), StorageError> {
        let flushed = self.storage.sync_dir(&self.path);
        flushed.map_err(|error| StorageError::io(&self.path, "flush", error))
    }

    pub(super) fn header(&self, sequence: u32, bytes: usize) -> SegmentHeader {
        let Sender { node, incarnation, boot } = self.sender;
        SegmentHeader { sequence, node, incarnation, boot, bytes: bytes as u64 }
    }

    /// Creates the file of a new segment, with space for all of it.
    pub(super) fn create(
        &self,
        sequence: u32,
        bytes: usize,
    ) -> Result<(Arc<dyn StorageFile>, PathBuf), StorageError> {
        let temporary = self.temporary(sequence);
        let failed = |error| StorageError::io(&temporary, "create", error);
        let file = match self.storage.open(&temporary, OpenMode::Create) {
            // Left behind by an attempt that failed and could not clean up.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.storage.remove(&temporary).map_err(failed)?;
                self.storage.open(&temporary, OpenMode::Create).map_err(failed)?
            }
            result => result.map_err(failed)?,
        };
        if let Err(error) = file.allocate(bytes as u64) {
            let _ = self.storage.remove(&temporary);
            return Err(StorageError::io(&temporary, "allocate", error));
        }
        Ok((file, temporary))
    }

    /// Takes a file's name away, durably, so that it stops being a segment.
    fn withdraw(&self, path: &Path, sequence: u32) -> Result<PathBuf, StorageError> {
        let temporary = self.temporary(sequence);
        self.storage
            .rename(path, &temporary)
            .map_err(|error| StorageError::io(path, "rename", error))?;
        self.sync_dir()?;
        Ok(temporary)
    }

    /// Makes the file with the temporary name a segment: its header first, then its name, both durable.
    fn install(
        &self,
        file: &dyn StorageFile,
        sequence: u32,
        bytes: usize,
    ) -> Result<PathBuf, StorageError> {
        let temporary = self.temporary(sequence);
        let failed = |operation| {
            let temporary = &temporary;
            move |error| StorageError::io(temporary, operation, error)
        };
        file.write_at(&self.header(sequence, bytes).encode(), 0).map_err(failed("write"))?;
        file.sync().map_err(failed("flush"))?;
        let path = self.segment(sequence);
        self.storage.rename(&temporary, &path).map_err(failed("rename"))?;
        self.sync_dir()?;
        Ok(path)
    }
}
