//! `GStreamer`'s two RTMP elements, nginx's `push`, and RTMPS of all that speak it, with verification on and off:
//! `make test-encoders` installs them and runs this.

#![expect(clippy::print_stderr, reason = "the figures of the run")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, ensure};
use firstmile_tests::{
    authority::Authority,
    harness::{Connector, LineAddress, OutputKind, PATIENCE, Show, wait_for},
};

/// A relay, a studio that counts, and its line.
struct Place {
    show: Show,
    studio: Connector,
    line: LineAddress,
}

impl Place {
    fn start(settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        let rtmps = [("FIRSTMILE_RELAY__RTMPS__LISTEN", "127.0.0.1:0")];
        let show = Show::start_set(&[&rtmps[..], settings].concat())?;
        let studio = show.joined("truck1", OutputKind::Null)?;
        let line = show.add_line("truck1", &studio, "Camera 1", None)?;
        Ok(Self { show, studio, line })
    }

    fn rtmps(&self) -> anyhow::Result<String> {
        let port = self.show.relay().address("rtmps")?.port();
        Ok(format!("rtmps://localhost:{port}/truck1/{}", self.line.key))
    }

    fn pictures(&self) -> anyhow::Result<u64> {
        let line = self.studio.line("Camera 1")?;
        Ok(line["video"]["units_total"].as_u64().unwrap_or(0))
    }

    /// Runs an encoder that sends [`PICTURES`] to the end; how many came.
    fn count(&self, encoder: &mut Command) -> anyhow::Result<(Output, u64)> {
        let before = self.pictures()?;
        let output = encoder.stdin(Stdio::null()).output()?;
        wait_for("the publisher to go", PATIENCE, || {
            let all = self
                .show
                .relay()
                .command(&["publishers", "--json"], "")?
                .success()?;
            Ok(if all.trim() == "[]" {
                Ok(())
            } else {
                Err(all.into())
            })
        })?;
        Ok((output, self.pictures()? - before))
    }

    fn expect_all(&self, name: &str, encoder: &mut Command) -> anyhow::Result<()> {
        let (output, pictures) = self.count(encoder)?;
        let said = said(&output);
        eprintln!(
            "{name}: {pictures} of {PICTURES} pictures, {}",
            output.status
        );
        ensure!(output.status.success(), "{name}: {said}");
        ensure!(pictures == PICTURES, "{name}: {pictures} pictures: {said}");
        Ok(())
    }

    fn expect_distrust(&self, name: &str, encoder: &mut Command) -> anyhow::Result<()> {
        let log_before = self.show.relay().log()?.len();
        let (output, pictures) = self.count(encoder)?;
        ensure!(
            !output.status.success() && pictures == 0,
            "{name}: {output:?}"
        );
        wait_for("the relay to say why", PATIENCE, || {
            let log = self.show.relay().log()?;
            let new = log.get(log_before..).unwrap_or_default().to_owned();
            Ok(if new.contains("trust this relay's certificate") {
                Ok(())
            } else {
                Err(new.into())
            })
        })
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// Debian's, or that of `PyPI`.
fn ffmpeg(program: &Path, options: &[&str], url: &str) -> Command {
    let mut ffmpeg = Command::new(program);
    let seconds = (PICTURES / 30).to_string();
    ffmpeg
        .args(["-hide_banner", "-nostdin", "-loglevel", "warning", "-re"])
        .args(["-f", "lavfi", "-i", "testsrc2=s=320x180:r=30"])
        .args(["-re", "-f", "lavfi", "-i", "sine=r=48000"])
        .args(["-t", &seconds, "-c:v", "libx264", "-preset", "ultrafast"])
        .args(["-tune", "zerolatency", "-g", "30", "-pix_fmt", "yuv420p"])
        .args(["-c:a", "aac", "-f", "flv"])
        .args(options)
        .arg(url);
    ffmpeg
}

fn ffmpegs() -> anyhow::Result<[PathBuf; 2]> {
    let nine = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/encoders/ffmpeg9"
    ));
    ensure!(
        nine.exists(),
        "no {}: run `make test-encoders`",
        nine.display()
    );
    Ok(["ffmpeg".into(), nine.to_owned()])
}

/// `sink` is the last element with its properties; `trusted` replaces the machine's own list of authorities for it.
fn gstreamer(sink: &str, trusted: Option<&Path>) -> Command {
    let pipeline = format!(
        "videotestsrc is-live=true num-buffers={PICTURES} ! video/x-raw,width=320,height=180,framerate=30/1 \
         ! x264enc tune=zerolatency key-int-max=30 ! flvmux name=mux streamable=true ! {sink} \
         audiotestsrc is-live=true num-buffers=130 ! audio/x-raw,rate=48000 ! avenc_aac ! mux."
    );
    let mut gstreamer = match trusted {
        // GnuTLS knows no variable for that: the file is another one in a mount namespace of its own.
        Some(root) => {
            let mut command = Command::new("unshare");
            let mount =
                "mount --bind \"$1\" /etc/ssl/certs/ca-certificates.crt && shift && exec \"$@\"";
            command
                .args(["-m", "sh", "-c", mount, "sh"])
                .arg(root)
                .arg("gst-launch-1.0");
            command
        }
        None => Command::new("gst-launch-1.0"),
    };
    gstreamer.arg("-q").args(pipeline.split_whitespace());
    gstreamer
}

#[test]
fn both_elements_of_gstreamer_deliver_every_picture() -> anyhow::Result<()> {
    let place = Place::start(&[])?;
    let url = &place.line.url;
    for sink in [
        format!("rtmp2sink location={url}"),
        // Two words in one property.
        format!("rtmpsink location={url}"),
    ] {
        place.expect_all(&sink.clone(), &mut gstreamer(&sink, None))?;
    }
    Ok(())
}

/// A server in the field that passes its stream on.
#[test]
fn nginx_pushes_what_an_encoder_sends_it() -> anyhow::Result<()> {
    let place = Place::start(&[])?;
    let rtmp = place.show.relay().address("rtmp")?;
    let nginx = Nginx::start(place.show.folder(), rtmp)?;
    let url = format!("rtmp://{}/live/{}", nginx.address, place.line.key);
    let before = place.pictures()?;
    let output = ffmpeg(Path::new("ffmpeg"), &[], &url)
        .stdin(Stdio::null())
        .output()?;
    ensure!(output.status.success(), "{}", said(&output));
    let pictures = place.pictures()? - before;
    eprintln!("nginx push: {pictures} of {PICTURES} pictures");
    // It begins to push with its first message, and drops what comes until the relay has answered.
    ensure!(pictures >= PICTURES - 30, "{pictures} pictures");
    Ok(())
}

#[test]
fn rtmps_with_verification_takes_the_relays_own_authority_and_no_certificate_that_it_made_itself()
-> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let authority = Authority::make(folder.path(), &["localhost"])?;
    let shown = |path: &Path| path.display().to_string();
    let place = Place::start(&[
        (
            "FIRSTMILE_RELAY__RTMPS__CERTIFICATE",
            &shown(&authority.certificate),
        ),
        ("FIRSTMILE_RELAY__RTMPS__KEY", &shown(&authority.key)),
        ("FIRSTMILE_RELAY__TUNNEL__PUBLIC_ADDRESS", "localhost"),
    ])?;
    let url = place.rtmps()?;
    let root = shown(&authority.root);
    for program in ffmpegs()? {
        let name = shown(&program);
        let trusting = ["-tls_verify", "1", "-ca_file", &root];
        place.expect_all(&name, &mut ffmpeg(&program, &trusting, &url))?;
        place.expect_distrust(&name, &mut ffmpeg(&program, &["-tls_verify", "1"], &url))?;
        place.expect_all(&name, &mut ffmpeg(&program, &["-tls_verify", "0"], &url))?;
    }
    let sink = format!("rtmp2sink location={url}");
    place.expect_all("rtmp2sink", &mut gstreamer(&sink, Some(&authority.root)))?;
    place.expect_distrust("rtmp2sink", &mut gstreamer(&sink, None))?;
    // Offered, since it works for whoever trusts the authority.
    let urls = place
        .studio
        .program()
        .command(&["line", "list", "--json"], "")?
        .success()?;
    ensure!(urls.contains("rtmps://localhost:"), "{urls}");
    Ok(())
}

#[test]
fn rtmps_without_verification_takes_the_certificate_that_the_relay_made() -> anyhow::Result<()> {
    let place = Place::start(&[])?;
    let url = place.rtmps()?;
    for program in ffmpegs()? {
        let name = program.display().to_string();
        place.expect_all(&name, &mut ffmpeg(&program, &["-tls_verify", "0"], &url))?;
    }
    let sink = format!("rtmp2sink tls-validation-flags=0 location={url}");
    place.expect_all("rtmp2sink", &mut gstreamer(&sink, None))?;
    let urls = place
        .studio
        .program()
        .command(&["line", "list", "--json"], "")?
        .success()?;
    ensure!(!urls.contains("rtmps://"), "{urls}");
    Ok(())
}

/// nginx with its RTMP module, unpacked and not installed.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(folder: &Path, relay: SocketAddr) -> anyhow::Result<Self> {
        let root = Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../target/encoders-nginx"
        ));
        let root = root.canonicalize().context("run `make test-encoders`")?;
        let home = folder.join("nginx");
        fs::create_dir(&home)?;
        // Free a moment ago, and nobody else is in this network.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = format!(
            "daemon off; master_process off; error_log stderr; pid {home}/pid; user root;\n\
             load_module {root}/usr/lib/nginx/modules/ngx_rtmp_module.so;\n\
             events {{ worker_connections 64; }}\n\
             rtmp {{ access_log off; server {{ listen {address}; application live {{ live on; push rtmp://{relay}/truck1; }} }} }}\n",
            home = home.display(),
            root = root.display(),
        );
        fs::write(home.join("nginx.conf"), config)?;
        let child = Command::new(root.join("usr/sbin/nginx"))
            .arg("-p")
            .arg(&home)
            .arg("-c")
            .arg(home.join("nginx.conf"))
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stderr(fs::File::create(folder.join("nginx.log"))?)
            .spawn()
            .context("nginx")?;
        let nginx = Self { child, address };
        wait_for("nginx to listen", Duration::from_secs(5), || {
            let there = std::net::TcpStream::connect(address).is_ok();
            Ok(if there { Ok(()) } else { Err("nobody".into()) })
        })?;
        Ok(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Three seconds.
const PICTURES: u64 = 90;
