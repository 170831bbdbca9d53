#!/bin/sh
# Preemption, DISB, padding and the stress test on a GPU; run.sh brings it to the machine that has one.
#
#     tools/h200/bench.sh OUT [preempt|disb|padding|stress|trace|table]...
#
# (default: all but table, about a quarter of an hour)
#
# trace: where the time goes in DISB A and B, matched. table: tests/gpu/pad_table.c, a quarter of a minute; needs no models.
#
# OUT gets preempt.json and preempt_trace.json, disb.json and disb.svg, padding.json and padding.svg, stress.json, disb_trace.json
# and disb_timeline.json that it was made from, pad_table.json (each with the commit), and a log of each; the exit status says
# whether all went well and every answer was right to the bit.
# Environment: MODELS (where model files are made), PRECISION (fp16), COUNT (requests per row of preempt, 300),
# SECONDS_EACH (of disb, per policy, 4), PAIR_SECONDS (of padding, per pair and policy, 1.8: five minutes), PREEMPTIONS (of
# stress, 100000).
set -eu
cd "$(dirname "$0")/../.."
out=${1:?where the results go}
shift
[ $# -gt 0 ] || set -- preempt disb padding stress trace
with_models=0
for what in "$@"; do
    case $what in
    preempt | disb | padding | stress | trace) with_models=1 ;;
    table) ;;
    *)
        echo "bench.sh: '$what' is none of preempt, disb, padding, stress, trace and table" >&2
        exit 2
        ;;
    esac
done
models=${MODELS:-/tmp/reef-models}
precision=${PRECISION:-fp16}
mkdir -p "$out"
if [ $with_models = 1 ]; then
    mkdir -p "$models/five"
    python3 tools/models/make_models.py --out "$models" >"$out/models.log" 2>&1 || {
        echo "bench.sh: the models cannot be made in $models:" >&2
        tail -3 "$out/models.log" >&2
        exit 1
    }
    for name in resnet152 densenet201 vgg19 inception_v3 distilbert; do
        ln -sf "../$name.onnx" "$models/five/$name.onnx"
    done
fi

failed=0
# step NAME COMMAND...: a log, and its end.
step() {
    name=$1
    shift
    begun=$(date +%s)
    if "$@" >"$out/$name.log" 2>&1; then
        echo "ok      $name ($(($(date +%s) - begun)) s)"
    else
        echo "FAILED  $name"
        failed=1
    fi
    grep -vE '^reef .* [0-9]+% \([0-9]+ s\)$' "$out/$name.log" | tail -40 || true # without the progress
}
for what in "$@"; do
    case $what in
    preempt)
        step preempt ./reef bench preempt --device cuda:0 --precision "$precision" --policy reset,priority --count "${COUNT:-300}" \
            --synthetic all --models "$models/five" --json "$out/preempt.json" --trace "$out/preempt_trace.json"
        ;;
    disb)
        step disb ./reef bench all --form both --device cuda:0 --precision "$precision" --models "$models/five" \
            --seconds "${SECONDS_EACH:-4}" --warmup 0.2 --json "$out/disb.json" --chart "$out/disb.svg"
        ;;
    padding)
        step padding ./reef bench padding --device cuda:0 --precision "$precision" --models "$models/five" \
            --seconds "${PAIR_SECONDS:-1.8}" --json "$out/padding.json" --chart "$out/padding.svg"
        ;;
    stress)
        image=input=1x3x224x224
        step stress tests/preempt --device cuda:0 --precision "$precision" --count "${PREEMPTIONS:-100000}" --policy reset,lease,pad \
            --json "$out/stress.json" "$models/five/resnet152.onnx:$image" "$models/five/densenet201.onnx:$image" \
            "$models/five/vgg19.onnx:$image" "$models/five/inception_v3.onnx:input=1x3x299x299" \
            "$models/five/distilbert.onnx:input_ids=1x128,attention_mask=1x128"
        ;;
    trace)
        step trace ./reef bench A B --form matched --device cuda:0 --precision "$precision" --models "$models/five" --policy reset \
            --seconds 0.6 --rounds 1 --warmup 0.2 --trace "$out/disb_timeline.json"
        step disb_trace python3 tools/trace_report.py "$out/disb_timeline.json" --json "$out/disb_trace.json"
        ;;
    table)
        step pad_table gpu/pad_table "$out/pad_table.json"
        ;;
    esac
done
# Which sources the program was made from (run.sh writes COMMIT into the stage).
if [ -f COMMIT ]; then
    python3 - "$(cat COMMIT)" "$out"/preempt.json "$out"/disb.json "$out"/padding.json "$out"/stress.json "$out"/disb_trace.json \
        "$out"/pad_table.json <<'EOF'
import json, os, sys

for path in filter(os.path.exists, sys.argv[2:]):
    with open(path) as file:
        whole = json.load(file)
    if isinstance(whole, dict):
        with open(path, "w") as file:
            json.dump({"commit": sys.argv[1], **whole}, file, indent=2)
            file.write("\n")
EOF
fi
exit $failed
