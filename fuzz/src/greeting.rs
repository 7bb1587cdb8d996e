//! The first bytes of a connection, by which two nodes find out whether they belong together.

use oarlock::transport::tcp::greeting::{
    Greeting, MAX_CLUSTER_NAME_BYTES, MAX_GREETING_BYTES, VERSIONS,
};
use oarlock::{BootCount, Incarnation, NodeId, Sender};

/// Reads `data` as a greeting, as it is and with a checksum that is right, and answers it.
///
/// # Panics
/// If a greeting is not read again as it was, or if whoever is refused is also welcome.
pub fn run(data: &[u8]) {
    let needs = Greeting::needs(data);
    assert!(needs.is_err() || needs.is_ok_and(|needs| needs <= MAX_GREETING_BYTES));
    look_at(data);
    if let (Some(before), Some(after)) = (data.get(..16), data.get(20..)) {
        let crc = crc32c::crc32c_append(crc32c::crc32c(before), after);
        look_at(&[before, &crc.to_le_bytes(), after].concat());
    }
}

fn look_at(bytes: &[u8]) {
    let Ok(theirs) = Greeting::decode(bytes) else { return };
    assert_eq!(Greeting::needs(bytes), Ok(bytes.len()));
    // A later version may have longer names, and says things that this one does not repeat.
    if theirs.cluster_name.len() <= MAX_CLUSTER_NAME_BYTES {
        assert_eq!(Greeting::decode(&theirs.encode()).as_ref(), Ok(&theirs));
    }
    let from = Sender { node: NodeId(4), incarnation: Incarnation(1), boot: BootCount(1) };
    let ours = Greeting {
        versions: VERSIONS,
        from,
        to: theirs.from.node,
        members: theirs.members,
        cluster_name: "orders".to_owned(),
        verdict: None,
    };
    let (answer, verdict) = ours.answer(&theirs, |_| true, None, |_| true);
    let came = Greeting::decode(&answer.encode()).expect("just encoded");
    assert_eq!(came, answer);
    let theirs = Greeting { verdict: None, ..theirs };
    if theirs.outcome(&came, None).is_ok() {
        assert!(verdict.is_ok(), "refused with {verdict:?}, and welcome");
    }
}
