//! A peer that is no node: speaks the protocol byte by byte, and breaks it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use oarlock::transport::tcp::greeting::{Greeting, VERSIONS};
use oarlock::{BootCount, Incarnation, Member, Membership, NodeId, Sender};

use crate::journal::PATIENCE;

/// A connection to a node.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Self { stream }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // The node may have closed already, with good reason.
        let _ = self.stream.write_all(bytes);
    }

    /// Says this, and reads the answer.
    pub(crate) fn greet(&mut self, greeting: &Greeting) -> Greeting {
        self.send(&greeting.encode());
        let mut bytes = Vec::new();
        loop {
            let needs = Greeting::needs(&bytes).expect("a greeting");
            if needs == bytes.len() {
                return Greeting::decode(&bytes).expect("a greeting");
            }
            let have = bytes.len();
            bytes.resize(needs, 0);
            self.stream.read_exact(&mut bytes[have..]).expect("an answer");
        }
    }

    /// Waits until the node closes the connection.
    pub(crate) fn is_closed(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                    return;
                }
            }
        }
    }
}

/// What node `from` of the cluster "trio" says to node `to`; boot 1 of a directory of its own.
pub(crate) fn greeting(members: &[(u64, String)], from: u64, to: u64) -> Greeting {
    let members = members.iter().map(|(id, address)| (NodeId(*id), Member::at(address)));
    Greeting {
        versions: VERSIONS,
        from: Sender {
            node: NodeId(from),
            incarnation: Incarnation(u128::from(from)),
            boot: BootCount(1),
        },
        to: NodeId(to),
        members: Membership::of_voters(members).fingerprint().expect("small"),
        cluster_name: "trio".to_owned(),
        verdict: None,
    }
}
