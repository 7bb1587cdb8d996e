//! With TLS, who a node is stands in its certificate.

use std::process::Command;

use oarlock::transport::LinkError;
use oarlock::transport::tcp::Tls;
use oarlock::{Config, Node, StartError};

use crate::certificates::Authority;
use crate::journal::{Journal, until};
use crate::proxy::free_address;
use crate::raw::{Raw, greeting};
use crate::rig::{Kind, Trio, door_error, incoming_error, link, outgoing_error};

/// Nodes 1 and 2 of a cluster "pair", with what the two authorities and names make of them.
fn pair(first: Tls, second: Tls) -> [Node<Journal>; 2] {
    let addresses = [free_address().to_string(), free_address().to_string()];
    let members = [(1, &addresses[0]), (2, &addresses[1])];
    let mut tls = [Some(first), Some(second)];
    [1_u64, 2].map(|id| {
        let at = id as usize - 1;
        Node::builder(id, Journal::default())
            .cluster_name("pair")
            .in_memory()
            .listen_tls(&addresses[at], tls[at].take().expect("one each"))
            .members(members.map(|(id, address)| (id, address.to_owned())))
            .config(Config::small())
            .start()
            .expect("starts")
    })
}

fn is_tls(error: &LinkError) -> bool {
    matches!(error, LinkError::Tls(_))
}

#[test]
fn nodes_with_certificates_of_one_authority_meet() {
    let authority = Authority::new();
    let tls = |name| authority.tls(name).expect("good");
    let nodes = pair(tls("node-1.pair"), tls("node-2.pair"));
    until(|| nodes.iter().any(|node| node.propose(7).is_ok()));
}

#[test]
fn certificates_of_another_authority_are_refused_by_both() {
    let nodes = pair(
        Authority::new().tls("node-1.pair").expect("good"),
        Authority::new().tls("node-2.pair").expect("good"),
    );
    for (node, peer) in nodes.iter().zip([2, 1]) {
        let error = outgoing_error(node, peer, is_tls).to_string();
        assert!(error.contains("UnknownIssuer"), "{error}");
        door_error(node, is_tls);
        assert!(!link(node, peer).outgoing.connected && !link(node, peer).incoming.connected);
    }
}

#[test]
fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let expired = authority.expired("node-2.pair").expect("it can be read");
    let nodes = pair(authority.tls("node-1.pair").expect("good"), expired);
    let error = outgoing_error(&nodes[0], 2, is_tls).to_string();
    assert!(error.contains("expired"), "{error}");
    let error = outgoing_error(&nodes[1], 1, is_tls).to_string();
    assert!(error.contains("alert"), "{error}");
    door_error(&nodes[0], is_tls);
}

#[test]
fn a_node_does_not_start_with_the_certificate_of_another() {
    let authority = Authority::new();
    let start = |tls: Tls, cluster: &str| {
        let builder = Node::builder(1, Journal::default()).cluster_name(cluster).in_memory();
        let builder = builder.listen_tls("127.0.0.1:0", tls).members([(1, "127.0.0.1:9")]);
        match builder.start() {
            Err(error @ StartError::Transport(_)) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let error = start(authority.tls("node-2.pair").expect("good"), "pair");
    assert!(error.contains("\"node-1.pair\""), "{error}");
    let error = start(authority.tls("node-1.pair").expect("good"), "two words");
    assert!(error.contains("two words"), "{error}");
}

#[test]
fn a_peer_in_the_clear_is_turned_away() {
    let trio = Trio::<Journal>::start(Kind::Tls);
    let mut raw = Raw::connect(trio.listens_at(1));
    raw.send(&greeting(trio.members(), 3, 1).encode());
    raw.is_closed();
    door_error(trio.node(1), is_tls);
    trio.write(&mut 0, 1);
}

#[test]
fn a_certificate_of_one_member_does_not_make_another() {
    // Node 2 claims to be node 3, with its own certificate: as a client of TLS it is any member's.
    use oarlock::transport::tcp::greeting::Refusal;
    let authority = Authority::new();
    let (a, b, c) = (free_address(), free_address(), free_address());
    let members = [(1, a.to_string()), (2, b.to_string()), (3, c.to_string())];
    let first = Node::builder(1, Journal::default())
        .cluster_name("trio")
        .in_memory()
        .listen_tls(a.to_string(), authority.tls("node-1.trio").expect("good"))
        .members(members.clone())
        .config(Config::small())
        .start()
        .expect("starts");
    let answer = authority.greet_as("node-2.trio", a, "node-1.trio", &greeting(&members, 3, 1));
    let refused =
        Refusal::Certificate { node: oarlock::NodeId(3), expected: "node-3.trio".to_owned() };
    assert_eq!(greeting(&members, 3, 1).outcome(&answer, None), Err(refused.clone()));
    let error = incoming_error(&first, 3, |error| matches!(error, LinkError::Refused(_)));
    assert_eq!(error, LinkError::Refused(refused));
    let welcome = authority.greet_as("node-3.trio", a, "node-1.trio", &greeting(&members, 3, 1));
    assert_eq!(greeting(&members, 3, 1).outcome(&welcome, None), Ok(0));
}

#[test]
fn files_that_hold_no_certificates_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("empty"), "").expect("written");
    for (chain, key) in [("missing", "empty"), ("empty", "empty")] {
        let error = Tls::from_pem_files(path(chain), path(key), path("empty"));
        let error = error.expect_err("nothing is there").to_string();
        assert!(error.contains(chain), "{error}");
    }
}

#[test]
fn the_documented_commands_make_certificates_that_work() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: there is no openssl");
        return;
    }
    let source = include_str!("../../src/transport/tcp/tls.rs");
    let block = source.split("```").nth(1).expect("a block").trim_start_matches("text");
    let script: String =
        block.lines().map(|line| line.trim_start_matches("///").to_owned() + "\n").collect();
    let dir = tempfile::tempdir().expect("a directory");
    let made = Command::new("sh").args(["-ec", &script]).current_dir(dir.path()).output();
    let made = made.expect("a shell");
    assert!(made.status.success(), "{script}\n{}", String::from_utf8_lossy(&made.stderr));
    let path = |name: &str| dir.path().join(name);
    let tls = Tls::from_pem_files(path("node-3.pem"), path("node-3.key"), path("authority.pem"));
    // A node with a certificate of another name would not start.
    Node::builder(3, Journal::default())
        .cluster_name("orders")
        .in_memory()
        .listen_tls("127.0.0.1:0", tls.expect("good"))
        .members([(3, "127.0.0.1:7000")])
        .start()
        .expect("starts");
}
