//! What may stand in a text that somebody else chose and a person reads. Pure.
//!
//! A name of an encoder or a line stands in the middle of our sentences, on pages, terminals and cards: it must not
//! turn them around, hide a part of them, or be nothing that can be seen.

/// Whether a character is not seen itself and changes what is: controls, line separators, marks that turn the writing
/// direction, and what has no width. What joins letters and emoji is none of them.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Soft hyphen, Arabic letter mark, Hangul and Khmer fillers, Mongolian vowel separator.
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
            | '\u{3164}' | '\u{ffa0}'
            // Zero width space; left-to-right and right-to-left marks. Not the joiners 200c and 200d between them.
            | '\u{200b}' | '\u{200e}' | '\u{200f}'
            // Line and paragraph separators, embeddings and overrides.
            | '\u{2028}'..='\u{202e}'
            // Word joiner, invisible operators, isolates, deprecated formats.
            | '\u{2060}'..='\u{206f}'
            // Byte order mark, interlinear annotations, musical formats, language tag.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0001}')
}

/// Whether there is anything to see in it.
pub fn is_visible(text: &str) -> bool {
    let only_changes_others = |c: char| {
        matches!(c, '\u{200c}' | '\u{200d}' | '\u{34f}' | '\u{180b}'..='\u{180d}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{e0020}'..='\u{e007f}' | '\u{e0100}'..='\u{e01ef}')
    };
    text.chars()
        .any(|c| !c.is_whitespace() && !is_deceptive(c) && !only_changes_others(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_writings_are_fit_and_tricks_are_not() {
        for fit in [
            "Kran süd",
            "日本",
            "مرحبا",
            "می‌خواهم",
            "👩‍👩‍👧",
            "🏴\u{e0067}\u{e0062}\u{e0065}\u{e006e}\u{e0067}\u{e007f}",
            "❤\u{fe0f}",
            "e\u{301}",
        ] {
            assert!(!fit.contains(is_deceptive) && is_visible(fit), "{fit:?}");
        }
        for trick in [
            "a\tb",
            "a\u{202e}b",
            "a\u{61c}b",
            "Camera\u{200b} 1",
            "\u{2066}a",
            "\u{3164}",
            "a\u{2028}",
        ] {
            assert!(trick.contains(is_deceptive), "{trick:?}");
        }
        for nothing in ["", "  ", "\u{fe0f}", "\u{200d}", "\u{e0041}"] {
            assert!(!is_visible(nothing), "{nothing:?}");
        }
    }
}
