//! TLS of listeners: certificates, keys and client authorities are read here, and held against the hosts that they are for.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64ct::{Base64UrlUnpadded, Encoding};
use http::{HeaderValue, Uri};
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::raw::tls::{Acme, Binding, Challenge, ClientCertificate, Hsts, ProxyTls, SiteTls};
use super::raw::{At, Inbound, TlsMin};
use super::report::Place;
use super::resolve::Resolver;
use super::resolved::{Listener, ListenerTls, NamedFile, Upstream};
use super::units;
use crate::rules::host::normal_host;
use crate::tls::acme;
use crate::tls::certificate::Certificate;
use crate::tls::server::{Clients, Source, Terms};

/// How soon a certificate that nobody renews is spoken of.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// What browsers ask of a host on their built-in lists.
const PRELOAD_AGE: Duration = Duration::from_secs(365 * 86_400);

/// Longer than anyone means.
const HSTS_MAX: Duration = Duration::from_secs(3650 * 86_400);

/// A site with its TLS while a listener's sites come together.
pub(super) struct Sited {
    pub(super) place: Place,
    pub(super) terms: Option<Arc<Terms>>,
}

impl Resolver<'_> {
    /// TLS of an inbound site for these hosts. `None` only where a fault was told.
    pub(super) fn site_tls(&mut self, raw: &At<SiteTls>, hosts: &[(Place, Box<str>)]) -> Option<Arc<Terms>> {
        let tls = raw.get();
        let clients = self.clients(tls);
        let hsts = tls.hsts.as_ref().and_then(|hsts| self.hsts(hsts));
        if let Some(acme) = tls.acme.as_ref().filter(|acme| *acme.get()) {
            return self.ordered(acme.place(), tls, hosts, clients, hsts);
        }
        let (certificate, key) = match (&tls.certificate, &tls.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(one), None) | (None, Some(one)) => {
                let hint = "`certificate` and `key` go together";
                self.report.error(one.place(), "the other half of the certificate is missing", Some(hint.to_owned()));
                return None;
            }
            (None, None) => {
                if !raw.is_pruned() {
                    let hint = "tls: {certificate: site.pem, key: site.key}";
                    self.report.error(raw.place(), "TLS without a certificate", Some(hint.to_owned()));
                }
                return None;
            }
        };
        let source = self.certificate(certificate, key)?;
        if let Source::File { certificate: read, .. } = &source {
            for (place, host) in hosts.iter().filter(|(_, host)| !read.is_for(host)) {
                let names = if read.names.is_empty() { "no host".into() } else { read.names.join(", ") };
                let hint = format!("`{}` is for {names}", certificate.get());
                self.report.error(*place, format!("the site's certificate is not for {host}"), Some(hint));
            }
        }
        Some(self.terms(source, tls, clients, hsts))
    }

    fn terms(
        &mut self,
        certificate: Source,
        tls: &SiteTls,
        clients: Option<Clients>,
        hsts: Option<HeaderValue>,
    ) -> Arc<Terms> {
        if let Some(tells) = tls.client_certificate_header.as_ref().filter(|t| *t.get() && tls.client_ca.is_none()) {
            let hint = "name the authorities of client certificates: client_ca: clients.pem";
            self.report.error(tells.place(), "no client certificate is ever verified here", Some(hint.to_owned()));
        }
        Arc::new(Terms {
            certificate,
            only_tls13: tls.min == Some(TlsMin::Tls13),
            clients,
            hsts,
            default: tls.default,
            tells_certificate: tls.client_certificate_header.as_ref().is_some_and(|tells| *tells.get()),
            prefers_http2: true,
        })
    }

    /// TLS of a site whose certificate the relay orders.
    fn ordered(
        &mut self,
        place: Place,
        tls: &SiteTls,
        hosts: &[(Place, Box<str>)],
        clients: Option<Clients>,
        hsts: Option<HeaderValue>,
    ) -> Option<Arc<Terms>> {
        for file in [&tls.certificate, &tls.key].into_iter().flatten() {
            let hint = "keep either the files or `acme: true`";
            self.report.error(file.place(), "the site's certificate is ordered, not read", Some(hint.to_owned()));
        }
        if !self.names_acme {
            let hint =
                "acme: {directory: https://…, store: /var/lib/relay/acme, terms_agreed: true} at the top of the file";
            self.report.error(place, "the file does not say where certificates are ordered", Some(hint.to_owned()));
        }
        for (place, host) in hosts {
            if host.starts_with('*') || host.parse::<IpAddr>().is_ok() || !host.contains('.') && **host != *"localhost"
            {
                let hint = "name the hosts, or give a certificate from a file";
                let cause = format!("no certificate can be ordered for {host}: it cannot be proven this way");
                self.report.error(*place, cause, Some(hint.to_owned()));
            }
        }
        self.orders = Some(place);
        let source = Source::Acme(hosts.iter().map(|(_, host)| host.clone()).collect());
        Some(self.terms(source, tls, clients, hsts))
    }

    /// How certificates are ordered.
    pub(super) fn acme(&mut self, raw: &At<Acme>) -> Option<acme::Settings> {
        let written = raw.get();
        if !written.terms_agreed && !raw.is_pruned() {
            let hint = "read the terms of service of the authority, and say terms_agreed: true";
            self.report.error(raw.place(), "the authority's terms are not agreed to", Some(hint.to_owned()));
        }
        for contact in written.contact.iter().filter(|contact| !contact.get().starts_with("mailto:")) {
            let hint = "mailto:ops@example.com";
            self.report.error(contact.place(), format!("`{}` is no contact", contact.get()), Some(hint.to_owned()));
        }
        let ca = written.ca.as_ref().and_then(|ca| self.authorities(ca));
        let binding = written.eab.as_ref().and_then(|binding| self.binding(binding));
        let retry = self.time(written.retry.as_ref(), Duration::from_secs(60));
        let directory = written.directory.as_ref()?;
        let url = directory.get().parse::<Uri>().ok().filter(|url| {
            url.scheme_str() == Some("https") && url.authority().is_some_and(|a| normal_host(a.as_str()).is_some())
        });
        if url.is_none() {
            let hint = "https://acme-v02.api.letsencrypt.org/directory";
            self.report.error(
                directory.place(),
                format!("`{}` is no directory", directory.get()),
                Some(hint.to_owned()),
            );
        }
        let store = written.store.as_ref()?;
        let folder = self.folder.join(store.get());
        if std::fs::metadata(&folder).is_ok_and(|found| !found.is_dir() || found.permissions().mode() & 0o077 != 0) {
            let hint = format!("a folder that only the relay's user may enter: chmod 700 {}", store.get());
            self.report.error(store.place(), format!("others may enter `{}`", store.get()), Some(hint));
        }
        Some(acme::Settings {
            directory: directory.get().as_str().into(),
            contact: written.contact.iter().map(|contact| contact.get().as_str().into()).collect(),
            store: folder,
            challenge: match written.challenge {
                Challenge::TlsAlpn => acme::Challenge::TlsAlpn,
                Challenge::Http => acme::Challenge::Http,
            },
            ca,
            binding,
            retry,
        })
    }

    /// What the listeners come to together with how certificates are ordered.
    pub(super) fn provable(
        &mut self,
        settings: Option<acme::Settings>,
        inbound: &[Listener],
    ) -> Option<acme::Settings> {
        let place = self.orders?;
        let settings = settings?;
        if settings.challenge == acme::Challenge::Http && inbound.iter().all(|listener| listener.tls.is_some()) {
            let hint = "a plain one on port 80: {listen: 0.0.0.0:80, hosts: [the same], redirect: https}";
            self.report.error(
                place,
                "http-01 needs a plain inbound listener, and there is none",
                Some(hint.to_owned()),
            );
        }
        Some(settings)
    }

    fn binding(&mut self, raw: &Binding) -> Option<acme::Binding> {
        let (id, key) = (raw.kid.as_ref()?, raw.key.as_ref()?);
        let text = self.named_file(key, "")?;
        self.private(key, "others may read the account's key");
        match Base64UrlUnpadded::decode_vec(String::from_utf8_lossy(&text).trim().trim_end_matches('=')) {
            Ok(bytes) if !bytes.is_empty() => {
                Some(acme::Binding { id: id.get().as_str().into(), key: zeroize::Zeroizing::new(bytes) })
            }
            _ => {
                let hint = "the key as the authority gave it to you, and nothing else";
                self.report.error(
                    key.place(),
                    format!("`{}` holds no key in base64url", key.get()),
                    Some(hint.to_owned()),
                );
                None
            }
        }
    }

    /// Tells of a key that everyone may read.
    fn private(&mut self, key: &At<String>, cause: &str) {
        let mode = std::fs::metadata(self.folder.join(key.get())).map(|file| file.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o007 != 0) {
            let hint = format!("chmod 600 {}; its group may read it, others may not", key.get());
            self.report.error(key.place(), cause, Some(hint));
        }
    }

    /// TLS of an outbound listener.
    pub(super) fn proxy_tls(&mut self, raw: &At<ProxyTls>) -> Option<Arc<Terms>> {
        let tls = raw.get();
        let certificate = self.certificate(tls.certificate.as_ref()?, tls.key.as_ref()?)?;
        Some(Arc::new(Terms {
            certificate,
            only_tls13: tls.min == Some(TlsMin::Tls13),
            clients: None,
            hsts: None,
            default: true,
            tells_certificate: false,
            prefers_http2: false,
        }))
    }

    /// Puts the TLS of a listener's sites together: all of them have it, or none.
    pub(super) fn listener_tls(&mut self, listener: &mut Listener, sites: &[Sited]) {
        let Some(first) = sites.iter().find(|site| site.terms.is_some()) else { return };
        let address: SocketAddr = listener.listen;
        for plain in sites.iter().filter(|site| site.terms.is_none()) {
            let cause = format!("this site has no TLS, and the one in line {} at {address} has", first.place.line);
            let hint = "give it `tls:` too, or an address of its own";
            self.report.error(plain.place, cause, Some(hint.to_owned()));
        }
        let mut defaults = sites.iter().filter(|s| s.terms.as_ref().is_some_and(|terms| terms.default));
        let default = defaults.next();
        for other in defaults {
            let cause = format!("{address} has another default site in line {}", default.map_or(0, |d| d.place.line));
            self.report.error(other.place, cause, Some("keep one of them".to_owned()));
        }
        let default = default.and_then(|site| site.terms.clone());
        let only = match sites {
            [one] => one.terms.clone(),
            _ => None,
        };
        listener.tls = Some(ListenerTls::Sites { unnamed: default.clone().or(only), unknown: default });
    }

    /// A site that only sends on to https: nothing stands behind it.
    pub(super) fn redirect(&mut self, site: &Inbound) -> Option<Upstream> {
        let tls = site.tls.as_ref().map(At::place);
        let backend = site.backend.as_ref().map(At::place);
        let rules = site.rules.first().map(At::place);
        for (other, cause) in [
            (tls, "what came over TLS need not be sent on to https"),
            (backend, "nothing reaches a backend from a site that sends on to https"),
            (rules, "no message is ruled by a site that sends on to https"),
        ] {
            if let Some(place) = other {
                self.report.error(place, cause, Some("keep this or `redirect`".to_owned()));
            }
        }
        Some(Upstream {
            servers: Vec::new(),
            tls: None,
            host: None,
            base_path: Box::default(),
            egress: None,
            health: None,
            pool_idle: 0,
            pool_idle_timeout: Duration::ZERO,
            http2: false,
            proxy_protocol: None,
        })
    }

    /// A certificate with its key, from their files.
    fn certificate(&mut self, certificate: &At<String>, key: &At<String>) -> Option<Source> {
        let texts = (self.named_file(certificate, ""), self.named_file(key, ""));
        let read = match Certificate::read(&texts.0?, &texts.1?) {
            Ok(read) => read,
            Err(fault) => {
                let at = if fault.is_of_key() { key } else { certificate };
                let hint = "PEM: the site's certificate first, then those between it and its authority; and its own private key";
                self.report.error(at.place(), format!("`{}` cannot be used: {fault}", at.get()), Some(hint.to_owned()));
                return None;
            }
        };
        self.private(key, "others may read the certificate's key");
        let now = SystemTime::now();
        let told = if now >= read.not_after {
            Some("has expired: clients turn away")
        } else if now < read.not_before {
            Some("is not valid yet: clients turn away")
        } else if now + SOON > read.not_after {
            Some("expires within 14 days")
        } else {
            None
        };
        if let Some(told) = told {
            let hint = "put a newer one in its place: it is taken up without a restart";
            let cause = format!("the certificate in `{}` {told}", certificate.get());
            self.report.warn(certificate.place(), cause, Some(hint.to_owned()));
        }
        Some(Source::File { name: certificate.get().as_str().into(), certificate: Arc::new(read) })
    }

    fn clients(&mut self, tls: &SiteTls) -> Option<Clients> {
        let Some(file) = &tls.client_ca else {
            if let Some(asked) = &tls.client_certificate {
                let hint = "name the authorities of client certificates: client_ca: clients.pem";
                self.report.error(asked.place(), "no client certificate could verify", Some(hint.to_owned()));
            }
            return None;
        };
        let text = self.named_file(file, "")?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            if !certificate.is_ok_and(|certificate| roots.add(certificate).is_ok()) {
                let cause = format!("`{}` cannot be used: certificate {} in it is none", file.get(), roots.len() + 1);
                let hint = "PEM: certificates of authorities alone";
                self.report.error(file.place(), cause, Some(hint.to_owned()));
                return None;
            }
        }
        if roots.is_empty() {
            let hint = "PEM: it has lines -----BEGIN CERTIFICATE-----";
            let cause = format!("the file `{}` holds no certificate", file.get());
            self.report.error(file.place(), cause, Some(hint.to_owned()));
            return None;
        }
        let asked = tls.client_certificate.as_ref().map(|c| *c.get()).unwrap_or_default();
        Some(Clients {
            authorities: Arc::new(roots),
            hash: Sha256::digest(&text).into(),
            required: asked == ClientCertificate::Require,
        })
    }

    fn hsts(&mut self, raw: &At<Hsts>) -> Option<HeaderValue> {
        let hsts = raw.get();
        let text = hsts.max_age.as_ref()?;
        let Some(age) = units::duration(text.get()).filter(|age| *age <= HSTS_MAX) else {
            let hint = "a whole number with s, m, h or d, at most 3650d: 365d; 0s has browsers forget it";
            self.report.error(text.place(), format!("`{}` is no time", text.get()), Some(hint.to_owned()));
            return None;
        };
        let preload = hsts.preload.as_ref().filter(|preload| *preload.get());
        if let Some(preload) = preload.filter(|_| !hsts.include_subdomains || age < PRELOAD_AGE) {
            let hint = "the lists take a host with max_age: 365d or more and include_subdomains: true";
            self.report.error(preload.place(), "the browsers' lists would not take this", Some(hint.to_owned()));
        }
        let subdomains = if hsts.include_subdomains { "; includeSubDomains" } else { "" };
        let preload = if preload.is_some() { "; preload" } else { "" };
        HeaderValue::from_str(&format!("max-age={}{subdomains}{preload}", age.as_secs())).ok()
    }

    /// A file of certificate authorities towards upstreams: it must be there, and hold some.
    pub(super) fn authorities(&mut self, at: &At<String>) -> Option<PathBuf> {
        let bytes = self.named_file(at, "")?;
        if memchr::memmem::find(&bytes, b"-----BEGIN CERTIFICATE-----").is_some() {
            return Some(self.folder.join(at.get()));
        }
        let hint = "PEM: it has lines -----BEGIN CERTIFICATE-----";
        let cause = format!("the file `{}` holds no certificate", at.get());
        self.report.error(at.place(), cause, Some(hint.to_owned()));
        None
    }

    /// The bytes of a file that the rules name. A later change of it reloads the rules.
    pub(super) fn named_file(&mut self, at: &At<String>, more: &str) -> Option<Vec<u8>> {
        let path: PathBuf = self.folder.join(at.get());
        match std::fs::read(&path) {
            Ok(bytes) => {
                let file = NamedFile { hash: Sha256::digest(&bytes).into(), path };
                if !self.files.contains(&file) {
                    self.files.push(file);
                }
                Some(bytes)
            }
            Err(error) => {
                let hint = format!("looked for {}{more}", path.display());
                self.report.error(at.place(), format!("the file `{}` cannot be read: {error}", at.get()), Some(hint));
                None
            }
        }
    }
}
