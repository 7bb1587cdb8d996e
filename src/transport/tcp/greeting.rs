//! How two nodes find out whether they belong together, before anything else is said.
//!
//! The node that connects sends its greeting, and the other answers with its own, which holds the verdict:
//!
//! ```text
//!  offset  bytes
//!       0      8  magic        "oarlock" and a zero
//!       8      2  lowest       version of the protocol that the sender speaks
//!      10      2  highest      such version
//!      12      4  length       of everything from offset 20
//!      16      4  crc          CRC32C of everything else
//!      20      8  node         the sender ...
//!      28     16  incarnation
//!      44      8  boot
//!      52      8  to           the node it wants to talk to
//!      60      8  members      fingerprint of the cluster's initial members, addresses included
//!      68      2  verdict      0 in the first greeting; in the answer 1 welcome, or the refusal's code
//!      70      2  version      of all that follows, if welcome; otherwise zero
//!      72      8  detail       of some refusals; otherwise zero
//!      80      2  n            bytes of the cluster's name
//!      82      n  name         of the cluster, UTF-8
//! ```
//!
//! All numbers are little-endian. Every version of the protocol begins like this; later ones may only add
//! bytes at the end, which earlier ones pass over. So two nodes of different versions can always tell each
//! other that they are.
//!
//! Pure: bytes in, greetings and verdicts out. No I/O, and no allocation before lengths and checksum are
//! checked.

use std::fmt;

use super::frame::VERSION;
use crate::types::{BootCount, Incarnation, NodeId, Sender};

/// The longest greeting that is accepted.
pub const MAX_GREETING_BYTES: usize = 2048;
/// The longest name of a cluster that fits into a greeting.
pub const MAX_CLUSTER_NAME_BYTES: usize = 1024;

const MAGIC: &[u8; 8] = b"oarlock\0";
const HEAD_BYTES: usize = 20;
const NAME_AT: usize = 82;

const WELCOME: u16 = 1;

/// What one node says of itself, and of the node it talks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The lowest and the highest version it speaks.
    pub versions: (u16, u16),
    /// Who it is.
    pub from: Sender,
    /// Whom it talks to.
    pub to: NodeId,
    /// The fingerprint of the cluster's initial members.
    pub members: u64,
    /// The cluster's name.
    pub cluster_name: String,
    /// What it makes of the other's greeting; `None` if it has not seen one.
    pub verdict: Option<Result<u16, RefusalCode>>,
}

/// A refusal as it travels: a number for its kind, and one more for some kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalCode {
    /// The kind.
    pub code: u16,
    /// Zero for most kinds.
    pub detail: u64,
}

/// Why one node will not talk to another. "Ours" is what the node says that reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// No version of the protocol is spoken by both.
    Version {
        /// From the lowest to the highest.
        ours: (u16, u16),
        /// From the lowest to the highest.
        theirs: (u16, u16),
    },
    /// They belong to clusters of different names.
    ClusterName {
        /// This node's.
        ours: String,
        /// The other's.
        theirs: String,
    },
    /// Both claim to be this node.
    OwnId(NodeId),
    /// The address leads to another node than the one that was looked for.
    WrongNode {
        /// The node that was looked for.
        wanted: NodeId,
        /// The node that answers at the address.
        found: NodeId,
    },
    /// This node, which connected, is not among the members.
    Unknown(NodeId),
    /// They were started with different lists of members: ids or addresses differ.
    Members {
        /// The fingerprint of this node's.
        ours: u64,
        /// The fingerprint of the other's.
        theirs: u64,
    },
    /// The node's directory has been opened more often before: this is an older copy of it.
    OldBoot {
        /// The highest boot count that was seen.
        seen: BootCount,
        /// The one that is claimed.
        claimed: BootCount,
    },
    /// The certificate is not that of the node which presents it.
    Certificate {
        /// That node.
        node: NodeId,
        /// The name that its certificate must hold.
        expected: String,
    },
    /// A kind of refusal that this version does not know.
    Other(RefusalCode),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { ours, theirs } => write!(
                f,
                "protocol versions differ: {} to {} here, {} to {} there",
                ours.0, ours.1, theirs.0, theirs.1
            ),
            Self::ClusterName { ours, theirs } => {
                write!(f, "cluster names differ: {ours:?} here, {theirs:?} there")
            }
            Self::OwnId(id) => write!(f, "both claim to be node {id}"),
            Self::WrongNode { wanted, found } => {
                write!(f, "node {wanted} was looked for, and node {found} found at its address")
            }
            Self::Unknown(id) => write!(f, "node {id} is not among the members"),
            Self::Members { ours, theirs } => write!(
                f,
                "lists of members differ, in ids or addresses: {ours:016x} here, {theirs:016x} there"
            ),
            Self::OldBoot { seen, claimed } => {
                write!(f, "boot {claimed} of a directory that has seen boot {seen}: an older copy")
            }
            Self::Certificate { node, expected } => {
                write!(f, "node {node} presents a certificate that does not name {expected:?}")
            }
            Self::Other(RefusalCode { code, .. }) => write!(f, "for a reason with number {code}"),
        }
    }
}

impl Refusal {
    fn code(&self) -> RefusalCode {
        let (code, detail) = match self {
            Self::Version { .. } => (2, 0),
            Self::ClusterName { .. } => (3, 0),
            Self::OwnId(_) => (4, 0),
            Self::WrongNode { .. } => (5, 0),
            Self::Unknown(_) => (6, 0),
            Self::Members { .. } => (7, 0),
            Self::OldBoot { seen, .. } => (8, seen.0),
            Self::Certificate { .. } => (9, 0),
            Self::Other(code) => (code.code, code.detail),
        };
        RefusalCode { code, detail }
    }
}

/// Why bytes are no greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GreetingError {
    /// They do not begin like one: this is another program, or another protocol.
    Magic,
    /// The length is not that of a greeting.
    Length(usize),
    /// The checksum is another.
    Checksum,
    /// The cluster's name is no text of the announced length.
    Name,
    /// An answer where none was due, or none where one was.
    Verdict,
    /// It did not come in time.
    Late,
}

impl fmt::Display for GreetingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("this is not our protocol"),
            Self::Length(length) => write!(f, "it announces {length} bytes"),
            Self::Checksum => f.write_str("wrong checksum"),
            Self::Name => f.write_str("the cluster's name is no text"),
            Self::Verdict => f.write_str("no verdict where one was due, or one too early"),
            Self::Late => f.write_str("it did not come in time"),
        }
    }
}

impl std::error::Error for GreetingError {}

impl Greeting {
    /// The greeting's bytes.
    ///
    /// # Panics
    /// If the cluster's name is longer than [`MAX_CLUSTER_NAME_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        let name = self.cluster_name.as_bytes();
        assert!(name.len() <= MAX_CLUSTER_NAME_BYTES, "a name of {} bytes", name.len());
        let (verdict, version, detail) = match self.verdict {
            None => (0, 0, 0),
            Some(Ok(version)) => (WELCOME, version, 0),
            Some(Err(refusal)) => (refusal.code, 0, refusal.detail),
        };
        let length = (NAME_AT + name.len() - HEAD_BYTES) as u32;
        let mut bytes = Vec::with_capacity(NAME_AT + name.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.versions.0.to_le_bytes());
        bytes.extend_from_slice(&self.versions.1.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.from.node.0.to_le_bytes());
        bytes.extend_from_slice(&self.from.incarnation.0.to_le_bytes());
        bytes.extend_from_slice(&self.from.boot.0.to_le_bytes());
        bytes.extend_from_slice(&self.to.0.to_le_bytes());
        bytes.extend_from_slice(&self.members.to_le_bytes());
        bytes.extend_from_slice(&verdict.to_le_bytes());
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&detail.to_le_bytes());
        bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
        bytes.extend_from_slice(name);
        let crc = checksum(&bytes);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// How many bytes the greeting has that begins like this; so many that this can be said, if there are
    /// too few. A connection is read no further than that.
    ///
    /// # Errors
    /// `Magic` and `Length`, as soon as they show.
    pub fn needs(bytes: &[u8]) -> Result<usize, GreetingError> {
        let common = bytes.len().min(MAGIC.len());
        if bytes[..common] != MAGIC[..common] {
            return Err(GreetingError::Magic);
        }
        let Some(length) = bytes.get(12..16).and_then(|field| field.first_chunk()) else {
            return Ok(HEAD_BYTES);
        };
        let whole = HEAD_BYTES.saturating_add(u32::from_le_bytes(*length) as usize);
        if (NAME_AT..=MAX_GREETING_BYTES).contains(&whole) {
            Ok(whole)
        } else {
            Err(GreetingError::Length(whole))
        }
    }

    /// Reads a greeting that takes all of `bytes`.
    ///
    /// # Errors
    /// [`GreetingError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, GreetingError> {
        let needs = Self::needs(bytes)?;
        if needs != bytes.len() {
            return Err(GreetingError::Length(bytes.len()));
        }
        if bytes[16..HEAD_BYTES] != checksum(bytes).to_le_bytes() {
            return Err(GreetingError::Checksum);
        }
        let u16_at = |at| field(bytes, at).map(u16::from_le_bytes);
        let u64_at = |at| field(bytes, at).map(u64::from_le_bytes);
        let name = NAME_AT..NAME_AT + usize::from(u16_at(80)?);
        let name = bytes.get(name).ok_or(GreetingError::Name)?;
        let verdict = match (u16_at(68)?, u16_at(70)?) {
            (0, _) => None,
            (WELCOME, version) => Some(Ok(version)),
            (code, _) => Some(Err(RefusalCode { code, detail: u64_at(72)? })),
        };
        Ok(Self {
            versions: (u16_at(8)?, u16_at(10)?),
            from: Sender {
                node: NodeId(u64_at(20)?),
                incarnation: Incarnation(field(bytes, 28).map(u128::from_le_bytes)?),
                boot: BootCount(u64_at(44)?),
            },
            to: NodeId(u64_at(52)?),
            members: u64_at(60)?,
            cluster_name: String::from_utf8(name.to_vec()).map_err(|_| GreetingError::Name)?,
            verdict,
        })
    }

    /// The answer to `theirs`, from a node that says `self` of itself and whose members are `known`.
    /// `seen` is the other node's latest sign of life, if there was one; `certified` says whether the
    /// connection is this other node's, as far as certificates can tell.
    pub fn answer(
        &self,
        theirs: &Self,
        known: impl Fn(NodeId) -> bool,
        seen: Option<Sender>,
        certified: impl Fn(&str) -> bool,
    ) -> (Self, Result<u16, Refusal>) {
        let verdict = self.judge(theirs, theirs.to, self.from.node).and_then(|version| {
            if !known(theirs.from.node) {
                return Err(Refusal::Unknown(theirs.from.node));
            }
            let expected = certificate_name(&self.cluster_name, theirs.from.node);
            if !certified(&expected) {
                return Err(Refusal::Certificate { node: theirs.from.node, expected });
            }
            not_older(theirs.from, seen)?;
            Ok(version)
        });
        let sent = verdict.as_ref().map_err(Refusal::code).copied();
        (Self { to: theirs.from.node, verdict: Some(sent), ..self.clone() }, verdict)
    }

    /// What `theirs`, the answer to `self`, comes to: a version to go on in, or why not.
    ///
    /// # Errors
    /// The refusal, the other's or our own.
    pub fn outcome(&self, theirs: &Self, seen: Option<Sender>) -> Result<u16, Refusal> {
        // Our own look comes first: it can name what differs.
        let version = self.judge(theirs, self.to, theirs.from.node)?;
        match theirs.verdict {
            Some(Err(RefusalCode { code: 6, .. })) => Err(Refusal::Unknown(self.from.node)),
            Some(Err(RefusalCode { code: 8, detail })) => {
                let claimed = self.from.boot;
                Err(Refusal::OldBoot { seen: BootCount(detail), claimed })
            }
            Some(Err(RefusalCode { code: 9, .. })) => Err(Refusal::Certificate {
                node: self.from.node,
                expected: certificate_name(&self.cluster_name, self.from.node),
            }),
            Some(Err(code)) => Err(Refusal::Other(code)),
            Some(Ok(chosen)) if chosen == version => not_older(theirs.from, seen).map(|()| version),
            Some(Ok(_)) | None => {
                Err(Refusal::Version { ours: self.versions, theirs: theirs.versions })
            }
        }
    }

    /// What both sides judge alike.
    fn judge(&self, theirs: &Self, wanted: NodeId, found: NodeId) -> Result<u16, Refusal> {
        let highest = self.versions.1.min(theirs.versions.1);
        if highest < self.versions.0.max(theirs.versions.0) {
            return Err(Refusal::Version { ours: self.versions, theirs: theirs.versions });
        }
        if self.cluster_name != theirs.cluster_name {
            let (ours, theirs) = (self.cluster_name.clone(), theirs.cluster_name.clone());
            return Err(Refusal::ClusterName { ours, theirs });
        }
        if theirs.from.node == self.from.node {
            return Err(Refusal::OwnId(self.from.node));
        }
        if wanted != found {
            return Err(Refusal::WrongNode { wanted, found });
        }
        if self.members != theirs.members {
            return Err(Refusal::Members { ours: self.members, theirs: theirs.members });
        }
        Ok(highest)
    }
}

/// The DNS name that a node's certificate must hold: `node-{id}.{cluster}`, or `node-{id}` in a cluster
/// without a name.
pub fn certificate_name(cluster: &str, node: NodeId) -> String {
    if cluster.is_empty() { format!("node-{node}") } else { format!("node-{node}.{cluster}") }
}

/// The versions that this library speaks.
pub const VERSIONS: (u16, u16) = (VERSION, VERSION);

fn not_older(from: Sender, seen: Option<Sender>) -> Result<(), Refusal> {
    match seen {
        Some(seen) if seen.incarnation == from.incarnation && seen.boot > from.boot => {
            Err(Refusal::OldBoot { seen: seen.boot, claimed: from.boot })
        }
        _ => Ok(()),
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], GreetingError> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
    field.copied().ok_or(GreetingError::Length(bytes.len()))
}

fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..16]), &bytes[HEAD_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(node: u64, to: u64) -> Greeting {
        Greeting {
            versions: VERSIONS,
            from: Sender { node: NodeId(node), incarnation: Incarnation(2), boot: BootCount(3) },
            to: NodeId(to),
            members: 5,
            cluster_name: "trio".to_owned(),
            verdict: None,
        }
    }

    /// What node 4 makes of `theirs`, and what the sender, node 1 by itself, makes of that.
    fn both(ours: &Greeting, theirs: &Greeting) -> (Result<u16, Refusal>, Result<u16, Refusal>) {
        let (answer, verdict) = ours.answer(theirs, |id| id.0 <= 4, None, |_| true);
        let answer = Greeting::decode(&answer.encode()).expect("just encoded");
        (verdict, theirs.outcome(&answer, None))
    }

    #[test]
    fn greeting_bytes_are_the_golden_ones() {
        let bytes = of(1, 4).encode();
        let mut golden = b"oarlock\0\0\0\0\0".to_vec();
        golden.extend_from_slice(&[66, 0, 0, 0]);
        golden.extend_from_slice(&0x21_13_00_A8_u32.to_le_bytes());
        for number in [1_u64, 2, 0, 3, 4, 5] {
            golden.extend_from_slice(&number.to_le_bytes());
        }
        golden.extend_from_slice(&[0; 12]);
        golden.extend_from_slice(b"\x04\0trio");
        assert_eq!(bytes, golden);
        let verdict = |verdict| Greeting { verdict: Some(verdict), ..of(1, 4) }.encode();
        assert_eq!(verdict(Ok(7))[68..80], [1, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let refused = verdict(Err(RefusalCode { code: 8, detail: 9 }));
        assert_eq!(refused[68..80], [8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for verdict in [None, Some(Ok(7)), Some(Err(RefusalCode { code: 8, detail: u64::MAX }))] {
            let greeting = Greeting { verdict, ..of(1, 4) };
            assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = of(1, 4).encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Greeting::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(Greeting::decode(&good[..len]).is_err(), "{len} bytes");
            let needs = Greeting::needs(&good[..len]).expect("a good beginning");
            assert!(len < needs && needs <= good.len(), "{len} bytes need {needs}");
        }
    }

    #[test]
    fn a_greeting_of_a_later_version_is_understood_as_far_as_it_goes() {
        let mut bytes = Greeting { versions: (0, 9), ..of(1, 4) }.encode();
        bytes.extend_from_slice(b"something that is added later");
        let length = (bytes.len() - HEAD_BYTES) as u32;
        bytes[12..16].copy_from_slice(&length.to_le_bytes());
        let crc = checksum(&bytes);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        let greeting = Greeting::decode(&bytes).expect("only longer");
        assert_eq!(both(&of(4, 1), &greeting), (Ok(VERSION), Ok(VERSION)));
    }

    #[test]
    fn lengths_that_no_greeting_has_are_refused_at_once() {
        let mut bytes = of(1, 4).encode();
        for length in [0, 61, MAX_GREETING_BYTES as u32, u32::MAX] {
            bytes[12..16].copy_from_slice(&length.to_le_bytes());
            let whole = HEAD_BYTES + length as usize;
            assert_eq!(Greeting::needs(&bytes[..16]), Err(GreetingError::Length(whole)));
        }
        assert_eq!(Greeting::needs(b"GET / HTTP/1.1"), Err(GreetingError::Magic));
        assert_eq!(Greeting::needs(b"oarlocx"), Err(GreetingError::Magic));
    }

    #[test]
    fn both_sides_name_what_differs() {
        let theirs = of(1, 4);
        let name = |name: &str| Greeting { cluster_name: name.to_owned(), ..of(4, 1) };
        let (ours, dialled) = both(&name("duo"), &theirs);
        let differs = |ours: &str, theirs: &str| {
            Err(Refusal::ClusterName { ours: ours.to_owned(), theirs: theirs.to_owned() })
        };
        assert_eq!((ours, dialled), (differs("duo", "trio"), differs("trio", "duo")));

        let (ours, dialled) = both(&Greeting { members: 6, ..of(4, 1) }, &theirs);
        assert_eq!(ours, Err(Refusal::Members { ours: 6, theirs: 5 }));
        assert_eq!(dialled, Err(Refusal::Members { ours: 5, theirs: 6 }));

        let (ours, dialled) = both(&Greeting { versions: (1, 2), ..of(4, 1) }, &theirs);
        assert_eq!(ours, Err(Refusal::Version { ours: (1, 2), theirs: (0, 0) }));
        assert_eq!(dialled, Err(Refusal::Version { ours: (0, 0), theirs: (1, 2) }));

        let own = Err(Refusal::OwnId(NodeId(1)));
        assert_eq!(both(&of(1, 1), &theirs), (own.clone(), own));

        let wrong = Err(Refusal::WrongNode { wanted: NodeId(4), found: NodeId(3) });
        assert_eq!(both(&of(3, 1), &theirs), (wrong.clone(), wrong));

        let unknown = Err(Refusal::Unknown(NodeId(9)));
        assert_eq!(both(&of(4, 9), &of(9, 4)), (unknown.clone(), unknown));
    }

    #[test]
    fn an_older_boot_of_the_same_directory_is_refused_and_another_directory_is_not() {
        let (ours, theirs) = (of(4, 1), of(1, 4));
        let seen = |boot| Some(Sender { boot: BootCount(boot), ..theirs.from });
        let judge = |seen| ours.answer(&theirs, |_| true, seen, |_| true);
        assert_eq!(judge(seen(3)).1, Ok(VERSION));
        let refused = Refusal::OldBoot { seen: BootCount(4), claimed: BootCount(3) };
        let (answer, verdict) = judge(seen(4));
        assert_eq!(verdict, Err(refused.clone()));
        assert_eq!(theirs.outcome(&answer, None), Err(refused));
        let other = Sender { incarnation: Incarnation(7), boot: BootCount(4), ..theirs.from };
        assert_eq!(judge(Some(other)).1, Ok(VERSION));

        let (answer, _) = judge(None);
        let older = Some(Sender { boot: BootCount(9), ..ours.from });
        let refused = Refusal::OldBoot { seen: BootCount(9), claimed: BootCount(3) };
        assert_eq!(theirs.outcome(&answer, older), Err(refused), "it works in both directions");
    }

    #[test]
    fn a_certificate_of_another_node_is_refused_with_the_name_expected() {
        let (ours, theirs) = (of(4, 1), of(1, 4));
        let (answer, verdict) = ours.answer(&theirs, |_| true, None, |name| name == "node-3.trio");
        let refused =
            Err(Refusal::Certificate { node: NodeId(1), expected: "node-1.trio".to_owned() });
        assert_eq!(verdict, refused);
        assert_eq!(theirs.outcome(&answer, None), refused);
        assert_eq!(certificate_name("", NodeId(7)), "node-7");
    }

    #[test]
    fn a_welcome_in_a_version_that_was_not_offered_is_refused() {
        let (answer, _) = of(4, 1).answer(&of(1, 4), |_| true, None, |_| true);
        let answer = Greeting { verdict: Some(Ok(1)), ..answer };
        assert!(matches!(of(1, 4).outcome(&answer, None), Err(Refusal::Version { .. })));
        let answer = Greeting { verdict: None, ..answer };
        assert!(matches!(of(1, 4).outcome(&answer, None), Err(Refusal::Version { .. })));
    }

    #[test]
    fn a_refusal_for_a_reason_of_the_future_is_a_refusal() {
        let (answer, _) = of(4, 1).answer(&of(1, 4), |_| true, None, |_| true);
        let code = RefusalCode { code: 77, detail: 1 };
        let answer = Greeting { verdict: Some(Err(code)), ..answer };
        assert_eq!(of(1, 4).outcome(&answer, None), Err(Refusal::Other(code)));
    }
}
