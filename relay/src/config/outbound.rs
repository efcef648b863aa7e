//! The listeners of the outbound relay, and what may be reached through them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use http::Uri;

use super::raw::{self, At, TlsMin};
use super::report::Place;
use super::resolve::{Resolver, Url, Use, Written, empty};
use super::resolved::{ClientIdentity, Connect, Forwarding, HostTable, Listener, ListenerTls, Side, Site, Upstream};
use super::sites::{Rules, Shared};
use crate::outbound::egress::{Egress, Network, Spelled, spelled};
use crate::outbound::keys::ProxyKeys;
use crate::rules::path::PathGlob;
use crate::state::is_usable;
use crate::tls::ca::{Authority, AuthorityFault};

impl Resolver<'_> {
    pub(super) fn outbound(&mut self, raw: &[At<raw::Outbound>]) -> Vec<Listener> {
        let mut listeners = Vec::<Listener>::new();
        for entry in raw {
            let raw = entry.get();
            let address = raw.listen.as_ref().and_then(|text| self.address(text, Use::Outbound));
            let limits = raw.connections.as_ref().map(|c| self.connections(c.get()));
            if let (Some(address), Some(text)) = (address.filter(|a| !a.ip().is_loopback()), &raw.listen)
                && raw.keys.is_empty()
            {
                let hint = "anyone who reaches it could have tokens opened towards the destinations: give its clients keys \
                            (`relay key proxy`, `keys`), or listen on 127.0.0.1";
                let cause = format!("the outbound relay would listen on {address} without asking for a key");
                self.report.error(text.place(), cause, Some(hint.to_owned()));
            }
            let mut listener = empty(address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))), Side::Outbound);
            listener.limits = limits.unwrap_or(listener.limits);
            listener.keys = self.keys(&raw.keys);
            listener.tls = raw.tls.as_ref().and_then(|tls| self.proxy_tls(tls)).map(ListenerTls::Proxy);
            listener.proxy_protocol = raw.proxy_protocol.as_ref().map(|p| self.balancers(p)).unwrap_or_default();
            for destination in raw.destinations.iter().flat_map(At::get) {
                self.destination(destination, &mut listener.sites);
            }
            if let Some(list) = raw.destinations.as_ref().filter(|list| list.get().is_empty() && !list.is_pruned()) {
                let hint = "destinations: [{host: api.example.com}]";
                self.report.error(list.place(), "the listener has no destination", Some(hint.to_owned()));
            }
            listener.sites.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
            listeners.push(listener);
        }
        listeners
    }

    fn destination(&mut self, entry: &At<raw::Destination>, table: &mut HostTable) {
        let raw = entry.get();
        let host = raw.host.as_ref().and_then(|host| self.host(host));
        let ports = self.ports(raw.ports.as_ref());
        let connect = self.connect(entry, host.as_ref().map(|(place, host)| (*place, &**host)));
        let itself = self.itself(entry, host.as_ref().map(|(place, host)| (*place, &**host)), &ports);
        let written = Written {
            urls: raw.upstream.as_ref().or(itself.as_ref()),
            name: raw.name.as_ref(),
            ca: raw.ca.as_ref(),
            health: raw.health.as_ref(),
            limits: &raw.limits,
            identity: self.identity(entry),
            only_tls13: raw.tls_min == Some(TlsMin::Tls13),
            http2: raw.http2,
            egress: Some(self.egress(raw)),
            own_host: true,
            proxy_protocol: None,
        };
        let is_asked = host.is_some() && raw.upstream.is_none() && itself.is_none() && !entry.is_pruned();
        let upstream = if is_asked { self.asked(raw, &written) } else { self.upstream(&written) };
        self.opens_in_plaintext(raw);
        let open_paths = self.paths(raw);
        // Where a pattern has a fault, what it was to open is not known.
        let are_known = raw.paths.as_ref().is_none_or(|at| !at.is_pruned() && at.list().len() == open_paths.len());
        let rules = Rules {
            side: Side::Outbound,
            fold_case: raw.fold_case,
            underscore_headers: raw.underscore_headers,
            unruled: raw.unruled,
            open_paths: if are_known { &open_paths } else { &[] },
            roles: &mut self.roles,
            report: self.report,
        };
        let rules = rules.resolve(&raw.rules).within(open_paths);
        let limits = self.limits(&raw.limits);
        let (Some((place, host)), Some(upstream)) = (host, upstream) else { return };
        let site = Shared::new(Site {
            name: host.clone(),
            hosts: vec![host.clone()],
            upstream,
            tls: None,
            forwarding: Forwarding::default(),
            redirect: false,
            connect,
            ports,
            rules,
            limits,
            server_timing: raw.server_timing,
            underscore_headers: raw.underscore_headers,
        });
        self.place_site(table, place, &host, &site);
    }

    fn keys(&mut self, raw: &[At<String>]) -> ProxyKeys {
        let mut hashes = Vec::new();
        for text in raw {
            match hash(text.get()) {
                Some(hash) => hashes.push(hash),
                None => {
                    let hint =
                        "64 hexadecimal digits, as `relay key proxy` prints them: the hash, never the key itself";
                    self.report.error(text.place(), "this is no hash of a key", Some(hint.to_owned()));
                }
            }
        }
        ProxyKeys::new(hashes)
    }

    fn ports(&mut self, raw: Option<&At<Vec<At<u16>>>>) -> Box<[u16]> {
        let Some(list) = raw else { return Box::new([443]) };
        if list.get().is_empty() && !list.is_pruned() {
            let hint = "leave `ports` out for 443";
            self.report.error(list.place(), "CONNECT could ask for no port", Some(hint.to_owned()));
        }
        for port in list.get().iter().filter(|port| *port.get() == 0) {
            self.report.error(port.place(), "0 is no port", Some("from 1 to 65535: 443".to_owned()));
        }
        list.get().iter().map(|port| *port.get()).collect()
    }

    fn paths(&mut self, raw: &raw::Destination) -> Vec<PathGlob> {
        let mut open = Vec::new();
        let Some(paths) = &raw.paths else { return open };
        let list = paths.list();
        if list.is_empty() && !paths.is_pruned() {
            let hint = "leave `paths` out for all of them";
            self.report.error(paths.place(), "no path would be open", Some(hint.to_owned()));
        }
        if raw.tunnel {
            let hint = "in a tunnel nothing is read: use `intercept`, or take `paths` out";
            self.report.error(paths.place(), "no path is seen in a tunnel", Some(hint.to_owned()));
        }
        for (place, text) in list {
            match PathGlob::new(text, raw.fold_case) {
                Ok(glob) => open.push(glob),
                Err(error) => {
                    let cause = format!("the path pattern `{text}` cannot be used");
                    self.report.error(place, cause, Some(error.to_string()));
                }
            }
        }
        open
    }

    fn connect(&mut self, entry: &At<raw::Destination>, host: Option<(Place, &str)>) -> Connect {
        let raw = entry.get();
        match (raw.intercept, raw.tunnel) {
            (true, true) => {
                let hint = "keep one of them";
                self.report.error(entry.place(), "`intercept` and `tunnel` stand together", Some(hint.to_owned()));
                Connect::Refuse
            }
            (true, false) => {
                match (&self.ca, host) {
                    (None, _) if !self.names_ca => {
                        let hint = "ca: {certificate: relay-ca.pem, key: relay-ca.key}, made by `relay ca init`";
                        let cause = "`intercept` needs a certificate authority, and the file names no `ca`";
                        self.report.error(entry.place(), cause, Some(hint.to_owned()));
                    }
                    (Some(ca), Some((place, host))) if !ca.may_sign(host) => {
                        let hint = "make another with `relay ca init --config`, or without --config for any host";
                        let cause = format!("the authority in `ca` may not sign for {host}");
                        self.report.error(place, cause, Some(hint.to_owned()));
                    }
                    _ => {}
                }
                Connect::Intercept
            }
            (false, true) => {
                if let Some(rule) = raw.rules.first() {
                    let hint = "in a tunnel nothing is read; `intercept` has the rules hold for it";
                    let cause = "the rules do not hold for what comes through the tunnel";
                    self.report.warn(rule.place(), cause, Some(hint.to_owned()));
                }
                Connect::Tunnel
            }
            (false, false) => {
                if let Some(ports) = &raw.ports {
                    let hint = "`intercept: true` or `tunnel: true` opens them";
                    self.report.error(ports.place(), "CONNECT is refused on every port", Some(hint.to_owned()));
                }
                Connect::Refuse
            }
        }
    }

    /// The upstream of a destination that names none and has one host and port: that.
    fn itself(
        &mut self,
        entry: &At<raw::Destination>,
        host: Option<(Place, &str)>,
        ports: &[u16],
    ) -> Option<At<raw::OneOrMany>> {
        let raw = entry.get();
        if raw.upstream.is_some() || entry.is_pruned() {
            return None;
        }
        let (place, host) = host?;
        match ports {
            [port] if !host.starts_with('*') => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
                Some(At::new(place, raw::OneOrMany::One(format!("https://{host}:{port}"))))
            }
            _ => None,
        }
    }

    /// The upstream of a destination of which only a request says the host or the port.
    fn asked(&mut self, raw: &raw::Destination, written: &Written<'_>) -> Option<Upstream> {
        let hint = "each host is looked up when it is asked for, and proves its own name; with `upstream` there is one";
        if let Some(name) = &raw.name {
            self.report.error(
                name.place(),
                "the host of a request is the name that is verified",
                Some(hint.to_owned()),
            );
        }
        let upstream = self.without_servers(written);
        if upstream.health.is_some() {
            let place = raw.host.as_ref().map_or(Place::default(), At::place);
            self.report.error(place, "no server is known whose health could be checked", Some(hint.to_owned()));
        }
        Some(upstream)
    }

    fn identity(&mut self, entry: &At<raw::Destination>) -> Option<ClientIdentity> {
        let raw = entry.get();
        match (&raw.client_certificate, &raw.client_key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                let read = (self.named_file(certificate, ""), self.named_file(key, ""));
                let (Some(_), Some(_)) = read else { return None };
                let [certificate_file, key_file] = [certificate, key].map(|file| self.folder.join(file.get()));
                let identity = ClientIdentity { certificate: certificate_file, key: key_file };
                if !is_usable(&identity) {
                    let cause = "this client certificate cannot be used with its key";
                    let hint = "a certificate and its own private key, both PEM";
                    self.report.error(certificate.place(), cause, Some(hint.to_owned()));
                }
                Some(identity)
            }
            (Some(one), None) | (None, Some(one)) => {
                let hint = "`client_certificate` and `client_key` go together";
                self.report.error(
                    one.place(),
                    "the other half of the client certificate is missing",
                    Some(hint.to_owned()),
                );
                None
            }
        }
    }

    /// The local certificate authority.
    pub(super) fn authority(&mut self, raw: &At<raw::Ca>) -> Option<Arc<Authority>> {
        let (certificate, key) = (raw.get().certificate.as_ref()?, raw.get().key.as_ref()?);
        let read = |resolver: &mut Self, at: &At<String>| {
            let bytes = resolver.named_file(at, "; `relay ca init` makes an authority")?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        };
        let texts = (read(self, certificate), read(self, key));
        let mode = std::fs::metadata(self.folder.join(key.get())).map(|file| file.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o077 != 0) {
            let hint = format!("chmod 600 {}", key.get());
            self.report.error(key.place(), "others may read the authority's key", Some(hint));
        }
        match Authority::read(&texts.0?, &texts.1?) {
            Ok(authority) => Some(Arc::new(authority)),
            Err(error) => {
                let at = if error == AuthorityFault::Key { key } else { certificate };
                let hint = "`relay ca init` makes an authority".to_owned();
                self.report.error(at.place(), format!("`{}` cannot be used: {error}", at.get()), Some(hint));
                None
            }
        }
    }

    fn egress(&mut self, raw: &raw::Destination) -> Egress {
        let mut egress = Egress::new(self.networks(&raw.networks));
        // What a name resolves to is not known here: opened values go in plaintext to no address that is not listed.
        if !self.development && opens(raw) && raw.upstream.as_ref().is_some_and(|urls| urls.list().iter().any(is_plain))
        {
            egress.allow_listed_alone();
        }
        egress
    }

    /// Servers on the Internet to which a rule would send opened values in plaintext.
    fn opens_in_plaintext(&mut self, raw: &raw::Destination) {
        let Some(urls) = raw.upstream.as_ref().filter(|_| opens(raw) && !self.development) else { return };
        let listed: Vec<Network> = raw.networks.iter().filter_map(|network| network.get().parse().ok()).collect();
        for (place, text) in urls.list().into_iter().filter(is_plain) {
            let Ok(uri) = text.parse::<Uri>() else { continue };
            let private = match uri.host().map(spelled) {
                Some(Ok(Spelled::Name)) => listed.iter().any(Network::is_special),
                Some(Ok(Spelled::Address(address))) => Network::of(address).is_special(),
                Some(Ok(Spelled::Localhost)) | Some(Err(_)) | None => true,
            };
            if !private {
                let hint = "write https://; or, for a server of your own network, its address, or its name with `networks: [10.0.0.0/8]`";
                let cause = format!("values that the rules open would go to `{text}` in plaintext");
                self.report.error(place, cause, Some(hint.to_owned()));
            }
        }
    }

    /// Whoever writes an address, or `localhost`, into the file means it: it is listed thereby. Other names are not, whatever they resolve to.
    pub(super) fn listed(&mut self, mut egress: Egress, servers: &[(Place, Url)]) -> Egress {
        for (place, server) in servers {
            match spelled(&server.host) {
                Ok(Spelled::Name) => {}
                Ok(Spelled::Address(address)) => egress.list(Network::of(address)),
                Ok(Spelled::Localhost) => {
                    // Resolvers take any of 127.0.0.0/8; this is what they are configured with.
                    egress.list(Network::of(IpAddr::V4(Ipv4Addr::LOCALHOST)));
                    egress.list(Network::of(IpAddr::V6(Ipv6Addr::LOCALHOST)));
                }
                Err(refused) => {
                    let hint = format!("{refused}: write the address as 127.0.0.1 or [::1]");
                    self.report.error(*place, format!("`{}` has more than one reading", server.host), Some(hint));
                }
            }
        }
        egress
    }
}

/// Whether a rule opens values towards the destination.
fn opens(raw: &raw::Destination) -> bool {
    raw.rules.iter().any(|rule| !rule.get().request.open.is_empty())
}

fn is_plain((_, url): &(Place, &str)) -> bool {
    url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
}

/// 32 bytes in hexadecimal.
fn hash(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    let mut hash = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(text.chunks(2)) {
        let digit = |at: usize| pair.get(at).and_then(|b| char::from(*b).to_digit(16));
        *byte = u8::try_from(digit(0)? << 4 | digit(1)?).ok()?;
    }
    Some(hash)
}
