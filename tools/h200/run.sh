#!/bin/sh
# Runs the solo comparison, preemption, DISB and padding (bench.sh), the measurements of reef nice and of reef serve beside it,
# and the GPU tests on a machine with an NVIDIA GPU, from a build on a machine without one.
#
#     tools/h200/run.sh user@host [solo|tests|bench|nice|serve|all]      copies the stage there by ssh, runs, brings the results back
#     tools/h200/run.sh --local   [solo|tests|bench|nice|serve|all]      runs here
#     tools/h200/run.sh --stage DIR [serve]             only makes the stage (for serve: half the size, with nothing else in
#                                                       it): to be carried by other means, then
#                                                       DIR/tools/h200/run.sh --here [solo|tests|bench|nice|serve|all]
#
# The stage is one folder: the reef command, the tests, the libraries they need, graphs without weights (models are made
# from them over there, with seeded weights) and these scripts. The GPU machine needs the driver and, for solo, python3
# with numpy, onnx, onnxruntime, torch, torchvision and transformers; for nice, torch, torchvision and onnx (about three
# minutes; `make nice-programs` first; it starts an MPS daemon of its own and stops it); for serve (about 70 seconds), numpy,
# torch, torchvision and onnx; for tests, compute-sanitizer.
#
# Results: build/h200/out; solo.json, preempt.json, disb.json, padding.json, stress.json, disb_trace.json, nice.json and
# serve_nice.json also in docs/results/h200, and pad_table.json if it is there (on that machine, in the stage:
# tools/h200/bench.sh out table). Environment:
# MODE (release), SOLO (arguments for solo.py, such as "--precisions fp16 vgg19"), NICE (for nice.py, such as "--only kernel"),
# SERVE (for serve_nice.py, such as "--ways ring").
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)

usage() {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0" | sed '$d'
    exit "$1"
}

stage() {
    out=$1
    built=$root/build/${MODE:-release}
    [ -x "$built/reef" ] || { echo "run.sh: $built/reef is missing: make all test-programs" >&2; exit 1; }
    rm -rf "$out"
    mkdir -p "$out/tests" "$out/lib" "$out/tools/models" "$out/tools/h200" "$out/models/graphs"
    cp "$built/reef" "$out/"
    for test in test_device preempt nice_rt nice_load nice_load_shared; do
        [ ! -x "$built/tests/$test" ] || cp "$built/tests/$test" "$out/tests/"
    done
    [ ! -e "$built/libreef-nice.so" ] || cp "$built/libreef-nice.so" "$out/"
    if [ -d "$built/tests/gpu" ]; then # make gpu-programs
        mkdir -p "$out/gpu/cubin"
        for program in kernel_bench run_profile test_cuda_misc; do
            cp "$built/tests/gpu/$program" "$out/gpu/"
            strip "$out/gpu/$program"
        done
        cp "$built/tests/gpu/naive.cubin" "$root/tests/gpu/layers.txt" "$out/gpu/"
        if [ -x "$built/tests/gpu/pad_table" ]; then
            cp "$built/tests/gpu/pad_table" "$built"/tests/gpu/pad_table*.cubin "$out/gpu/"
            strip "$out/gpu/pad_table"
        fi
        find "$root/build/cuda" -name '*.cubin' ! -name '*_pads*' ! -name '*_rides*' -exec cp {} "$out/gpu/cubin/" \;
    fi
    strip "$out/reef" "$out"/tests/*
    git -C "$root" rev-parse HEAD | sed "$(git -C "$root" diff --quiet HEAD -- src include tools tests || echo 's/$/ and changes/')" \
        >"$out/COMMIT"
    # What a bare machine may lack; the C library is taken from there.
    ldd "$out/reef" "$out"/tests/* | sed -n 's/.*=> \(.*lib\(jansson\|cmocka\|cudart\|microhttpd\|gnutls\|p11-kit\|idn2\|unistring\|tasn1\|nettle\|hogweed\|gmp\|ffi\)[^ ]*\).*/\1/p' | sort -u |
        while read -r file; do cp -L "$file" "$out/lib/"; done
    cp "$root"/tools/reeflib.py "$root"/tools/trace_report.py "$out/tools/"
    cp "$root"/tools/models/*.py "$out/tools/models/"
    cp "$here"/*.sh "$here"/*.py "$out/tools/h200/"
    mkdir -p "$out/tests/serve"
    cp "$root/tests/serve/harness.py" "$out/tests/serve/"
    if [ -d "$root/build/oracle/ops" ]; then # made by tests/oracle/run_ops.py, with ONNX Runtime's answers
        mkdir -p "$out/oracle"
        cp -r "$root/build/oracle/ops" "$out/oracle/"
    fi
    for name in resnet152 densenet201 vgg19 inception_v3 distilbert; do
        cp "$root/models/graphs/$name.onnx" "$out/models/graphs/"
    done
}

# In the stage, on the machine with the GPU.
run_here() {
    cd "$root"
    LD_LIBRARY_PATH=$root/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export LD_LIBRARY_PATH
    results=${RESULTS:-$root/out}
    mkdir -p "$results"
    ./reef devices | sed -n '/cuda:/p'
    failed=0
    case $1 in tests | all) tools/h200/gpu_tests.sh "$results" sanitize || failed=1 ;; esac
    # shellcheck disable=SC2086
    case $1 in solo | all) python3 tools/h200/solo.py --reef ./reef --out "$results" ${SOLO:-} || failed=1 ;; esac
    case $1 in bench | all) tools/h200/bench.sh "$results" || failed=1 ;; esac
    # shellcheck disable=SC2086
    case $1 in nice | all) python3 tools/h200/nice.py --reef ./reef --out "$results" ${NICE:-} || failed=1 ;; esac
    # shellcheck disable=SC2086
    case $1 in serve | all) python3 tools/h200/serve_nice.py --reef ./reef --out "$results" ${SERVE:-} || failed=1 ;; esac
    return $failed
}

collect() {
    if [ -f "$1/solo.json" ] && [ -z "${SOLO:-}" ]; then
        mkdir -p "$root/docs/results/h200"
        cp "$1/solo.json" "$root/docs/results/h200/solo.json"
    fi
    for name in preempt disb padding stress disb_trace pad_table; do
        [ ! -f "$1/$name.json" ] || cp "$1/$name.json" "$root/docs/results/h200/$name.json"
    done
    if [ -f "$1/nice.json" ] && [ -z "${NICE:-}" ]; then
        mkdir -p "$root/docs/results/h200"
        cp "$1/nice.json" "$root/docs/results/h200/nice.json"
    fi
    if [ -f "$1/serve_nice.json" ] && [ -z "${SERVE:-}" ]; then
        cp "$1/serve_nice.json" "$root/docs/results/h200/serve_nice.json"
    fi
    echo "results: $1"
}

[ $# -ge 1 ] || usage 2
what=${2:-all}
case $1 in
-h | --help) usage 0 ;;
--stage)
    stage "${2:?the folder to make}"
    [ "${3:-}" != serve ] || (cd "$2" && rm -rf gpu oracle tests/[!s]* lib/libcudart* lib/libcmocka* models/graphs/[!v]*)
    ;;
--here) run_here "$what" ;;
--local)
    stage "$root/build/h200/stage"
    status=0
    RESULTS=$root/build/h200/out "$root/build/h200/stage/tools/h200/run.sh" --here "$what" || status=$?
    collect "$root/build/h200/out"
    exit $status
    ;;
-*) usage 2 ;;
*)
    stage "$root/build/h200/stage"
    mkdir -p "$root/build/h200/out"
    tar -C "$root/build/h200" -cz stage | ssh "$1" 'rm -rf reef-stage && mkdir reef-stage && tar -C reef-stage -xz'
    status=0
    ssh "$1" "SOLO='${SOLO:-}' NICE='${NICE:-}' SERVE='${SERVE:-}' reef-stage/stage/tools/h200/run.sh --here $what" || status=$?
    ssh "$1" 'tar -C reef-stage/stage/out -cz .' | tar -C "$root/build/h200/out" -xz
    collect "$root/build/h200/out"
    exit $status
    ;;
esac
