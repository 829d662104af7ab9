//! What a rehearsal's card says besides the line's name. Pure.

use firstmile_shared::text;

/// Two sentences for the people in the rehearsal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::playout) struct Words {
    /// What is wrong.
    pub(in crate::playout) reason: String,
    /// What to do.
    pub(in crate::playout) remedy: String,
}

impl Words {
    /// Fit for a card: parts of them come from a relay, which may be hostile.
    pub(super) fn bounded(&self) -> Self {
        let bound = |text: &str| {
            let mut text: String = text.chars().filter(|c| !text::is_deceptive(*c)).collect();
            if let Some((end, _)) = text.char_indices().nth(CHARS_MAX) {
                text.truncate(end);
                text.push('…');
            }
            text
        };
        Self {
            reason: bound(&self.reason),
            remedy: bound(&self.remedy),
        }
    }
}

/// Six lines of a card.
const CHARS_MAX: usize = 240;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_relay_says_is_cut_to_what_a_card_holds() {
        let words = Words {
            reason: format!("a\u{1b}[31m{}", "ü".repeat(1000)),
            remedy: "Wait.".to_owned(),
        }
        .bounded();
        assert_eq!(words.reason.chars().count(), CHARS_MAX + 1);
        assert!(words.reason.starts_with("a[31mü") && words.reason.ends_with('…'));
        assert_eq!(words.remedy, "Wait.");
    }
}
