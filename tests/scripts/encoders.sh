#!/bin/sh
# encoders.sh: fetches the encoders that `make test-encoders` needs besides Debian's ffmpeg. Needs a network once.
#
# From PyPI into target/encoders/venv: FFmpeg 9 (in imageio-ffmpeg, a static program with x264, x265, SVT-AV1, libvpx,
# vvenc, Opus and FLAC) and PyAV (FFmpeg 8's libraries, from Python). The versions are the ones that the tests were
# made with: another FFmpeg may name another thing another way.
set -eu
cd "$(dirname "$0")/../.."
home=target/encoders
versions="imageio-ffmpeg==0.8.1 av==18.1.0"

if [ "$(cat "$home/versions" 2>/dev/null || true)" = "$versions" ]; then
    exit 0
fi
command -v python3 >/dev/null || { echo "encoders: no python3; make setup installs it" >&2; exit 1; }
rm -rf "$home"
mkdir -p "$home"
# Debian has venv in a package of its own, and pip in another.
if python3 -m venv "$home/venv" 2>/dev/null; then
    # Word splitting is meant: a list.
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check $versions
    python=venv/bin/python
    packages=
else
    python3 -m pip install --quiet --disable-pip-version-check --target "$home/packages" $versions
    python=$(command -v python3)
    packages=$PWD/$home/packages
fi
[ "$python" = venv/bin/python ] && python=$PWD/$home/venv/bin/python
printf '#!/bin/sh\nPYTHONPATH=%s exec %s "$@"\n' "$packages" "$python" >"$home/python"
chmod +x "$home/python"
ln -sf "$("$home/python" -c 'import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())')" "$home/ffmpeg9"
"$home/ffmpeg9" -hide_banner -version | head -n 1
"$home/python" -c 'import av; print("PyAV", av.__version__)'
echo "$versions" >"$home/versions"
