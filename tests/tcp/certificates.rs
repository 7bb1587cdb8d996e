//! Authorities and certificates, made on the spot.

use std::fs;

use oarlock::transport::tcp::{Tls, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
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
