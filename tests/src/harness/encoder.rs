//! Field equipment: `stamp-source` into the real `ffmpeg`, which publishes by RTMP.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use serde_json::Value;

use super::{
    program::{executable, terminate},
    wait_for,
};

/// What the encoder sends.
#[derive(Clone, Debug)]
pub struct EncoderSettings {
    /// Pixels and lines.
    pub size: (u32, u32),
    /// Pictures a second.
    pub fps: u32,
    /// B-pictures between references.
    pub b_pictures: u32,
    /// Pictures from one keyframe to the next.
    pub gop: u32,
    /// How long; `None` until ended.
    pub seconds: Option<u32>,
    /// Goes into every stamp.
    pub source: u8,
    /// Bits a second of the picture, always; `None`: what it takes, up to 3 Mbit/s.
    pub constant_bps: Option<u32>,
    /// It keeps what its uplink does not carry, as phones do; else its camera has to wait.
    pub holds_back: bool,
}

impl Default for EncoderSettings {
    fn default() -> Self {
        Self {
            size: (1280, 720),
            fps: 30,
            b_pictures: 0,
            gop: 30,
            seconds: None,
            source: 1,
            constant_bps: None,
            holds_back: false,
        }
    }
}

/// A camera, a microphone and an encoder.
#[derive(Debug)]
pub struct Encoder {
    camera: Child,
    ffmpeg: Child,
    log: PathBuf,
    sound: PathBuf,
}

impl Encoder {
    /// Starts to publish to `url`. `folder` is for its log and its pipe, `name` tells encoders in it apart.
    pub fn start(
        folder: &Path,
        name: &str,
        url: &str,
        settings: &EncoderSettings,
    ) -> anyhow::Result<Self> {
        let sound = folder.join(format!("{name}.sound"));
        let log = folder.join(format!("{name}.log"));
        let made = Command::new("mkfifo").arg(&sound).status()?;
        if !made.success() {
            bail!("mkfifo {}: {made}", sound.display());
        }
        let errors = File::create(&log)?;
        let size = format!("{}x{}", settings.size.0, settings.size.1);
        let fps = settings.fps.to_string();

        let mut camera = Command::new(executable("stamp-source")?);
        camera.args(["--size", &size, "--fps", &fps]);
        camera.args(["--source", &settings.source.to_string()]);
        camera.arg("--audio").arg(&sound);
        if let Some(seconds) = settings.seconds {
            camera.args(["--seconds", &seconds.to_string()]);
        }
        let mut camera = camera
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?)
            .spawn()
            .context("stamp-source")?;
        let pictures = camera.stdout.take().context("stamp-source has an output")?;

        let ffmpeg = Command::new("ffmpeg")
            .args(["-hide_banner", "-nostdin", "-loglevel", "warning"])
            // Live inputs: nothing is analysed beyond the first packet.
            .args(["-probesize", "32", "-f", "rawvideo", "-pix_fmt", "yuv420p"])
            .args(["-s", &size, "-r", &fps, "-i", "pipe:0"])
            .args([
                "-probesize",
                "32",
                "-f",
                "s16le",
                "-ar",
                "48000",
                "-ac",
                "2",
            ])
            .arg("-i")
            .arg(&sound)
            .args(["-map", "0:v", "-map", "1:a"])
            .args([
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-tune",
                "zerolatency",
            ])
            .args(["-bf", &settings.b_pictures.to_string()])
            .args(["-g", &settings.gop.to_string(), "-sc_threshold", "0"])
            .args(rate_arguments(settings))
            .args(["-c:a", "aac", "-b:a", "128k"])
            .args(output_arguments(settings))
            .arg(url)
            .stdin(pictures)
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn();
        match ffmpeg {
            Ok(ffmpeg) => Ok(Self {
                camera,
                ffmpeg,
                log,
                sound,
            }),
            Err(error) => {
                camera.kill()?;
                camera.wait()?;
                Err(error).context("ffmpeg")
            }
        }
    }

    /// Waits until it ended by itself, at the end of its pictures or refused.
    pub fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        wait_for("the encoder to end", patience, || {
            Ok(self.ffmpeg.try_wait()?.ok_or_else(|| Value::from("runs")))
        })
    }

    /// Its uplink stops for this long; what it held back comes at once afterwards.
    pub fn pause(&mut self, length: Duration) -> anyhow::Result<()> {
        let signal = |name: &str| {
            // The shell's own `kill`: the child is not yet waited for, so its id is still its own.
            let id = self.ffmpeg.id().to_string();
            Command::new("sh")
                .args(["-c", "kill -\"$1\" \"$2\"", "sh", name, &id])
                .status()
        };
        signal("STOP")?;
        std::thread::sleep(length);
        signal("CONT")?;
        Ok(())
    }

    /// Ends it as if its power failed: no farewell.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        for child in [&mut self.ffmpeg, &mut self.camera] {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops it in the middle of whatever it does: its network connection stays and carries nothing any more.
    pub fn freeze(&self) -> anyhow::Result<()> {
        let pid = self.ffmpeg.id().to_string();
        let stopped = Command::new("sh")
            .args(["-c", "kill -STOP \"$1\"", "sh", &pid])
            .status()?;
        if !stopped.success() {
            bail!("kill -STOP: {stopped}");
        }
        Ok(())
    }

    /// Whether it publishes, or tries to.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.ffmpeg.try_wait()?.is_none())
    }

    /// What both programs had to say.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }
}

fn rate_arguments(settings: &EncoderSettings) -> Vec<String> {
    let arguments = match settings.constant_bps {
        None => "-b:v 3M -maxrate 3M -bufsize 1M".to_owned(),
        // A keyframe takes no longer than a tenth of a second on its way.
        Some(bps) => format!(
            "-b:v {bps} -minrate {bps} -maxrate {bps} -bufsize {} -x264-params nal-hrd=cbr",
            bps / 10
        ),
    };
    arguments.split(' ').map(str::to_owned).collect()
}

fn output_arguments(settings: &EncoderSettings) -> std::str::Split<'static, char> {
    if settings.holds_back {
        "-flags +global_header -f fifo -fifo_format flv -queue_size 50000 -format_opts flvflags=no_duration_filesize"
    } else {
        "-f flv -flvflags no_duration_filesize"
    }
    .split(' ')
}

impl Drop for Encoder {
    fn drop(&mut self) {
        for child in [&mut self.ffmpeg, &mut self.camera] {
            terminate(child, Duration::from_secs(3)).ok();
        }
        fs::remove_file(&self.sound).ok();
    }
}
