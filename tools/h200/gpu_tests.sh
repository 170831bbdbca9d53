#!/bin/sh
# Runs the tests that need a GPU; run.sh brings them to the machine that has one.
#
#     tools/h200/gpu_tests.sh OUT [sanitize]
#
# The device suite; every operator case against ONNX Runtime's answers in three precisions. sanitize: the device suite,
# the five networks in fp16 and tf32, and VGG-19's workers being preempted, under compute-sanitizer: memcheck, racecheck, initcheck.
# Racecheck takes minutes, and names a pair in the workers of conv3.cu that is none (docs/nvidia.md). (The test that
# makes a kernel fault on purpose is left out there.) OUT gets a log per test; the exit status says whether all passed.
set -eu
self=$(cd "$(dirname "$0")" && pwd)/$(basename "$0")
cd "$(dirname "$0")/../.."

# check NAME COMMAND...: one line of result, a log, and on failure its end.
check() {
    name=$1
    shift
    begun=$(date +%s)
    if "$@" >"$out/$name.log" 2>&1; then
        echo "ok      $name ($(($(date +%s) - begun)) s)" | tee -a "$results"
    else
        echo "FAILED  $name: $(grep -aE 'FAILED|ERROR SUMMARY|========= (Error|Invalid|Race|Uninit)|reef run:' "$out/$name.log" |
            head -6 | cut -c1-220)" | tee -a "$results"
    fi
}

models=${MODELS:-/tmp/reef-models}
shape_of() {
    case $1 in
    distilbert) echo "--shape input_ids=1x128 --shape attention_mask=1x128" ;;
    inception_v3) echo "--shape input=1x3x299x299" ;;
    *) echo "--shape input=1x3x224x224" ;;
    esac
}

# sanitize TOOL PRECISION NETWORK; variants were chosen before, so that only one run is watched.
sanitize() {
    # shellcheck disable=SC2046
    check "$1.$2.$3" timeout 300 compute-sanitizer --tool "$1" --error-exitcode 9 --report-api-errors no \
        ./reef run "$models/$3.onnx" --device cuda:0 --precision "$2" --random 1 $(shape_of "$3")
}

if [ "${1:-}" = --one ]; then # of the list below, in a process of its own
    out=$2 results=$2/results.txt
    sanitize "$3" "$4" "$5"
    exit 0
fi
out=${1:?where the logs go}
results=$out/results.txt
mkdir -p "$out"
: >"$results"

for test in tests/test_*; do
    check "$(basename "$test")" "$test"
done
if [ -d gpu ]; then # the kernels alone, and as workers that are stopped at some moment
    check kernels.misc gpu/test_cuda_misc gpu/cubin 2
    check kernels.matrix gpu/kernel_bench gpu/cubin/igemm_f16.sm_90a.cubin,gpu/cubin/conv3.sm_90a.cubin,gpu/cubin/stem.sm_90a.cubin,gpu/cubin/gemv.sm_90a.cubin \
        gpu/naive.cubin gpu/layers.txt "$out/kernels.json" f16 --shapes 40 --workers --no-time
fi
if [ -d oracle/ops ]; then
    for precision in fp32 tf32 fp16; do
        check "ops.$precision" python3 tools/h200/ops.py --reef ./reef --precision "$precision"
        tail -1 "$out/ops.$precision.log"
    done
fi
if [ "${2:-}" = sanitize ]; then
    python3 tools/models/make_models.py --out "$models" >"$out/models.log" 2>&1
    for tool in memcheck racecheck initcheck; do
        REEF_TEST_ONLY="a_*" REEF_TEST_SKIP='*that_faults*' check "test_device.$tool" timeout 300 compute-sanitizer --tool "$tool" --error-exitcode 9 \
            --report-api-errors no tests/test_device
    done
    for tool in memcheck initcheck racecheck; do # workers that are stopped
        check "workers.$tool" timeout 300 compute-sanitizer --tool "$tool" --error-exitcode 9 --report-api-errors no \
            tests/preempt --device cuda:0 --precision fp16 --count 20 --policy reset "$models/vgg19.onnx:input=1x3x224x224"
    done
    for tool in memcheck initcheck; do # tiles that ride in other kernels' launches
        check "rides.$tool" timeout 300 compute-sanitizer --tool "$tool" --error-exitcode 9 --report-api-errors no \
            tests/preempt --device cuda:0 --precision fp16 --count 100 --policy pad "$models/densenet201.onnx:input=1x3x224x224"
    done
    list=$out/sanitize.txt
    : >"$list"
    for network in resnet152 densenet201 vgg19 inception_v3 distilbert; do
        for precision in fp16 tf32; do
            # shellcheck disable=SC2046
            ./reef run "$models/$network.onnx" --device cuda:0 --precision $precision --random 1 $(shape_of $network) \
                >>"$out/models.log" 2>&1 || true
            for tool in memcheck initcheck racecheck; do
                echo "$tool $precision $network" >>"$list"
            done
        done
    done
    # racecheck keeps a record of all shared memory: two of them at once beside the others are enough.
    grep -v racecheck "$list" | xargs -P "${JOBS:-6}" -L 1 "$self" --one "$out" &
    grep racecheck "$list" | xargs -P 2 -L 1 "$self" --one "$out"
    wait
fi
! grep -q FAILED "$results"
