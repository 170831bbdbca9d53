#!/bin/sh
# Installs what building and testing reef needs from Debian's or Ubuntu's packages, if it is not there. Quick when it is.
#
#   tools/setup.sh build     # compiler, make, jansson, xxhash
#   tools/setup.sh demo      # and Python with venv
#   tools/setup.sh test      # and also cmocka, clang's tools and runtimes, Python with venv
set -eu

die() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }

build="gcc g++ make pkg-config libc6-dev libjansson-dev libmicrohttpd-dev libxxhash-dev"
python="python3 python3-venv"
check="libcmocka-dev clang clang-format clang-tidy"

case "${1:-}" in
build) wanted=$build ;;
demo) wanted="$build $python curl" ;;
test) wanted="$build $python $check curl openssl" ;;
*) die "usage: tools/setup.sh build|demo|test" ;;
esac

command -v dpkg-query >/dev/null 2>&1 || {
    printf 'setup.sh: not Debian or Ubuntu; please install the equivalents of: %s\n' "$wanted" >&2
    exit 0
}

missing=
for package in $wanted; do
    case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
    *" installed") ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -eq 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1; then
    sudo=sudo
else
    die "missing packages; as root: apt-get install$missing"
fi

printf 'setup.sh: installing%s\n' "$missing" >&2
$sudo apt-get -qq update >&2
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive $sudo apt-get -qq install -y --no-install-recommends $missing >&2
