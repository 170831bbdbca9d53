#!/usr/bin/env bash
# Random preemption over every model there is: at least 10,000 in all, every answer compared bit for bit.
#
#   bash tests/stress/run.sh [PREEMPT_PROGRAM [PREEMPTIONS]]
#
# On a GPU (the models first: tools/models/make_models.py): at least 10^5 over the five networks,
#
#   build/release/tests/preempt --device cuda:0 --count 100000 --policy reset,lease --json stress.json \
#       build/models/vgg19.onnx:input=1x3x224x224 ...
set -eu
cd "$(dirname "$0")/../.."
program=${1:-build/release/tests/preempt}
total=${2:-10000}

image=input=1x3x224x224
text=input_ids=1x128,attention_mask=1x128
models=(
    build/models/resnet152.onnx:$image
    build/models/densenet201.onnx:$image
    build/models/vgg19.onnx:$image
    build/models/inception_v3.onnx:input=1x3x299x299
    build/models/distilbert.onnx:$text
    build/models/distilbert_dynamo.onnx:$text
    build/demo/models/det.onnx:x=1x3x320x480
    build/demo/models/rec.onnx:x=1x3x48x320
    build/demo/models/cls.onnx:x=1x3x48x192
)
light=$(.venv/bin/python -c 'import onnx.backend.test, os; print(os.path.join(os.path.dirname(onnx.backend.test.__file__), "data", "light"))')
for model in "$light"/light_*.onnx; do
    models+=("$model")
done

# Most of them under reset; the other policies, with a lease that leaves one or two of three units, get a share.
mkdir -p build/test
"$program" --count "$total" --policy reset --json build/test/stress.json "${models[@]}"
"$program" --count $((total / 5)) --policy lease,pad,wait --units 3 --json build/test/stress_3.json "${models[@]:3:6}"
