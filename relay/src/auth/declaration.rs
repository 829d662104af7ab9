//! What a connector may declare. Everything here comes over the wire from an enrolled connector: believed to be a
//! customer, not to be free of faults. Pure.

use std::collections::HashSet;

use firstmile_shared::{
    secret::KeyHash,
    text,
    tunnel::control::{LINES_MAX, LineDeclaration, RefusedLine},
};

use crate::store::Line;

/// Sorts a declaration into lines that can be kept and lines that can't, each with a sentence for the operator.
/// The kept ones are in the order of their numbers.
pub(super) fn check(declared: Vec<LineDeclaration>) -> (Vec<Line>, Vec<RefusedLine>) {
    let mut kept = Vec::<Line>::new();
    let mut refused = Vec::new();
    let mut seen = Seen::default();
    for declaration in declared {
        let line = declaration.line;
        let checked = if kept.len() == LINES_MAX {
            Err(format!(
                "a connector has at most {LINES_MAX} lines; remove one"
            ))
        } else {
            check_line(declaration, &mut seen)
        };
        match checked {
            Ok(line) => kept.push(line),
            Err(message) => refused.push(RefusedLine { line, message }),
        }
    }
    kept.sort_unstable_by_key(|line| line.line);
    (kept, refused)
}

/// A text from the wire as it may be kept: no controls, nothing that deceives, not longer than a list can show.
pub(crate) fn printable(text: &str) -> String {
    printable_up_to(text, NAME_LEN_MAX)
}

/// Likewise, with room for so many characters.
pub(crate) fn printable_up_to(text: &str, chars_max: usize) -> String {
    text.chars()
        .filter(|c| !text::is_deceptive(*c))
        .take(chars_max)
        .collect()
}

/// What must be unique within a connector.
#[derive(Default)]
struct Seen {
    numbers: HashSet<u32>,
    names: HashSet<String>,
    keys: HashSet<KeyHash>,
}

fn check_line(declaration: LineDeclaration, seen: &mut Seen) -> Result<Line, String> {
    let name = declaration.name;
    let len = name.chars().count();
    if !(1..=NAME_LEN_MAX).contains(&len) || name.chars().any(char::is_control) {
        return Err(format!(
            "a line's name has 1 to {NAME_LEN_MAX} characters without controls"
        ));
    }
    let Some(key) = KeyHash::from_hex(&declaration.key_hash) else {
        return Err("the key's hash is not 64 hex digits; update the connector".to_owned());
    };
    if declaration.delay_ms > DELAY_MS_MAX {
        return Err(format!(
            "a delay of {} ms is over the relay's limit of {DELAY_MS_MAX} ms",
            declaration.delay_ms
        ));
    }
    if seen.numbers.contains(&declaration.line) {
        return Err(format!("line number {} is there twice", declaration.line));
    }
    let folded = name.to_lowercase();
    if seen.names.contains(&folded) {
        return Err(format!(
            "another line is called \"{name}\" (case does not count); rename one"
        ));
    }
    if seen.keys.contains(&key) {
        return Err(format!(
            "\"{name}\" has the same key as another line of this connector; give it its own"
        ));
    }
    seen.numbers.insert(declaration.line);
    seen.names.insert(folded);
    seen.keys.insert(key);
    Ok(Line {
        line: declaration.line,
        name,
        key,
        enabled: declaration.enabled,
        delay_ms: declaration.delay_ms,
        takeover: declaration.takeover,
        lag: declaration.lag,
        max_lag_ms: declaration.max_lag_ms.clamp(MAX_LAG_MS_MIN, DELAY_MS_MAX),
    })
}

/// The product's limit for the names of lines; machines' names are cut to it.
const NAME_LEN_MAX: usize = 64;

/// Less is an encoder's own rhythm and no lag.
const MAX_LAG_MS_MIN: u32 = 500;

/// Ten times the longest named delay (`rough`, 3 s): more would only let the relay hold more for a lost connector.
const DELAY_MS_MAX: u32 = 30_000;

#[cfg(test)]
mod tests {
    use firstmile_shared::tunnel::control::{LagPolicy, Takeover};

    use super::*;

    fn declared(line: u32, name: &str, key: u8) -> LineDeclaration {
        LineDeclaration {
            line,
            name: name.to_owned(),
            key_hash: format!("{key:02x}").repeat(32),
            enabled: true,
            delay_ms: 600,
            takeover: Takeover::Smart,
            lag: LagPolicy::Reconnect,
            max_lag_ms: 3_000,
        }
    }

    #[test]
    fn a_bad_line_is_refused_with_a_sentence_and_the_others_are_kept() {
        let mut bad_hash = declared(7, "Hash", 7);
        bad_hash.key_hash = "00".into();
        let mut slow = declared(8, "Slow", 8);
        slow.delay_ms = 30_001;
        // (declaration, what its refusal says; empty: kept)
        let table = [
            (declared(2, "Camera 2", 2), ""),
            (declared(1, "Camera 1", 1), ""),
            (declared(1, "Camera 3", 3), "line number 1 is there twice"),
            (declared(3, "CAMERA 2", 4), "another line is called"),
            (
                declared(4, "Camera 4", 1),
                "the same key as another line of this connector",
            ),
            (declared(5, "", 5), "1 to 64 characters"),
            (declared(6, "a\u{1b}[31m", 6), "without controls"),
            (bad_hash, "not 64 hex digits"),
            (slow, "over the relay's limit of 30000 ms"),
        ];
        let (kept, refused) = check(table.iter().map(|(line, _)| line.clone()).collect());
        let kept: Vec<_> = kept.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(kept, ["Camera 1", "Camera 2"]);
        let expected: Vec<_> = table.iter().filter(|(_, says)| !says.is_empty()).collect();
        assert_eq!(refused.len(), expected.len());
        for (refused, (declaration, says)) in refused.iter().zip(expected) {
            assert_eq!(refused.line, declaration.line);
            assert!(refused.message.contains(says), "{refused:?}, not {says:?}");
        }
    }

    #[test]
    fn more_lines_than_the_limit_are_refused_by_number() {
        let all = (0..300).map(|n| {
            let mut line = declared(n, &format!("Camera {n}"), 0);
            line.key_hash = format!("{n:064x}");
            line
        });
        let (kept, refused) = check(all.collect());
        assert_eq!((kept.len(), refused.len()), (256, 44));
        assert_eq!(refused[0].line, 256);
    }

    #[test]
    fn a_machines_name_can_not_paint_the_terminal() {
        assert_eq!(printable("truck\u{1b}[2J\n1"), "truck[2J1");
        assert_eq!(printable(&"x".repeat(500)).len(), 64);
    }
}
