//! Studio and stream key, out of what encoders make of a URL.
//!
//! They agree neither on where the application ends and the stream begins, nor on slashes and queries. So both
//! are put together again: the first part of the path is the studio, the last one the key.

/// The studio (in lower case) and the key; empty where there is none.
pub(super) fn studio_and_key(app: &str, stream: &str) -> (String, String) {
    let (app_path, app_query) = split_query(app);
    let (stream_path, stream_query) = split_query(stream);
    let mut parts = app_path
        .split('/')
        .chain(stream_path.split('/'))
        .filter(|part| !part.trim().is_empty());
    let studio = parts.next().unwrap_or_default();
    let key = parts
        .next_back()
        .or_else(|| key_in_query(stream_query))
        .or_else(|| key_in_query(app_query))
        .unwrap_or_default();
    (decoded(studio).to_ascii_lowercase(), decoded(key))
}

/// Application path of a URL: what follows host and port.
pub(super) fn app_of_url(url: &str) -> &str {
    let url = url.trim_matches(['"', '\'', ' ']);
    let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    behind_scheme.split_once('/').map_or("", |(_, path)| path)
}

fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

/// Cameras that have no field for a key take it as a parameter of the URL.
fn key_in_query(query: &str) -> Option<&str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(name, value)| {
        (matches!(name, "key" | "token") && !value.is_empty()).then_some(value)
    })
}

/// Undoes %-escapes, as some encoders apply them to what was typed. Text that is too long to be either is nothing.
fn decoded(text: &str) -> String {
    if text.len() > LEN_MAX {
        return String::new();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut left = text.as_bytes();
    while let Some((&first, rest)) = left.split_first() {
        let escaped = rest
            .get(..2)
            .filter(|_| first == b'%')
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        left = rest
            .get(if escaped.is_some() { 2 } else { 0 }..)
            .unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// A key has at most 128 characters, escaped three times as many.
const LEN_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_way_to_type_an_address_leads_to_the_same_line() {
        for (app, stream) in [
            ("truck1", "7k2m-x9qd-h4tp"),
            ("truck1/", "7k2m-x9qd-h4tp"),
            ("/truck1", "/7k2m-x9qd-h4tp/"),
            ("Truck1", "7k2m-x9qd-h4tp"),
            ("truck1/7k2m-x9qd-h4tp", ""),
            ("truck1/7k2m-x9qd-h4tp/", ""),
            ("truck1", "7k2m-x9qd-h4tp?clientConfigId=42"),
            ("truck1?a=b", "7k2m-x9qd-h4tp"),
            ("truck1/_definst_", "7k2m-x9qd-h4tp"),
            ("truck1/", "?token=7k2m-x9qd-h4tp"),
            ("truck1/?key=7k2m-x9qd-h4tp", ""),
            ("", "truck1/7k2m-x9qd-h4tp"),
            ("truck1", "7k2m%2Dx9qd-h4tp%20"),
        ] {
            let expected = ("truck1".to_owned(), "7k2m-x9qd-h4tp".to_owned());
            assert_eq!(studio_and_key(app, stream), expected, "{app:?} {stream:?}");
        }
    }

    #[test]
    fn what_is_missing_is_empty() {
        for (app, stream, studio) in [
            ("", "", ""),
            ("truck1", "", "truck1"),
            ("truck1", "??", "truck1"),
        ] {
            assert_eq!(
                studio_and_key(app, stream),
                (studio.to_owned(), String::new())
            );
        }
        assert_eq!(studio_and_key("truck1", &"x".repeat(9_000)).1, "");
    }

    #[test]
    fn the_application_can_be_had_from_the_url() {
        for (url, app) in [
            ("rtmp://host:1935/truck1", "truck1"),
            ("\"rtmps://[::1]/truck1/key\"", "truck1/key"),
            ("rtmp://host", ""),
            ("", ""),
        ] {
            assert_eq!(app_of_url(url), app, "{url}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(app in "[a-z/?%=& é0-9]{0,40}", stream in ".{0,40}") {
            let _ = studio_and_key(&app, &stream);
            let _ = app_of_url(&stream);
        }
    }
}
