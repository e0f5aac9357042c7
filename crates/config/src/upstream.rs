//! How the scheduler presents itself to engines.

use aya_domain::EndpointId;

use crate::Secret;
use crate::reader::Reader;
use crate::source::Origin;

/// Keys for engines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Sent to every engine without a key of its own, as a bearer token.
    pub api_key: Option<Secret>,
    /// Whether a client's own `Authorization` goes to the engine if there is no key.
    pub forward_authorization: bool,
    /// Engines with keys of their own.
    pub engines: Vec<EngineKeyConfig>,
}

/// The key of one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineKeyConfig {
    pub endpoint: EndpointId,
    pub api_key: Secret,
}

impl UpstreamConfig {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            api_key: r.secret("api_key", "api_key_file"),
            forward_authorization: r.switch("forward_authorization", false),
            engines: r.sections(
                "engine",
                |_| Err("is written as [[upstream.engine]]".to_owned()),
                EngineKeyConfig::read,
            ),
        }
    }
}

impl EngineKeyConfig {
    fn read(r: &mut Reader<'_>, origin: &Origin) -> Option<Self> {
        let endpoint = r.required("endpoint", origin);
        let api_key = r.secret("api_key", "api_key_file");
        if api_key.is_none() {
            r.object("api_key_file", "is required");
        }
        Some(Self { endpoint: endpoint?, api_key: api_key? })
    }
}
