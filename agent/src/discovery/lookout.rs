//! Which ports are asked, in which order and how often, and what follows: pure, over one survey at a time.
//!
//! An engine's other ports (of its parts among themselves, of its workers) are not made for strangers, so as few as
//! possible are asked: what listens above comes first, and once that is an engine, nothing below it and no other port of
//! the same process is touched. What is silent may be an engine that is still loading: it is asked again, more and more
//! seldom, and what is below it waits for a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use aya_domain::{EndpointId, EngineKind, MonoTime};
use aya_engine::NoEngine;

use super::survey::{Listener, Site, Survey};

/// Between two questions to a port that is silent: doubling from one period up to this.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// The same for one that has answered, and as something else.
const OTHER_AGAIN_MAX: Duration = Duration::from_secs(600);
/// So many times a silent port is asked before those below it are: some five minutes.
const PATIENCE: u32 = 8;

/// What one port turned out to be.
pub(super) type Verdict = Result<EngineKind, NoEngine>;

/// An engine that the operator has listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: EndpointId,
    /// `None`: a name instead of an address.
    pub(super) ip: Option<std::net::IpAddr>,
    pub(super) port: u16,
}

impl Listed {
    /// Whether this is where it listens. One that is listed by name or by an address of this host is known by its port.
    fn is_at(&self, addr: SocketAddr) -> bool {
        let same = match self.ip {
            Some(ip) if !ip.is_loopback() && !ip.is_unspecified() && !addr.ip().is_loopback() => {
                ip == addr.ip()
            }
            _ => true,
        };
        same && self.port == addr.port()
    }
}

/// What is known of the ports of this host.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    asked: BTreeMap<Site, Asked>,
}

#[derive(Debug)]
struct Asked {
    verdict: Verdict,
    times: u32,
    again_at: MonoTime,
}

/// Where a listener stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// The operator has listed it.
    Listed(EndpointId),
    Engine(EngineKind),
    /// Another address of the same engine is known.
    PartOf(SocketAddr),
    /// The port above it has not said yet what it is.
    Waits(SocketAddr),
    Left(NoEngine),
    /// Not asked yet.
    New,
}

impl Lookout {
    /// Forgets what is no longer there.
    pub(super) fn keep(&mut self, survey: &Survey) {
        self.asked.retain(|site, _| survey.listeners.iter().any(|listener| listener.site == *site));
    }

    /// The next port to ask, if one is due.
    pub(super) fn next(&self, survey: &Survey, listed: &[Listed], now: MonoTime) -> Option<Site> {
        let due = |listener: &&Listener| match self.standing(listener, survey, listed) {
            Standing::New => true,
            Standing::Left(_) => self.asked.get(&listener.site).is_none_or(|asked| asked.again_at <= now),
            Standing::Listed(_) | Standing::Engine(_) | Standing::PartOf(_) | Standing::Waits(_) => false,
        };
        survey.listeners.iter().find(due).map(|listener| listener.site)
    }

    /// Takes in what a port turned out to be.
    pub(super) fn note(&mut self, site: Site, verdict: Verdict, period: Duration, now: MonoTime) {
        let before = self.asked.get(&site).map_or(0, |asked| asked.times);
        let longest = match &verdict {
            Err(NoEngine::Silent(_)) => AGAIN_MAX,
            Ok(_) | Err(_) => OTHER_AGAIN_MAX,
        };
        let wait = period.saturating_mul(1 << before.min(16)).min(longest.max(period));
        let asked = Asked { verdict, times: before.saturating_add(1), again_at: now.after(wait) };
        self.asked.insert(site, asked);
    }

    /// When a port is asked again; `None`: at once, or never because it is known.
    pub(super) fn again_at(&self, site: &Site) -> Option<MonoTime> {
        self.asked.get(site).filter(|asked| asked.verdict.is_err()).map(|asked| asked.again_at)
    }

    pub(super) fn standing(&self, listener: &Listener, survey: &Survey, listed: &[Listed]) -> Standing {
        if let Some(known) = listed.iter().find(|known| known.is_at(listener.site.addr)) {
            return Standing::Listed(known.id.clone());
        }
        let asked = self.asked.get(&listener.site);
        if let Some(Asked { verdict: Ok(kind), .. }) = asked {
            return Standing::Engine(*kind);
        }
        let others = || survey.listeners.iter().filter(|other| other.site != listener.site);
        let is_above = |other: &&Listener| listener.above.contains(&other.site.pid);
        let covers = |other: &&Listener| {
            let is_known = self.is_engine(&other.site) || listed.iter().any(|l| l.is_at(other.site.addr));
            is_known && (other.site.pid == listener.site.pid || is_above(other))
        };
        if let Some(engine) = others().find(covers) {
            return Standing::PartOf(engine.site.addr);
        }
        if let Some(first) = others().find(|other| is_above(other) && self.may_become_one(&other.site)) {
            return Standing::Waits(first.site.addr);
        }
        match asked {
            Some(Asked { verdict: Err(reason), .. }) => Standing::Left(reason.clone()),
            Some(Asked { verdict: Ok(_), .. }) | None => Standing::New,
        }
    }

    fn is_engine(&self, site: &Site) -> bool {
        self.asked.get(site).is_some_and(|asked| asked.verdict.is_ok())
    }

    fn may_become_one(&self, site: &Site) -> bool {
        self.asked
            .get(site)
            .is_none_or(|asked| matches!(asked.verdict, Err(NoEngine::Silent(_))) && asked.times < PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    fn listener(pid: u32, port: u16, above: &[u32]) -> Listener {
        let site = Site { pid, started: 1, addr: ([127, 0, 0, 1], port).into() };
        Listener { site, name: None, above: above.to_vec(), ephemeral: false, loopback_only: false }
    }

    fn survey(listeners: &[Listener]) -> Survey {
        Survey { listeners: listeners.to_vec(), ..Survey::default() }
    }

    fn listed(url: &str) -> Listed {
        let (host, port) = url.rsplit_once(':').unwrap();
        Listed { id: EndpointId::parse("e").unwrap(), ip: host.parse().ok(), port: port.parse().unwrap() }
    }

    fn silent() -> Verdict {
        Err(NoEngine::Silent("no answer".to_owned()))
    }

    /// Asks at this time whatever is due; `what` each port is. The ports that were asked, in order.
    fn ask(
        lookout: &mut Lookout,
        survey: &Survey,
        listed: &[Listed],
        at_s: u64,
        what: &[(u16, Verdict)],
    ) -> Vec<u16> {
        let now = MonoTime::from_millis(at_s * 1000);
        let mut ports = Vec::new();
        while let Some(site) = lookout.next(survey, listed, now) {
            let port = site.addr.port();
            assert!(!ports.contains(&port), "{port} is asked twice");
            ports.push(port);
            let verdict = what.iter().find(|(known, _)| *known == port).map(|(_, verdict)| verdict.clone());
            lookout.note(site, verdict.unwrap_or(Err(NoEngine::Other { status: 404 })), PERIOD, now);
        }
        ports
    }

    #[test]
    fn the_ports_of_an_engine_besides_its_own_are_not_touched() {
        let vllm = [(8000, Ok(EngineKind::Vllm))];
        let there = [listener(20, 8000, &[]), listener(20, 29_500, &[]), listener(21, 5555, &[20])];
        let (survey, mut lookout) = (survey(&there), Lookout::default());
        assert_eq!(ask(&mut lookout, &survey, &[], 0, &vllm), [8000]);
        assert_eq!(ask(&mut lookout, &survey, &[], 1_000, &vllm), [0_u16; 0], "never again");
        let standings = there.each_ref().map(|listener| lookout.standing(listener, &survey, &[]));
        let own = there[0].site.addr;
        assert_eq!(
            standings,
            [Standing::Engine(EngineKind::Vllm), Standing::PartOf(own), Standing::PartOf(own)]
        );
        lookout.keep(&Survey::default());
        assert_eq!(ask(&mut lookout, &survey, &[], 1_001, &vllm), [8000], "another process is asked anew");
    }

    #[test]
    fn what_is_silent_is_asked_ever_more_seldom_and_those_below_it_wait_for_a_while() {
        let there = [listener(20, 8000, &[]), listener(21, 5555, &[20])];
        let (survey, mut lookout) = (survey(&there), Lookout::default());
        let mut asked: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
        for at_s in (0..400).step_by(5) {
            for port in ask(&mut lookout, &survey, &[], at_s, &[(8000, silent())]) {
                asked.entry(port).or_default().push(at_s);
            }
        }
        assert_eq!(asked[&8000], [0, 5, 15, 35, 75, 135, 195, 255, 315, 375]);
        assert_eq!(asked[&5555], [255, 260, 270, 290, 330]);
        let now = [(8000, Ok(EngineKind::Vllm))];
        assert_eq!(ask(&mut lookout, &survey, &[], 435, &now), [8000], "it has loaded");
    }

    #[test]
    fn what_answers_as_something_else_is_soon_asked_every_ten_minutes_only() {
        let (survey, mut lookout) = (survey(&[listener(20, 8888, &[])]), Lookout::default());
        let times =
            (0..3_600).step_by(5).filter(|at_s| !ask(&mut lookout, &survey, &[], *at_s, &[]).is_empty());
        assert_eq!(times.collect::<Vec<_>>(), [0, 5, 15, 35, 75, 155, 315, 635, 1_235, 1_835, 2_435, 3_035]);
    }

    #[test]
    fn what_the_operator_listed_is_not_asked_and_neither_are_its_parts() {
        let there = [listener(20, 8000, &[]), listener(21, 5555, &[20]), listener(30, 8001, &[])];
        let survey = survey(&there);
        for entry in ["127.0.0.1:8000", "0.0.0.0:8000", "gpu-1:8000", "10.0.0.7:8000"] {
            let asked = ask(&mut Lookout::default(), &survey, &[listed(entry)], 0, &[]);
            assert_eq!(asked, [8001], "{entry}");
        }
        let contained = Site { addr: "172.17.0.3:8000".parse().unwrap(), ..there[0].site };
        assert!(listed("172.17.0.3:8000").is_at(contained.addr));
        assert!(!listed("172.17.0.4:8000").is_at(contained.addr), "another container's");
    }

    #[test]
    fn engines_beside_each_other_are_all_found() {
        let there = [listener(20, 8000, &[]), listener(30, 8001, &[10]), listener(31, 8002, &[10])];
        let what =
            [(8000, Ok(EngineKind::Vllm)), (8001, Ok(EngineKind::Sglang)), (8002, Ok(EngineKind::Sglang))];
        assert_eq!(ask(&mut Lookout::default(), &survey(&there), &[], 0, &what), [8000, 8001, 8002]);
    }
}
