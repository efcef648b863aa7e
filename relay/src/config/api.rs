//! The listener of the HTTP API.

use std::sync::Arc;

use super::raw;
use super::raw::At;
use super::report::Place;
use super::resolve::{Resolver, Use, empty};
use super::resolved::{Api, ApiLimits, Forwarding, ListenerTls, Side};
use crate::tls::server::Terms;

impl Resolver<'_> {
    pub(super) fn api(&mut self, raw: &At<raw::api::Api>) -> Option<Api> {
        let written = raw.get();
        let terms = written.tls.as_ref().map(|tls| self.api_tls(tls));
        let limits = ApiLimits {
            body: self.body(written.limits.body.as_ref()),
            body_time: self.time(written.limits.body_time.as_ref(), std::time::Duration::from_secs(30)),
            answer_time: self.time(written.limits.answer_time.as_ref(), std::time::Duration::from_secs(30)),
        };
        let trust = written.forwarded.as_ref().map(|forwarded| self.trusted(&forwarded.trust)).unwrap_or_default();
        let balancers = written.proxy_protocol.as_ref().map(|p| self.balancers(p));
        let connections = written.connections.as_ref().map(|c| self.connections(c.get()));
        let text = written.listen.as_ref()?;
        let address = self.address(text, Use::Api)?;
        let has_tls = terms.is_some();
        if !has_tls && !written.plaintext && !address.ip().is_loopback() {
            let hint = "tls: {certificate: api.pem, key: api.key}, or listen on 127.0.0.1; plaintext: true where the network itself is encrypted";
            let cause = "API keys and values would cross the network in the clear";
            self.report.error(text.place(), cause, Some(hint.to_owned()));
        }
        let mut listener = empty(address, Side::Api);
        listener.tls = terms.flatten().map(ListenerTls::Proxy);
        listener.proxy_protocol = balancers.unwrap_or_default();
        listener.limits = connections.unwrap_or(listener.limits);
        Some(Api { listener, forwarding: Forwarding { trust, x_forwarded: false, forwarded: false }, limits })
    }

    /// One certificate for all clients, whatever name they say. `None` only where a fault was told.
    fn api_tls(&mut self, raw: &At<raw::tls::SiteTls>) -> Option<Arc<Terms>> {
        let tls = raw.get();
        let mut of_sites = |place: Place, key: &str, hint: &str| {
            let cause = format!("`{key}` is for sites, and the API is none");
            self.report.error(place, cause, Some(hint.to_owned()));
        };
        if let Some(acme) = tls.acme.as_ref().filter(|acme| *acme.get()) {
            of_sites(acme.place(), "acme", "certificate: api.pem, key: api.key");
            return None;
        }
        if let Some(header) = tls.client_certificate_header.as_ref().filter(|header| *header.get()) {
            of_sites(header.place(), "client_certificate_header", "leave it out: there is no backend to tell");
        }
        self.site_tls(raw, &[])
    }
}
