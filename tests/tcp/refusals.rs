//! Nodes that do not belong together say so, each to its own `status`.

use std::io::ErrorKind::ConnectionReset;
use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use oarlock::transport::LinkError;
use oarlock::transport::tcp::frame;
use oarlock::transport::tcp::greeting::{Greeting, Refusal};
use oarlock::{BootCount, Config, Incarnation, Node, NodeId};

use crate::journal::{Journal, until};
use crate::proxy::free_address;
use crate::raw::{Raw, greeting};
use crate::rig::{Kind, Trio, door_error, incoming_error, link, outgoing_error};

/// A node that takes part in nothing: it has nobody to elect it.
fn alone(
    id: u64,
    cluster: &str,
    listen: SocketAddr,
    members: &[(u64, SocketAddr)],
) -> Node<Journal> {
    let members = members.iter().map(|(id, address)| (*id, address.to_string()));
    Node::builder(id, Journal::default())
        .cluster_name(cluster)
        .in_memory()
        .listen(listen.to_string())
        .members(members)
        .config(Config::small())
        .start()
        .expect("starts")
}

fn is_refusal(error: &LinkError) -> bool {
    matches!(error, LinkError::Refused(_))
}

#[test]
fn nodes_of_clusters_with_other_names_refuse_each_other() {
    let (a, b) = (free_address(), free_address());
    let members = [(1, a), (2, b)];
    let nodes = (alone(1, "orders", a, &members), alone(2, "customers", b, &members));
    let refused = |ours: &str, theirs: &str| {
        LinkError::Refused(Refusal::ClusterName { ours: ours.into(), theirs: theirs.into() })
    };
    for (node, peer, ours, theirs) in
        [(&nodes.0, 2, "orders", "customers"), (&nodes.1, 1, "customers", "orders")]
    {
        assert_eq!(outgoing_error(node, peer, is_refusal), refused(ours, theirs));
        assert_eq!(incoming_error(node, peer, is_refusal), refused(ours, theirs));
        let text = refused(ours, theirs).to_string();
        assert!(text.contains(ours) && text.contains(theirs), "{text}");
        assert!(!link(node, peer).outgoing.connected && !link(node, peer).incoming.connected);
    }
}

#[test]
fn nodes_with_other_lists_of_members_refuse_each_other() {
    let (a, b, c) = (free_address(), free_address(), free_address());
    let nodes = (alone(1, "", a, &[(1, a), (2, b)]), alone(2, "", b, &[(1, a), (2, b), (3, c)]));
    let both = |node: &Node<Journal>, peer| {
        let out = outgoing_error(node, peer, is_refusal);
        assert_eq!(incoming_error(node, peer, is_refusal), out);
        match out {
            LinkError::Refused(Refusal::Members { ours, theirs }) => (ours, theirs),
            other => panic!("{other:?}"),
        }
    };
    let (ours, theirs) = both(&nodes.0, 2);
    assert_ne!(ours, theirs);
    assert_eq!(both(&nodes.1, 1), (theirs, ours));
}

#[test]
fn an_address_that_leads_to_another_node_is_noticed_by_both() {
    let (a, b, c) = (free_address(), free_address(), free_address());
    let members = [(1, a), (2, b), (3, c)];
    let nodes = (alone(1, "", a, &members), alone(3, "", b, &members));
    let wrong = Refusal::WrongNode { wanted: NodeId(2), found: NodeId(3) };
    assert_eq!(outgoing_error(&nodes.0, 2, is_refusal), LinkError::Refused(wrong.clone()));
    assert_eq!(incoming_error(&nodes.1, 1, is_refusal), LinkError::Refused(wrong));
}

#[test]
fn two_nodes_with_one_id_notice_it() {
    let (a, b) = (free_address(), free_address());
    let members = [(1, a), (2, b)];
    let nodes = (alone(1, "", a, &members), alone(1, "", b, &members));
    let own = LinkError::Refused(Refusal::OwnId(NodeId(1)));
    assert_eq!(outgoing_error(&nodes.0, 2, is_refusal), own);
    assert_eq!(door_error(&nodes.1, is_refusal), own);
}

#[test]
fn a_stranger_is_refused() {
    let trio = Trio::<Journal>::start(Kind::Plain);
    let ours = Greeting { from: greeting(&[], 9, 1).from, ..greeting(trio.members(), 2, 1) };
    let answer = Raw::connect(trio.listens_at(1)).greet(&ours);
    let unknown = Refusal::Unknown(NodeId(9));
    assert_eq!(ours.outcome(&answer, None), Err(unknown.clone()));
    assert_eq!(door_error(trio.node(1), is_refusal), LinkError::Refused(unknown));
}

#[test]
fn a_version_of_the_future_is_told_what_is_spoken_here() {
    let trio = Trio::<Journal>::start(Kind::Plain);
    trio.stop(3);
    let ours = Greeting { versions: (7, 8), ..greeting(trio.members(), 3, 1) };
    let answer = Raw::connect(trio.listens_at(1)).greet(&ours);
    let differs = |ours, theirs| Refusal::Version { ours, theirs };
    assert_eq!(ours.outcome(&answer, None), Err(differs((7, 8), (0, 0))));
    let here = LinkError::Refused(differs((0, 0), (7, 8)));
    assert_eq!(incoming_error(trio.node(1), 3, is_refusal), here);
}

#[test]
fn an_older_copy_of_a_directory_is_refused_by_whoever_has_seen_a_newer_one() {
    let trio = Trio::<Journal>::start(Kind::Plain);
    trio.stop(3);
    let booted = |boot| {
        let mut greeting = greeting(trio.members(), 3, 1);
        greeting.from.incarnation = Incarnation(77);
        greeting.from.boot = BootCount(boot);
        greeting
    };
    let greet = |boot| {
        let (ours, mut raw) = (booted(boot), Raw::connect(trio.listens_at(1)));
        let answer = raw.greet(&ours);
        (ours.outcome(&answer, None), raw)
    };
    let (outcome, _raw) = greet(5);
    assert_eq!(outcome, Ok(0));
    until(|| link(trio.node(1), 3).incoming.connected);
    let old = Refusal::OldBoot { seen: BootCount(5), claimed: BootCount(4) };
    assert_eq!(greet(4).0, Err(old.clone()));
    assert_eq!(incoming_error(trio.node(1), 3, is_refusal), LinkError::Refused(old));
    assert!(link(trio.node(1), 3).incoming.connected, "the newer one goes on");
}

#[test]
fn a_newer_connection_of_the_same_node_takes_the_place_of_the_older() {
    let trio = Trio::<Journal>::start(Kind::Plain);
    trio.stop(3);
    let ours = greeting(trio.members(), 3, 1);
    let mut older = Raw::connect(trio.listens_at(1));
    assert_eq!(ours.outcome(&older.greet(&ours), None), Ok(0));
    let mut newer = Raw::connect(trio.listens_at(1));
    assert_eq!(ours.outcome(&newer.greet(&ours), None), Ok(0));
    // It is well, but for the newer one.
    let mut ping = Vec::new();
    frame::encode_ping(1, &mut ping);
    older.stream.set_read_timeout(Some(Duration::from_millis(10))).expect("a socket");
    until(|| {
        older.send(&ping);
        matches!(older.stream.read(&mut [0; 64]), Ok(0))
            || older.stream.peek(&mut [0; 1]).is_err_and(|error| error.kind() == ConnectionReset)
    });
    incoming_error(trio.node(1), 3, |error| *error == LinkError::Replaced);
    until(|| link(trio.node(1), 3).incoming.connected);
}
