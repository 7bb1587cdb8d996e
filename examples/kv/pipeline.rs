//! What a client has sent at once, carried out at once.
//!
//! Writes that follow each other are proposed together and wait side by side; reads that follow each other
//! are one read. Such a run ends where the other kind begins, so every request sees what those before it did
//! and nothing of what those behind it do. Requests that need neither belong to the run that they stand in.
//!
//! A read between two writes therefore costs the first of them a round of its own: the second must not be
//! proposed before the read has looked. The look itself costs nothing. Once a write of this pipeline is
//! applied here, or a read was confirmed, this node's state holds everything that was answered to anybody
//! before the pipeline was read from its socket; all the reads in it may begin then, so they look at the
//! state as it is.
//!
//! All requests of a pipeline share one deadline, which is the time that they may wait in vain: without a
//! leader they are all answered when it passes, however many runs they make. It begins anew when something
//! is done, and stands still while the client is waited for. To a client that has gone no more is done. One
//! that has only said that it sends no more is served: whether it still reads is seen when the first replies
//! are written to it.

use std::io;
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use oarlock::{Consistency, LeadershipSubscription, Node, ProposeError, ReadError, Reply};

use crate::about::{self, Asker};
use crate::client::Client;
use crate::commands::Step;
use crate::connection::Shared;
use crate::resp;
use crate::store::{Store, Write};

/// How long to wait between two attempts if nothing changes meanwhile.
const PAUSE: Duration = Duration::from_millis(20);
/// What is said to those whose deadline passed before anything was done for them.
const LATE: &str = "those before it waited for a leader in vain";

/// How many of the steps, which are not none, belong together.
pub(crate) fn run_length(steps: &[Step<'_>]) -> usize {
    let mut kind = None;
    let ends = |step: &Step<'_>| step.is_write().is_some_and(|is| *kind.get_or_insert(is) != is);
    steps.iter().position(ends).unwrap_or(steps.len())
}

/// Carries out one client's requests.
pub(crate) struct Pipeline {
    node: Node<Store>,
    leadership: LeadershipSubscription,
    shared: Arc<Shared>,
    asker: Asker,
    /// When those that wait in vain are answered.
    deadline: Instant,
    /// It passed, and nothing was done since.
    is_late: bool,
    /// The state is known to be recent enough for all requests under way.
    is_confirmed: bool,
}

impl Pipeline {
    pub(crate) fn new(node: Node<Store>, shared: Arc<Shared>, asker: Asker) -> Self {
        Self {
            leadership: node.leadership(),
            node,
            shared,
            asker,
            deadline: Instant::now(),
            is_late: false,
            is_confirmed: false,
        }
    }

    /// Whether requests were just answered because there was no leader in time.
    pub(crate) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Requests were read. If they were there while others waited in vain, they have waited as well, and are
    /// not made to wait again unless somebody leads by now.
    pub(crate) fn begin(&mut self, were_there: bool) {
        self.is_confirmed = false;
        let waited = self.is_late && were_there;
        if !waited || self.leadership.latest().leader.is_some() {
            self.is_late = false;
            self.deadline = Instant::now() + self.shared.times.leader;
        }
    }

    /// Carries them out, each after those before it, and leaves none.
    ///
    /// # Errors
    /// The client has gone, or does not take its replies.
    pub(crate) fn carry_out(
        &mut self,
        steps: &mut Vec<Step<'_>>,
        client: &mut Client,
    ) -> io::Result<()> {
        let mut rest = &mut steps[..];
        while !rest.is_empty() {
            let (run, others) = rest.split_at_mut(run_length(rest));
            match run.iter().find_map(Step::is_write) {
                Some(_) if Instant::now() >= self.deadline => self.refuse(run, client)?,
                Some(true) => self.write(run, client)?,
                Some(false) => self.read(run, client)?,
                None => run.iter().try_for_each(|step| self.say(step, client))?,
            }
            if !others.is_empty() && client.is_gone() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            rest = others;
        }
        steps.clear();
        Ok(())
    }

    /// Replicates writes, all at once, and waits for them. What was certainly not applied, for want of a
    /// leader, is proposed again, unless a later write of this client may have been: they must not change
    /// places.
    fn write(&mut self, run: &mut [Step<'_>], client: &mut Client) -> io::Result<()> {
        let write = |step: &mut Step<'_>| match step {
            Step::Write(write) => Some(mem::take(write)),
            _ => None,
        };
        // What stands before the first need not wait for it.
        let begins = run.iter().position(|step| step.is_write().is_some()).unwrap_or(run.len());
        let (before, run) = run.split_at_mut(begins);
        before.iter().try_for_each(|step| self.say(step, client))?;
        let mut writes: Vec<Write> = run.iter_mut().filter_map(write).collect();
        let mut rest = run.iter();
        while !writes.is_empty() {
            self.leadership.latest();
            let mut outcomes = self.propose(writes);
            let is_over = Instant::now() >= self.deadline;
            let settled = if is_over { outcomes.len() } else { settled(&outcomes) };
            let again = outcomes.split_off(settled);
            if outcomes.iter().any(Result::is_ok) {
                self.is_confirmed = true;
                self.has_done_something();
            } else {
                self.is_late |= is_over;
            }
            for outcome in &outcomes {
                for step in rest.by_ref() {
                    if matches!(step, Step::Write(_)) {
                        reply(outcome, client.replies.short());
                        break;
                    }
                    self.say(step, client)?;
                }
                self.make_room(client)?;
            }
            writes =
                again.into_iter().filter_map(|outcome| outcome.err()?.into_command()).collect();
            if !writes.is_empty() {
                self.wait_for_leader(client)?;
            }
        }
        rest.try_for_each(|step| self.say(step, client))
    }

    fn propose(&self, writes: Vec<Write>) -> Vec<Reply<Store>> {
        match self.node.submit_many(writes) {
            Ok(tickets) => {
                tickets.into_iter().map(|ticket| ticket.wait_timeout(self.time_left())).collect()
            }
            Err(error) => refused(error),
        }
    }

    /// Looks at the state once for many requests.
    fn read(&mut self, run: &[Step<'_>], client: &mut Client) -> io::Result<()> {
        let mut rest = run;
        while let Some(first) = rest.first() {
            let Step::Read(_) = first else {
                self.say(first, client)?;
                rest = &rest[1..];
                continue;
            };
            self.leadership.latest();
            match self.look(rest, client) {
                Ok(done) => {
                    self.is_confirmed = true;
                    rest = &rest[done..];
                    if done > 0 {
                        self.has_done_something();
                    } else if Instant::now() < self.deadline {
                        thread::sleep(PAUSE);
                    } else {
                        let error = "ERR KEYS would take too long: others are at it";
                        resp::error(client.replies.short(), error);
                        rest = &rest[1..];
                    }
                }
                Err(ReadError::NotLeader { .. }) if Instant::now() < self.deadline => {
                    self.wait_for_leader(client)?;
                }
                Err(error) => {
                    self.is_late = Instant::now() >= self.deadline;
                    for step in mem::take(&mut rest) {
                        match step {
                            Step::Read(_) => never_read(&error, client.replies.short()),
                            other => self.say(other, client)?,
                        }
                        self.make_room(client)?;
                    }
                }
            }
            self.make_room(client)?;
        }
        Ok(())
    }

    /// Answers as many of the steps as it can in one look at the state; none if the first is one that goes
    /// over the whole state, while another client's does.
    fn look(&self, steps: &[Step<'_>], client: &mut Client) -> Result<usize, ReadError> {
        let consistency =
            if self.is_confirmed { Consistency::Stale } else { Consistency::Linearizable };
        let (replies, scan) = (&mut client.replies, &self.shared.scan);
        self.node.read_with_timeout(consistency, self.time_left(), |store| {
            for (answered, step) in steps.iter().enumerate() {
                if answered > 0 && replies.are_many() {
                    return answered;
                }
                match step {
                    Step::Read(read) if read.is_scan() => {
                        // No waiting for a turn here, where the state is held; and no second scan.
                        let Some(_turn) = scan.try_lock() else {
                            return answered;
                        };
                        read.reply(store, replies);
                        return answered + 1;
                    }
                    Step::Read(read) => read.reply(store, replies),
                    Step::Reply(reply) => replies.ready(reply),
                    Step::Ask(_) | Step::Write(_) => return answered,
                }
            }
            steps.len()
        })
    }

    /// Answers a run for which it is too late.
    fn refuse(&mut self, run: &[Step<'_>], client: &mut Client) -> io::Result<()> {
        self.is_late = true;
        for step in run {
            match step {
                Step::Write(_) => never_applied(LATE, client.replies.short()),
                Step::Read(_) => never_read(LATE, client.replies.short()),
                other => self.say(other, client)?,
            }
            self.make_room(client)?;
        }
        Ok(())
    }

    /// Answers what needs no other node.
    fn say(&mut self, step: &Step<'_>, client: &mut Client) -> io::Result<()> {
        match step {
            Step::Ask(question) => {
                let Self { node, shared, asker, .. } = self;
                about::answer(*question, *asker, node, &shared.places, &mut client.replies);
            }
            Step::Reply(reply) => client.replies.ready(reply),
            Step::Write(_) | Step::Read(_) => unreachable!("these are carried out: {step:?}"),
        }
        self.make_room(client)
    }

    fn wait_for_leader(&mut self, client: &mut Client) -> io::Result<()> {
        // What is ready need not wait; and who has closed its socket is found out by it.
        client.write()?;
        if client.is_gone() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.leadership.changed(PAUSE);
        Ok(())
    }

    fn make_room(&mut self, client: &mut Client) -> io::Result<()> {
        self.deadline += client.make_room()?;
        Ok(())
    }

    fn has_done_something(&mut self) {
        self.is_late = false;
        self.deadline = Instant::now() + self.shared.times.leader;
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Each write with the reason for which none was taken.
fn refused(error: ProposeError<Vec<Write>>) -> Vec<Reply<Store>> {
    let mut writes = Vec::new();
    let why = error.map(|all| writes = all);
    writes.into_iter().map(|write| Err(why.clone().map(|()| write))).collect()
}

/// How many of these writes are not proposed again: up to the last that is applied or may be.
pub(crate) fn settled(outcomes: &[Reply<Store>]) -> usize {
    use ProposeError::{Busy, NotLeader, Superseded};
    let again = |o: &Reply<Store>| matches!(o, Err(NotLeader { .. } | Superseded(_) | Busy(_)));
    outcomes.iter().rposition(|outcome| !again(outcome)).map_or(0, |last| last + 1)
}

pub(crate) fn reply(outcome: &Reply<Store>, out: &mut Vec<u8>) {
    match outcome {
        Ok(outcome) => outcome.reply(out),
        Err(error @ ProposeError::Unknown { .. }) => {
            resp::error(out, &format!("TIMEOUT unknown outcome: {error}"));
        }
        Err(error) => {
            // It says so itself, and once is enough.
            let error = error.to_string();
            let ends = ["; never applied", "; the command was never applied"];
            let why = ends.iter().find_map(|end| error.strip_suffix(end)).unwrap_or(&error);
            never_applied(why, out);
        }
    }
}

fn never_applied(why: &str, out: &mut Vec<u8>) {
    resp::error(out, &format!("CLUSTERDOWN never applied: {why}"));
}

fn never_read(why: impl std::fmt::Display, out: &mut Vec<u8>) {
    resp::error(out, &format!("CLUSTERDOWN {why}"));
}
