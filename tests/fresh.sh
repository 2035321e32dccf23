#!/usr/bin/env bash
# make demo and make test on bare Debian: only python3, git and make, and a clone of HEAD with nothing beside it.
#
#   make fresh                                both releases; about an hour, and 25 GB below build/fresh meanwhile
#   tests/fresh.sh trixie                     one of them
#   MIRROR=URL, KEEP=1, COMMANDS="make demo"  another mirror; keep the folders; run less
#
# Needs root and debootstrap. PIP_* and OMP_NUM_THREADS are passed on. Mounts are made in a name space of their own, so
# nothing stays mounted, however the script ends; folders of a run that failed are kept.
set -euo pipefail
if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
    echo "tests/fresh.sh: needs root and debootstrap (apt-get install debootstrap)" >&2
    exit 1
fi
checkout=$(cd "$(dirname "$0")/.." && pwd)
build=${FOLDER:-$checkout/build/fresh}
[ $# -gt 0 ] || set -- bookworm trixie
if [ -z "${COMBO_FRESH:-}" ]; then
    COMBO_FRESH=1 unshare --mount --propagation private "$0" "$@"
    cd "$build" && [ -n "${KEEP:-}" ] || rm -rf "$@" pip  # outside, where nothing is mounted in them
    exit
fi

mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep '/debian/$' | head -1 || true)}
mkdir -p "$build/pip"

make_root() { # SUITE ROOT
    [ -e "$2/.ready" ] && return
    rm -rf "$2"
    debootstrap --variant=minbase --include=ca-certificates,git,make,python3 "$1" "$2" ${mirror:+"$mirror"} \
        >"$build/$1.log"
    touch "$2/.ready"
}

mount_into() { # ROOT: what a machine has that a folder has not, and what pip's settings name
    local root=$1 place
    for place in /proc /sys /dev /dev/shm ${PIP_FIND_LINKS:-}; do
        [ -d "$place" ] && mkdir -p "$root$place" && mount --bind "$place" "$root$place"
    done
    mkdir -p "$root/root/.cache/pip" && mount --bind "$build/pip" "$root/root/.cache/pip"
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    [ -z "${PIP_CERT:-}" ] || { mkdir -p "$root$(dirname "$PIP_CERT")" && cp -L "$PIP_CERT" "$root$PIP_CERT"; }
}

inside() { # ROOT COMMAND: in the clone, with a bare environment
    local settings
    mapfile -t settings < <(env | grep -E '^(PIP_|OMP_NUM_THREADS=)')
    chroot "$1" env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "${settings[@]}" \
        bash -euc "cd /root/alone/combo_avs && $2"
}

for suite in "$@"; do
    root=$build/$suite
    make_root "$suite" "$root"
    mount_into "$root"
    rm -rf "$root/root/alone"
    git clone --quiet --no-hardlinks "$checkout" "$root/root/alone/combo_avs"
    echo "== $suite, $(inside "$root" "python3 --version")"
    while read -r command; do
        SECONDS=0
        inside "$root" "$command" </dev/null
        echo "== $suite: '$command' succeeded in $((SECONDS / 60)) min $((SECONDS % 60)) s"
    done < <(tr ';' '\n' <<<"${COMMANDS:-make demo;make test}")
done
