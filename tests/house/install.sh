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

# The client of the ring, against a server that is installed too.
cat >"$prefix/client.c" <<'C'
#include <reef/client.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    reef_error error;
    reef_client *client;
    reef_client_model *model;
    if (argc < 2 || reef_client_connect(argv[1], NULL, &client, &error)) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    reef_status status = reef_client_open(client, "nothing", NULL, &model, &error);
    printf("connected; %s\n", error.message);
    reef_client_close(client);
    return status != REEF_NOT_FOUND;
}
C
mkdir "$prefix/models"
"$prefix/bin/reef" serve "$prefix/models" --listen 127.0.0.1:0 --ring "$prefix/ring.sock" 2>"$prefix/serve.log" &
server=$!
for _ in $(seq 100); do
    grep -q listening "$prefix/serve.log" && break
    sleep 0.1
done
# shellcheck disable=SC2046
cc -Wall -Werror "$prefix/client.c" $(pkg-config --cflags --libs reef_client) -o "$prefix/client-shared"
LD_LIBRARY_PATH=$prefix/lib "$prefix/client-shared" "$prefix/ring.sock"
# shellcheck disable=SC2046
cc -Wall -Werror "$prefix/client.c" $(pkg-config --cflags reef_client) "$prefix/lib/libreef_client.a" -lpthread -o "$prefix/client-static"
"$prefix/client-static" "$prefix/ring.sock"
g++ -Wall -Werror -x c++ -fsyntax-only "$prefix/client.c" $(pkg-config --cflags reef_client)
kill "$server"
wait "$server"
grep -q "^ExecStart=$prefix/bin/reef serve" "$prefix/lib/systemd/system/reef.service"
echo "1 passed, 0 failed"
