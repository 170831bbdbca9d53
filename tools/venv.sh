#!/bin/sh
# Makes .venv at the root of the checkout with what tools/requirements.txt lists. Quick when nothing changed.
#
#   tools/venv.sh                     # python3 from PATH
#   PYTHON=/usr/bin/python3 tools/venv.sh
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=$root/.venv
requirements=$root/tools/requirements.txt
python=${PYTHON:-python3}

die() { printf 'venv.sh: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null 2>&1 || die "no $python: install Python 3.9 or later (Debian, Ubuntu: apt-get install python3 python3-venv)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || die "$("$python" --version 2>&1) is too old: Python 3.9 or later is needed (set PYTHON to choose one)"

# The stamp names the interpreter too: a venv of a Python that was since replaced does not start.
stamp="$("$python" -c 'import sys, platform; print(sys.executable, platform.python_version())') $(cksum <"$requirements") $root"
if [ -f "$venv/.stamp" ] && [ "$(cat "$venv/.stamp")" = "$stamp" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi

"$python" -c 'import venv, ensurepip' 2>/dev/null || die "$python has no venv module (Debian, Ubuntu: apt-get install python3-venv)"

printf 'venv.sh: making .venv with %s\n' "$("$python" --version 2>&1)" >&2
[ ! -L "$venv" ] || die "$venv is a link: what it points to would be emptied; remove the link"
"$python" -m venv --clear "$venv" >&2 || die "$python -m venv failed"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: --requirement "$requirements" >&2 ||
    die "pip could not install tools/requirements.txt (is a package index reachable?)"
"$venv/bin/python" -c 'import numpy, onnx, onnxruntime, PIL' || die "the installed packages do not load"
printf '%s\n' "$stamp" >"$venv/.stamp"
