//! Programs that are killed in the middle of a change, and a model of what they must know afterwards.
//!
//! A change that was acknowledged is there; one that was under way is there as a whole or not at all. The moments come from
//! a seed, so that a run can be repeated as far as the machine allows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    process::{Child, Output},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::harness::{Connector, OutputKind, PATIENCE, Show, wait_for};

/// One relay, one connector, and what was acknowledged so far.
#[derive(Debug)]
pub struct Kills {
    show: Show,
    studio: Connector,
    random: Random,
    lines: Lines,
    studios: BTreeSet<String>,
    /// Numbers names.
    next: u32,
    tally: Tally,
}

/// How a run went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Changes that were acknowledged.
    pub acknowledged: u32,
    /// Changes that a kill cut off, and that are there nevertheless.
    pub unheard: u32,
    /// Changes that a kill cut off, and that are not there.
    pub undone: u32,
}

type Lines = BTreeMap<String, Line>;

#[derive(Clone, Debug, PartialEq)]
struct Line {
    /// `None` until it was seen: a line that was typed by hand gets one from the program.
    key: Option<String>,
    delay_ms: u64,
}

#[derive(Clone, Debug)]
enum Change {
    Add(String),
    Set(String, u64),
    Remove(String),
}

impl Change {
    fn arguments(&self) -> Vec<String> {
        let words = match self {
            Self::Add(name) => vec!["line", "add", name, "--json"],
            Self::Set(name, delay_ms) => {
                let delay = format!("delay={delay_ms}");
                return ["line", "set", name, &delay].map(str::to_owned).to_vec();
            }
            Self::Remove(name) => vec!["line", "remove", name],
        };
        words.into_iter().map(str::to_owned).collect()
    }

    fn apply(&self, lines: &Lines) -> Lines {
        let mut lines = lines.clone();
        match self {
            Self::Add(name) => drop(lines.insert(name.clone(), Line::new(DELAY_MS))),
            Self::Set(name, delay_ms) => {
                if let Some(line) = lines.get_mut(name) {
                    line.delay_ms = *delay_ms;
                }
            }
            Self::Remove(name) => drop(lines.remove(name)),
        }
        lines
    }
}

impl Line {
    const fn new(delay_ms: u64) -> Self {
        Self {
            key: None,
            delay_ms,
        }
    }
}

impl Kills {
    /// A relay, and a connector that has joined nothing.
    pub fn start(seed: u64) -> anyhow::Result<Self> {
        let show = Show::start()?;
        let studio = show.connector("studio", OutputKind::Null)?;
        Ok(Self {
            show,
            studio,
            random: Random(seed),
            lines: Lines::new(),
            studios: BTreeSet::new(),
            next: 0,
            tally: Tally::default(),
        })
    }

    /// Kills so often, each time looks whether everything is there, and answers how it went.
    pub fn run(&mut self, kills: u32) -> anyhow::Result<Tally> {
        for kill in 0..kills {
            let done = match kill % 4 {
                0 | 2 => self.connector_dies(),
                1 => self.relay_dies(),
                _ => self.command_dies(),
            };
            done.with_context(|| format!("kill {} of {kills}", kill + 1))?;
        }
        Ok(self.tally)
    }

    /// In the middle of an edit of its lines, after some that it acknowledged.
    fn connector_dies(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.random.below(3) {
            let change = self.change();
            let output = self.ask(&change)?.wait_with_output()?;
            ensure!(output.status.success(), "{change:?}: {output:?}");
            self.acknowledged(&change, &output)?;
        }
        if self.random.below(2) == 0 {
            self.edit_by_hand()?;
        }
        let change = self.change();
        let child = self.ask(&change)?;
        self.random.sleep_up_to(COMMAND_US);
        self.studio.program_mut().kill()?;
        let output = child.wait_with_output()?;
        self.studio.program_mut().restart()?;
        self.check(&change, &output)
    }

    /// The command line itself, which works alone because no program runs.
    fn command_dies(&mut self) -> anyhow::Result<()> {
        self.studio.program_mut().stop()?;
        if self.random.below(2) == 0 {
            self.edit_by_hand()?;
        }
        let change = self.change();
        let mut child = self.ask(&change)?;
        self.random.sleep_up_to(COMMAND_US);
        child.kill()?;
        let output = child.wait_with_output()?;
        self.studio.program_mut().restart()?;
        self.check(&change, &output)
    }

    /// While it makes a token, or while it redeems one.
    fn relay_dies(&mut self) -> anyhow::Result<()> {
        let name = self.name("truck");
        let address = self.show.relay().address("tunnel")?.to_string();
        let invite = ["invite", &name, "--address", &address];
        let invites = self.random.below(2) == 0;
        let mut token = None;
        if invites {
            let child = self.show.relay().spawn(&invite)?;
            self.random.sleep_up_to(COMMAND_US);
            self.show.relay_mut().kill()?;
            let output = child.wait_with_output()?;
            if output.status.success() {
                self.tally.acknowledged += 1;
                token = Some(String::from_utf8(output.stdout)?);
            }
            self.show.relay_mut().restart()?;
        }
        let token = match token {
            Some(token) => token,
            None => self.show.relay().command(&invite, "")?.success()?,
        };
        self.studios.insert(name.clone());

        let joiner = self.show.connector(&name, OutputKind::Null)?;
        let file = self.show.folder().join(format!("{name}.token"));
        fs::write(&file, &token)?;
        let file = file.to_string_lossy().into_owned();
        if !invites {
            let child = joiner.program().spawn(&["join", "--token-file", &file])?;
            self.random.sleep_up_to(2 * COMMAND_US);
            self.show.relay_mut().kill()?;
            self.show.relay_mut().restart()?;
            let output = child.wait_with_output()?;
            self.count(output.status.success(), true);
        }
        // What was cut off is done again; what was done is done.
        joiner
            .program()
            .command(&["join", "--token-file", &file], "")?
            .success()?;
        joiner.wait_connected()?;
        self.check_studios()
    }

    /// Every studio that was acknowledged, with the one connector that joined it.
    fn check_studios(&self) -> anyhow::Result<()> {
        let printed = self.show.relay().command(&["studios", "--json"], "")?;
        let list: Value = serde_json::from_str(&printed.success()?)?;
        for name in &self.studios {
            let entry = list.as_array().into_iter().flatten();
            let entry = entry.clone().find(|entry| entry["name"] == *name);
            let connectors = entry.and_then(|entry| entry["connectors"].as_u64());
            ensure!(connectors == Some(1), "{name} is not whole: {list}");
        }
        Ok(())
    }

    fn change(&mut self) -> Change {
        let names: Vec<String> = self.lines.keys().cloned().collect();
        let known = names.get(self.random.below(names.len().max(1)));
        match (self.random.below(4), known) {
            (0, Some(name)) => Change::Remove(name.clone()),
            (1, Some(name)) => {
                let name = name.clone();
                Change::Set(name, 100 + self.random.below(900) as u64)
            }
            _ => Change::Add(self.name("Camera")),
        }
    }

    fn name(&mut self, what: &str) -> String {
        self.next += 1;
        format!("{what}{}", self.next)
    }

    fn ask(&self, change: &Change) -> anyhow::Result<Child> {
        let arguments = change.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.studio.program().spawn(&arguments)
    }

    /// As editors do it: in the place of the old file, or beside it and then instead of it. It is whole on the disk before
    /// anybody is killed, so it counts.
    fn edit_by_hand(&mut self) -> anyhow::Result<()> {
        let name = self.name("Hand");
        let file = self.studio.program().state().join("lines.toml");
        let mut text = fs::read_to_string(&file).unwrap_or_default();
        let _ = write!(text, "\n[[line]] # typed\nname = \"{name}\"\ndelay = 250\n");
        if self.random.below(2) == 0 {
            fs::write(&file, &text)?;
        } else {
            let beside = file.with_extension("toml~");
            fs::write(&beside, &text)?;
            fs::rename(&beside, &file)?;
        }
        self.lines.insert(name, Line::new(250));
        Ok(())
    }

    fn acknowledged(&mut self, change: &Change, output: &Output) -> anyhow::Result<()> {
        self.tally.acknowledged += 1;
        self.lines = change.apply(&self.lines);
        if let Change::Add(name) = change {
            let printed: Value = serde_json::from_slice(&output.stdout)?;
            let key = printed["key"].as_str().context("no key was printed")?;
            if let Some(line) = self.lines.get_mut(name) {
                line.key = Some(key.to_owned());
            }
        }
        Ok(())
    }

    /// The program runs again: it knows what it acknowledged, and of `change` all or nothing.
    fn check(&mut self, change: &Change, output: &Output) -> anyhow::Result<()> {
        let was_heard = output.status.success();
        if was_heard {
            self.acknowledged(change, output)?;
        }
        // An edit by hand is taken over when the program sees it.
        let mut wanted = vec![self.lines.clone()];
        if !was_heard {
            wanted.push(change.apply(&self.lines));
        }
        let there = wait_for("what was acknowledged", PATIENCE, || {
            let there = self.read()?;
            let found = wanted.iter().position(|wanted| is_like(&there, wanted));
            Ok(match found {
                Some(found) => Ok((there, found)),
                None => Err(format!("{there:?}, not one of {wanted:?}").into()),
            })
        });
        let (there, found) = there.with_context(|| format!("{change:?}: {output:?}"))?;
        self.lines = there;
        if !was_heard {
            self.count(false, found == 1);
        }
        for entry in fs::read_dir(self.studio.program().state())? {
            let name = entry?.file_name();
            if name.to_string_lossy().ends_with(".new") {
                bail!("{} is half a file", name.display());
            }
        }
        Ok(())
    }

    fn count(&mut self, was_heard: bool, is_there: bool) {
        let count = match (was_heard, is_there) {
            (true, _) => &mut self.tally.acknowledged,
            (false, true) => &mut self.tally.unheard,
            (false, false) => &mut self.tally.undone,
        };
        *count += 1;
    }

    fn read(&self) -> anyhow::Result<Lines> {
        let printed = self
            .studio
            .program()
            .command(&["line", "list", "--json"], "")?;
        let list: Vec<Value> = serde_json::from_str(&printed.success()?)?;
        list.iter()
            .map(|line| {
                let text = |field: &str| line[field].as_str().map(str::to_owned);
                let name = text("name").context("a line without a name")?;
                let key = Some(text("key").context("a line without a key")?);
                let delay_ms = line["delay_ms"]
                    .as_u64()
                    .context("a line without a delay")?;
                Ok((name, Line { key, delay_ms }))
            })
            .collect()
    }
}

fn is_like(there: &Lines, wanted: &Lines) -> bool {
    there.len() == wanted.len()
        && wanted.iter().all(|(name, wanted)| {
            there.get(name).is_some_and(|there| {
                there.delay_ms == wanted.delay_ms
                    && (wanted.key.is_none() || there.key == wanted.key)
            })
        })
}

/// `FIRSTMILE_SEED`, or one of this moment; it is on standard error either way.
#[expect(
    clippy::print_stderr,
    reason = "who repeats a run needs the seed of the one that failed"
)]
pub fn seed() -> u64 {
    let given = std::env::var("FIRSTMILE_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()))
    });
    eprintln!("FIRSTMILE_SEED={seed}");
    seed
}

/// `SplitMix64`.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound as u64).max(1)).unwrap_or(0)
    }

    fn sleep_up_to(&mut self, us: u64) {
        thread::sleep(Duration::from_micros(self.next() % us));
    }
}

/// The delay of a line of which nothing else was said: that of the show.
const DELAY_MS: u64 = 100;

/// A command has started, asked and got its answer within this time.
const COMMAND_US: u64 = 40_000;
