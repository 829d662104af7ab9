#!/bin/sh
# netns.sh COMMAND [ARGUMENT...]: runs COMMAND in a private network namespace that holds nothing but `lo`.
#
# Not a sandbox: other files and processes stay shared. It keeps test traffic off the real network, above all
# NDI's announcements, and proves that what runs inside needs no network.
#
# - `lo` is up with MTU 1500 (with its default of 65536 loopback shows delays that no real link has),
#   multicast is on and 224.0.0.0/4 goes to it.
# - DBUS_SYSTEM_BUS_ADDRESS points nowhere: libndi reaches the machine's avahi through the system bus,
#   and a socket in the file system crosses network namespaces.
# - Files made directly in /tmp stay inside: libndi keeps its list of this machine's senders there
#   (/tmp/NTK_SEND_IPC) and removes it at its end, also under a sender outside. What is there already stays visible.
# - FIRSTMILE_NETNS=1 tells the programs inside.
#
# The namespace has no name and ends with its last process: nothing is left behind. COMMAND replaces this script, so
# signals and the exit code are its own. Exit code 69 when no way to make a namespace works.
set -eu

PATH=$PATH:/usr/sbin:/sbin
export PATH

die() { echo "netns.sh: $*" >&2; exit 69; }

private_tmp() {
    stage=/mnt
    mount -t tmpfs -o mode=1777 tmpfs "$stage"
    for entry in /tmp/* /tmp/.[!.]*; do
        if [ -d "$entry" ] && [ ! -L "$entry" ]; then
            mkdir "$stage/${entry#/tmp/}"
            mount --rbind "$entry" "$stage/${entry#/tmp/}"
        fi
    done
    mount --rbind "$stage" /tmp
    # Here may be in there: by its name it is the same place again.
    cd "$PWD"
}

inside() {
    ip link set lo mtu 1500 multicast on up
    ip route replace 224.0.0.0/4 dev lo
    private_tmp
    DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nonexistent FIRSTMILE_NETNS=1
    export DBUS_SYSTEM_BUS_ADDRESS FIRSTMILE_NETNS
}

case ${1-} in
"")
    echo "usage: $0 COMMAND [ARGUMENT...]" >&2
    exit 2
    ;;
--inside)
    shift
    inside
    exec "$@"
    ;;
--inside-as)
    # Only after sudo: back to the caller's own user, who owns the files.
    uid=$2 gid=$3
    shift 3
    inside
    exec setpriv --reuid "$uid" --regid "$gid" --init-groups -- "$@"
    ;;
esac

command -v unshare >/dev/null || die "no unshare: install util-linux"
command -v ip >/dev/null || die "no ip: install iproute2"

# What is tried is exactly what is used; making the namespace alone proves little (AppArmor grants one without rights).
probe="ip link set lo up"
if [ "$(id -u)" = 0 ] && unshare -n -m $probe 2>/dev/null; then
    exec unshare -n -m -- "$0" --inside "$@"
elif unshare -Urnm $probe 2>/dev/null; then
    exec unshare -Urnm -- "$0" --inside "$@"
elif [ "$(id -u)" != 0 ] && command -v sudo >/dev/null; then
    # sudo resets PATH and HOME even with -E.
    exec sudo -E -- unshare -n -m -- env "PATH=$PATH" "HOME=$HOME" "$0" --inside-as "$(id -u)" "$(id -g)" "$@"
fi
[ "$(id -u)" != 0 ] || die "cannot make a network namespace: $(unshare -n -m $probe 2>&1 || true)" \
    "(in a container: it takes CAP_SYS_ADMIN; in a chroot: / has to be a mount point)"
die "cannot make a network namespace: not root, user namespaces are off (sysctl kernel.unprivileged_userns_clone, " \
    "kernel.apparmor_restrict_unprivileged_userns), and there is no sudo"
