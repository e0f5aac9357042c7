//! From an endpoint's URL to a socket address: literals at once, names through the system's resolver.
//!
//! A name is looked up at most every [`KEEP`] per thread, so that placement does not pay for it on every request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use aya_domain::{EndpointUrl, MonoTime};

/// How long a looked-up address is used.
const KEEP: Duration = Duration::from_secs(30);
/// Names kept per thread; beyond it all are forgotten and looked up anew.
const NAMES_MAX: usize = 16_384;

thread_local! {
    static NAMES: RefCell<BTreeMap<EndpointUrl, (SocketAddr, MonoTime)>> = const { RefCell::new(BTreeMap::new()) };
}

/// The address behind a URL.
///
/// # Errors
/// What the system's resolver says; `NotFound` for a name without addresses.
pub(crate) async fn resolve(url: &EndpointUrl, now: MonoTime) -> io::Result<SocketAddr> {
    if let Ok(address) = url.authority().parse() {
        return Ok(address);
    }
    let known = NAMES.with_borrow(|names| names.get(url).copied());
    if let Some((address, at)) = known
        && now.since(at) < KEEP
    {
        return Ok(address);
    }
    let found = tokio::net::lookup_host(url.authority()).await?.next();
    let address = found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    NAMES.with_borrow_mut(|names| {
        if names.len() >= NAMES_MAX {
            names.clear();
        }
        names.insert(url.clone(), (address, now));
    });
    Ok(address)
}
