#!/usr/bin/env bash
# Runs test programs, as many at a time as there are processors, and shows what each said when it has ended.
#
#   bash tests/programs.sh build/release/tests/test_plan build/release/tests/test_graph
#
# Those that take longest start first, so that none of them is the last one alone. What failed is shown last, whole.
# Exit status 1 if one failed; one that hangs is ended after a quarter of an hour.
set -u
longest="test_device test_cuda_device test_cpu_gemm test_cuda_host test_cpu_misc"
failed=$(mktemp) # what those said that failed; its lock keeps two apart
trap 'rm -f "$failed"' EXIT
{
    for name in $longest; do
        for program in "$@"; do [ "${program##*/}" != "$name" ] || echo "$program"; done
    done
    for program in "$@"; do
        case " $longest " in *" ${program##*/} "*) ;; *) echo "$program" ;; esac
    done
} | xargs -P "$(nproc)" -n 1 sh -c '
    output=$(mktemp)
    timeout -s ABRT 900 "$1" >"$output" 2>&1
    status=$?
    exec 9>>"$0"
    flock 9
    [ "$status" -eq 0 ] || exec >&9
    printf "== %s\n" "$1"
    cat "$output"
    rm -f "$output"
    [ "$status" -eq 0 ] || echo "$1: FAILED, exit status $status"
    exit 0' "$failed"
if [ -s "$failed" ]; then
    cat "$failed"
    exit 1
fi
