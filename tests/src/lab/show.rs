//! Ours: the real relay and the real connector on the hosts of a laboratory. What the connector notes of each unit
//! (`diagnostics.units`) is the measurement.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::{Lab, RELAY, RELAY_2, feed::Arrivals};
use crate::harness::{PATIENCE, Program, wait_for};

/// The programs, and the folder of their state.
#[derive(Debug)]
pub struct LabShow {
    /// The relay, and the second one where there is.
    pub relays: Vec<Program>,
    /// The studio's.
    pub connector: Program,
    units: PathBuf,
    folder: TempDir,
}

/// A line as an encoder needs it.
#[derive(Clone, Debug)]
pub struct LabLine {
    /// "Camera 1".
    pub name: String,
    /// Its key.
    pub key: String,
}

/// A row of the connector's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitRow {
    /// The line's name.
    pub line: String,
    /// Its feed.
    pub publisher: u32,
    /// A picture.
    pub is_video: bool,
    /// The publisher's decode time, microseconds.
    pub dts_us: i64,
    /// On the wall clock, microseconds.
    pub arrived_us: i64,
    /// `played`, `held`, …
    pub taken: String,
}

impl LabShow {
    /// Starts as many relays, and a connector that has joined them all, with a studio delay in milliseconds.
    ///
    /// # Errors
    /// When a program does not start.
    pub fn start(lab: &Lab, relays: usize, delay_ms: u32) -> anyhow::Result<Self> {
        Self::start_with_output(lab, relays, delay_ms, "null")
    }

    /// Likewise, with `output.default` of the connector.
    ///
    /// # Errors
    /// When a program does not start.
    pub fn start_with_output(
        lab: &Lab,
        relays: usize,
        delay_ms: u32,
        output: &str,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("firstmile-lab-")
            .tempdir()?;
        let hosts = [(&lab.relay, RELAY), (&lab.relay_2, RELAY_2)];
        let mut programs = Vec::new();
        for (number, (host, address)) in (1..).zip(hosts).take(relays) {
            programs.push(Program::start_by(
                host.prefix().to_vec(),
                "firstmile-relay",
                &folder.path().join(format!("relay{number}")),
                &[
                    ("FIRSTMILE_RELAY__RTMP__LISTEN", "0.0.0.0:1935"),
                    ("FIRSTMILE_RELAY__RTMPS__LISTEN", "off"),
                    ("FIRSTMILE_RELAY__TUNNEL__LISTEN", "0.0.0.0:4433"),
                    ("FIRSTMILE_RELAY__TUNNEL__PUBLIC_ADDRESS", address),
                    ("FIRSTMILE_RELAY__HTTP__LISTEN", "127.0.0.1:8080"),
                ],
            )?);
        }
        let units = folder.path().join("units.csv");
        let connector = Program::start_by(
            lab.studio.host.prefix().to_vec(),
            "firstmile-connector",
            &folder.path().join("connector"),
            &[
                ("FIRSTMILE_CONNECTOR__HTTP__LISTEN", "127.0.0.1:8090"),
                ("FIRSTMILE_CONNECTOR__DELAY", &delay_ms.to_string()),
                ("FIRSTMILE_CONNECTOR__OUTPUT__DEFAULT", output),
                (
                    "FIRSTMILE_CONNECTOR__DIAGNOSTICS__UNITS",
                    &units.display().to_string(),
                ),
            ],
        )?;
        let show = Self {
            relays: programs,
            connector,
            units,
            folder,
        };
        for (relay, (_, address)) in show.relays.iter().zip(hosts) {
            let token = relay
                .command(
                    &["invite", STUDIO, "--address", &format!("{address}:4433")],
                    "",
                )?
                .success()?;
            show.connector
                .command(&["join", "--token-file", "-"], &token)?
                .success()?;
        }
        show.wait_connected()?;
        Ok(show)
    }

    /// Waits until every relay has welcomed the connector.
    ///
    /// # Errors
    /// When one does not.
    pub fn wait_connected(&self) -> anyhow::Result<()> {
        wait_for("the connector to be connected", PATIENCE, || {
            let status = self.status()?;
            let relays = status["relays"].as_array().cloned().unwrap_or_default();
            let are_connected = relays.len() == self.relays.len()
                && relays.iter().all(|relay| relay["state"] == "connected");
            Ok(are_connected.then_some(()).ok_or(status))
        })
    }

    /// Adds lines, and waits until every relay knows them.
    ///
    /// # Errors
    /// When that does not come about.
    pub fn add_lines(&self, count: usize) -> anyhow::Result<Vec<LabLine>> {
        let mut lines = Vec::new();
        for number in 1..=count {
            let name = format!("Camera {number}");
            let printed = self
                .connector
                .command(&["line", "add", &name, "--json"], "")?
                .success()?;
            let printed: Value = serde_json::from_str(&printed)?;
            let key = printed["key"].as_str().context("no key")?.to_owned();
            lines.push(LabLine { name, key });
        }
        for relay in &self.relays {
            wait_for("the relay to know the lines", PATIENCE, || {
                let studios = relay.command(&["studios", "--json"], "")?.success()?;
                let studios: Value = serde_json::from_str(&studios)?;
                let known = studios[0]["lines"] == count;
                Ok(known.then_some(()).ok_or(studios))
            })?;
        }
        Ok(lines)
    }

    /// `status --json` of the connector.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&self) -> anyhow::Result<Value> {
        let printed = self
            .connector
            .command(&["status", "--json"], "")?
            .success()?;
        Ok(serde_json::from_str(&printed)?)
    }

    /// Ends the connector and reads what it noted of every unit.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn units(&mut self) -> anyhow::Result<Vec<UnitRow>> {
        if self.connector.pid().is_some() {
            self.connector.stop()?;
        }
        let text = fs::read_to_string(&self.units)?;
        let mut rows = text.lines();
        ensure!(
            rows.next() == Some(firstmile_connector::unit_log::HEADER.trim_end()),
            "the columns are other ones"
        );
        rows.map(|row| UnitRow::parse(row).with_context(|| row.to_owned()))
            .collect()
    }

    /// What its programs had to say.
    ///
    /// # Errors
    /// When a log can't be read.
    pub fn logs(&self) -> anyhow::Result<String> {
        let mut logs = String::new();
        for program in self.relays.iter().chain([&self.connector]) {
            logs += &program.log()?;
        }
        Ok(logs)
    }

    /// Where all of it lives.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl UnitRow {
    fn parse(row: &str) -> Option<Self> {
        let fields: Vec<&str> = row.rsplitn(14, ',').collect();
        let [
            taken,
            _,
            arrived,
            _,
            _,
            _,
            _,
            _,
            dts,
            _,
            kind,
            _,
            publisher,
            line,
        ] = fields[..]
        else {
            return None;
        };
        Some(Self {
            line: line.trim_matches('"').to_owned(),
            publisher: publisher.parse().ok()?,
            is_video: kind == "video",
            dts_us: dts.parse().ok()?,
            arrived_us: arrived.parse().ok()?,
            taken: taken.to_owned(),
        })
    }
}

/// When the units of a line came first.
pub fn arrivals(rows: &[UnitRow], line: &str) -> Arrivals {
    let mut arrivals = Arrivals::new();
    for row in rows.iter().filter(|row| row.line == line) {
        let at_us = arrivals
            .entry((row.is_video, row.dts_us))
            .or_insert(row.arrived_us);
        *at_us = row.arrived_us.min(*at_us);
    }
    arrivals
}

/// The studio of every show.
pub const STUDIO: &str = "truck1";

/// Where an encoder publishes.
pub fn rtmp(address: &str) -> SocketAddr {
    SocketAddr::new(
        address
            .parse()
            .unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
        1935,
    )
}

/// How long after the end of a feed its last units may come.
pub const TAIL: Duration = Duration::from_millis(2_500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_the_connector_writes_it() {
        let row = UnitRow::parse(
            "\"Camera, 1\",7,3,video,disposable,1000,1500,12,3000,40,9000,1009000,5500,played",
        );
        assert_eq!(
            row,
            Some(UnitRow {
                line: "Camera, 1".to_owned(),
                publisher: 7,
                is_video: true,
                dts_us: 1_000,
                arrived_us: 1_009_000,
                taken: "played".to_owned(),
            })
        );
        assert_eq!(UnitRow::parse("\"Camera 1\",7,3"), None);
    }
}
