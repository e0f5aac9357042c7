//! Under which address a scheduler reaches an engine that the agent reads on loopback.

use std::net::{IpAddr, SocketAddr};

use aya_domain::EndpointUrl;
use tokio::net::UdpSocket;

/// What is known about the way between this node and one scheduler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// The scheduler runs on this very host and may use loopback too.
    pub(crate) same_host: bool,
    /// Our address as seen on the way to the scheduler.
    pub(crate) local: Option<IpAddr>,
}

impl Route {
    /// Asks the routing table; nothing is sent.
    pub(crate) async fn to(scheduler: &EndpointUrl) -> Self {
        let local = local_address(scheduler).await.ok();
        let same_host = local.map_or_else(|| is_loopback(scheduler), |ip| ip.is_loopback());
        Self { same_host, local }
    }

    /// The address to tell: as configured, unless only this host could use that.
    pub(crate) fn advertise(&self, engine: &EndpointUrl, advertise_host: Option<&str>) -> EndpointUrl {
        let unspecified = address(engine).is_some_and(|ip| ip.is_unspecified());
        if !unspecified && !is_loopback(engine) {
            return engine.clone();
        }
        let host = match (self.same_host, advertise_host, self.local) {
            (true, _, _) if unspecified => "127.0.0.1".to_owned(),
            (true, _, _) | (false, None, None) => return engine.clone(),
            (false, Some(host), _) => host.to_owned(),
            (false, None, Some(IpAddr::V4(ip))) => ip.to_string(),
            (false, None, Some(IpAddr::V6(ip))) => format!("[{ip}]"),
        };
        EndpointUrl::parse(&format!("http://{host}:{}", engine.port())).unwrap_or_else(|_| engine.clone())
    }
}

async fn local_address(scheduler: &EndpointUrl) -> std::io::Result<IpAddr> {
    let target = tokio::net::lookup_host(scheduler.authority()).await?.next();
    let target = target.ok_or_else(|| std::io::Error::other("the scheduler's name has no address"))?;
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket.local_addr()?.ip())
}

fn is_loopback(url: &EndpointUrl) -> bool {
    url.host() == "localhost" || address(url).is_some_and(|ip| ip.is_loopback())
}

fn address(url: &EndpointUrl) -> Option<IpAddr> {
    url.host().trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_on_loopback_is_told_by_an_address_that_the_scheduler_can_use() {
        let here = Route { same_host: true, local: Some(IpAddr::from([127, 0, 0, 1])) };
        let far = Route { same_host: false, local: Some(IpAddr::from([10, 0, 0, 7])) };
        let far6 = Route { same_host: false, local: Some("fd00::7".parse().unwrap()) };
        let unknown = Route { same_host: false, local: None };
        for (name, route, host, engine, expect) in [
            ("same host", &here, None, "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
            ("same host, any address", &here, None, "http://0.0.0.0:8000", "http://127.0.0.1:8000"),
            (
                "same host ignores the configured one",
                &here,
                Some("gpu-1"),
                "http://[::1]:1",
                "http://[::1]:1",
            ),
            ("far", &far, None, "http://127.0.0.1:8000", "http://10.0.0.7:8000"),
            ("far, by name", &far, None, "http://localhost:8000", "http://10.0.0.7:8000"),
            ("far, any address", &far, None, "http://0.0.0.0:8000", "http://10.0.0.7:8000"),
            ("far over IPv6", &far6, None, "http://[::1]:8000", "http://[fd00::7]:8000"),
            ("far, configured", &far, Some("gpu-1"), "http://127.0.0.1:8000", "http://gpu-1:8000"),
            ("already reachable", &far, Some("gpu-1"), "http://10.1.1.1:8000", "http://10.1.1.1:8000"),
            ("no route known", &unknown, None, "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ] {
            let engine = EndpointUrl::parse(engine).unwrap();
            assert_eq!(route.advertise(&engine, host).as_str(), expect, "{name}");
        }
    }

    #[tokio::test]
    async fn the_way_to_a_scheduler_on_loopback_is_loopback() {
        let route = Route::to(&EndpointUrl::parse("http://127.0.0.1:8082").unwrap()).await;
        assert_eq!(route, Route { same_host: true, local: Some(IpAddr::from([127, 0, 0, 1])) });
    }
}
