//! Prometheus' text format, read strictly, and the table in METRICS.md that says what is to be in it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};

/// Labels of a sample, by name.
pub type Labels = BTreeMap<String, String>;

/// One metric of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Of a histogram only the counts.
    pub samples: Vec<(Labels, f64)>,
}

/// A whole scrape, by name.
pub type Scrape = BTreeMap<String, Family>;

/// Reads a scrape.
///
/// # Errors
/// When a line is not the format's, a metric has no help or type, a counter no `_total`, a histogram no end.
pub fn read(text: &str) -> anyhow::Result<Scrape> {
    let mut scrape = Scrape::new();
    let mut helped = BTreeSet::new();
    let mut buckets: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').context("a help without words")?;
            ensure!(!words.is_empty(), "{name} has no help");
            ensure!(helped.insert(name.to_owned()), "{name} is there twice");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("a type without a word")?;
            ensure!(helped.contains(name), "{name} has no help");
            ensure!(is_name(name), "{name:?} is no name");
            ensure!(
                (kind == "counter") == name.ends_with("_total"),
                "{name} is a {kind}"
            );
            let family = Family {
                kind: kind.to_owned(),
                samples: Vec::new(),
            };
            scrape.insert(name.to_owned(), family);
            continue;
        }
        let (name, mut labels, value) = sample(line).with_context(|| format!("{line:?}"))?;
        if let Some(family) = scrape.get_mut(&name) {
            ensure!(family.kind != "histogram", "{line:?}");
            family.samples.push((labels, value));
            continue;
        }
        let (base, part) = name.rsplit_once('_').context("a name")?;
        let family = scrape
            .get_mut(base)
            .filter(|family| family.kind == "histogram");
        let family = family.with_context(|| format!("{line:?} has no type"))?;
        match part {
            "bucket" => {
                let bound = labels.remove("le").context("a bucket without a bound")?;
                let bound = bound.replace("+Inf", "inf").parse()?;
                let key = (base.to_owned(), labels);
                buckets.entry(key).or_default().push((bound, value));
            }
            "count" => family.samples.push((labels, value)),
            "sum" => {}
            _ => bail!("{line:?} is no part of a histogram"),
        }
    }
    for ((name, labels), buckets) in buckets {
        let rises = buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        let end = buckets.last().copied().unwrap_or_default();
        let count = scrape[&name].samples.iter().find(|(of, _)| *of == labels);
        ensure!(
            rises && end.0.is_infinite() && count.is_some_and(|(_, count)| *count >= end.1),
            "the buckets of {name} {labels:?} are {buckets:?}"
        );
    }
    Ok(scrape)
}

/// `name{label="value",…} number`
fn sample(line: &str) -> anyhow::Result<(String, Labels, f64)> {
    let (name, rest) = line.split_at(line.find(['{', ' ']).context("no value")?);
    ensure!(is_name(name), "{name:?} is no name");
    let (labels, value) = match rest.strip_prefix('{') {
        None => (Labels::new(), rest),
        Some(rest) => labels(rest)?,
    };
    Ok((name.to_owned(), labels, value.trim().parse()?))
}

/// Values may hold anything, with `\`, `"` and line breaks escaped.
fn labels(mut rest: &str) -> anyhow::Result<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        if let Some(value) = rest.strip_prefix('}') {
            return Ok((labels, value));
        }
        rest = rest.strip_prefix(',').unwrap_or(rest);
        let (name, quoted) = rest.split_once("=\"").context("no label")?;
        ensure!(is_name(name), "{name:?} is no name");
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next().context("no end of a value")? {
                (at, '"') => break at + 1,
                (_, '\\') => match characters.next().context("no end of a value")?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        ensure!(
            labels.insert(name.to_owned(), value).is_none(),
            "{name} is there twice"
        );
        rest = quoted.get(end..).unwrap_or_default();
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// One row of METRICS.md.
#[derive(Clone, Debug)]
pub struct Documented {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Label names, each with its values; none where values are free.
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// Only when something goes wrong.
    pub on_faults: bool,
}

/// The rows of METRICS.md.
///
/// # Errors
/// When a row is not of the table's form.
pub fn documented(markdown: &str) -> anyhow::Result<Vec<Documented>> {
    let rows = markdown
        .lines()
        .filter(|line| line.starts_with("| `firstmile_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, moves, _] = cells[..] else {
            bail!("{row:?} has not five cells");
        };
        let mut known = BTreeMap::new();
        for label in labels.split(';').filter(|label| !label.trim().is_empty()) {
            let (name, values) = label.split_once(':').unwrap_or((label, ""));
            let values = values
                .split(',')
                .map(bare)
                .filter(|value| !value.is_empty());
            known.insert(bare(name), values.collect());
        }
        Ok(Documented {
            name: bare(name),
            kind: kind.to_owned(),
            labels: known,
            on_faults: match moves {
                "show" => false,
                "fault" => true,
                other => bail!("{name} moves in {other:?}"),
            },
        })
    })
    .collect()
}

fn bare(text: &str) -> String {
    text.trim().trim_matches('`').to_owned()
}

impl Documented {
    /// Every combination of the values that are fixed.
    pub fn series(&self) -> Vec<Labels> {
        let mut all = vec![Labels::new()];
        for (name, values) in self.labels.iter().filter(|(_, values)| !values.is_empty()) {
            all = all
                .into_iter()
                .flat_map(|labels| {
                    values.iter().map(move |value| {
                        let mut labels = labels.clone();
                        labels.insert(name.clone(), value.clone());
                        labels
                    })
                })
                .collect();
        }
        all
    }

    /// The sum of the samples that have these labels, whatever their free ones; `None` when there is none.
    pub fn value(&self, scrape: &Scrape, labels: &Labels) -> Option<f64> {
        let samples = scrape.get(&self.name)?.samples.iter();
        let values: Vec<f64> = samples
            .filter(|(of, _)| {
                labels
                    .iter()
                    .all(|(name, value)| of.get(name) == Some(value))
            })
            .map(|(_, value)| *value)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// What is in a scrape and not documented, or documented and not in it; sentences.
pub fn differences(scrape: &Scrape, documented: &[Documented]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, family) in scrape {
        let Some(row) = documented.iter().find(|row| row.name == *name) else {
            found.push(format!("{name} is not documented"));
            continue;
        };
        if row.kind != family.kind {
            found.push(format!("{name} is a {}, not a {}", family.kind, row.kind));
        }
        for (labels, _) in &family.samples {
            if labels.keys().ne(row.labels.keys()) {
                found.push(format!("{name} has the labels {labels:?}"));
            }
            for (label, value) in labels {
                let values = row.labels.get(label);
                if values.is_some_and(|values| !values.is_empty() && !values.contains(value)) {
                    found.push(format!("{name}: {label}={value:?} is not documented"));
                }
            }
        }
    }
    for row in documented {
        for labels in row.series() {
            if row.value(scrape, &labels).is_none() {
                found.push(format!(
                    "{} {labels:?} is documented and not there",
                    row.name
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAPE: &str = "# HELP a_total Units\n# TYPE a_total counter\na_total{reason=\"late\",line=\"A \\\"1\\\"\"} 3\n\
        # HELP h_seconds Time\n# TYPE h_seconds histogram\nh_seconds_bucket{le=\"0.1\"} 1\n\
        h_seconds_bucket{le=\"+Inf\"} 2\nh_seconds_sum 1.5\nh_seconds_count 2\n";

    #[test]
    fn a_scrape_is_read_or_refused() {
        let scrape = read(SCRAPE).unwrap();
        let (labels, value) = &scrape["a_total"].samples[0];
        assert_eq!((labels["line"].as_str(), *value), ("A \"1\"", 3.0));
        assert_eq!(scrape["h_seconds"].samples, [(Labels::new(), 2.0)]);
        for (wrong, instead) in [
            ("# HELP a_total Units\n", ""),
            ("a_total counter", "a_total gauge"),
            ("le=\"0.1\"} 1", "le=\"0.1\"} 5"),
            ("le=\"+Inf\"", "le=\"0.2\""),
            ("\"late\"", "late"),
        ] {
            assert!(read(&SCRAPE.replace(wrong, instead)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_table_is_held_against_the_scrape() {
        let table =
            "| `firstmile_a_total` | counter | `reason`: `late`, `full`; `line` | fault | units |";
        let rows = documented(table).unwrap();
        assert!(rows[0].on_faults);
        let scrape = read(&SCRAPE.replace("a_total", "firstmile_a_total")).unwrap();
        let found = differences(&scrape, &rows);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("h_seconds is not documented"),
            "{found:?}"
        );
        assert!(found[1].contains("\"full\"}"), "{found:?}");
    }
}
