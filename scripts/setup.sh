#!/usr/bin/env bash
# Make the virtual environment of one job, or leave it alone when nothing has changed.
#
#   scripts/setup.sh          .venv       Python 3.10, everything: Lava, torchvision, the tools for checks
#   scripts/setup.sh core     .venv-core  Python 3.11, newer libraries, Lava without its pins; no torchvision
#   scripts/setup.sh peers    .venv-peers Python 3.11, with the libraries that benchmarks/peers.py and conversion.py measure against
#
# Exit 0: ready. Exit 1: the installation failed. Exit 2: no such Python here, or wrong usage.
# A changed pyproject.toml, constraints file or script installs over what is there. An environment that was
# interrupted, moved or broken is deleted and made again.
set -euo pipefail

say() { printf 'setup: %s\n' "$*"; }
hint() { printf 'hint: %s\n' "$*"; }

job=${1:-full}
case "$job" in
    full) version=3.10 venv=.venv extras=lava,vision,onnx,docs,dev constraints=constraints/py310-lava.txt size="about 6 GB" ;;
    core) version=3.11 venv=.venv-core extras=lava,onnx,dev constraints=constraints/py311-core.txt size="1 GB or more" ;;
    peers) version=3.11 venv=.venv-peers extras=peers constraints=constraints/py311-peers.txt size="2 GB or more" ;;
    *) { say "unknown job \`$job\`"; hint "scripts/setup.sh [full|core|peers]"; } >&2; exit 2 ;;
esac

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python=$venv/bin/python
stamp=$venv/.nctool-setup          # what the environment was made from; written last
unfinished=$venv/.nctool-unfinished # there while an installation runs, so that an interrupted one is seen
log=$venv/setup.log

fingerprint() {
    printf '%s\n' "$PWD/$venv" "$version" "$extras"
    cat pyproject.toml "$constraints" scripts/setup.sh
}

# True when $1 starts, is the wanted version and can make environments (a pyenv shim may exist and not start).
usable() {
    "$1" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" </dev/null >/dev/null 2>&1
}

# Print the path of the wanted Python: from PATH, then pyenv's, then uv's.
find_python() {
    local candidate
    for candidate in "python$version" python3 python "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}/versions/$version".*/bin/python; do
        if usable "$candidate"; then
            # The file itself: a shim depends on the folder that it is called from.
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    if command -v uv >/dev/null; then
        say "asking uv for Python $version" >&2
        uv python find --quiet "$version" </dev/null >/dev/null 2>&1 || uv python install --quiet "$version" </dev/null >&2 || return 1
        candidate=$(uv python find "$version" </dev/null) && usable "$candidate" && printf '%s\n' "$candidate" && return
    fi
    return 1
}

install() { "$python" -m pip --no-input --disable-pip-version-check install --constraint "$constraints" "$@" </dev/null >>"$log" 2>&1; }

# On Python 3.10 the extra `lava` brings Lava; its own requirements exclude every other Python (docs/LAVA.md).
install_lava() { [[ $job != core ]] || install --no-deps --ignore-requires-python lava-dl lava-nc; }

# One at a time: `make -j` and a second terminal wait here. The lock is on this script and ends with it.
if command -v flock >/dev/null; then
    exec 9<scripts/setup.sh
    flock --nonblock 9 || { say "waiting for another setup to end"; flock 9; }
fi

# What is there: `ready`, `old` (works, made from other files), `bad` (interrupted, moved or broken) or `none`.
state() {
    if [[ ! -e $venv && ! -L $venv ]]; then
        echo none
    elif [[ -e $unfinished ]] || ! usable "$python"; then
        echo bad
    elif cmp --silent "$stamp" <(fingerprint) && [[ -x $venv/bin/nctool ]]; then
        echo ready
    elif [[ -e $stamp && $(head -n 1 "$stamp") != "$PWD/$venv" ]]; then
        echo bad
    else
        echo old
    fi
}

found_state=$(state)
[[ $found_state == ready ]] && exit 0
if [[ $found_state == bad ]]; then
    say "$venv is unfinished, moved or broken: deleting it"
    rm -rf -- "$venv"
fi
if [[ $found_state != old ]]; then
    if ! found=$(find_python); then
        {
            say "Python $version was not found (looked for python$version on PATH, for pyenv's versions and for uv)"
            hint "install it, for example with \`pyenv install $version\` or \`uv python install $version\`, and run this again"
        } >&2
        exit 2
    fi
    say "making $venv with $found"
    mkdir -- "$venv"
    : >"$unfinished"
    "$found" -m venv "$venv"
fi

# pip ends an interrupted installation like a failed one, halfway through a package: leave before it is taken for one.
trap 'exit 130' INT TERM HUP
: >"$unfinished"
: >"$log"
say "installing nctool[$extras] into $venv (some minutes and $size the first time; log: $log)"
started=$SECONDS
# hatchling first, so that nctool itself is built by the pinned one and not by an unpinned download.
if ! { install hatchling && install --no-build-isolation --editable ".[$extras]" && install_lava; }; then
    # pip gave up in good order (no network, say): what is installed stays, and the next run goes on from there.
    printf '%s\n' "$PWD/$venv" >"$stamp"
    rm -f -- "$unfinished"
    tail -n 15 "$log" >&2
    { say "the installation failed"; hint "the whole log is \`$log\`; run this again to go on"; } >&2
    exit 1
fi
fingerprint >"$stamp"
rm -f -- "$unfinished"
say "$venv is ready ($((SECONDS - started)) s)"
