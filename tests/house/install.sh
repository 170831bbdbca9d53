#!/usr/bin/env bash
# Installs into a temporary prefix and builds a program against it, as a user would.
set -eu
cd "$(dirname "$0")/../.."
prefix=$(mktemp -d)
trap 'rm -rf "$prefix"' EXIT
make --no-print-directory install PREFIX="$prefix" >/dev/null

cat >"$prefix/user.c" <<'C'
#include <reef/reef.h>
#include <stdio.h>

int main(void)
{
    reef_error error;
    reef_device *device;
    reef_model *model;
    reef_session *session;
    if (reef_device_open("cpu", NULL, &device, &error) ||
        reef_model_create_synthetic(device, 3, 4, 1000, &model, &error) ||
        reef_session_create(model, NULL, &session, &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    reef_status status = reef_session_run(session, NULL, NULL, NULL);
    printf("reef %s: %s\n", reef_version(), reef_status_text(status));
    reef_session_destroy(session);
    reef_model_destroy(model);
    reef_device_close(device);
    return status != REEF_OK;
}
C
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
# shellcheck disable=SC2046 # flags are words
cc -Wall -Werror "$prefix/user.c" $(pkg-config --cflags --libs reef) -o "$prefix/shared"
LD_LIBRARY_PATH=$prefix/lib "$prefix/shared"
# shellcheck disable=SC2046
cc -Wall -Werror "$prefix/user.c" $(pkg-config --cflags reef) "$prefix/lib/libreef.a" -ljansson -lm -lpthread -o "$prefix/static"
"$prefix/static"
g++ -Wall -Werror -x c++ -fsyntax-only "$prefix/user.c" $(pkg-config --cflags reef)
"$prefix/bin/reef" --version
"$prefix/bin/reef" nice -n 5 -- sh -c 'case "$LD_PRELOAD" in '"$prefix"'/lib/libreef-nice.so*) exit 0 ;; *) exit 1 ;; esac'
echo "1 passed, 0 failed"
