//! Authorities and certificates, made on the spot.

use std::fs;
use std::io::{Read, Write};

use oarlock::transport::tcp::greeting::Greeting;
use oarlock::transport::tcp::{Tls, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;

/// Signs certificates.
pub(crate) struct Authority {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut params = CertificateParams::default();
        // Authorities of one name would be taken for one that has lost its key.
        let name = dir.path().display().to_string();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("a certificate");
        fs::write(dir.path().join("authority.pem"), own.pem()).expect("written");
        Self { dir, issuer: Issuer::new(params, key) }
    }

    /// What a node needs whose certificate holds `name`.
    pub(crate) fn tls(&self, name: &str) -> Result<Tls, TlsError> {
        self.issue(name, 4096)
    }

    /// As [`tls`](Self::tls), with a certificate that was good until some years ago.
    pub(crate) fn expired(&self, name: &str) -> Result<Tls, TlsError> {
        self.issue(name, 2001)
    }

    fn issue(&self, name: &str, until: i32) -> Result<Tls, TlsError> {
        let mut params = CertificateParams::new([name.to_owned()]).expect("a DNS name");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let file = |end: &str| self.dir.path().join(format!("{name}-{until}.{end}"));
        fs::write(file("pem"), certificate.pem()).expect("written");
        fs::write(file("key"), key.serialize_pem()).expect("written");
        Tls::from_pem_files(file("pem"), file("key"), self.dir.path().join("authority.pem"))
    }
}

impl Authority {
    /// Greets the node at `address`, whose certificate holds `server`, under a certificate that holds
    /// `name`; returns its answer.
    pub(crate) fn greet_as(
        &self,
        name: &str,
        address: std::net::SocketAddr,
        server: &'static str,
        greeting: &Greeting,
    ) -> Greeting {
        self.tls(name).expect("good");
        let file = |file: String| self.dir.path().join(file);
        let chain = CertificateDer::pem_file_iter(file(format!("{name}-4096.pem")));
        let chain: Vec<_> = chain.expect("a file").map(|one| one.expect("good")).collect();
        let key = PrivateKeyDer::from_pem_file(file(format!("{name}-4096.key"))).expect("a key");
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_file(file("authority.pem".to_owned()));
        roots.add(authority.expect("a file")).expect("good");
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("they belong together");
        let server = ServerName::try_from(server).expect("a DNS name");
        let session = rustls::ClientConnection::new(std::sync::Arc::new(config), server);
        let stream = std::net::TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(crate::journal::PATIENCE)).expect("a socket");
        let mut tls = rustls::StreamOwned::new(session.expect("good"), stream);
        tls.write_all(&greeting.encode()).expect("written");
        let mut bytes = vec![0; Greeting::needs(&[]).expect("a beginning")];
        tls.read_exact(&mut bytes).expect("an answer");
        let needs = Greeting::needs(&bytes).expect("a greeting");
        let have = bytes.len();
        bytes.resize(needs, 0);
        tls.read_exact(&mut bytes[have..]).expect("an answer");
        Greeting::decode(&bytes).expect("a greeting")
    }
}
