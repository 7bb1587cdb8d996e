//! The simulated network: links that carry, cut, or clog, and messages under way.
//!
//! Pure data and no dice: whether a message is lost and how long it takes is decided by whoever sends it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::clock::Time;
use crate::message::Envelope;

/// Messages under way between `nodes` nodes, and the state of every link. Nodes are counted from 0.
pub(super) struct Network {
    nodes: usize,
    /// Links that lose everything, by sender and receiver.
    cut: Vec<bool>,
    /// Until when a link keeps what arrives at its end.
    clogged: Vec<Time>,
    /// When what arrives: moment, order of sending, place in `envelopes`.
    arrivals: BinaryHeap<Reverse<(Time, u64, usize)>>,
    envelopes: Vec<Option<Envelope>>,
    free: Vec<usize>,
    sent: u64,
}

/// What arrives.
pub(super) enum Arrival {
    Message(Envelope),
    /// Its link was cut meanwhile.
    Lost,
}

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            cut: vec![false; nodes * nodes],
            clogged: vec![Time(0); nodes * nodes],
            arrivals: BinaryHeap::new(),
            envelopes: Vec::new(),
            free: Vec::new(),
            sent: 0,
        }
    }

    pub(super) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from * self.nodes + to]
    }

    /// Cuts every link of which `is_cut` says so, and mends the others; whether that changes anything.
    pub(super) fn shape(&mut self, is_cut: impl Fn(usize, usize) -> bool) -> bool {
        let mut changes = false;
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                let was = &mut self.cut[from * self.nodes + to];
                let is = from != to && is_cut(from, to);
                changes |= *was != is;
                *was = is;
            }
        }
        changes
    }

    /// Cuts the links of which `is_cut` says so as well; whether that changes anything.
    pub(super) fn cut(&mut self, is_cut: impl Fn(usize, usize) -> bool) -> bool {
        let before = self.cut.clone();
        let nodes = self.nodes;
        self.shape(|from, to| before[from * nodes + to] || is_cut(from, to))
    }

    /// Which links are cut.
    pub(super) fn links(&self) -> Vec<bool> {
        self.cut.clone()
    }

    /// Cuts exactly those links that were cut when [`links`](Self::links) was asked.
    pub(super) fn set_links(&mut self, cut: Vec<bool>) {
        self.cut = cut;
    }

    /// The link keeps everything until this moment.
    pub(super) fn clog(&mut self, from: usize, to: usize, until: Time) {
        self.clogged[from * self.nodes + to] = until;
    }

    /// Mends and frees the links of which `heals` says so.
    pub(super) fn heal(&mut self, heals: impl Fn(usize, usize) -> bool) {
        for from in 0..self.nodes {
            for to in 0..self.nodes {
                if heals(from, to) {
                    self.cut[from * self.nodes + to] = false;
                    self.clogged[from * self.nodes + to] = Time(0);
                }
            }
        }
    }

    /// Puts a message on its way.
    pub(super) fn send(&mut self, envelope: Envelope, arrives: Time) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.envelopes.push(None);
            self.envelopes.len() - 1
        });
        self.envelopes[place] = Some(envelope);
        self.sent += 1;
        self.arrivals.push(Reverse((arrives, self.sent, place)));
    }

    /// When the next message arrives.
    pub(super) fn next_arrival(&self) -> Option<Time> {
        self.arrivals.peek().map(|Reverse((arrives, ..))| *arrives)
    }

    /// The next message, if one has arrived. What a clogged link keeps has not.
    pub(super) fn receive(&mut self, now: Time) -> Option<Arrival> {
        while let Some(&Reverse((arrives, order, place))) = self.arrivals.peek()
            && arrives <= now
        {
            self.arrivals.pop();
            let envelope = self.envelopes[place].as_ref().expect("arrivals name taken places");
            let link = index(envelope.from.node.0) * self.nodes + index(envelope.to.0);
            if self.clogged[link] > now {
                self.arrivals.push(Reverse((self.clogged[link], order, place)));
                continue;
            }
            let envelope = self.envelopes[place].take().expect("just seen");
            self.free.push(place);
            return Some(if self.cut[link] { Arrival::Lost } else { Arrival::Message(envelope) });
        }
        None
    }
}

/// A node's place, counted from 0.
pub(super) fn index(node: u64) -> usize {
    node as usize - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Heartbeat, Message, ReadRound};
    use crate::slices::Slices;
    use crate::types::{LogIndex, NodeId, Sender, Term};

    fn envelope(from: u64, to: u64, term: u64) -> Envelope {
        let heartbeat = Heartbeat {
            term: Term(term),
            committed: LogIndex(0),
            round: ReadRound(0),
            replicated: LogIndex(0),
        };
        Envelope {
            from: Sender { node: NodeId(from), ..Sender::default() },
            to: NodeId(to),
            message: Message::Heartbeat(heartbeat),
            records: Slices::new(),
        }
    }

    fn terms(network: &mut Network, now: u64) -> Vec<u64> {
        let mut terms = Vec::new();
        while let Some(arrival) = network.receive(Time(now)) {
            if let Arrival::Message(envelope) = arrival {
                terms.push(envelope.message.term().0);
            }
        }
        terms
    }

    #[test]
    fn messages_arrive_at_their_moment_and_in_the_order_of_sending() {
        let mut network = Network::new(2);
        for (term, at) in [(1, 30), (2, 10), (3, 10)] {
            network.send(envelope(1, 2, term), Time(at));
        }
        assert_eq!(network.next_arrival(), Some(Time(10)));
        assert_eq!(terms(&mut network, 9), []);
        assert_eq!(terms(&mut network, 10), [2, 3]);
        assert_eq!(terms(&mut network, 99), [1]);
    }

    #[test]
    fn a_clogged_link_carries_nothing_for_a_while_and_then_everything() {
        let mut network = Network::new(2);
        network.clog(0, 1, Time(50));
        network.send(envelope(1, 2, 1), Time(10));
        network.send(envelope(2, 1, 2), Time(10));
        network.send(envelope(1, 2, 3), Time(20));
        assert_eq!(terms(&mut network, 49), [2], "the other direction is free");
        assert_eq!(network.next_arrival(), Some(Time(50)));
        assert_eq!(terms(&mut network, 50), [1, 3]);
    }

    #[test]
    fn what_is_under_way_on_a_link_that_is_cut_is_lost() {
        let mut network = Network::new(2);
        network.send(envelope(1, 2, 1), Time(10));
        network.shape(|from, _| from == 0);
        assert!(matches!(network.receive(Time(10)), Some(Arrival::Lost)));
        network.heal(|_, _| true);
        network.send(envelope(1, 2, 2), Time(10));
        assert_eq!(terms(&mut network, 10), [2]);
    }
}
