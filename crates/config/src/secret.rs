//! A text that is never shown.

use std::fmt;

/// A key or token. `Debug` and `Display` mask it; whoever needs it asks for it by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What a secret looks like from outside.
pub(crate) const MASK: &str = "***";

impl Secret {
    /// A text of visible ASCII characters, white space around it cut off: it has to fit into a header.
    ///
    /// # Errors
    /// An empty text, or one with other characters. The message does not repeat it.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("the secret is empty".to_owned());
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("the secret has characters other than visible ASCII".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// The secret itself, for the one header it belongs into.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}
