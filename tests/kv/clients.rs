//! Programs that nobody here wrote, unmodified, against every node of a cluster.

use std::net::SocketAddr;
use std::process::Command;

use redis::{Commands, ConnectionLike};

use super::json::is_json;
use super::servers::{Servers, Setup, is_here, run, until};

const NODES: u64 = 3;

fn cluster() -> Servers {
    let servers = Setup::of(NODES).start();
    servers.leader();
    servers
}

fn redis_cli(address: SocketAddr, args: &[&str]) -> String {
    let port = address.port().to_string();
    let said = run(Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(args));
    said.trim_end().to_owned()
}

#[test]
fn redis_cli_works_against_any_node() {
    if !is_here("redis-cli") {
        return;
    }
    let servers = cluster();
    for id in servers.ids() {
        let cli = |args: &[&str]| redis_cli(servers.address(id), args);
        assert_eq!(cli(&["set", "where", &id.to_string()]), "OK");
        // What was written at one node is read at any other.
        for other in servers.ids() {
            assert_eq!(redis_cli(servers.address(other), &["get", "where"]), id.to_string());
        }
        assert_eq!(cli(&["incr", "times"]), id.to_string());
        assert_eq!(cli(&["mget", "times", "nothing"]), id.to_string());
        assert_eq!(cli(&["cas", "times", "x", "y"]), "0");
        assert!(cli(&["lpush", "list", "a"]).starts_with("ERR unknown command 'lpush'"));
        assert_eq!(cli(&["-r", "3", "append", "line", "x"]).lines().count(), 3);
        assert!(cli(&["info"]).contains(&format!("raft_id:{id}")));
        until("it names the leader", || cli(&["raft", "leader"]) == servers.leader().to_string());
        let status = cli(&["raft", "status"]);
        assert!(status.starts_with(&format!("{{\"id\":{id},")) && is_json(&status), "{status}");
        assert_eq!(status.matches("\"outgoing\":{\"connected\":true").count(), 2, "{status}");
    }
    assert_eq!(redis_cli(servers.address(1), &["strlen", "line"]), (3 * NODES).to_string());
}

#[test]
fn redis_benchmark_runs_against_any_node() {
    if !is_here("redis-benchmark") {
        return;
    }
    let servers = cluster();
    for id in servers.ids() {
        let port = servers.address(id).port().to_string();
        for (pipeline, requests) in [("1", "500"), ("16", "5000"), ("64", "20000")] {
            let said = run(Command::new("redis-benchmark")
                .args(["-h", "127.0.0.1", "-p", &port, "-c", "50", "-q", "--csv"])
                .args(["-P", pipeline, "-n", requests, "-r", "1000"])
                .args(["-t", "ping_inline,ping_mbulk,set,get,incr,mset"]));
            // A line for each test, and one that names the columns.
            assert_eq!(said.lines().count(), 7, "-P {pipeline} at node {id}: {said}");
        }
    }
    // Keys of SET, of INCR and of MSET.
    let keys: usize = servers.client(1).keys::<_, Vec<String>>("*").expect("keys").len();
    assert!((1000..=3000).contains(&keys), "{keys} keys");
}

#[test]
fn the_redis_crate_works_against_any_node() {
    let servers = cluster();
    for id in servers.ids() {
        let mut client = servers.client(id);
        assert!(client.check_connection());
        let () = redis::cmd("FLUSHALL").query(&mut client).expect("flushall");
        let () = client.set("a", "1").expect("set");
        assert_eq!(client.incr::<_, _, i64>("a", 41).expect("incr"), 42);
        assert_eq!(client.get::<_, Option<i64>>("nothing").expect("get"), None);
        assert!(client.set_nx::<_, _, bool>("a", 1).is_err(), "SETNX is another command");
        let () = client.mset(&[("b", "2"), ("c", "3")]).expect("mset");
        assert_eq!(client.mget::<_, Vec<i64>>(&["a", "b", "c"]).expect("mget"), [42, 2, 3]);
        assert_eq!(client.del::<_, i64>(&["a", "b", "nothing"]).expect("del"), 2);
        let binary = [0, 255, 13, 10, 0];
        let () = client.set("bytes", &binary[..]).expect("set");
        assert_eq!(client.get::<_, Vec<u8>>("bytes").expect("get"), binary);
    }
}

#[test]
fn a_pipeline_is_answered_in_order_and_sees_its_own_writes() {
    let servers = cluster();
    for id in servers.ids() {
        let mut client = servers.client(id);
        let key = format!("n{id}");
        let mut pipeline = redis::pipe();
        for _ in 0..500 {
            pipeline.incr(&key, 1).incr(&key, 1).get(&key).get(&key).ping();
        }
        let replies: Vec<redis::Value> = pipeline.query(&mut client).expect("a pipeline");
        let numbers: Vec<i64> =
            replies.iter().filter_map(|v| redis::from_redis_value_ref(v).ok()).collect();
        let expected: Vec<i64> =
            (1..=500).flat_map(|turn| [2 * turn - 1, 2 * turn, 2 * turn, 2 * turn]).collect();
        assert_eq!(numbers, expected);
    }
}
