# debian-packages.sh: sourced. `install_missing PACKAGE…` installs those Debian packages that are not there, with sudo
# when not root; 1 where there is no Debian. Expects `die`.

install_missing() {
    command -v dpkg-query >/dev/null || return 1
    missing=
    for package in "$@"; do
        state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || state=
        [ "$state" = installed ] || missing="$missing $package"
    done
    if [ -z "$missing" ]; then
        echo "all there"
        return
    fi
    echo "installing:$missing"
    if [ "$(id -u)" = 0 ]; then
        as_root=env
    else
        command -v sudo >/dev/null || die "not root and no sudo: as root, run  apt-get install$missing"
        as_root="sudo env"
    fi
    # Word splitting is meant: a command and a list.
    # shellcheck disable=SC2086
    $as_root DEBIAN_FRONTEND=noninteractive apt-get update -q &&
        $as_root DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing ||
        die "apt-get could not install$missing"
}
