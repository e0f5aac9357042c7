//! The one-pass scan of a request body against `serde_json`: whatever the scan accepts is JSON, and means what the
//! scan says; whatever it refuses is no JSON, or breaks a rule of ours that this file finds again in its own way.

use std::fmt;

use aya_proxy::scan::{DEPTH_MAX, ScanError, ScanLimits};
use aya_proxy::splice::{Edits, splice};
use aya_proxy::{BodyView, PrefixKey, prompt_prefix, scan};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

pub(crate) const WORDS: &[&str] = &[
    "\"model\":",
    "\"Model\":",
    "\"mod\\u0065l\":",
    "\"messages\":[",
    "\"stream\":true",
    "\"stream\":\"true\"",
    "\"stream_options\":{",
    "\"include_usage\":true",
    "\"max_tokens\":",
    "\"max_completion_tokens\":",
    "\"n\":",
    "\"prompt\":[",
    "\"input\":",
    "\"tools\":[",
    "null",
    "1e999",
    "-0",
    "1.5",
    "99999999999999999999",
    "\\ud800",
    "\\udc00",
    "\\u0000",
    "\\",
    "\"",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\u{feff}",
    "NaN",
    " ",
    "\n",
    "\u{1f600}",
    "\"content\":\"",
    "\"image_url\":{\"url\":\"",
];

pub(crate) fn check(input: &[u8]) {
    let limits = ScanLimits::DEFAULT;
    let parsed = serde_json::from_slice::<Document>(input);
    match (scan(input, limits), parsed) {
        (Ok(view), Ok(document)) => {
            assert_eq!(document.broken_rule(limits), None, "accepted against a rule");
            same_meaning(&view, input, &document);
            splices(&view, input);
        }
        // Its parser stops one level before ours.
        (Ok(_), Err(_)) if depth(input) >= DEPTH_MAX => {}
        (Ok(_), Err(error)) => panic!("accepted, and no JSON object: {error}"),
        (Err(error), Ok(document)) => refused(error, input, &document, limits),
        (Err(_), Err(_)) => {}
    }
}

/// A top-level object with every key in its order, those that come twice too.
struct Document(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(Document(all))
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// A key's name, and which values it may have.
type Key = (&'static str, fn(&Value) -> bool);

/// The keys that are read.
const KEYS: [Key; 11] = [
    ("model", Value::is_string),
    ("stream", |v| v.is_boolean() || v.is_null()),
    ("stream_options", |v| v.is_object() || v.is_null()),
    ("max_tokens", |v| v.is_number() || v.is_null()),
    ("max_completion_tokens", |v| v.is_number() || v.is_null()),
    ("n", |v| v.is_number() || v.is_null()),
    ("messages", |v| v.is_array() || v.is_null()),
    ("prompt", |v| v.is_string() || v.is_array() || v.is_null()),
    ("input", |v| v.is_string() || v.is_array() || v.is_null()),
    ("tools", |v| v.is_array() || v.is_null()),
    ("functions", |v| v.is_array() || v.is_null()),
];

impl Document {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// A rule of ours that the document breaks, in words.
    fn broken_rule(&self, limits: ScanLimits) -> Option<String> {
        for (key, fits) in KEYS {
            let named = || self.0.iter().filter(|(name, _)| name == key);
            if named().count() > 1 {
                return Some(format!("{key} twice"));
            }
            if self.0.iter().any(|(name, _)| name != key && folded(name) == key) {
                return Some(format!("{key} in another case"));
            }
            if named().any(|(_, value)| !fits(value)) {
                return Some(format!("{key} of another type"));
            }
        }
        let counts = [
            ("max_tokens", 0, limits.output_tokens_max),
            ("max_completion_tokens", 0, limits.output_tokens_max),
        ];
        for (key, min, max) in counts.into_iter().chain([("n", 1, limits.n_max)]) {
            let number = self.get(key).filter(|value| value.is_number());
            // As written: 5.0 and -0 are numbers that engines read differently.
            let whole = number.map(|value| value.as_u64().filter(|n| (min..=max).contains(n)));
            if whole.is_some_and(|n| n.is_none()) {
                return Some(format!("{key} is no such number"));
            }
        }
        let messages = self.get("messages").and_then(Value::as_array).map_or(0, Vec::len);
        if messages > limits.messages_max as usize {
            return Some("too many messages".to_owned());
        }
        None
    }

    /// What only the text of `stream_options` shows: its own keys twice or of another type or case.
    fn has_options(&self) -> bool {
        self.get("stream_options").is_some()
    }
}

fn folded(name: &str) -> String {
    let fold = |c: char| match c {
        '\u{212a}' => 'k',
        '\u{17f}' => 's',
        c => c.to_ascii_lowercase(),
    };
    name.chars().map(fold).collect()
}

fn same_meaning(view: &BodyView, input: &[u8], document: &Document) {
    let count = |key: &str| document.get(key).and_then(Value::as_u64);
    assert_eq!(view.model(input).as_deref(), document.get("model").and_then(Value::as_str), "model");
    assert_eq!(view.stream, document.get("stream").and_then(Value::as_bool), "stream");
    assert_eq!(view.max_tokens.map(u64::from), count("max_tokens"), "max_tokens");
    assert_eq!(view.max_completion_tokens.map(u64::from), count("max_completion_tokens"), "completion");
    assert_eq!(view.n.map(u64::from), count("n"), "n");
    let messages = document.get("messages").and_then(Value::as_array).map(Vec::len);
    assert_eq!(view.messages.map(|m| m as usize), messages, "messages");
    assert_eq!(view.is_empty, document.0.is_empty(), "whether it has keys");
    let usage = document.get("stream_options").and_then(|o| o.get("include_usage")).and_then(Value::as_bool);
    assert_eq!(view.wants_usage(), usage == Some(true), "include_usage");
    assert!(view.prompt_bytes + view.media_bytes <= input.len() as u64, "more text than bytes");
    // Whatever the spans say, it reads no byte that is not there.
    let _ = prompt_prefix(input, view, "m", PrefixKey::new(7));
}

/// What an engine is sent is the same document with the keys that we set.
fn splices(view: &BodyView, input: &[u8]) {
    let edits = Edits { stream: Some(true), include_usage: true, model: Some("an \"odd\"\n name") };
    let sent = splice(&Bytes::copy_from_slice(input), view, edits).to_vec();
    let mut expect: Value = serde_json::from_slice(input).unwrap();
    let fields = expect.as_object_mut().unwrap();
    fields.insert("stream".to_owned(), Value::Bool(true));
    fields.insert("model".to_owned(), Value::from("an \"odd\"\n name"));
    let options = fields.entry("stream_options").or_insert(Value::Null);
    if options.is_null() {
        *options = Value::Object(serde_json::Map::new());
    }
    options.as_object_mut().unwrap().insert("include_usage".to_owned(), Value::Bool(true));
    let sent: Value = serde_json::from_slice(&sent).expect("what an engine is sent is JSON");
    assert_eq!(sent, expect, "what an engine is sent");
}

/// `serde_json` takes it: then the refusal must be one of our own rules, found here again.
fn refused(error: ScanError, input: &[u8], document: &Document, limits: ScanLimits) {
    let is_so = match error {
        ScanError::TooDeep { limit } => depth(input) > limit,
        ScanError::DuplicateKey { key: "include_usage" }
        | ScanError::MiscasedKey { key: "include_usage" }
        | ScanError::WrongType { key: "include_usage", .. } => document.has_options(),
        ScanError::DuplicateKey { .. }
        | ScanError::MiscasedKey { .. }
        | ScanError::WrongType { .. }
        | ScanError::OutOfRange { .. }
        | ScanError::TooManyMessages { .. } => document.broken_rule(limits).is_some(),
        ScanError::Empty
        | ScanError::ByteOrderMark
        | ScanError::NotUtf8 { .. }
        | ScanError::InvalidJson { .. }
        | ScanError::NotAnObject => false,
    };
    assert!(is_so, "refused with `{error}`, and it is good JSON that breaks no rule");
}

/// How deep brackets are nested outside of strings.
fn depth(input: &[u8]) -> u32 {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_u32, 0, false, false);
    for byte in input {
        match (byte, in_string) {
            _ if escaped => escaped = false,
            (b'\\', true) => escaped = true,
            (b'"', _) => in_string = !in_string,
            (b'{' | b'[', false) => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (b'}' | b']', false) => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
