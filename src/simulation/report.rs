//! What happened in worlds: counts that add up, and what of the protocol they reached.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::time::Duration;

use super::disk::Operation;
use super::trouble::Trouble;
use crate::types::Role;

/// All roles, in the order of [`Coverage`]'s columns.
const ROLES: [Role; 4] = [Role::Follower, Role::PreCandidate, Role::Candidate, Role::Leader];

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident $text:literal;)*) => {
        /// What happened in a world, or in many.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Report {
            $($(#[$doc])* pub $name: u64,)*
            /// How much time passed in the world.
            pub time: Duration,
            /// How often each trouble struck, in the order of [`Trouble::ALL`]: a crash that found its node
            /// down is none, nor is a failure of a disk that met no call. For a condition, the worlds that
            /// had it.
            pub troubles: [u64; Trouble::COUNT],
            /// Which messages met which roles.
            pub coverage: Coverage,
            /// A number that two runs share only if everything in them was the same. Of many runs, the sum.
            pub trace: u64,
        }

        impl Report {
            /// Adds what happened in other worlds.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                self.time += other.time;
                for (sum, count) in self.troubles.iter_mut().zip(other.troubles) {
                    *sum += count;
                }
                self.coverage.add(&other.coverage);
                self.trace = self.trace.wrapping_add(other.trace);
            }

            /// All counts with their names.
            fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$(($text, self.$name),)*]
            }

            /// The count of this name, to be changed.
            fn count_mut(&mut self, name: &str) -> Option<&mut u64> {
                match name {
                    $($text => Some(&mut self.$name),)*
                    _ => None,
                }
            }
        }
    };
}

counts! {
    /// Worlds.
    worlds "worlds";
    /// Steps of loops, and deliveries of messages.
    events "events";
    /// Messages that were sent.
    messages "messages";
    /// Messages that were lost, by chance or on a link that was cut.
    lost "lost";
    /// Messages that arrived twice.
    repeated "repeated";
    /// Nodes that were started.
    starts "starts";
    /// Nodes that went down, for whatever reason.
    crashes "crashes";
    /// Nodes that stopped because their disk failed.
    failures "failures";
    /// Starts that were refused or cut off because of the disk.
    failed_starts "failed_starts";
    /// Nodes that stayed down for good because their disk had rotted.
    lost_nodes "lost_nodes";
    /// Planned failures of a disk that came, by the call that failed first: writes, ...
    bad_writes "bad_writes";
    /// ... flushes, ...
    bad_flushes "bad_flushes";
    /// ... reads, ...
    bad_reads "bad_reads";
    /// ... the opening of files, ...
    bad_opens "bad_opens";
    /// ... taking space for them, ...
    bad_allocations "bad_allocations";
    /// ... and other calls.
    bad_calls "bad_calls";
    /// Files that a power cut met with something in them that was written and not flushed.
    dirty_files "dirty_files";
    /// Truncations of logs.
    truncations "truncations";
    /// Flushes that ended after entries they were asked for had been truncated.
    late_flushes "late_flushes";
    /// Steps of cores that left no room for another proposal at the door.
    shut_doors "shut_doors";
    /// Steps of cores that left a follower without room for another append in flight.
    full_windows "full_windows";
    /// Steps of cores that had more to apply than they may have, and so took nothing.
    behind "behind";
    /// Terms that had a leader.
    leaders "leaders";
    /// Calls of clients.
    calls "calls";
    /// Writes that were acknowledged.
    acknowledged "acknowledged";
    /// Writes that were told that they never happened.
    refused "refused";
    /// Of these, those that their client had withdrawn.
    withdrawn "withdrawn";
    /// Writes whose outcome stayed unknown to their client.
    unknown "unknown";
    /// Linearizable reads that were answered.
    reads "reads";
    /// Weaker reads that were answered.
    weak_reads "weak_reads";
    /// Reads that were refused or given up.
    failed_reads "failed_reads";
    /// Commands that were applied somewhere.
    commands "commands";
}

impl Report {
    /// How often a trouble struck.
    pub fn trouble(&self, trouble: Trouble) -> u64 {
        self.troubles[trouble as usize]
    }

    /// A failure of a disk has come.
    pub(super) fn count_strike(&mut self, trouble: Trouble, operation: Operation) {
        self.troubles[trouble as usize] += 1;
        *match operation {
            Operation::Write => &mut self.bad_writes,
            Operation::Sync => &mut self.bad_flushes,
            Operation::Read => &mut self.bad_reads,
            Operation::Open => &mut self.bad_opens,
            Operation::Allocate => &mut self.bad_allocations,
            Operation::CreateDir
            | Operation::List
            | Operation::Rename
            | Operation::Remove
            | Operation::SyncDir
            | Operation::Lock
            | Operation::Len => &mut self.bad_calls,
        } += 1;
    }

    /// As JSON, on one line.
    pub fn to_json(&self) -> String {
        let mut json = String::from("{");
        for (name, count) in self.counts() {
            let _ = write!(json, "\"{name}\":{count},");
        }
        let _ = write!(json, "\"simulated_ms\":{},\"troubles\":{{", self.time.as_millis());
        for (at, trouble) in Trouble::ALL.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(json, "{comma}\"{trouble}\":{}", self.trouble(*trouble));
        }
        json.push_str("},\"coverage\":{");
        for (at, (kind, counts)) in self.coverage.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let _ = write!(json, "{comma}\"{kind}\":{counts:?}");
        }
        let _ = write!(json, "}},\"trace\":\"{:016x}\"}}", self.trace);
        json
    }

    /// As lines of words, to be read by [`from_lines`](Self::from_lines).
    pub fn to_lines(&self) -> String {
        let mut lines = String::new();
        for (name, count) in self.counts() {
            let _ = writeln!(lines, "{name} {count}");
        }
        let _ = writeln!(lines, "time_ns {}", self.time.as_nanos());
        let _ = writeln!(lines, "trace {}", self.trace);
        for trouble in Trouble::ALL {
            let _ = writeln!(lines, "trouble {trouble} {}", self.trouble(*trouble));
        }
        for (kind, counts) in &self.coverage.0 {
            let [a, b, c, d] = counts;
            let _ = writeln!(lines, "coverage {kind} {a} {b} {c} {d}");
        }
        lines
    }

    /// What [`to_lines`](Self::to_lines) wrote; `None` if a line is none of its own.
    pub fn from_lines(lines: &str) -> Option<Self> {
        let mut report = Self::default();
        for line in lines.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["time_ns", time] => report.time = Duration::from_nanos(time.parse().ok()?),
                ["trace", trace] => report.trace = trace.parse().ok()?,
                ["trouble", name, count] => {
                    let trouble = Trouble::from_name(name)?;
                    report.troubles[trouble as usize] = count.parse().ok()?;
                }
                ["coverage", kind, ref counts @ ..] => {
                    let counts: Vec<u64> =
                        counts.iter().map(|count| count.parse()).collect::<Result<_, _>>().ok()?;
                    let counts = counts.try_into().ok()?;
                    report.coverage.0.push((Cow::Owned(kind.to_owned()), counts));
                }
                [name, count] => *report.count_mut(name)? = count.parse().ok()?,
                _ => return None,
            }
        }
        Some(report)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.time.as_secs();
        writeln!(f, "simulated {} h {} min {} s", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        for counts in self.counts().chunks(6) {
            let line: Vec<_> =
                counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
            writeln!(f, "{}", line.join("  "))?;
        }
        let troubles = Trouble::ALL.iter().map(|kind| format!("{kind} {}", self.trouble(*kind)));
        let troubles: Vec<_> = troubles.collect();
        for line in troubles.chunks(8) {
            writeln!(f, "trouble: {}", line.join("  "))?;
        }
        write!(f, "{}", self.coverage)
    }
}

/// Which kinds of messages were handed to nodes in which role, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage(Vec<(Cow<'static, str>, [u64; ROLES.len()])>);

impl Coverage {
    pub(super) fn count(&mut self, kind: &'static str, role: Role) {
        let column = match role {
            Role::Follower => 0,
            Role::PreCandidate => 1,
            Role::Candidate => 2,
            Role::Leader => 3,
        };
        if let Some((_, counts)) = self.0.iter_mut().find(|(known, _)| known == kind) {
            counts[column] += 1;
        } else {
            let mut counts = [0; ROLES.len()];
            counts[column] = 1;
            self.0.push((Cow::Borrowed(kind), counts));
        }
    }

    fn add(&mut self, other: &Self) {
        for (kind, counts) in &other.0 {
            let at = self.0.iter().position(|(known, _)| known == kind).unwrap_or_else(|| {
                self.0.push((kind.clone(), [0; ROLES.len()]));
                self.0.len() - 1
            });
            for (sum, count) in self.0[at].1.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        self.0.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    }

    /// How many messages of a kind met a node in that role.
    pub fn of(&self, kind: &str, role: Role) -> u64 {
        let column = ROLES.iter().position(|&other| other == role);
        let counts = self.0.iter().find(|(known, _)| known == kind);
        counts.zip(column).map_or(0, |((_, counts), column)| counts[column])
    }

    /// How many pairs of message and role there were.
    pub fn pairs(&self) -> usize {
        self.0.iter().flat_map(|(_, counts)| counts).filter(|&&count| count > 0).count()
    }

    /// How many kinds of messages there were.
    pub fn kinds(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<16}", "message to")?;
        for role in ROLES {
            write!(f, " {:>14}", role.to_string())?;
        }
        for (kind, counts) in &self.0 {
            write!(f, "\n{kind:<16}")?;
            for count in counts {
                write!(f, " {count:>14}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back_from_its_lines() {
        let mut report = Report { events: 7, time: Duration::from_nanos(99), ..Report::default() };
        report.troubles[Trouble::Rot as usize] = 3;
        report.coverage.count("append", Role::Leader);
        report.coverage.count("vote", Role::Candidate);
        let mut sum = report.clone();
        sum.add(&report);
        assert_eq!(Report::from_lines(&sum.to_lines()), Some(sum.clone()));
        assert_eq!(sum.coverage.of("append", Role::Leader), 2);
        assert_eq!(sum.coverage.pairs(), 2);
        assert_eq!(Report::from_lines("earthquakes 4"), None);
    }
}
