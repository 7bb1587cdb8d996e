//! raft-rs as a contestant: its `RawNode`, and the program around it that it asks for.
//!
//! One thread a node, and one crossbeam channel into it for messages and proposals alike. A turn of the
//! thread takes everything that waits, makes one proposal message of all commands among it, and handles
//! one `Ready` after the other. Messages to a peer travel together, the leader sends before it persists,
//! answers leave before it waits for the disk, and `apply` runs inline.
//!
//! The log is raft-rs's `MemStorage`, compacted regularly. On disk, raft-engine holds it as well, and
//! `MemStorage` is the cache in front that entries are read from, as TiKV has one.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{mem, process};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use raft::eraftpb::{Entry, HardState, Message, MessageType};
use raft::storage::MemStorage;
use raft::{RawNode, StateRole};
use raft_engine::{Command, Engine, LogBatch, MessageExt, ReadableSize};
use tempfile::TempDir;

use crate::fold::{Fold, Mirror};
use crate::load::{Client, Contestant};
use crate::mailbox::Mailbox;
use crate::{ELECTION_TICKS, HEARTBEAT_TICKS, NODES, Place, TICK};

/// Events that a node takes in one turn.
const MAX_EVENTS_A_TURN: usize = 4096;
/// How often a node gives way to other threads before it sleeps. Its channel does so as well, but less.
const MAX_YIELDS: u32 = 32;
/// Entries applied between two compactions.
const COMPACT_EVERY: u64 = 4096;
/// Bytes in one append message. Larger ones gain nothing here.
const MAX_APPEND_BYTES: u64 = 1 << 20;
/// How often raft-engine is told to reuse the files of compacted entries.
const PURGE_EVERY: Duration = Duration::from_millis(100);
/// raft-engine's name for the log of a node; each has an engine of its own.
const GROUP: u64 = 1;
/// Where raft-engine keeps the hard state.
const HARD_STATE: &[u8] = b"hard-state";

/// What comes into a node.
enum Event {
    /// What another node sent in one turn.
    Messages(Vec<Message>),
    Propose(Proposal),
    Stop,
}

struct Proposal {
    command: Bytes,
    mailbox: Arc<Mailbox>,
}

/// Three nodes, of which the first leads.
pub(crate) struct RaftRs {
    leader: Sender<Event>,
    inboxes: Vec<Sender<Event>>,
    mirrors: Vec<Arc<Mirror>>,
    threads: Vec<JoinHandle<()>>,
    purging: Option<Purging>,
    /// Dropped last: the engines write there until their nodes have ended.
    _home: Option<TempDir>,
}

impl RaftRs {
    /// Starts them.
    pub(crate) fn start(place: Place) -> Self {
        let home = match place {
            Place::Memory => None,
            Place::Disk => Some(tempfile::tempdir().expect("a temporary directory")),
        };
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..NODES).map(|_| unbounded()).unzip();
        let mirrors: Vec<_> = (0..NODES).map(|_| Arc::<Mirror>::default()).collect();
        let leads = Arc::new(AtomicBool::new(false));
        let mut engines = Vec::new();
        let mut threads = Vec::new();
        for (id, inbox) in (1..=NODES).zip(receivers) {
            let disk = home.as_ref().map(|home| Disk::open(&home.path().join(format!("n{id}"))));
            engines.extend(disk.as_ref().map(|disk| Arc::clone(&disk.engine)));
            let mirror = Arc::clone(&mirrors[position(id)]);
            let node = Node::new(id, disk, inboxes.clone(), mirror, Arc::clone(&leads));
            let thread = thread::Builder::new().name(format!("raft-rs-{id}"));
            threads.push(thread.spawn(move || node.run(&inbox)).expect("a thread"));
        }
        while !leads.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
        let purging = (!engines.is_empty()).then(|| Purging::start(engines));
        Self { leader: inboxes[0].clone(), inboxes, mirrors, threads, purging, _home: home }
    }
}

impl Drop for RaftRs {
    fn drop(&mut self) {
        for inbox in &self.inboxes {
            // A node that has ended needs no telling.
            let _ = inbox.send(Event::Stop);
        }
        for thread in self.threads.drain(..) {
            thread.join().expect("no panic");
        }
        drop(self.purging.take());
    }
}

impl Contestant for RaftRs {
    type Client = RaftRsClient;

    fn client(&self) -> RaftRsClient {
        RaftRsClient {
            leader: self.leader.clone(),
            mailbox: Arc::default(),
            taken: VecDeque::new(),
        }
    }

    fn mirrors(&self) -> &[Arc<Mirror>] {
        &self.mirrors
    }
}

/// The channel to the leader, and answers that have come back.
pub(crate) struct RaftRsClient {
    leader: Sender<Event>,
    mailbox: Arc<Mailbox>,
    taken: VecDeque<u64>,
}

impl Client for RaftRsClient {
    fn submit(&mut self, command: &Arc<[u8]>) {
        // A command becomes bytes of its own, as by any encoding; raft-rs then shares them.
        let command = Bytes::copy_from_slice(command);
        let mailbox = Arc::clone(&self.mailbox);
        let proposal = Event::Propose(Proposal { command, mailbox });
        assert!(self.leader.send(proposal).is_ok(), "the leader has ended");
    }

    fn wait(&mut self) -> u64 {
        if self.taken.is_empty() {
            self.mailbox.take(&mut self.taken);
        }
        self.taken.pop_front().expect("some were taken")
    }
}

/// What a node's thread works on.
struct Node {
    raw: RawNode<MemStorage>,
    log: MemStorage,
    disk: Option<Disk>,
    inboxes: Vec<Sender<Event>>,
    /// For each node, what goes there next.
    outgoing: Vec<Vec<Message>>,
    fold: Fold,
    applied: u64,
    compacted: u64,
    /// On the leader: who waits, in the order of the log.
    waiting: VecDeque<Arc<Mailbox>>,
    /// Answers to one client that have not been handed over.
    answers: Vec<u64>,
    leads: Arc<AtomicBool>,
}

impl Node {
    fn new(
        id: u64,
        disk: Option<Disk>,
        inboxes: Vec<Sender<Event>>,
        mirror: Arc<Mirror>,
        leads: Arc<AtomicBool>,
    ) -> Self {
        let config = raft::Config {
            id,
            election_tick: ELECTION_TICKS as usize,
            heartbeat_tick: HEARTBEAT_TICKS as usize,
            max_size_per_msg: MAX_APPEND_BYTES,
            max_inflight_msgs: 256,
            check_quorum: true,
            pre_vote: true,
            // Followers learn of a commit with the next append or heartbeat.
            skip_bcast_commit: true,
            ..raft::Config::default()
        };
        let voters: Vec<u64> = (1..=NODES).collect();
        let log = MemStorage::new_with_conf_state((voters, vec![]));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log.clone(), &logger).expect("a valid configuration");
        Self {
            raw,
            log,
            disk,
            outgoing: inboxes.iter().map(|_| Vec::new()).collect(),
            inboxes,
            fold: Fold::mirrored_by(mirror),
            applied: 0,
            compacted: 0,
            waiting: VecDeque::new(),
            answers: Vec::new(),
            leads,
        }
    }

    fn run(mut self, inbox: &Receiver<Event>) {
        // Without this node its clients would wait for ever.
        let _abort = AbortOnPanic;
        if self.raw.raft.id == 1 {
            self.raw.campaign().expect("the first node may campaign");
        }
        let mut next_tick = Instant::now() + TICK;
        loop {
            while self.raw.has_ready() {
                self.handle_ready();
            }
            self.compact();
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.raw.tick();
                continue;
            }
            let mut entries = Vec::new();
            let first = next_event(inbox, next_tick - now);
            for event in first.into_iter().chain(inbox.try_iter()).take(MAX_EVENTS_A_TURN) {
                match event {
                    Event::Messages(messages) => {
                        for message in messages {
                            self.raw.step(message).expect("a message of a peer");
                        }
                    }
                    Event::Propose(Proposal { command, mailbox }) => {
                        entries.push(Entry { data: command, ..Entry::default() });
                        self.waiting.push_back(mailbox);
                    }
                    Event::Stop => return,
                }
            }
            self.propose(entries);
        }
    }

    /// Proposes all entries in one message, so that one append carries them.
    fn propose(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        message.entries = entries.into();
        self.raw.step(message).expect("this node leads");
    }

    fn handle_ready(&mut self) {
        let mut ready = self.raw.ready();
        assert!(ready.snapshot().is_empty(), "nobody falls behind the compacted log");
        if let Some(state) = ready.ss() {
            let led = self.leads.load(Ordering::Relaxed) && self.raw.raft.id == 1;
            assert!(!led, "the leader lost its office: the figures would mean nothing");
            if state.raft_state == StateRole::Leader {
                assert!(self.raw.raft.id == 1, "only the first node campaigns");
                self.leads.store(true, Ordering::Release);
            }
        }
        self.send(ready.take_messages());
        // Before the disk: nobody who can be answered waits for it.
        self.apply(&ready.take_committed_entries());
        if let Some(disk) = &mut self.disk {
            disk.write(ready.entries(), ready.hs(), ready.must_sync());
        }
        let mut log = self.log.wl();
        log.append(ready.entries()).expect("entries that follow the log");
        if let Some(hard_state) = ready.hs() {
            log.set_hardstate(hard_state.clone());
        }
        drop(log);
        self.send(ready.take_persisted_messages());

        let mut light = self.raw.advance(ready);
        if let Some(commit) = light.commit_index() {
            self.log.wl().mut_hard_state().commit = commit;
        }
        self.send(light.take_messages());
        self.apply(&light.take_committed_entries());
        self.raw.advance_apply();
    }

    fn send(&mut self, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        for message in messages {
            self.outgoing[position(message.to)].push(message);
        }
        for (inbox, messages) in self.inboxes.iter().zip(&mut self.outgoing) {
            if !messages.is_empty() {
                // A node that has ended is not missed.
                let _ = inbox.send(Event::Messages(mem::take(messages)));
            }
        }
    }

    /// Applies entries, and answers the clients: once for each run of entries of the same client.
    fn apply(&mut self, entries: &[Entry]) {
        let mut client: Option<Arc<Mailbox>> = None;
        for entry in entries {
            self.applied = entry.index;
            // The entry that begins a term.
            if entry.data.is_empty() {
                continue;
            }
            let answer = self.fold.apply(&entry.data);
            let Some(next) = self.waiting.pop_front() else { continue };
            if let Some(client) = &client
                && !Arc::ptr_eq(client, &next)
            {
                client.put(&self.answers);
                self.answers.clear();
            }
            self.answers.push(answer);
            client = Some(next);
        }
        if let Some(client) = client {
            client.put(&self.answers);
            self.answers.clear();
        }
    }

    /// Lets go of entries that are applied here and, on the leader, stored everywhere.
    fn compact(&mut self) {
        if self.applied - self.compacted < COMPACT_EVERY {
            return;
        }
        let raft = &self.raw.raft;
        let mut to = self.applied;
        if raft.state == StateRole::Leader {
            to = raft.prs().iter().map(|(_, progress)| progress.matched).fold(to, u64::min);
        }
        // The entry at `to` stays: its term is what the next append is checked against.
        self.log.wl().compact(to).expect("applied entries");
        if let Some(disk) = &mut self.disk {
            disk.compact(to);
        }
        self.compacted = to;
    }
}

/// The next event, if one comes in time.
fn next_event(inbox: &Receiver<Event>, timeout: Duration) -> Option<Event> {
    for _ in 0..MAX_YIELDS {
        if let Ok(event) = inbox.try_recv() {
            return Some(event);
        }
        thread::yield_now();
    }
    match inbox.recv_timeout(timeout) {
        Ok(event) => Some(event),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(Event::Stop),
    }
}

/// The durable copy of a node's log.
struct Disk {
    engine: Arc<Engine>,
    batch: LogBatch,
    /// A hard state in which only the commit index has moved: it goes with the next entries, for a
    /// node that has forgotten it learns it again.
    hard_state: Option<HardState>,
    compact_to: Option<u64>,
}

/// Tells raft-engine what raft-rs's entries are.
struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

impl Disk {
    fn open(dir: &Path) -> Self {
        let config = raft_engine::Config {
            dir: dir.to_str().expect("a path in UTF-8").to_owned(),
            // Commands do not compress here, and Oarlock does not try.
            batch_compression_threshold: ReadableSize(0),
            target_file_size: ReadableSize::mb(32),
            purge_threshold: ReadableSize::mb(128),
            // Files are written once before they are needed, and reused: half the cost of a flush.
            enable_log_recycle: true,
            prefill_for_recycle: true,
            prefill_limit: Some(ReadableSize::mb(256)),
            ..raft_engine::Config::default()
        };
        let engine = Arc::new(Engine::open(config).expect("a new raft-engine"));
        Self { engine, batch: LogBatch::with_capacity(256), hard_state: None, compact_to: None }
    }

    /// Writes entries and hard state in one batch. `sync`: raft-rs depends on its being durable.
    fn write(&mut self, entries: &[Entry], hard_state: Option<&HardState>, sync: bool) {
        if let Some(hard_state) = hard_state {
            self.hard_state = Some(hard_state.clone());
        }
        if !sync {
            assert!(entries.is_empty(), "entries are always flushed");
            return;
        }
        let batch = &mut self.batch;
        if let Some(index) = self.compact_to.take() {
            batch.add_command(GROUP, Command::Compact { index });
        }
        if !entries.is_empty() {
            batch.add_entries::<Entries>(GROUP, entries).expect("entries encode");
        }
        if let Some(hard_state) = self.hard_state.take() {
            batch.put_message(GROUP, HARD_STATE.to_vec(), &hard_state).expect("it encodes");
        }
        self.engine.write(batch, true).expect("written and flushed");
    }

    fn compact(&mut self, to: u64) {
        self.compact_to = Some(to);
    }
}

/// A thread that has the engines reuse their files.
struct Purging {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Purging {
    fn start(engines: Vec<Arc<Engine>>) -> Self {
        let (stop, stopped) = bounded::<()>(0);
        let purge = move || {
            while stopped.recv_timeout(PURGE_EVERY) == Err(RecvTimeoutError::Timeout) {
                for engine in &engines {
                    engine.purge_expired_files().expect("purged");
                }
            }
        };
        Self { stop: Some(stop), thread: Some(thread::spawn(purge)) }
    }
}

impl Drop for Purging {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}

struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            process::abort();
        }
    }
}

/// Where the node with this id is in a list of nodes.
fn position(id: u64) -> usize {
    usize::try_from(id).expect("three nodes") - 1
}
