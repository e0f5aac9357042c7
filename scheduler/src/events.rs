//! What happened to the farm: a bounded list of the fleet's notices, for questions. The fleet's writer fills it,
//! operators read it; no request touches it.

use std::collections::VecDeque;
use std::sync::Arc;

use aya_domain::{Cause, GpuEventKind, Snapshot, WallTime};
use aya_fleet::Notice;
use aya_trace::EventJson;
use parking_lot::RwLock;

/// Events kept; at the limit the oldest is forgotten. A farm at rest has none, a node's restart a dozen.
const EVENTS_KEPT: usize = 4_096;

/// A number from here on is seconds since 1970 (2001-09-09), for no scheduler lives to have as many events.
const SECONDS_FROM: u64 = 1_000_000_000;

/// Which events to show.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) limit: usize,
    pub(crate) node: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) gpu: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) since: Option<Since>,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    /// After the event of this id.
    Id(u64),
    /// From this time on.
    Time(WallTime),
}

impl Since {
    /// An id, or a time: `2026-11-21T04:24:34Z`, with or without a fraction or an offset, or whole seconds since 1970.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = |number: u64| {
            let seconds = number.checked_mul(1_000).filter(|_| number >= SECONDS_FROM);
            seconds.map_or(Self::Id(number), |ms| Self::Time(WallTime::from_unix_ms(ms)))
        };
        text.parse().ok().map(number).or_else(|| WallTime::parse_written(text).ok().map(Self::Time))
    }

    fn takes(self, event: &Kept) -> bool {
        match self {
            Self::Id(id) => event.json.id > id,
            Self::Time(time) => event.time >= time,
        }
    }
}

#[derive(Debug)]
struct Kept {
    time: WallTime,
    json: EventJson,
}

/// The last events, newest last.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    events: RwLock<Events>,
}

#[derive(Debug, Default)]
struct Events {
    kept: VecDeque<Arc<Kept>>,
    last_id: u64,
}

impl Events {
    fn push(&mut self, time: WallTime, json: EventJson) {
        if self.kept.len() == EVENTS_KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(Arc::new(Kept { time, json }));
    }
}

fn unix_s(time: WallTime) -> f64 {
    std::time::Duration::from_millis(time.as_unix_ms()).as_secs_f64()
}

impl EventLog {
    /// Keeps a notice. A report that is passed over is no event: it comes with every one while its cause lasts, and the
    /// cause has an event of its own.
    pub(crate) fn keep(&self, notice: &Notice, snapshot: &Snapshot, time: WallTime) {
        if matches!(notice, Notice::ReportIgnored { .. }) {
            return;
        }
        let mut events = self.events.write();
        events.last_id += 1;
        let json = event_json(events.last_id, notice, snapshot, time);
        events.push(time, json);
    }

    /// Keeps an event of the scheduler itself.
    pub(crate) fn keep_own(&self, kind: &'static str, is_warning: bool, message: String, time: WallTime) {
        let mut events = self.events.write();
        events.last_id += 1;
        let json = EventJson {
            id: events.last_id,
            time: time.to_string(),
            time_unix_s: unix_s(time),
            severity: if is_warning { "warning" } else { "info" }.to_owned(),
            kind: kind.to_owned(),
            node: None,
            gpu: None,
            endpoints: Vec::new(),
            model: None,
            rule: None,
            action: None,
            cause: None,
            xid: None,
            message,
        };
        events.push(time, json);
    }

    /// The newest events that match, newest first.
    pub(crate) fn find(&self, query: &Query) -> Vec<EventJson> {
        let is = |wanted: &Option<String>, given: &Option<String>| {
            wanted.is_none() || (wanted.as_deref() == given.as_deref())
        };
        let fits = |event: &&Arc<Kept>| {
            let json = &event.json;
            is(&query.node, &json.node)
                && is(&query.gpu, &json.gpu)
                && query.kind.as_ref().is_none_or(|kind| *kind == json.kind)
                && query.endpoint.as_ref().is_none_or(|endpoint| json.endpoints.contains(endpoint))
                && query.since.is_none_or(|since| since.takes(event))
        };
        let events = self.events.read();
        events.kept.iter().rev().filter(fits).take(query.limit).map(|event| event.json.clone()).collect()
    }
}

fn event_json(id: u64, notice: &Notice, snapshot: &Snapshot, time: WallTime) -> EventJson {
    let subject = notice.subject();
    let own = subject.endpoint.and_then(|id| snapshot.endpoint(snapshot.index_of(id)?));
    let node = subject.node.or_else(|| own.map(|endpoint| &endpoint.info.node));
    let above = snapshot.endpoints.iter().filter(|endpoint| {
        subject.gpu.is_some_and(|gpu| {
            endpoint.info.gpus.contains(gpu)
                || endpoint.conditions.iter().any(|c| c.gpu.as_ref() == Some(gpu))
        })
    });
    let endpoints = subject.endpoint.into_iter().chain(above.map(|endpoint| &endpoint.info.id));
    let health = if let Notice::Health(health) = notice { Some(health) } else { None };
    let xid = match (health.map(|health| health.cause()), notice) {
        (Some(Cause::Xid { code }), _)
        | (None, Notice::GpuEvent { kind: GpuEventKind::Xid { code }, .. }) => Some(*code),
        _ => None,
    };
    EventJson {
        id,
        time: time.to_string(),
        time_unix_s: unix_s(time),
        severity: notice.severity().as_str().to_owned(),
        kind: notice.kind().to_owned(),
        node: node.map(ToString::to_string),
        gpu: subject.gpu.map(ToString::to_string),
        endpoints: endpoints.map(ToString::to_string).collect(),
        model: subject.model.map(ToString::to_string),
        rule: health.map(|health| health.cause().rule().to_owned()),
        action: health.map(|health| health.action().to_owned()),
        cause: health.map(|health| health.cause().to_string()),
        xid,
        message: notice.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use aya_domain::NodeId;

    use super::*;

    fn ids(log: &EventLog, query: &Query) -> Vec<u64> {
        log.find(query).iter().map(|event| event.id).collect()
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_are_forgotten() {
        let log = EventLog::default();
        let joined = |node: &str| Notice::NodeJoined { node: NodeId::parse(node).unwrap() };
        for at in 0..EVENTS_KEPT as u64 + 3 {
            let node = if at % 2 == 0 { "a" } else { "b" };
            log.keep(&joined(node), &Snapshot::empty(), WallTime::from_unix_ms(at * 1_000));
        }
        let newest = EVENTS_KEPT as u64 + 3;
        let all = ids(&log, &Query { limit: usize::MAX, ..Query::default() });
        assert_eq!((all.len(), all[0], all[all.len() - 1]), (EVENTS_KEPT, newest, 4));
        let b = Query { limit: 2, node: Some("b".to_owned()), ..Query::default() };
        assert_eq!(ids(&log, &b), [newest - 1, newest - 3]);
        let since = Since::parse(&(newest - 2).to_string());
        assert_eq!(ids(&log, &Query { limit: 9, since, ..Query::default() }), [newest, newest - 1]);
        let since = Since::parse(&WallTime::from_unix_ms((newest - 1) * 1_000).to_string());
        assert_eq!(ids(&log, &Query { limit: 9, since, ..Query::default() }), [newest]);
        let at = |unix_ms| Some(Since::Time(WallTime::from_unix_ms(unix_ms)));
        assert_eq!(Since::parse("1795235074"), at(1_795_235_074_000));
        assert_eq!(Since::parse("2026-11-21T04:24:34Z"), at(1_795_235_074_000));
        assert_eq!(Since::parse("yesterday"), None);
    }
}
