//! Reverse proxy: the host names the site.

use std::sync::Arc;

use crate::config::resolved::Listener;
use crate::error::Failure;
use crate::rules::host::normal_host;
use crate::state::{ListenerState, SiteState};

/// The site that a request is for.
///
/// # Errors
/// None of this listener has the host.
pub fn site(config: &Listener, state: &ListenerState, host: &str) -> Result<Arc<SiteState>, Failure> {
    normal_host(host).and_then(|host| state.site(&config.sites, &host)).cloned().ok_or(Failure::UnknownHost)
}
