//! Who else uses the key of a line, as a relay says. Pure.

use firstmile_shared::tunnel::control::Claim;

use super::ended::printable;
use crate::events::Kind;

/// Who else uses the key of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Encoders that are held until the operator decides.
    pub held: Vec<Claim>,
    /// Encoders that the operator refused.
    pub refused: Vec<Claim>,
    /// They took the line from each other: only the operator changes it now.
    pub frozen: bool,
}

impl Claims {
    /// As a relay says it: bounded, and fit for a terminal.
    pub(super) fn new(held: Vec<Claim>, refused: Vec<Claim>, frozen: bool) -> Self {
        let shown = |claims: Vec<Claim>| {
            (claims.into_iter().take(CLAIMS_MAX))
                .map(|claim| Claim {
                    encoder: printable(&claim.encoder),
                    peer: printable(&claim.peer),
                    ..claim
                })
                .collect()
        };
        Self {
            held: shown(held),
            refused: shown(refused),
            frozen,
        }
    }

    /// What happened, in words. `is_live`: whether a publisher has the line now.
    pub(super) fn news_since(
        &self,
        before: &Self,
        is_live: impl Fn(u32) -> bool,
    ) -> Vec<(Kind, String)> {
        let mut news = Vec::new();
        for claim in new_in(&self.refused, &before.refused) {
            news.push((Kind::Refused, format!("{} was refused", who(claim))));
        }
        for claim in new_in(&self.held, &before.held) {
            news.push((
                Kind::Held,
                format!(
                    "a second encoder uses the key of this line: {}; take or refuse it",
                    who(claim)
                ),
            ));
        }
        for claim in new_in(&before.held, &self.held) {
            let is_refused = self
                .refused
                .iter()
                .any(|refused| refused.publisher == claim.publisher);
            if !is_live(claim.publisher) && !is_refused {
                news.push((
                    Kind::Released,
                    format!("{} does not wait any more", who(claim)),
                ));
            }
        }
        match (before.frozen, self.frozen) {
            (false, true) => news.push((
                Kind::Frozen,
                "encoders took the line from each other again and again: it stays as it is until you decide".to_owned(),
            )),
            (true, false) => news.push((Kind::Unfrozen, "the encoders do not fight any more".to_owned())),
            _ => {}
        }
        news
    }
}

/// "Larix iOS/1.4 from 203.0.113.7:50000".
fn who(claim: &Claim) -> String {
    format!("{} from {}", claim.encoder, claim.peer)
}

fn new_in<'a>(now: &'a [Claim], before: &'a [Claim]) -> impl Iterator<Item = &'a Claim> {
    let is_known = |claim: &Claim| before.iter().any(|old| old.publisher == claim.publisher);
    now.iter().filter(move |claim| !is_known(claim))
}

/// A relay holds fewer.
const CLAIMS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(publisher: u32) -> Claim {
        Claim {
            publisher,
            encoder: format!("phone\u{1b} {publisher}"),
            peer: "203.0.113.7:5".to_owned(),
            since_unix: 0,
        }
    }

    #[test]
    fn each_change_is_told_once() {
        let claims = |held: &[u32], refused: &[u32], frozen| {
            let all = |numbers: &[u32]| numbers.iter().map(|number| claim(*number)).collect();
            Claims::new(all(held), all(refused), frozen)
        };
        // (before, now, what is told; publisher 9 has the line)
        for (before, now, told) in [
            (
                claims(&[], &[], false),
                claims(&[1], &[], false),
                vec![Kind::Held],
            ),
            (claims(&[1], &[], false), claims(&[1], &[], false), vec![]),
            (
                claims(&[1], &[], false),
                claims(&[], &[1], false),
                vec![Kind::Refused],
            ),
            (
                claims(&[1], &[], false),
                claims(&[], &[], false),
                vec![Kind::Released],
            ),
            (
                claims(&[9], &[], false),
                claims(&[1], &[], false),
                vec![Kind::Held],
            ),
            (
                claims(&[1], &[], false),
                claims(&[1], &[], true),
                vec![Kind::Frozen],
            ),
            (
                claims(&[], &[], true),
                claims(&[], &[], false),
                vec![Kind::Unfrozen],
            ),
        ] {
            let news = now.news_since(&before, |publisher| publisher == 9);
            let kinds: Vec<_> = news.iter().map(|(kind, _)| *kind).collect();
            assert_eq!(kinds, told, "{before:?} -> {now:?}");
            assert!(
                news.iter()
                    .all(|(_, text)| !text.contains(char::is_control))
            );
        }
        let flood = Claims::new((0..100).map(claim).collect(), vec![], false);
        assert_eq!(flood.held.len(), CLAIMS_MAX);
    }
}
