//! A real OBS without a screen, in a home of its own: what an operator in the field would start by hand.
//!
//! It encodes one plain colour and silence by x264 and AAC. Its own reconnecting is on, with the delay that it has by
//! default (2 s).

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};

use super::wait_for;

/// A running OBS with its screen and its message bus.
#[derive(Debug)]
pub struct Obs {
    child: Child,
    log: PathBuf,
}

impl Obs {
    /// Starts it, and with it the stream to `server` with `key`. `folder` is for its home and its log; `name` tells
    /// several in it apart.
    pub fn start(folder: &Path, name: &str, server: &str, key: &str) -> anyhow::Result<Self> {
        let home = folder.join(format!("{name}-home"));
        let log = folder.join(format!("{name}.log"));
        settings(&home, server, key)?;
        let out = File::create(&log)?;
        let child = Command::new("timeout")
            // Whatever becomes of the test, it does not stay.
            .args(["-k", "5", "120", "dbus-run-session"])
            .args(["--", "xvfb-run", "-a", "-s", "-screen 0 1024x768x24"])
            .args(["obs", "--startstreaming", "--minimize-to-tray", "--multi"])
            .args(["--verbose", "--profile", "T", "--collection", "S"])
            .env("HOME", &home)
            .env("XDG_CONFIG_HOME", home.join(".config"))
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("LIBGL_ALWAYS_SOFTWARE", "1")
            .env("QT_QPA_PLATFORM", "xcb")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // One group, to end all of it by its number.
            .process_group(0)
            .spawn()
            .context("dbus-run-session: `make test-encoders` installs OBS and what it needs")?;
        Ok(Self { child, log })
    }

    /// What it said so far.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Waits until it has said this.
    pub fn wait_said(&self, text: &str, patience: Duration) -> anyhow::Result<()> {
        wait_for(&format!("OBS to say {text:?}"), patience, || {
            let log = self.log()?;
            Ok(if log.contains(text) {
                Ok(())
            } else {
                let tail: Vec<_> = log.lines().rev().take(5).collect();
                Err(tail.into())
            })
        })
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        // The group's leader is not yet waited for, so its number is still its own.
        let group = format!("-{}", self.child.id());
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$1\" -- \"$2\"", "sh", name, &group])
            .stderr(Stdio::null())
            .status()?;
        if !sent.success() {
            bail!("kill: {sent}");
        }
        Ok(())
    }
}

impl Drop for Obs {
    fn drop(&mut self) {
        self.signal("INT").ok();
        let ended = wait_for("OBS to end", Duration::from_secs(5), || {
            Ok(self.child.try_wait()?.ok_or_else(|| "runs".into()))
        });
        if ended.is_err() {
            self.signal("KILL").ok();
            self.child.wait().ok();
        }
    }
}

/// Everything that OBS would ask about at its first start.
fn settings(home: &Path, server: &str, key: &str) -> anyhow::Result<()> {
    let obs = home.join(".config/obs-studio");
    let profile = obs.join("basic/profiles/T");
    let scenes = obs.join("basic/scenes");
    let run = home.join("run");
    for folder in [&profile, &scenes, &run] {
        fs::create_dir_all(folder)?;
    }
    fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    fs::write(obs.join("global.ini"), GLOBAL)?;
    fs::write(profile.join("basic.ini"), PROFILE)?;
    fs::write(scenes.join("S.json"), SCENE)?;
    let service = serde_json::json!({
        "type": "rtmp_custom",
        "settings": {"bwtest": false, "use_auth": false, "server": server, "key": key},
    });
    fs::write(profile.join("service.json"), service.to_string())?;
    Ok(())
}

const GLOBAL: &str = "\
[General]
FirstRun=true
LastVersion=486539266
EnableAutoUpdates=false
[Basic]
Profile=T
ProfileDir=T
SceneCollection=S
SceneCollectionFile=S
[BasicWindow]
WarnBeforeStartingStream=false
";

const PROFILE: &str = "\
[General]
Name=T
[Output]
Mode=Simple
Reconnect=true
RetryDelay=2
MaxRetries=20
[Video]
BaseCX=320
BaseCY=240
OutputCX=320
OutputCY=240
FPSCommon=30
[SimpleOutput]
VBitrate=800
ABitrate=96
StreamEncoder=x264
Preset=ultrafast
";

const SCENE: &str = r#"{"current_scene":"Scene","current_program_scene":"Scene","name":"S","scene_order":[{"name":"Scene"}],
"sources":[{"id":"color_source_v3","versioned_id":"color_source_v3","name":"C","settings":{"color":4278190335,"width":320,"height":240}},
{"id":"scene","versioned_id":"scene","name":"Scene","settings":{"id_counter":1,"items":[{"name":"C","id":1,"visible":true,"pos":{"x":0,"y":0},"scale":{"x":1,"y":1}}]}}]}"#;
