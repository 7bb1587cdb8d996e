//! Three hosts with addresses of their own: network namespaces on one machine, joined by a bridge. Needs
//! `ip` and the right to use it; skipped aloud elsewhere.

use std::process::{self, Command};

use super::servers::{Setup, is_here, run, until};

const PORT: u16 = 7100;
const REDIS_PORT: u16 = 6379;

/// Namespaces that end with the test: one for the bridge, and one for each host.
struct Hosts(Vec<String>);

fn ip(args: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(args.split(' '));
    command
}

fn address(id: u64) -> String {
    format!("10.177.0.{id}")
}

impl Hosts {
    /// `None`, said aloud, if this may not be done here.
    fn of(hosts: u64) -> Option<Self> {
        let name = |id| format!("kv-{}-{id}", process::id());
        let hub = name(0);
        let may = ip(&format!("netns add {hub}")).output();
        if !may.is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: network namespaces cannot be made here");
            return None;
        }
        let mut namespaces = Self(vec![hub.clone()]);
        run(&mut ip(&format!("-n {hub} link add bridge type bridge")));
        run(&mut ip(&format!("-n {hub} link set bridge up")));
        for id in 1..=hosts {
            let host = name(id);
            run(&mut ip(&format!("netns add {host}")));
            namespaces.0.push(host.clone());
            run(&mut ip(&format!(
                "link add port{id} netns {hub} type veth peer name eth0 netns {host}"
            )));
            run(&mut ip(&format!("-n {hub} link set port{id} master bridge up")));
            run(&mut ip(&format!("-n {host} address add {}/24 dev eth0", address(id))));
            run(&mut ip(&format!("-n {host} link set eth0 up")));
            run(&mut ip(&format!("-n {host} link set lo up")));
        }
        Some(namespaces)
    }

    fn namespace(&self, id: u64) -> &str {
        &self.0[id as usize]
    }

    /// Pulls the plug of a host, or puts it back.
    fn plug(&self, id: u64, state: &str) {
        run(&mut ip(&format!("-n {} link set port{id} {state}", self.0[0])));
    }

    /// What a host's own client says.
    fn redis_cli(&self, id: u64, args: &[&str]) -> String {
        let mut command =
            ip(&format!("netns exec {} redis-cli -h {}", self.namespace(id), address(id)));
        run(command.args(args)).trim_end().to_owned()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for namespace in &self.0 {
            let _ = ip(&format!("netns delete {namespace}")).output();
        }
    }
}

#[test]
fn three_hosts_go_on_while_one_is_unplugged() {
    if !is_here("ip") || !is_here("redis-cli") {
        return;
    }
    let Some(hosts) = Hosts::of(3) else { return };
    let mut setup = Setup::of(3);
    for (id, member) in &mut setup.members {
        *member = format!("{}:{PORT}", address(*id));
        let redis = format!("{}:{REDIS_PORT}", address(*id));
        setup.args.insert(*id, vec!["--redis".into(), redis]);
        let starter = ["ip", "netns", "exec", hosts.namespace(*id)];
        setup.starters.insert(*id, starter.map(str::to_owned).to_vec());
    }
    let servers = setup.start();
    let cli = |id, args: &[&str]| hosts.redis_cli(id, args);
    let mut leader = String::new();
    until("a leader", || {
        leader = cli(1, &["raft", "leader"]);
        !leader.is_empty()
    });
    let leader: u64 = leader.parse().expect("an id");
    assert_eq!(cli(leader, &["set", "a", "1"]), "OK");
    for id in servers.ids() {
        until("the node reads", || cli(id, &["get", "a"]) == "1");
    }

    hosts.plug(leader, "down");
    let other = leader % 3 + 1;
    until("the others go on", || cli(other, &["set", "a", "2"]) == "OK");
    let alone = cli(leader, &["set", "a", "3"]);
    assert!(alone.starts_with("CLUSTERDOWN") || alone.starts_with("TIMEOUT"), "{alone}");
    assert!(cli(leader, &["get", "a"]).starts_with("CLUSTERDOWN"), "nobody confirms its reads");
    hosts.plug(leader, "up");
    until("it takes part again", || {
        let read = cli(leader, &["get", "a"]);
        assert_ne!(read, "1", "a read that is older than an acknowledged write");
        read == "2" || (read == "3" && alone.starts_with("TIMEOUT"))
    });
}
