#!/bin/sh
# encoders-debian.sh: installs the encoders that `make test-encoders` needs from Debian's archive. Needs a network once.
#
# OBS with what it takes to run without a screen, and GStreamer, as packages. nginx with its RTMP module is only unpacked,
# into target/encoders/nginx: installed, it would listen on port 80 from then on.
set -eu
cd "$(dirname "$0")/../.."
die() { printf 'encoders: %s\n' "$*" >&2; exit 1; }

packages="ffmpeg obs-studio obs-plugins xvfb xauth libgl1-mesa-dri dbus dbus-x11
    gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-ugly gstreamer1.0-libav glib-networking"

. tests/scripts/debian-packages.sh
# Word splitting is meant: a list.
install_missing $packages ||
    die "not Debian or Ubuntu: install this distribution's equivalents of: $packages nginx-rtmp"

nginx=target/encoders-nginx
if [ ! -e "$nginx/ready" ]; then
    rm -rf "$nginx"
    mkdir -p "$nginx/packages"
    (cd "$nginx/packages" && apt-get download -q nginx libnginx-mod-rtmp)
    for package in "$nginx"/packages/*.deb; do
        dpkg -x "$package" "$nginx"
    done
    rm -rf "$nginx/packages"
    "$nginx/usr/sbin/nginx" -v 2>&1 || die "nginx does not run: see what  ldd $nginx/usr/sbin/nginx  misses"
    touch "$nginx/ready"
fi
