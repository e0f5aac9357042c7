//! Identities: one newtype per entity, parsed once at the edge.
//!
//! An id is shared text (`Arc<str>`): cloning costs a counter, so snapshots and records may hold
//! many. Parsing refuses what would break a log line, a label or a URL, so nothing behind the edge
//! needs to check again.

use std::fmt;
use std::sync::{Arc, LazyLock};

/// The longest id in bytes; model names of hubs stay far below it.
const MAX_ID_BYTES: usize = 256;

/// Why a text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdError {
    /// Nothing was given.
    Empty,
    /// More than 256 bytes.
    TooLong { bytes: usize },
    /// A control character, white space or a quote, at this byte.
    BadCharacter { at: usize },
    /// An endpoint URL that is not `http://HOST[:PORT]`.
    NotHttpUrl,
}

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong { bytes } => write!(f, "it has {bytes} bytes, at most {MAX_ID_BYTES} are allowed"),
            Self::BadCharacter { at } => write!(f, "the character at byte {at} is not allowed"),
            Self::NotHttpUrl => f.write_str("it is not of the form http://HOST[:PORT]"),
        }
    }
}

impl std::error::Error for IdError {}

fn check_text(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong { bytes: text.len() });
    }
    // Ids are of ASCII but for the rarest; several are made for every request. Without an early end the compiler looks at
    // many bytes at once.
    let is_plain = |b: u8| b.is_ascii_graphic() & (b != b'"') & (b != b'\\');
    if text.bytes().fold(true, |all, b| all & is_plain(b)) {
        return Ok(());
    }
    let bad = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\\' | '\u{feff}');
    match text.char_indices().find(|(_, c)| bad(*c)) {
        Some((at, _)) => Err(IdError::BadCharacter { at }),
        None => Ok(()),
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a text of 1 to 256 bytes without control characters, white space, quotes or backslashes.
            ///
            /// # Errors
            /// [`IdError`] says what is wrong with the text.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check_text(text).map(|()| Self(Arc::from(text)))
            }

            /// The id as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }
    };
}

text_id!(
    /// A GPU host that runs one agent.
    NodeId
);
text_id!(
    /// NVML's UUID of a device or of a MIG slice.
    GpuUuid
);
text_id!(
    /// The address of an engine as placement names it, unique in the farm: `NODE-KIND-PORT` unless configured.
    EndpointId
);
text_id!(
    /// A scheduler among those that serve one farm.
    SchedulerId
);
text_id!(
    /// What a client asks for in `model`.
    ModelId
);
text_id!(
    /// A client's request, in every log line and header.
    RequestId
);
text_id!(
    /// One decision; `x-aya-decision-id`.
    DecisionId
);
text_id!(
    /// A named policy.
    PolicyName
);
text_id!(
    /// Who shares the farm with others: a team, a customer, an API key's owner.
    TenantId
);

impl Default for TenantId {
    /// The tenant of requests that name none: `default`.
    fn default() -> Self {
        static DEFAULT: LazyLock<TenantId> = LazyLock::new(|| TenantId(Arc::from("default")));
        DEFAULT.clone()
    }
}

/// One start of one agent process: a change of it means that all of the node's counters began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u64);

/// Where an engine listens: `http://HOST:PORT`, without path, query or user information.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointUrl {
    text: Arc<str>,
    authority_at: usize,
}

impl EndpointUrl {
    /// Parses `http://HOST[:PORT][/]`; the port defaults to 80.
    ///
    /// # Errors
    /// [`IdError::NotHttpUrl`] for another scheme, a path, a query, user information or a bad port.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_text(text)?;
        let authority = text.strip_prefix("http://").ok_or(IdError::NotHttpUrl)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', '<', '>']) {
            return Err(IdError::NotHttpUrl);
        }
        let with_port = match split_port(authority)? {
            Some(_) => format!("http://{authority}"),
            None => format!("http://{authority}:80"),
        };
        Ok(Self { text: Arc::from(with_port), authority_at: "http://".len() })
    }

    /// `http://HOST:PORT`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `HOST:PORT`, as the `Host` header and the resolver want it.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.text.get(self.authority_at..).unwrap_or_default()
    }

    /// The host without port; an IPv6 address keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.authority().rsplit_once(':').map_or("", |(host, _)| host)
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.authority().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(80)
    }
}

/// The port behind the last colon, if there is one outside the brackets of an IPv6 address.
fn split_port(authority: &str) -> Result<Option<u16>, IdError> {
    let Some((host, port)) = authority.rsplit_once(':') else { return Ok(None) };
    if host.starts_with('[') && !host.ends_with(']') {
        return if authority.ends_with(']') { Ok(None) } else { Err(IdError::NotHttpUrl) };
    }
    if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
        return Err(IdError::NotHttpUrl);
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(IdError::NotHttpUrl),
        Ok(port) => Ok(Some(port)),
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

impl std::str::FromStr for EndpointUrl {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_refuses_what_would_break_a_log_line() {
        for (text, expect) in [
            ("", Some(IdError::Empty)),
            ("a b", Some(IdError::BadCharacter { at: 1 })),
            ("a\nb", Some(IdError::BadCharacter { at: 1 })),
            ("ä\"", Some(IdError::BadCharacter { at: 2 })),
            ("meta-llama/Llama-3.1-8B", None),
        ] {
            assert_eq!(ModelId::parse(text).err(), expect, "{text:?}");
        }
        assert_eq!(NodeId::parse(&"x".repeat(257)).err(), Some(IdError::TooLong { bytes: 257 }));
    }

    #[test]
    fn an_endpoint_url_is_a_host_and_a_port_and_nothing_else() {
        for (text, expect) in [
            ("http://127.0.0.1:8000", Some("127.0.0.1:8000")),
            ("http://gpu-1:8000/", Some("gpu-1:8000")),
            ("http://gpu-1", Some("gpu-1:80")),
            ("http://[::1]:8000", Some("[::1]:8000")),
            ("http://[::1]", Some("[::1]:80")),
            ("https://gpu-1:8000", None),
            ("http://gpu-1:8000/v1", None),
            ("http://user@gpu-1:8000", None),
            ("http://gpu-1:0", None),
            ("http://gpu-1:70000", None),
            ("http://::1:80", None),
            ("gpu-1:8000", None),
        ] {
            assert_eq!(EndpointUrl::parse(text).ok().as_ref().map(EndpointUrl::authority), expect, "{text}");
        }
        let url = EndpointUrl::parse("http://[::1]:8000").unwrap();
        assert_eq!((url.host(), url.port()), ("[::1]", 8000));
    }
}
