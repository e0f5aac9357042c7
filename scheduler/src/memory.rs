//! The watch over memory and connections: measures, takes the steps of [`aya_admission::Watermarks`], tells of them.
//!
//! What is given up is read by every connection and request as an atomic. The scheduler would rather refuse requests for a
//! while than be killed with all that it relays. What is freed has to go back to the kernel by itself, as it does with the
//! program's allocator.

mod limit;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use aya_admission::{Pressure, Used, Watermarks};
use aya_config::MemoryConfig;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::limit::MemoryLimit;
use crate::shared::Shared;

/// Ten streams of the fastest clients fill a few megabytes in this time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The step that is in force.
#[derive(Debug, Default)]
pub(crate) struct PressureNow(AtomicU8);

impl PressureNow {
    pub(crate) fn get(&self) -> Pressure {
        Pressure::of_level(self.0.load(Ordering::Relaxed))
    }

    fn set(&self, pressure: Pressure) {
        self.0.store(pressure.level(), Ordering::Relaxed);
    }
}

/// Watches until it is told to end.
#[derive(Debug)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    limit: Option<MemoryLimit>,
    marks: Watermarks,
}

impl Watch {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let MemoryConfig { max, short_idle_percent, no_keep_alive_percent, refuse_percent, .. } =
            &shared.config.memory;
        let percent = |percent: usize| u32::try_from(percent).unwrap_or(u32::MAX);
        let marks = Watermarks {
            short_idle: percent(*short_idle_percent),
            no_keep_alive: percent(*no_keep_alive_percent),
            refuse: percent(*refuse_percent),
        };
        let limit = max.map_or_else(MemoryLimit::of_group, |max| Some(MemoryLimit::Process { max }));
        Self { shared, limit, marks }
    }

    pub(crate) async fn run(self, shutdown: CancellationToken) {
        if let Some(limit) = &self.limit {
            info!(limit_bytes = limit.max(), "memory is watched");
            self.shared.metrics.memory.limit.set(i64::try_from(limit.max()).unwrap_or(i64::MAX));
        }
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = looks.tick() => {}
            }
            self.look();
        }
    }

    fn look(&self) {
        let metrics = &self.shared.metrics;
        let used_bytes = self.limit.as_ref().and_then(MemoryLimit::used);
        if let Some(used) = used_bytes {
            metrics.memory.used.set(i64::try_from(used).unwrap_or(i64::MAX));
        }
        let open = u64::try_from(metrics.connections.get()).unwrap_or(0);
        let places = u64::try_from(self.shared.config.limits.connections_max).unwrap_or(u64::MAX);
        let used = Used {
            memory: self.limit.as_ref().zip(used_bytes).map(|(limit, used)| percent(used, limit.max())),
            connections: percent(open, places),
        };
        let was = self.shared.pressure.get();
        let now = self.marks.next(was, used);
        if now == was {
            return;
        }
        self.shared.pressure.set(now);
        metrics.memory.pressure.set(i64::from(now.level()));
        let (kind, is_worse) = ("pressure", now > was);
        let memory = used
            .memory
            .map_or_else(|| "no known limit".to_owned(), |percent| format!("{percent} % of its limit"));
        let connections = used.connections;
        let message =
            format!("{}: memory at {memory}, {connections} % of the connections in use", now.as_str());
        if is_worse {
            warn!("{message}");
        } else {
            info!("{message}");
        }
        let clock = &self.shared.clock;
        self.shared.events.keep_own(kind, is_worse, message, clock.wall(clock.now()));
        self.shared.stopping.call();
    }
}

fn percent(used: u64, of: u64) -> u32 {
    u32::try_from(used.saturating_mul(100) / of.max(1)).unwrap_or(u32::MAX)
}
