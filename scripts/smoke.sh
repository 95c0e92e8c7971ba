#!/usr/bin/env bash
# Use the wheel alone, outside the checkout, on every Python that is found: scripts/smoke.py says what is tried.
#
#   scripts/smoke.sh               3.10 with the libraries of .venv: train, export, verify, run on an image. 3.11 to 3.13, with those
#                                  of .venv-core or with what pip installs but torch and numba, which is gigabytes: what needs neither
#   scripts/smoke.sh --full 3.12   that Python, with everything that the wheel asks for (some minutes, 6 GB)
#
# The sdist is built from the tree, and the wheel from the sdist. Nothing of nctool but the wheel can be imported.
# Exit 0: it works on every Python that was tried. Exit 1: it does not. The last line says which were tried.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
root=$PWD
unset PYTHONPATH PYTHONHOME
export PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

full=no
if [[ ${1:-} == --full ]]; then
    full=yes
    shift
fi
versions=("$@")
[[ ${#versions[@]} -gt 0 ]] || versions=(3.10 3.11 3.12 3.13)
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
builder=$root/.venv/bin/python
[[ -x $builder ]] || { echo "smoke: no .venv: run \`make setup\` first" >&2; exit 1; }

build() { (cd -- "$1" && "$builder" -c "import sys; from hatchling import build; getattr(build, sys.argv[1])(sys.argv[2])" "$2" "$3"); }

build . build_sdist "$work/sdist"
mkdir "$work/tree"
tar -xzf "$work"/sdist/nctool-*.tar.gz -C "$work/tree" --strip-components 1
build "$work/tree" build_wheel "$work/wheel"
wheel=$(echo "$work"/wheel/nctool-*.whl)

# Print the path of a Python: from PATH, then pyenv's.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}/versions/$1".*/bin/python; do
        if "$candidate" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" </dev/null >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# Print the folder that holds the libraries of an environment of this checkout, if it has that Python.
libraries() {
    local venv
    for venv in "$root/.venv" "$root/.venv-core"; do
        if [[ -d $venv/lib/python$1/site-packages/torch ]]; then
            echo "$venv/lib/python$1/site-packages"
            return
        fi
    done
    return 1
}

# What the wheel asks for, but torch and numba.
light() {
    "$builder" - "$wheel" <<'PYTHON'
import sys
from email.parser import Parser
from zipfile import ZipFile

with ZipFile(sys.argv[1]) as archive:
    (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
    needed = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
print("\n".join(each for each in needed if "extra ==" not in each and not each.startswith(("torch", "numba"))))
PYTHON
}

# Make an environment, install the wheel, and try it there; with a `.pth`, the libraries of another environment are found,
# and what that has installed as a link to the checkout is not.
try() {
    local version=$1 python=$2 env=$work/$1 kind=full found
    "$python" -m venv "$env"
    if [[ $full == yes ]]; then
        "$env/bin/pip" --quiet install "$wheel"
    else
        if found=$(libraries "$version"); then
            [[ $found == "$root/.venv/"* ]] || kind=light
            echo "$found" >"$(echo "$env"/lib/python*/site-packages)/libraries.pth"
        else
            kind=light
            light >"$work/light.txt"
            "$env/bin/pip" --quiet install --requirement "$work/light.txt"
        fi
        "$env/bin/pip" --quiet install --no-deps --no-index "$wheel"
    fi
    (cd -- "$work" && "$env/bin/python" -I "$root/scripts/smoke.py" "$kind")
}

tried=()
for version in "${versions[@]}"; do
    if python=$(find_python "$version"); then
        # A subshell of its own, so that `set -e` holds in it.
        set +e
        (set -e; try "$version" "$python")
        code=$?
        set -e
        if [[ $code -ne 0 ]]; then
            echo "smoke: the wheel does not work on Python $version"
            exit 1
        fi
        tried+=("$version")
    fi
done
[[ ${#tried[@]} -gt 0 ]] || { echo "smoke: no Python of ${versions[*]} was found"; exit 1; }
echo "smoke: the wheel works on Python ${tried[*]}"
