//! The table: rows, each with what was measured of everybody and what of it is met, for people and as JSON.

use std::{collections::BTreeMap, fmt::Write, thread};

use serde::{Deserialize, Serialize};

use super::{
    row::{Bound, Figures, Must, Row, System},
    run::run,
};

/// One row's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// As on the command line.
    pub name: String,
    /// For people.
    pub title: String,
    /// The median of the repetitions; `null` is "never".
    pub figures: BTreeMap<System, Figures>,
    /// Every repetition.
    pub runs: BTreeMap<System, Vec<Figures>>,
    /// What had to be, and was or was not.
    pub verdicts: Vec<Verdict>,
    /// What could not be measured, and why.
    pub faults: Vec<String>,
}

/// One bound of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// In words, with the figure.
    pub text: String,
    /// Whether it is so.
    pub is_met: bool,
}

/// Runs a row `times` times, all systems side by side each time; `say` hears of each repetition.
pub fn measure(row: &Row, systems: &[System], times: u64, mut say: impl FnMut(&str)) -> Line {
    let systems: Vec<System> = [System::Firstmile]
        .iter()
        .chain(row.peers)
        .copied()
        .filter(|system| systems.contains(system))
        .collect();
    let mut runs: BTreeMap<System, Vec<Figures>> = BTreeMap::new();
    let mut faults = Vec::new();
    for seed in 1..=times {
        let results: Vec<_> = thread::scope(|scope| {
            let running: Vec<_> = (systems.iter())
                .map(|system| (*system, scope.spawn(move || run(row, *system, seed))))
                .collect();
            (running.into_iter())
                .map(|(system, run)| (system, run.join()))
                .collect()
        });
        for (system, result) in results {
            match result {
                Ok(Ok(figures)) => runs.entry(system).or_default().push(figures),
                Ok(Err(error)) => faults.push(format!("{}: {error:#}", system.name())),
                Err(_) => faults.push(format!("{}: the laboratory panicked", system.name())),
            }
        }
        say(&format!("{}: {seed} of {times}", row.name));
    }
    let figures: BTreeMap<_, _> = (runs.iter())
        .map(|(system, runs)| (*system, median(runs)))
        .collect();
    let verdicts = (row.bounds.iter())
        .map(|bound| judge(bound, &figures))
        .collect();
    Line {
        name: row.name.to_owned(),
        title: row.title.to_owned(),
        figures,
        runs,
        verdicts,
        faults,
    }
}

/// The middle of each figure; "never" is the largest of all.
fn median(runs: &[Figures]) -> Figures {
    let mut values: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (name, value) in runs.iter().flatten() {
        values
            .entry(name)
            .or_default()
            .push(value.unwrap_or(f64::INFINITY));
    }
    (values.into_iter())
        .map(|(name, mut values)| {
            values.sort_by(f64::total_cmp);
            let middle = values.get((values.len() - 1) / 2).copied();
            (name.to_owned(), middle.filter(|value| value.is_finite()))
        })
        .collect()
}

fn judge(bound: &Bound, figures: &BTreeMap<System, Figures>) -> Verdict {
    let of = |system| (figures.get(&system)).and_then(|figures| figures.get(bound.figure).copied());
    let what = words(bound.figure);
    let Some(value) = of(System::Firstmile) else {
        return Verdict {
            text: format!("{}: not measured", what.trim_end_matches(':')),
            is_met: false,
        };
    };
    let (is_met, must) = match bound.must {
        Must::AtMost(limit) => (
            value.is_some_and(|value| value <= limit),
            format!("at most {}", number(limit)),
        ),
        Must::AtLeast(limit) => (
            value.is_some_and(|value| value >= limit),
            format!("at least {}", number(limit)),
        ),
        Must::AtLeastThatOf(peer) => match of(peer).flatten() {
            Some(limit) => (
                value.is_some_and(|value| value >= limit),
                format!("at least {}, as {}", number(limit), peer.name()),
            ),
            None => (
                false,
                format!("as much as {}, which was not measured", peer.name()),
            ),
        },
    };
    let value = value.map_or_else(|| "never".to_owned(), number);
    Verdict {
        text: format!("{what} {value}, must be {must}"),
        is_met,
    }
}

/// What a figure is, for people.
fn words(figure: &str) -> &str {
    match figure {
        "shown" => "pictures shown",
        "program_shown" => "pictures of the line on program shown",
        "freeze_ms" => "longest freeze, ms:",
        "frozen_s" => "frozen, s:",
        "picture_p99_ms" => "delay of pictures p99, ms:",
        "picture_max_ms" => "largest delay of a picture, ms:",
        "audio_p95_ms" => "delay of sound p95, ms:",
        "whole_again_ms" => "last missing picture after the trouble, ms:",
        "heard_again_ms" => "sound back after the trouble, ms:",
        "seen_again_ms" => "picture back after the trouble, ms:",
        "first_picture_ms" => "first picture after the connector's start, ms:",
        "cut_ms" => "a picture after the cut, ms:",
        "change_ms" => "change of the neighbour's delay p95, ms:",
        other => other,
    }
}

fn number(value: f64) -> String {
    if value.is_infinite() {
        "anything".to_owned()
    } else if (value - value.round()).abs() < 0.05 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

/// As Markdown: figures of everybody, then what is met and what is not.
pub fn render(lines: &[Line]) -> String {
    let mut out = String::from(
        "| link | tunnel | shown | longest freeze ms | picture p50 / p95 / p99 / max ms | sound p50 / p95 / max ms | more |\n|---|---|---|---|---|---|---|\n",
    );
    for line in lines {
        for (index, (system, figures)) in line.figures.iter().enumerate() {
            let title = if index == 0 { &line.title } else { "" };
            let cell = |name: &str| match figures.get(name) {
                Some(Some(value)) => number(*value),
                Some(None) => "∞".to_owned(),
                None => "–".to_owned(),
            };
            let all = |names: &[&str]| {
                names
                    .iter()
                    .map(|name| cell(name))
                    .collect::<Vec<_>>()
                    .join(" / ")
            };
            let more: Vec<_> = (figures.keys())
                .filter(|name| !COLUMNS.contains(&name.as_str()))
                .map(|name| format!("{name} {}", cell(name)))
                .collect();
            // Writing into a string does not fail.
            let _ = writeln!(
                out,
                "| {title} | {} | {} | {} | {} | {} | {} |",
                system.name(),
                if figures.contains_key("shown") {
                    format!("{} of {}", cell("shown"), cell("pictures"))
                } else {
                    "–".to_owned()
                },
                cell("freeze_ms"),
                all(&[
                    "picture_p50_ms",
                    "picture_p95_ms",
                    "picture_p99_ms",
                    "picture_max_ms"
                ]),
                all(&["audio_p50_ms", "audio_p95_ms", "audio_max_ms"]),
                more.join(", "),
            );
        }
    }
    let met = (lines.iter()).filter(|line| line.is_met()).count();
    let _ = writeln!(out, "\n{met} of {} rows are met.\n", lines.len());
    for line in lines {
        for verdict in &line.verdicts {
            let mark = if verdict.is_met { "met" } else { "NOT MET" };
            let _ = writeln!(out, "- {mark}: {}: {}", line.title, verdict.text);
        }
        for fault in &line.faults {
            let _ = writeln!(out, "- NOT MEASURED: {}: {fault}", line.title);
        }
    }
    out
}

impl Line {
    /// Whether all is as it must be.
    pub fn is_met(&self) -> bool {
        self.faults.is_empty() && self.verdicts.iter().all(|verdict| verdict.is_met)
    }
}

/// Figures that have a column.
const COLUMNS: [&str; 14] = [
    "shown",
    "pictures",
    "arrived",
    "freeze_ms",
    "frozen_s",
    "heard",
    "blocks",
    "picture_p50_ms",
    "picture_p95_ms",
    "picture_p99_ms",
    "picture_max_ms",
    "audio_p50_ms",
    "audio_p95_ms",
    "audio_max_ms",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(pairs: &[(&str, Option<f64>)]) -> Figures {
        (pairs.iter())
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect()
    }

    #[test]
    fn never_is_more_than_any_number_in_a_median() {
        let runs = [Some(10.0), None, Some(20.0)].map(|value| figures(&[("cut_ms", value)]));
        assert_eq!(median(&runs), figures(&[("cut_ms", Some(20.0))]));
        let runs = [None, None, Some(20.0)].map(|value| figures(&[("cut_ms", value)]));
        assert_eq!(median(&runs), figures(&[("cut_ms", None)]));
    }

    #[test]
    fn a_bound_is_judged_in_words() {
        let measured = BTreeMap::from([
            (
                System::Firstmile,
                figures(&[("shown", Some(590.0)), ("cut_ms", None)]),
            ),
            (System::Srt, figures(&[("shown", Some(580.0))])),
        ]);
        for (figure, must, text, is_met) in [
            (
                "shown",
                Must::AtLeast(600.0),
                "pictures shown 590, must be at least 600",
                false,
            ),
            (
                "shown",
                Must::AtLeastThatOf(System::Srt),
                "pictures shown 590, must be at least 580, as SRT",
                true,
            ),
            (
                "cut_ms",
                Must::AtMost(400.0),
                "a picture after the cut, ms: never, must be at most 400",
                false,
            ),
            (
                "change_ms",
                Must::AtMost(10.0),
                "change of the neighbour's delay p95, ms: not measured",
                false,
            ),
        ] {
            let verdict = judge(&Bound { figure, must }, &measured);
            assert_eq!((verdict.text.as_str(), verdict.is_met), (text, is_met));
        }
    }
}
