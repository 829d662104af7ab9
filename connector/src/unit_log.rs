//! `diagnostics.units`: a line of CSV for each unit that arrived, for measurements of the tunnel and for support.
//!
//! No media and no key is in it: times, sizes, kinds and the names of lines. Noting never waits: a bounded channel lies
//! between the lines and [`UnitLog::run`], which writes; what does not fit is left out and counted in the log at the end.
//! The file is made anew at each start of the program and grows by about 100 bytes a unit: 40 MB an hour for each line.
//!
//! Columns, times in microseconds on the connector's clock where nothing else is said:
//! `line` (quoted), `publisher`, `seq`, `kind` (`video`, `audio`, `data`), `class` (`key`, `reference`, `disposable`; of
//! sound always `key`), `dts_us` and `pts_us` (the publisher's media clock), `bytes`, `ingest_us`, `queued_us` (how long it
//! waited in the relay), `arrived_us`, `arrived_unix_us` (the same moment on the machine's wall clock), `age_us` (arrival −
//! baseline − PTS: it was on time when that is not more than the line's delay), `taken` (`played`, `other`: a track that is
//! not played, `held`: another feed has the line, `refused`).

use std::{
    fmt::Write as _,
    fs::File,
    io::Write as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use firstmile_shared::{clock, exit::Failure, media::MediaKind};
use tokio::{sync::mpsc, task};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::playout::ArrivedUnit;

/// The first line of the file.
pub const HEADER: &str = "line,publisher,seq,kind,class,dts_us,pts_us,bytes,ingest_us,queued_us,arrived_us,arrived_unix_us,age_us,taken\n";

/// Where units are noted. Clones share the file.
#[derive(Clone, Debug)]
pub struct UnitLog {
    notes: mpsc::Sender<String>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    left_out: AtomicU64,
    /// Taken by whoever runs it.
    writing: Mutex<Option<(mpsc::Receiver<String>, File)>>,
    /// The wall clock less the connector's, microseconds.
    unix_us: i64,
}

impl UnitLog {
    /// Makes the file.
    pub fn create(path: &Path) -> Result<Self, Failure> {
        let mut file = File::create(path).map_err(|error| {
            Failure::io(format!("diagnostics.units: {}", path.display()), &error)
        })?;
        file.write_all(HEADER.as_bytes())
            .map_err(|error| Failure::io(path.display(), &error))?;
        let (notes, queue) = mpsc::channel(NOTES_MAX);
        Ok(Self {
            notes,
            shared: Arc::new(Shared {
                left_out: AtomicU64::new(0),
                writing: Mutex::new(Some((queue, file))),
                unix_us: clock::unix_now_us() - clock::now_us(),
            }),
        })
    }

    /// Notes a unit of a line and what became of it.
    pub(crate) fn note(&self, line: &str, arrived: &ArrivedUnit, taken: &'static str) {
        let line = row(line, arrived, taken, self.shared.unix_us);
        if self.notes.try_send(line).is_err() {
            self.shared.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes until `shutdown`, then what is noted by then.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let writing = (self.shared.writing.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some((mut queue, mut file)) = writing else {
            // A fault of the disk ended it, and said so. The feeds go on without it.
            shutdown.cancelled().await;
            return Ok(());
        };
        let mut rows = Vec::new();
        loop {
            let is_over = tokio::select! {
                biased;
                () = shutdown.cancelled() => true,
                count = queue.recv_many(&mut rows, NOTES_MAX) => count == 0,
            };
            while let Ok(row) = queue.try_recv() {
                rows.push(row);
            }
            let text = rows.concat();
            rows.clear();
            file = task::spawn_blocking(move || file.write_all(text.as_bytes()).map(|()| file))
                .await??;
            if is_over {
                break;
            }
        }
        let left_out = self.shared.left_out.load(Ordering::Relaxed);
        if left_out > 0 {
            warn!(left_out, "units that diagnostics.units has no line of");
        }
        Ok(())
    }
}

fn row(line: &str, arrived: &ArrivedUnit, taken: &str, unix_us: i64) -> String {
    let ArrivedUnit {
        unit,
        arrived_us,
        baseline_us,
        ingest_us,
    } = arrived;
    let coded = &unit.access_unit;
    let kind = match coded.kind() {
        MediaKind::Video => "video",
        MediaKind::Audio => "audio",
        MediaKind::Data => "data",
    };
    let class = match (coded.keyframe, coded.disposable) {
        (true, _) => "key",
        (false, true) => "disposable",
        (false, false) => "reference",
    };
    let pts_us = coded.pts_us();
    let age_us = arrived_us
        .saturating_sub(*baseline_us)
        .saturating_sub(pts_us);
    let mut row = String::with_capacity(ROW_LEN);
    // Writing into a string does not fail.
    let _ = writeln!(
        row,
        "\"{}\",{},{},{kind},{class},{},{pts_us},{},{ingest_us},{},{arrived_us},{},{age_us},{taken}",
        line.replace('"', "\"\""),
        unit.publisher,
        unit.seq,
        coded.dts_us,
        coded.payload.len(),
        unit.queued_us,
        arrived_us.saturating_add(unix_us),
    );
    row
}

/// A second of the largest studio on a disk that hangs.
const NOTES_MAX: usize = 8_192;

const ROW_LEN: usize = 160;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use firstmile_shared::{
        media::{AccessUnit, Codec},
        tunnel::unit::Unit,
    };

    use super::*;

    fn arrived(seq: u64) -> ArrivedUnit {
        ArrivedUnit {
            unit: Unit {
                line: 1,
                publisher: 7,
                seq,
                ingest_us: 0,
                baseline_us: 0,
                queued_us: 40,
                access_unit: AccessUnit {
                    codec: Codec::H264,
                    track: 0,
                    keyframe: false,
                    disposable: true,
                    discontinuity: false,
                    dts_us: 1_000,
                    cts_us: 500,
                    config: None,
                    payload: Bytes::from_static(&[0; 12]),
                },
            },
            arrived_us: 9_000,
            baseline_us: 2_000,
            ingest_us: 3_000,
        }
    }

    #[test]
    fn a_row_tells_when_a_unit_came_and_what_it_was() {
        assert_eq!(
            row("Cam \"1\"", &arrived(3), "played", 1_000_000),
            "\"Cam \"\"1\"\"\",7,3,video,disposable,1000,1500,12,3000,40,9000,1009000,5500,played\n"
        );
    }

    #[tokio::test]
    async fn what_was_noted_before_the_end_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("units.csv");
        let log = UnitLog::create(&path).unwrap();
        for seq in 0..3 {
            log.note("Camera 1", &arrived(seq), "played");
        }
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        log.run(shutdown).await.unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(HEADER));
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn a_disk_that_hangs_costs_rows_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let log = UnitLog::create(&folder.path().join("units.csv")).unwrap();
        for seq in 0..NOTES_MAX as u64 + 10 {
            log.note("Camera 1", &arrived(seq), "played");
        }
        assert_eq!(log.shared.left_out.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn a_file_that_can_t_be_made_is_named_with_its_setting() {
        let failure = UnitLog::create(Path::new("/nonexistent/units.csv")).unwrap_err();
        assert!(failure.message.contains("diagnostics.units"), "{failure}");
        assert!(failure.message.contains("/nonexistent/units.csv"));
    }
}
