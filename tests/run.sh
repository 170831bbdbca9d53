#!/usr/bin/env bash
# Runs every test in stages and counts them. `make test` calls it; so does CI.
#
#   bash tests/run.sh                 # everything
#   bash tests/run.sh unit ops        # some stages
#
# Output of a stage goes to build/test/STAGE.log and is shown when the stage fails.
set -u
cd "$(dirname "$0")/.."

all_stages="house build unit cli nice asan tsan fuzz venv serve ops models preempt install tidy"
stages=${*:-$all_stages}
logs=build/test
mkdir -p "$logs"
jobs=$(nproc)
python=.venv/bin/python
passed=0
failed=""

make_quiet() { make --no-print-directory -j"$jobs" "$@"; }

stage_house() {
    python3 tests/house/layers.py && python3 tools/readme_tables.py --check && make_quiet format-check
}
stage_build() {
    make_quiet all test-programs
}
stage_unit() {
    make_quiet unit
}
# Bad input, exit codes and output of the command, on a fake engine and on the real one.
stage_cli() {
    make_quiet test-cli
}
# reef nice against a driver that records every call.
stage_nice() {
    make_quiet test-nice
}
# Address and undefined-behaviour sanitizers over the same unit tests, the command line, and the operators.
stage_asan() {
    make_quiet MODE=asan all test-programs && make_quiet MODE=asan unit && make_quiet MODE=asan test-cli
}
# Thread sanitizer over everything with threads: devices (the CUDA one on a fake driver), scheduler, public interface, load generator, real
# preemption, server. Threads are late now and then (tests/support/late.c).
stage_tsan() {
    local programs=(build/tsan/tests/test_{sched,device,cuda_device,cuda_host,trace,api,bench,nice,serve})
    make_quiet MODE=tsan "${programs[@]}" && REEF_LATE="5 1000" bash tests/programs.sh "${programs[@]}"
}
stage_fuzz() {
    make_quiet fuzz-smoke
}
stage_venv() {
    tools/venv.sh
}
# The server, with an unmodified client of its protocol; again with address and undefined-behaviour sanitizers; under load.
stage_serve() {
    tools/venv.sh && make_quiet all build/release/reef-fake build/release/tests/load && make_quiet test-serve &&
        make_quiet MODE=asan all build/asan/reef-fake && make_quiet MODE=asan test-serve &&
        $python tests/serve/load.py --seconds 20 --check
}
# Every operator against ONNX Runtime.
stage_ops() {
    $python tests/oracle/run_ops.py --jobs "$jobs"
}
fetch_models() {
    $python tools/models/make_models.py --all && $python tools/demo/fetch_ocr.py
}
# Whole models against ONNX Runtime.
stage_models() {
    fetch_models && $python tests/oracle/run_models.py
}
# At least 10,000 random preemptions over real models, every answer identical to the undisturbed one.
stage_preempt() {
    fetch_models && bash tests/stress/run.sh
}
# What is installed can be compiled and linked against, shared and static.
stage_install() {
    bash tests/house/install.sh
}
stage_tidy() {
    make_quiet tidy
}

for stage in $stages; do
    if ! declare -F "stage_$stage" >/dev/null; then
        echo "tests/run.sh: no stage '$stage'; there are: $all_stages" >&2
        exit 2
    fi
    printf '%-8s ... ' "$stage"
    start=$SECONDS
    if "stage_$stage" >"$logs/$stage.log" 2>&1; then
        passed=$((passed + 1))
        note=$(grep -E '^[0-9]+ passed, [0-9]+ failed|^[0-9]+ models, ' "$logs/$stage.log" | tail -n 1)
        units=$(grep -cE '^\[       OK \]' "$logs/$stage.log")
        [ "$units" -gt 0 ] && note="$units tests${note:+; $note}"
        printf 'ok    %4d s  %s\n' $((SECONDS - start)) "$note"
    else
        failed="$failed $stage"
        printf 'FAILED %3d s; the end of %s:\n' $((SECONDS - start)) "$logs/$stage.log"
        tail -n 60 "$logs/$stage.log" | sed 's/^/    /'
    fi
done

# Once more what went wrong, where nobody has to look for it.
for stage in $failed; do
    echo "$stage failed; from $logs/$stage.log:"
    grep -nE -A 12 'WARNING: ThreadSanitizer|ERROR: [A-Z][a-z]+Sanitizer|runtime error:|\[  ERROR|: error:|FAILED, exit status' \
        "$logs/$stage.log" | head -n 60 | sed 's/^/    /'
done
failures=$(echo "$failed" | wc -w)
echo "$passed passed, $failures failed"
[ "$failures" -eq 0 ]
