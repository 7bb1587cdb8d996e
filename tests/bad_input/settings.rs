//! Settings that cannot work together.

use std::time::Duration;

use oarlock::{Config, Node, StartError};

use crate::journal::{Journal, PATIENCE, until};

type Case = (&'static str, &'static str, fn(&mut Config));

/// A field, the rule it breaks, and how; each breaks one rule and keeps all others.
const CASES: [Case; 24] = [
    ("tick", "not be zero", |config| config.tick = Duration::ZERO),
    ("tick", "not exceed a minute", |config| config.tick = Duration::from_secs(61)),
    ("heartbeat_ticks", "not be zero", |config| config.heartbeat_ticks = 0),
    ("election_ticks", "more than heartbeat_ticks", |config| {
        config.election_ticks = config.heartbeat_ticks;
    }),
    ("election_ticks", "not exceed 1048576", |config| config.election_ticks = (1 << 20) + 1),
    ("propose_timeout", "not be zero", |config| config.propose_timeout = Duration::ZERO),
    ("read_timeout", "not be zero", |config| config.read_timeout = Duration::ZERO),
    ("max_entry_bytes", "not be zero", |config| config.max_entry_bytes = 0),
    ("max_pending_proposals", "not be zero", |config| config.max_pending_proposals = 0),
    ("max_pending_bytes", "at least max_entry_bytes", |config| {
        config.max_pending_bytes = config.max_entry_bytes - 1;
    }),
    ("max_batch_bytes", "at least max_entry_bytes", |config| {
        config.max_batch_bytes = config.max_entry_bytes - 1;
    }),
    ("max_append_bytes", "at least max_entry_bytes and 80 bytes", |config| {
        config.max_append_bytes = config.max_entry_bytes + 63;
    }),
    ("max_inflight_appends", "not be zero", |config| config.max_inflight_appends = 0),
    ("max_inflight_bytes", "at least max_append_bytes", |config| {
        config.max_inflight_bytes = config.max_append_bytes - 1;
    }),
    ("max_unapplied_bytes", "at least max_append_bytes", |config| {
        config.max_unapplied_bytes = config.max_append_bytes - 1;
    }),
    ("max_apply_bytes", "not be zero", |config| config.max_apply_bytes = 0),
    ("max_peer_queue_bytes", "at least max_append_bytes", |config| {
        config.max_peer_queue_bytes = config.max_append_bytes - 1;
    }),
    ("stuck_after", "not be zero", |config| config.stuck_after = Duration::ZERO),
    ("segment_bytes", "multiple of 65536", |config| config.segment_bytes += 4096),
    ("segment_bytes", "between 64 KiB and 1 GiB", |config| {
        config.segment_bytes = (1 << 30) + (1 << 16);
    }),
    ("max_entry_bytes", "less than half of segment_bytes", |config| {
        config.max_entry_bytes = config.segment_bytes / 2 - 63;
        config.max_batch_bytes = config.segment_bytes / 2;
        config.max_append_bytes = config.segment_bytes;
    }),
    ("max_batch_bytes", "not exceed half of segment_bytes", |config| {
        config.max_batch_bytes = config.segment_bytes / 2 + 1;
    }),
    ("max_append_bytes", "not exceed segment_bytes", |config| {
        config.max_append_bytes = config.segment_bytes + 1;
    }),
    ("ready_segments", "not be zero", |config| config.ready_segments = 0),
];

fn broken(config: &Config) -> (&'static str, &'static str) {
    match config.validate() {
        Err(StartError::InvalidConfig { field, rule }) => (field, rule),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_setting_that_cannot_work_is_named_with_its_rule() {
    for (field, rule, break_it) in CASES {
        let mut config = Config::small();
        config.validate().expect("good before");
        break_it(&mut config);
        let (named, told) = broken(&config);
        assert_eq!(named, field);
        assert!(told.contains(rule), "{field}: {told:?} does not say {rule:?}");
    }
}

#[test]
fn no_setting_is_so_large_that_checking_it_overflows() {
    let max = usize::MAX;
    let all_at_once = Config {
        max_entry_bytes: max,
        max_pending_bytes: max,
        max_batch_bytes: max,
        max_append_bytes: max,
        max_inflight_bytes: max,
        max_unapplied_bytes: max,
        max_peer_queue_bytes: max,
        ..Config::small()
    };
    broken(&all_at_once);
    broken(&Config { max_entry_bytes: max, ..Config::small() });
    broken(&Config { segment_bytes: max, ..Config::small() });
}

#[test]
fn a_node_with_such_settings_does_not_start_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    for (field, rule, break_it) in CASES {
        let mut config = Config::small();
        break_it(&mut config);
        let data = dir.path().join("n1");
        let started = Node::builder(1, Journal::default())
            .data_dir(&data)
            .members([(1, "")])
            .config(config)
            .start();
        match started {
            Err(error @ StartError::InvalidConfig { field: named, .. }) => {
                assert_eq!(named, field);
                let text = error.to_string();
                assert!(text.contains(field) && text.contains(rule), "{text}");
            }
            other => panic!("{field}: {other:?}"),
        }
        assert!(!data.exists());
    }
}

#[test]
fn the_longest_timeouts_are_as_good_as_any() {
    let config = Config {
        propose_timeout: Duration::MAX,
        read_timeout: Duration::MAX,
        stuck_after: Duration::MAX,
        ..Config::small()
    };
    let node = Node::builder(1, Journal::default()).in_memory().members([(1, "")]).config(config);
    let node = node.start().expect("starts");
    until(|| node.propose(1).is_ok());
    assert_eq!(node.read(|journal| journal.values.clone()).expect("read"), [1]);
    node.shutdown(Duration::MAX.min(PATIENCE)).expect("stops");
}
