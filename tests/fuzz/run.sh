#!/usr/bin/env bash
# Runs fuzzers, as many at a time as there are processors: first every input of the committed corpus, then new ones for some time.
#
#   bash tests/fuzz/run.sh build/fuzz 600            # all of them, ten minutes each
#   bash tests/fuzz/run.sh build/fuzz 60 onnx npy    # some
#
# New inputs that reach new code go to FOLDER/corpus/NAME, inputs that fail to FOLDER/found; both stay for the next run.
set -u
cd "$(dirname "$0")/../.."

folder=$1
seconds=$2
shift 2
[ $# -gt 0 ] || set -- onnx npy workload profile nice request ring config

# One fuzzer, from its corpus on.
fuzz() {
    local name=$1 program=$folder/fuzz_$1 log=$folder/fuzz_$1.log
    local options=(-timeout=60 -report_slow_units=10 -rss_limit_mb=3072 -malloc_limit_mb=2048 -max_len=16384 -print_final_stats=1
        "-artifact_prefix=$folder/found/$name-")
    [ -f "tests/fuzz/$name.dict" ] && options+=("-dict=tests/fuzz/$name.dict")
    if "$program" "${options[@]}" -runs=0 "tests/fuzz/corpus/$name" >"$log" 2>&1 &&
        "$program" "${options[@]}" "-max_total_time=$seconds" "$folder/corpus/$name" "tests/fuzz/corpus/$name" \
            >>"$log" 2>&1; then
        printf '%-9s %s inputs, %s\n' "$name" "$(awk '/number_of_executed_units/ {n = $2} END {print n}' "$log")" \
            "$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$log" | tail -n 1)"
    else
        echo "$name: FAILED; the end of $log:"
        tail -n 40 "$log"
        return 1
    fi
}

for name in "$@"; do
    [ -x "$folder/fuzz_$name" ] || { echo "no fuzzer '$name'" >&2; exit 2; }
    mkdir -p "$folder/corpus/$name" "$folder/found"
done
failed=0
running=0
for name in "$@"; do # as many at a time as there are processors
    if [ "$running" -ge "$(nproc)" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    fuzz "$name" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
