//! A certificate made for the test, and TLS with it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection};

/// A certificate authority, and a certificate that it gave to `localhost` and 127.0.0.1.
#[derive(Debug, Clone)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    authority_pem: String,
}

impl Certificate {
    /// Makes both, for this test alone.
    ///
    /// # Panics
    /// When none can be made.
    pub fn new() -> Self {
        Self::for_names(&["localhost", "127.0.0.1"])
    }

    /// The same for other names.
    ///
    /// # Panics
    /// When none can be made.
    pub fn for_names(names: &[&str]) -> Self {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "Test authority");
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let server = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        Self {
            chain: vec![server.der().clone()],
            key: key.serialize_der(),
            authority_pem: authority_certificate.pem(),
        }
    }

    /// Writes the authority's certificate where a client finds it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write_authority(&self, directory: &Path) -> PathBuf {
        let path = directory.join("authority.pem");
        std::fs::write(&path, &self.authority_pem).unwrap();
        path
    }
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}

/// TLS 1.2, as SQL Server up to 2019 has it below TDS 8.
pub(super) fn server(certificate: &Certificate) -> io::Result<ServerConnection> {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.key.clone()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificate.chain.clone(), key))
        .map_err(io::Error::other)?;
    ServerConnection::new(Arc::new(config)).map_err(io::Error::other)
}
