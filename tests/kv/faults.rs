//! Nodes are killed and links go wrong while clients count: what was acknowledged is there, once.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::Commands;

use super::load::Load;
use super::servers::{Servers, Setup, code, until};
use crate::proxy::{Proxy, Rules, free_address};

/// Acknowledged writes between two events.
const SOME: u64 = 300;

fn kill_one_after_the_other_and_then_all(mut servers: Servers) {
    servers.leader();
    let load = Load::start(&servers);
    load.go_on(SOME);
    for _ in 0..2 {
        let leader = servers.leader();
        let follower = servers.ids().into_iter().find(|id| *id != leader).expect("there are three");
        for victim in [follower, leader] {
            servers.kill(victim);
            load.go_on(SOME);
            servers.start(victim);
            load.go_on(SOME);
        }
        for id in servers.ids() {
            servers.kill(id);
        }
        for id in servers.ids() {
            servers.start(id);
        }
        load.go_on(SOME);
    }
    load.check(&servers);
}

#[test]
fn acknowledged_writes_outlive_kills_and_are_done_once() {
    kill_one_after_the_other_and_then_all(Setup::of(3).start());
}

/// A certificate for each node of the cluster, from an authority of their own.
fn with_certificates(mut setup: Setup, dir: &Path) -> Setup {
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
    let authority_file = dir.join("authority.pem");
    fs::write(&authority_file, authority.pem()).expect("written");
    for id in setup.members.keys() {
        let name = CertificateParams::new([format!("node-{id}.kv")]).expect("a name");
        let key = key();
        let certificate = name.signed_by(&key, &authority).expect("a certificate");
        let files =
            [(format!("{id}.pem"), certificate.pem()), (format!("{id}.key"), key.serialize_pem())];
        let [certificate, key] = files.map(|(name, pem)| {
            let file = dir.join(name);
            fs::write(&file, pem).expect("written");
            file.display().to_string()
        });
        let authority = authority_file.display().to_string();
        let args = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &authority];
        setup.args.entry(*id).or_default().extend(args.map(str::to_owned));
    }
    setup
}

#[test]
fn acknowledged_writes_outlive_kills_over_tls() {
    let certificates = tempfile::tempdir().expect("a directory");
    let setup = with_certificates(Setup::of(3), certificates.path());
    kill_one_after_the_other_and_then_all(setup.start());
}

/// Three nodes, each behind a proxy.
fn behind_proxies() -> (Servers, Vec<Proxy>) {
    let mut setup = Setup::of(3);
    let proxies: Vec<Proxy> = setup
        .members
        .iter_mut()
        .map(|(id, member)| {
            let real = free_address();
            let proxy = Proxy::before(real);
            *member = proxy.address().to_string();
            setup.args.insert(*id, vec!["--listen".into(), real.to_string()]);
            proxy
        })
        .collect();
    (setup.start(), proxies)
}

fn of(proxies: &[Proxy], id: u64) -> &Proxy {
    &proxies[id as usize - 1]
}

/// Cuts a node off from the others, in both directions, or undoes it.
fn isolate(proxies: &[Proxy], id: u64, cut: bool) {
    let rules = Rules { cut, ..Rules::default() };
    of(proxies, id).set(rules.clone());
    for proxy in proxies {
        proxy.set_from(id, rules.clone());
    }
}

#[test]
fn links_that_go_wrong_lose_nothing_and_do_nothing_twice() {
    let (servers, proxies) = behind_proxies();
    servers.leader();
    let load = Load::start(&servers);
    load.go_on(SOME);
    let everywhere = |rules: &Rules| proxies.iter().for_each(|proxy| proxy.set(rules.clone()));

    for _ in 0..2 {
        let leader = servers.leader();
        isolate(&proxies, leader, true);
        // The others elect one of themselves, and the clients that are there go on.
        let another = |id: &u64| *id != leader;
        until("another leads", || {
            servers.ids().into_iter().filter(another).any(|id| servers.leader_of(id) == Some(id))
        });
        load.go_on(SOME);
        isolate(&proxies, leader, false);
        load.go_on(SOME);
    }
    everywhere(&Rules { delay: Duration::from_millis(5), ..Rules::default() });
    load.go_on(SOME);
    everywhere(&Rules { damage_every: Some(100_000), ..Rules::default() });
    load.go_on(10 * SOME);
    until("bytes were damaged", || proxies.iter().any(|proxy| proxy.damaged() > 0));
    everywhere(&Rules::default());
    for rules in [
        Rules { stalled: true, ..Rules::default() },
        Rules { loses_requests: true, ..Rules::default() },
        Rules { loses_replies: true, ..Rules::default() },
    ] {
        let follower = servers.ids().into_iter().find(|id| *id != servers.leader());
        let proxy = of(&proxies, follower.expect("there are three"));
        proxy.set(rules);
        load.go_on(SOME);
        proxy.heal();
        load.go_on(SOME);
    }
    for proxy in &proxies {
        proxy.drop_connections();
    }
    load.go_on(SOME);
    load.check(&servers);
}

#[test]
fn a_node_that_stops_answers_who_waits_and_ends_its_process_with_the_cause() {
    let mut servers = Setup::of(1).start();
    let mut client = servers.client(1);
    let () = client.set("a", "v").expect("set");
    // So that its next segment cannot be made.
    fs::remove_dir_all(servers.data(1).join("log")).expect("it was there");
    let error = loop {
        if let Err(error) = client.set::<_, _, ()>("a", vec![b'v'; 500_000]) {
            break error;
        }
    };
    assert!(matches!(code(&error), Some("CLUSTERDOWN" | "TIMEOUT")), "{error}");
    let (code, log) = servers.wait_end(1);
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.starts_with("kv: node 1 stopped: storage failed: "), "{log}");
}

#[test]
fn without_a_majority_a_client_is_told_which_of_two_things_is_true() {
    let mut servers = Setup::of(3).start();
    for round in 1..=5 {
        let survivor = servers.leader();
        let mut client = servers.client(survivor);
        let () = client.set("before", round).expect("set");
        let others: Vec<u64> = servers.ids().into_iter().filter(|id| *id != survivor).collect();
        for id in &others {
            servers.kill(*id);
        }
        // It takes the first of them, if it has not yet noticed that it is alone.
        let keys = [0, 1, 2].map(|key| format!("{round}:{key}"));
        let unknown = keys.each_ref().map(|key| {
            let error = client.set::<_, _, ()>(key, "x").expect_err("nobody confirms it");
            match code(&error) {
                Some("TIMEOUT") => true,
                Some("CLUSTERDOWN") => false,
                _ => panic!("no reply that a write can have: {error}"),
            }
        });
        let error = client.get::<_, i64>("before").expect_err("nobody confirms it");
        assert_eq!(code(&error), Some("CLUSTERDOWN"), "{error}");
        assert_eq!(servers.leader_of(survivor), None, "it does not lead alone");

        // With one other it leads again, for its log is the longer one; and what is in it is applied.
        servers.start(others[0]);
        until("it leads again", || servers.leader_of(survivor) == Some(survivor));
        assert_eq!(client.get::<_, i64>("before").expect("a majority"), round);
        for (key, unknown) in keys.iter().zip(unknown) {
            let there: bool = client.exists(key).expect("a majority");
            assert_eq!(there, unknown, "{key}: the outcome was to be unknown: {unknown}");
        }
        servers.start(others[1]);
        if unknown.contains(&true) {
            return;
        }
    }
    panic!("it never took a write");
}
