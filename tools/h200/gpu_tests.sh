#!/bin/sh
# Runs the tests that need a GPU; run.sh brings them to the machine that has one.
#
#     tools/h200/gpu_tests.sh OUT [sanitize]
#
# OUT gets a log per test. sanitize: the device suite under compute-sanitizer as well, with memcheck, racecheck and
# initcheck. The test that makes a kernel fault on purpose is left out there.
set -eu
cd "$(dirname "$0")/../.."
out=$1
mkdir -p "$out"
failed=0
for test in tests/test_*; do
    name=$(basename "$test")
    if "$test" >"$out/$name.log" 2>&1; then
        echo "ok      $name"
    else
        echo "FAILED  $name"
        tail -20 "$out/$name.log"
        failed=1
    fi
done
if [ "${2:-}" = sanitize ]; then
    for tool in memcheck racecheck initcheck; do
        log="$out/test_device.$tool.log"
        if REEF_TEST_SKIP='*that_faults*' compute-sanitizer --tool "$tool" --error-exitcode 9 \
            --report-api-errors no tests/test_device >"$log" 2>&1; then
            echo "ok      test_device under $tool"
        else
            echo "FAILED  test_device under $tool"
            grep -E '^=========' "$log" | tail -15
            failed=1
        fi
    done
fi
exit $failed
