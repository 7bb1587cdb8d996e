//! Disks that take their time, under real processes: `slow_flush.c` stands between a server and its flushes,
//! and does as a file says. Needs Linux and a C compiler, which Rust itself needs to link.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub(crate) struct SlowDisks {
    dir: tempfile::TempDir,
}

impl SlowDisks {
    /// `None`, said aloud, where this cannot be done.
    pub(crate) fn build() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests")
            .join("linearizability")
            .join("slow_flush.c");
        let slow = Self { dir };
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]);
        compile.arg(slow.library()).arg(source);
        if !cfg!(target_os = "linux") || Command::new("cc").arg("--version").output().is_err() {
            eprintln!("SKIPPED: slow disks need Linux and a C compiler");
            return None;
        }
        let done = compile.status().expect("it was there just now");
        assert!(done.success(), "slow_flush.c does not compile");
        Some(slow)
    }

    fn library(&self) -> PathBuf {
        self.dir.path().join("slow_flush.so")
    }

    fn order(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id}.milliseconds"))
    }

    fn count(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id}.count"))
    }

    /// What starts a server whose flushes can be held up.
    pub(crate) fn starter(&self, id: u64) -> Vec<String> {
        vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", self.library().display()),
            format!("SLOW_FLUSH={}", self.order(id).display()),
            format!("SLOW_FLUSH_COUNT={}", self.count(id).display()),
        ]
    }

    /// From here on every flush of a node that begins takes at least so long, until [`release`](Self::release).
    pub(crate) fn hold(&self, id: u64, delay: Duration) {
        // A file that is there is whole.
        let whole = self.order(id).with_extension("new");
        fs::write(&whole, delay.as_millis().to_string()).expect("room");
        fs::rename(whole, self.order(id)).expect("the same directory");
    }

    pub(crate) fn release(&self, id: u64) {
        fs::remove_file(self.order(id)).expect("it is held");
    }

    /// How many flushes of a node were held up.
    pub(crate) fn held(&self, id: u64) -> u64 {
        fs::metadata(self.count(id)).map_or(0, |count| count.len())
    }
}
