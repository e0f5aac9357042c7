//! A request's header fields, where they lie in its head: nothing is hashed or copied.
//!
//! A relay looks at a dozen names once each, so a map would cost more to fill than it saves. Names are compared without
//! regard to case, always.

use bytes::Bytes;
use http::HeaderMap;
use httparse::Header;

use crate::headers::is_safe_header_value;

/// All fields of one request, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    head: Bytes,
    places: Vec<Place>,
}

/// Where one field lies in the head.
#[derive(Debug, Clone, Copy)]
struct Place {
    name: Part,
    value: Part,
}

#[derive(Debug, Clone, Copy)]
struct Part {
    at: u32,
    length: u32,
}

impl Fields {
    /// The fields that a parser found in this head; `None` if one of them is not in it.
    pub(super) fn within(head: &Bytes, found: &[Header<'_>]) -> Option<Self> {
        let mut places = Vec::with_capacity(found.len());
        for field in found {
            let name = Part::within(head, field.name.as_bytes())?;
            places.push(Place { name, value: Part::within(head, field.value)? });
        }
        Some(Self { head: head.clone(), places })
    }

    /// How many there are; a name that came twice counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The values of all fields of this name.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let is_it = move |place: &&Place| place.name.of(&self.head).eq_ignore_ascii_case(name.as_bytes());
        self.places.iter().filter(is_it).map(|place| place.value.of(&self.head))
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The same, if it is plain text: visible ASCII, spaces and tabs.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        plain_text(self.get(name)?)
    }
}

/// A value as plain text: visible ASCII, spaces and tabs.
#[must_use]
pub fn plain_text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| is_safe_header_value(text))
}

impl Part {
    fn of(self, head: &[u8]) -> &[u8] {
        let (at, length) = (self.at as usize, self.length as usize);
        head.get(at..at + length).unwrap_or_default()
    }

    /// Where a part of the head lies in it.
    fn within(head: &[u8], part: &[u8]) -> Option<Self> {
        if part.is_empty() {
            // Nothing may lie anywhere.
            return Self::at(0, 0);
        }
        let at = part.as_ptr().addr().checked_sub(head.as_ptr().addr())?;
        Self::at(at, part.len()).filter(|_| at + part.len() <= head.len())
    }

    fn at(at: usize, length: usize) -> Option<Self> {
        Some(Self { at: u32::try_from(at).ok()?, length: u32::try_from(length).ok()? })
    }
}

/// What another reader of heads has found.
impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let mut head = Vec::new();
        let mut add = |part: &[u8]| {
            let at = head.len();
            head.extend_from_slice(part);
            Part::at(at, part.len())
        };
        let mut places = Vec::with_capacity(map.len());
        for (name, value) in map {
            if let (Some(name), Some(value)) = (add(name.as_str().as_bytes()), add(value.as_bytes())) {
                places.push(Place { name, value });
            }
        }
        Self { head: head.into(), places }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn the_fields_of_a_map_are_found_again_by_any_spelling() {
        let pairs = [("x-a", "1"), ("host", "h"), ("x-a", "2"), ("x-empty", "")];
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let fields = Fields::from(&map);
        assert_eq!(fields.len(), 4);
        assert_eq!(fields.all("X-A").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(
            (fields.text("Host"), fields.text("x-empty"), fields.text("x-b")),
            (Some("h"), Some(""), None)
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_a_value_all_the_same() {
        let value = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        let fields = Fields::from(&HeaderMap::from_iter([(http::header::TE, value)]));
        assert_eq!((fields.get("te"), fields.text("te")), (Some(b"caf\xe9".as_slice()), None));
    }
}
