//! Which keys a call is about: one, or a range in the form that the API has for it.

use bytes::Bytes;

/// One zero byte: as an end it stands for "every key from the start on", as a start for the first possible key.
const OPEN: &[u8] = &[0];

/// The keys that belong to a given key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Span {
    #[default]
    Single,
    Prefix,
    FromKey,
    Until(Vec<u8>),
}

impl Span {
    /// `key` and `range_end` of a request.
    pub(crate) fn bounds(self, key: Vec<u8>) -> (Bytes, Bytes) {
        match self {
            Span::Single => (key.into(), Bytes::new()),
            Span::Prefix if key.is_empty() => (Bytes::from_static(OPEN), Bytes::from_static(OPEN)),
            Span::Prefix => {
                let end = prefix_end(&key);
                (key.into(), end)
            }
            Span::FromKey if key.is_empty() => (Bytes::from_static(OPEN), Bytes::from_static(OPEN)),
            Span::FromKey => (key.into(), Bytes::from_static(OPEN)),
            Span::Until(end) => (key.into(), end.into()),
        }
    }
}

/// The first key after all keys with the prefix: the last byte that can be raised is raised, the ones after it go.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(raised) = last.checked_add(1) {
            end.push(raised);
            return end.into();
        }
    }
    Bytes::from_static(OPEN)
}

/// The methods by which options choose more than one key. For structs with a field `span`.
macro_rules! span_methods {
    () => {
        /// All keys that begin with the key. An empty key means all keys.
        pub fn prefix(mut self) -> Self {
            self.span = crate::span::Span::Prefix;
            self
        }

        /// All keys from the key on.
        pub fn from_key(mut self) -> Self {
            self.span = crate::span::Span::FromKey;
            self
        }

        /// All keys from the key on that are smaller than `end`.
        pub fn range_end(mut self, end: impl Into<Vec<u8>>) -> Self {
            self.span = crate::span::Span::Until(end.into());
            self
        }
    };
}
pub(crate) use span_methods;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(span: Span, key: &[u8], start: &[u8], end: &[u8]) {
        assert_eq!(span.bounds(key.to_vec()), (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end)));
    }

    #[test]
    fn spans_become_bounds() {
        check(Span::Single, b"a", b"a", b"");
        check(Span::Prefix, b"a", b"a", b"b");
        check(Span::Prefix, b"a/", b"a/", b"a0");
        check(Span::Prefix, b"a\xff\xff", b"a\xff\xff", b"b");
        check(Span::Prefix, b"\xff\xff", b"\xff\xff", b"\0");
        check(Span::Prefix, b"", b"\0", b"\0");
        check(Span::FromKey, b"a", b"a", b"\0");
        check(Span::FromKey, b"", b"\0", b"\0");
        check(Span::Until(b"c".to_vec()), b"a", b"a", b"c");
    }
}
