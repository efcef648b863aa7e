//! Towards third parties: the host names the destination, or else the first segment of the path does (base-URL form).

pub mod connect;
pub mod egress;
pub mod keys;

use std::sync::Arc;

use http::Uri;
use http::uri::Authority;

use crate::config::resolved::Listener;
use crate::error::Failure;
use crate::rules::host::normal_host;
use crate::state::{ListenerState, SiteState};

/// The port of a host that is asked for without one.
const HTTPS: u16 = 443;

/// A destination, and what is left of the target where its first segment named it.
#[derive(Debug)]
pub struct Destination {
    /// The destination.
    pub site: Arc<SiteState>,
    /// Path and query for the destination; `None` when the host named it and the target is the request's own.
    pub target: Option<Box<str>>,
}

/// The destination that a request is for. A host that is a destination wins over the path, so a request has one reading.
///
/// # Errors
/// Neither host nor path names a destination of this listener, or the one it names is not open on this port.
pub fn destination(config: &Listener, state: &ListenerState, host: &str, uri: &Uri) -> Result<Destination, Failure> {
    let port = host.parse::<Authority>().ok().and_then(|authority| authority.port_u16());
    let host = normal_host(host).ok_or(Failure::UnknownHost)?;
    if let Some(site) = state.site(&config.sites, &host) {
        return Ok(Destination { site: site.of(&host, port.unwrap_or(HTTPS))?, target: None });
    }
    let path = uri.path().strip_prefix('/').ok_or(Failure::UnknownHost)?;
    let (name, rest) = path.split_once('/').unwrap_or((path, ""));
    // Escapes are not decoded: a host name needs none, and one spelling is enough.
    let name = normal_host(name).ok_or(Failure::UnknownHost)?;
    let site = state.site(&config.sites, &name).ok_or(Failure::UnknownHost)?;
    let target = match uri.query() {
        Some(query) => format!("/{rest}?{query}"),
        None => format!("/{rest}"),
    };
    Ok(Destination { site: site.of(&name, HTTPS)?, target: Some(target.into()) })
}
