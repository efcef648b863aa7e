//! TLS at the relay's own listeners: what each site demands, and what a connection was made under.
//!
//! Every site has a configuration of its own, chosen by the server name of the client's first message: its certificate, its oldest version, its client
//! authorities. A request is then held against what its connection was made under, so that nobody comes to a site that asks for a client certificate by
//! the name of one that does not.

use std::fmt;
use std::sync::{Arc, LazyLock};

use base64ct::{Base64, Encoding};
use http::HeaderValue;
use tokio_rustls::rustls::crypto::ring::{self, Ticketer};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::acme::Acme;
use super::acme::slot::{Slot, Standing};
use super::certificate::Certificate;

/// A fatal alert (RFC 8446 §6.2), in the clear, as a server says it before any key is agreed on.
const fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// `unrecognized_name`: no site has the name (RFC 6066 §3).
pub const UNRECOGNIZED_NAME: [u8; 7] = alert(112);

/// `internal_error`: the site has no certificate yet.
pub const NO_CERTIFICATE: [u8; 7] = alert(80);

/// The keys of session tickets, new ones every six hours, for all worker threads. A session is resumed for the server name that it was made for and no
/// other, and where client certificates are asked for none is resumed at all.
static TICKETS: LazyLock<Option<Arc<dyn ProducesTickets>>> = LazyLock::new(|| Ticketer::new().ok());

/// What TLS of a site, or of an outbound listener, is made of.
#[derive(Debug)]
pub struct Terms {
    /// Where its certificate comes from.
    pub certificate: Source,
    /// Whether TLS 1.2 is too old.
    pub only_tls13: bool,
    /// What clients have to prove.
    pub clients: Option<Clients>,
    /// `Strict-Transport-Security` of its answers.
    pub hsts: Option<HeaderValue>,
    /// Whether clients that name no host of this listener come here.
    pub default: bool,
    /// Whether the backend is told the client's certificate.
    pub tells_certificate: bool,
    /// Whether HTTP/2 is spoken with clients that take either. Go's offer it to a proxy, and then send it a CONNECT of HTTP/1.1.
    pub prefers_http2: bool,
}

/// Where a certificate comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// From files, read when the rules were.
    File {
        /// The file of the certificate as written: the same one again after it was replaced.
        name: Box<str>,
        /// What was read.
        certificate: Arc<Certificate>,
    },
    /// Ordered by the relay for these hosts.
    Acme(Box<[Box<str>]>),
}

impl Source {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File { name: one, .. }, Self::File { name: two, .. }) => one == two,
            (Self::Acme(one), Self::Acme(two)) => one == two,
            _ => false,
        }
    }
}

/// The certificate that is shown to clients.
#[derive(Debug)]
enum Shown {
    Fixed(Arc<Certificate>),
    /// Renewed while it is in use.
    Managed(Arc<Slot>),
}

impl Shown {
    fn current(&self) -> Option<Arc<Certificate>> {
        match self {
            Self::Fixed(certificate) => Some(Arc::clone(certificate)),
            Self::Managed(slot) => slot.current(),
        }
    }
}

/// What clients have to prove.
pub struct Clients {
    /// The authorities of their certificates.
    pub authorities: Arc<RootCertStore>,
    /// SHA-256 of the authorities' file.
    pub hash: [u8; 32],
    /// Whether a client without a certificate is turned away.
    pub required: bool,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("required", &self.required).finish_non_exhaustive()
    }
}

impl Terms {
    /// Whether a client that was let in under these terms would have been under the others: versions and client certificates.
    #[must_use]
    pub fn admit_as(&self, other: &Self) -> bool {
        let clients = |terms: &Self| terms.clients.as_ref().map(|clients| (clients.hash, clients.required));
        self.only_tls13 == other.only_tls13 && clients(self) == clients(other)
    }

    /// Whether the two have one certificate.
    #[must_use]
    pub fn shares_certificate(&self, other: &Self) -> bool {
        self.certificate.is_same(&other.certificate)
    }
}

/// Why there is no configuration for a site that passed every check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("TLS cannot be set up")]
pub struct SetupError;

fn config(terms: &Terms, shown: &Arc<Shown>) -> Result<Arc<ServerConfig>, SetupError> {
    let provider = Arc::new(ring::default_provider());
    let versions: &[_] = if terms.only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|_| SetupError)?;
    let builder = match &terms.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&clients.authorities), Arc::clone(&provider));
            let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build().map_err(|_| SetupError)?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Own(Arc::clone(shown))));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if !terms.prefers_http2 {
        config.alpn_protocols.reverse();
    }
    // The library's order is the safer one: strongest first.
    config.ignore_client_order = true;
    // Tickets alone: a store of sessions would be one lock for all worker threads.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match (&terms.clients, &*TICKETS) {
        // A certificate that has expired meanwhile would live on in a session.
        (None, Some(tickets)) => config.ticketer = Arc::clone(tickets),
        _ => config.send_tls13_tickets = 0,
    }
    Ok(Arc::new(config))
}

/// The one certificate of a site.
#[derive(Debug)]
struct Own(Arc<Shown>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.current().map(|certificate| Arc::clone(&certificate.key))
    }
}

/// Terms, and what ends TLS under them.
#[derive(Debug)]
pub struct Terminator {
    /// The terms.
    pub terms: Arc<Terms>,
    /// For the rest of a handshake.
    pub config: Arc<ServerConfig>,
    shown: Arc<Shown>,
}

impl Terminator {
    /// Sets TLS up.
    ///
    /// # Errors
    /// The library refuses what was checked when the rules were read.
    pub fn new(terms: &Arc<Terms>, acme: Option<&Acme>) -> Result<Arc<Self>, SetupError> {
        let shown = Arc::new(match &terms.certificate {
            Source::File { certificate, .. } => Shown::Fixed(Arc::clone(certificate)),
            Source::Acme(hosts) => Shown::Managed(acme.and_then(|acme| acme.slot(hosts)).cloned().ok_or(SetupError)?),
        });
        Ok(Arc::new(Self { terms: Arc::clone(terms), config: config(terms, &shown)?, shown }))
    }

    /// The certificate in use; `None` while there is none.
    #[must_use]
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.shown.current()
    }

    /// What is known of a certificate that the relay orders itself.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        match &*self.shown {
            Shown::Fixed(_) => None,
            Shown::Managed(slot) => Some(slot.standing()),
        }
    }
}

/// What a connection was made under. Its requests are held against it.
#[derive(Debug)]
pub struct Session {
    /// The terms then in force.
    pub terms: Arc<Terms>,
    /// The server name in its normal form; `None` where the client said none, or none that a site has.
    pub name: Option<Box<str>>,
    /// The client's certificate, verified, for the backend: `Client-Cert` and, if anything stands between it and its authority, `Client-Cert-Chain`.
    pub client: Option<(HeaderValue, Option<HeaderValue>)>,
}

/// A client's certificates as RFC 9440 has them in headers.
#[must_use]
pub fn client_headers(chain: &[CertificateDer<'_>]) -> Option<(HeaderValue, Option<HeaderValue>)> {
    let (own, rest) = chain.split_first()?;
    let text = |der: &CertificateDer<'_>| format!(":{}:", Base64::encode_string(der));
    let rest: Vec<_> = rest.iter().map(text).collect();
    let rest = if rest.is_empty() { None } else { Some(HeaderValue::from_str(&rest.join(", ")).ok()?) };
    Some((HeaderValue::from_str(&text(own)).ok()?, rest))
}
