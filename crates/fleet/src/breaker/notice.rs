//! What an endpoint's breaker did, for the log and the event list.

use std::fmt;
use std::time::Duration;

use aya_domain::{EndpointId, Trip};

/// One thing that the breaker of an endpoint did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BreakerNotice {
    Ejected {
        endpoint: EndpointId,
        trip: Trip,
        lasts: Duration,
    },
    /// It would be ejected, but too much of its pool is.
    Kept {
        endpoint: EndpointId,
        trip: Trip,
    },
    Wedged {
        endpoint: EndpointId,
        silent: Duration,
    },
    OnTrial {
        endpoint: EndpointId,
    },
    Recovered {
        endpoint: EndpointId,
    },
    Slow {
        endpoint: EndpointId,
        percent: u32,
    },
    AsFastAgain {
        endpoint: EndpointId,
    },
}

impl BreakerNotice {
    /// Which endpoint it is about.
    #[must_use]
    pub const fn endpoint(&self) -> &EndpointId {
        match self {
            Self::Ejected { endpoint, .. }
            | Self::Kept { endpoint, .. }
            | Self::Wedged { endpoint, .. }
            | Self::OnTrial { endpoint }
            | Self::Recovered { endpoint }
            | Self::Slow { endpoint, .. }
            | Self::AsFastAgain { endpoint } => endpoint,
        }
    }

    /// The name used in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Ejected { .. } => "ejected",
            Self::Kept { .. } => "kept",
            Self::Wedged { .. } => "wedged",
            Self::OnTrial { .. } => "on_trial",
            Self::Recovered { .. } => "recovered",
            Self::Slow { .. } => "slow",
            Self::AsFastAgain { .. } => "as_fast_again",
        }
    }

    /// A stable name of it among all notices.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Ejected { .. } => "endpoint_ejected",
            Self::Kept { .. } => "endpoint_kept",
            Self::Wedged { .. } => "endpoint_wedged",
            Self::OnTrial { .. } => "endpoint_on_trial",
            Self::Recovered { .. } => "endpoint_recovered",
            Self::Slow { .. } => "endpoint_slow",
            Self::AsFastAgain { .. } => "endpoint_as_fast_again",
        }
    }

    /// Whether an operator should look at it.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        match self {
            Self::Ejected { .. } | Self::Kept { .. } | Self::Wedged { .. } | Self::Slow { .. } => true,
            Self::OnTrial { .. } | Self::Recovered { .. } | Self::AsFastAgain { .. } => false,
        }
    }
}

impl fmt::Display for BreakerNotice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ejected { endpoint, trip, lasts } => {
                write!(f, "endpoint {endpoint} is ejected for {} s: {trip}", lasts.as_secs())
            }
            Self::Kept { endpoint, trip } => {
                write!(f, "endpoint {endpoint} would be ejected ({trip}), but too much of its pool is")
            }
            Self::Wedged { endpoint, silent } => write!(
                f,
                "endpoint {endpoint} is wedged: it held requests for {:.1} s and gave no tokens",
                silent.as_secs_f64()
            ),
            Self::OnTrial { endpoint } => write!(f, "endpoint {endpoint} is on trial"),
            Self::Recovered { endpoint } => write!(f, "endpoint {endpoint} works again"),
            Self::Slow { endpoint, percent } => {
                write!(f, "endpoint {endpoint} takes {percent} % of its peers' time")
            }
            Self::AsFastAgain { endpoint } => write!(f, "endpoint {endpoint} is as fast as its peers again"),
        }
    }
}
