//! TLS between nodes: each shows a certificate that names it, and asks for the other's.
//!
//! TLS 1.3 only. Sessions are never resumed, so every connection proves anew who is there. Encryption runs
//! on the threads that read and write, handshakes of strangers on the one that accepts.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{Resumption, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};

use super::greeting::certificate_name;
use super::wire::{Socket, Wire};
use crate::transport::LinkError;
use crate::types::NodeId;

/// A node's certificate, its key, and the authorities whose certificates it accepts.
///
/// One rule ties certificates to nodes: the certificate of node 3 in the cluster "orders" holds the DNS name
/// `node-3.orders` among its subject alternative names (`node-3` in a cluster without a name), and an
/// authority of the cluster has signed it. It serves for connections in both directions. So a cluster's
/// name must be a DNS name, with TLS.
///
/// With openssl, an authority for ten years, and a certificate for node 3 for one:
///
/// ```text
/// openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
///     -subj "/CN=orders authority" -keyout authority.key -out authority.pem
/// openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
///     -subj "/CN=node-3.orders" -keyout node-3.key -out node-3.csr
/// printf 'subjectAltName=DNS:node-3.orders\nextendedKeyUsage=serverAuth,clientAuth\n' > node-3.ext
/// openssl x509 -req -in node-3.csr -CA authority.pem -CAkey authority.key -CAcreateserial \
///     -days 365 -extfile node-3.ext -out node-3.pem
/// ```
///
/// Files are read once. To replace a certificate, restart the node.
#[derive(Clone, Debug)]
pub struct Tls {
    own: CertificateDer<'static>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Tls {
    /// Reads PEM files: the node's certificate, followed by intermediate ones if there are any; its private
    /// key; the certificates of the cluster's authorities.
    ///
    /// # Errors
    /// [`TlsError`]: a file that cannot be read or holds no such thing, a key that is not the certificate's.
    pub fn from_pem_files(
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
        authorities: impl AsRef<Path>,
    ) -> Result<Self, TlsError> {
        let (certificates, key) = (certificates.as_ref(), key.as_ref());
        let chain = read_certificates(certificates)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
        let mut roots = RootCertStore::empty();
        for authority in read_certificates(authorities.as_ref())? {
            roots.add(authority).map_err(|error| unusable(authorities.as_ref(), &error))?;
        }
        let own = chain[0].clone();
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let failed = |error| unusable(certificates, &error);
        let client = client(&provider, &roots, chain.clone(), private.clone_key());
        let server = server(&provider, &roots, chain, private);
        Ok(Self {
            own,
            client: Arc::new(client.map_err(failed)?),
            server: Arc::new(server.map_err(failed)?),
        })
    }

    /// What connections of this node begin with.
    pub(super) fn of_node(self, cluster_name: &str, node: NodeId) -> Result<Sessions, TlsError> {
        let name = certificate_name(cluster_name, node);
        if ServerName::try_from(name.clone()).is_err() {
            return Err(TlsError::NoDnsName { name });
        }
        if !names(&self.own, &name) {
            return Err(TlsError::AnotherName { expected: name });
        }
        Ok(Sessions {
            client: self.client,
            server: self.server,
            cluster_name: cluster_name.to_owned(),
        })
    }
}

/// Why a node has no TLS.
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The file is not there, or does not hold what it should.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The cluster's name cannot be part of a DNS name, and so of no certificate.
    NoDnsName {
        /// What the certificate would have to name.
        name: String,
    },
    /// The certificate is not this node's.
    AnotherName {
        /// The DNS name that this node's certificate must hold.
        expected: String,
    },
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, error } => write!(f, "{}: {error}", path.display()),
            Self::NoDnsName { name } => {
                write!(
                    f,
                    "no certificate can name {name:?}: with TLS a cluster's name is a DNS name"
                )
            }
            Self::AnotherName { expected } => {
                write!(f, "this node's certificate does not name {expected:?}")
            }
        }
    }
}

impl std::error::Error for TlsError {}

fn unreadable(path: &Path, error: pem::Error) -> TlsError {
    let error = match error {
        pem::Error::NoItemsFound => "holds nothing of what it should".to_owned(),
        error => error.to_string(),
    };
    TlsError::File { path: path.to_owned(), error }
}

fn unusable(path: &Path, error: &rustls::Error) -> TlsError {
    TlsError::File { path: path.to_owned(), error: error.to_string() }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(path, error))?;
    if certificates.is_empty() {
        return Err(unreadable(path, pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(Arc::clone(roots))
        .with_client_auth_cert(chain, key)?;
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Begins sessions for one node.
#[derive(Debug)]
pub(super) struct Sessions {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    cluster_name: String,
}

impl Sessions {
    /// On a connection that this node began, to node `id`: only its certificate is accepted.
    pub(super) fn begin(&self, stream: TcpStream, id: NodeId) -> Result<Wire, LinkError> {
        let failed = |error: &dyn fmt::Display| LinkError::Tls(error.to_string());
        let name = ServerName::try_from(certificate_name(&self.cluster_name, id));
        let name = name.map_err(|error| failed(&error))?;
        let session = ClientConnection::new(Arc::clone(&self.client), name);
        let session = session.map_err(|error| failed(&error))?;
        Ok(Wire::new(stream, Some(Session(Box::new(session.into())))))
    }

    /// On a connection that somebody else began: any certificate of the cluster's authorities is accepted,
    /// until the greeting says whose it should be.
    pub(super) fn accept(&self, stream: TcpStream) -> Result<Wire, LinkError> {
        let session = ServerConnection::new(Arc::clone(&self.server));
        let session = session.map_err(|error| LinkError::Tls(error.to_string()))?;
        Ok(Wire::new(stream, Some(Session(Box::new(session.into())))))
    }
}

/// Whether the certificate holds this DNS name.
fn names(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    ParsedCertificate::try_from(certificate)
        .is_ok_and(|certificate| verify_server_name(&certificate, &name).is_ok())
}

/// TLS on one connection.
#[derive(Debug)]
pub(super) struct Session(Box<Connection>);

impl Session {
    /// Whether encrypted bytes wait for the socket.
    pub(super) fn has_unwritten(&self) -> bool {
        self.0.wants_write()
    }

    /// Whether the other side's certificate holds this name.
    pub(super) fn is_certified(&self, name: &str) -> bool {
        let certificates = self.0.peer_certificates().unwrap_or_default();
        certificates.first().is_some_and(|certificate| names(certificate, name))
    }

    /// Reads decrypted bytes; zero at the end.
    pub(super) fn read(&mut self, socket: &mut Socket, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The other side is gone without a goodbye; frames say by themselves whether they are
                // whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                result => return result,
            }
            // A handshake is questions and answers: what is to be said goes out before more is read.
            not_now(self.flush(socket))?;
            match self.0.read_tls(socket) {
                Ok(0) => return Ok(0),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if let Err(error) = self.0.process_new_packets() {
                // The alert tells the other side why, if it still listens.
                let _ = self.flush(socket);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            not_now(self.flush(socket))?;
        }
    }

    /// Encrypts as much of these bytes as there is room for, and brings it on its way.
    pub(super) fn write(
        &mut self,
        socket: &mut Socket,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        // What was taken before goes first; its room is then free again.
        self.flush(socket)?;
        let taken = self.0.writer().write_vectored(slices)?;
        not_now(self.flush(socket))?;
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Writes what is encrypted.
    pub(super) fn flush(&mut self, socket: &mut Socket) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What the socket does not take now it takes later.
fn not_now(flushed: io::Result<()>) -> io::Result<()> {
    match flushed {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        flushed => flushed,
    }
}

/// What TLS itself has to say of a failed operation.
pub(super) fn error_of(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<rustls::Error>().map(ToString::to_string)
}
