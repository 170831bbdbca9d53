#!/usr/bin/env python3
"""Exports the five DISB networks with torch.onnx and writes their graphs without weights.

Needs torch, torchvision, transformers and onnxscript, which is why it is run once by hand and its output is committed
(models/graphs/). Both exporters of PyTorch are covered, because they write different patterns for the same network:

  resnet152            TorchScript, batch norm kept (TrainingMode.PRESERVE)
  resnet152_fused, densenet201, vgg19, inception_v3, distilbert
                       TorchScript, its defaults, opset 17
  distilbert_eager     attention spelled out instead of scaled_dot_product_attention
  distilbert_opset14   LayerNorm spelled out
  *_dynamo             the dynamo exporter, the default since PyTorch 2.9, opset 18

Examples:
  python3 tools/models/export_torch.py --out models/graphs
  python3 tools/models/export_torch.py --out /tmp/graphs --jobs 6 distilbert distilbert_dynamo
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import onnx
import stripped


@dataclass(frozen=True)
class Variant:
    """One file: which network, written by which exporter."""

    network: str
    dynamo: bool = False
    keep_batch_norm: bool = False
    opset: int = 17  # TorchScript only; below 17 LayerNorm is spelled out
    attention: str = "sdpa"  # DistilBERT only: transformers' attention implementation


VARIANTS: dict[str, Variant] = {
    "resnet152": Variant("resnet152", keep_batch_norm=True),
    "resnet152_fused": Variant("resnet152"),
    "resnet152_dynamo": Variant("resnet152", dynamo=True),
    "densenet201": Variant("densenet201"),
    "densenet201_dynamo": Variant("densenet201", dynamo=True),
    "vgg19": Variant("vgg19"),
    "vgg19_dynamo": Variant("vgg19", dynamo=True),
    "inception_v3": Variant("inception_v3"),
    "inception_v3_dynamo": Variant("inception_v3", dynamo=True),
    "distilbert": Variant("distilbert"),
    "distilbert_opset14": Variant("distilbert", opset=14),
    "distilbert_eager": Variant("distilbert", attention="eager"),
    "distilbert_dynamo": Variant("distilbert", dynamo=True),
    "distilbert_dynamo_eager": Variant("distilbert", dynamo=True, attention="eager"),
}
SEQUENCE = 128


def network(variant: Variant):
    """The module in eval mode, every parameter different, so that no exporter merges equal ones."""
    import torch

    torch.manual_seed(0)
    if variant.network == "distilbert":
        from transformers import DistilBertConfig, DistilBertModel

        module = DistilBertModel(DistilBertConfig(attn_implementation=variant.attention))
    else:
        import torchvision

        options = (
            {"aux_logits": False, "init_weights": False, "transform_input": False}
            if variant.network == "inception_v3"
            else {}
        )
        module = getattr(torchvision.models, variant.network)(weights=None, **options)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor.copy_(0.9 + 0.2 * torch.rand_like(tensor))
    return module.eval()


def export(name: str, out: Path) -> str:
    import torch

    variant = VARIANTS[name]
    module = network(variant)
    if variant.network == "distilbert":
        # Three sequences of different lengths: a mask of ones alone would let transformers drop it while tracing.
        ids = torch.randint(1, 30000, (3, SEQUENCE), dtype=torch.int64)
        mask = (torch.arange(SEQUENCE)[None, :] < torch.tensor([[SEQUENCE], [SEQUENCE // 2], [7]])).to(torch.int64)
        inputs, outputs = {"input_ids": ids, "attention_mask": mask}, ["last_hidden_state"]
        axes = {0: "batch", 1: "sequence"}
        module.config.return_dict = False
    else:
        side = 299 if variant.network == "inception_v3" else 224
        # torchvision calls its argument x or input
        argument = module.forward.__code__.co_varnames[1]
        inputs, outputs, axes = {argument: torch.randn(2, 3, side, side)}, ["output"], {0: "batch"}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        common = {
            "input_names": list(inputs) if variant.network == "distilbert" else ["input"],
            "output_names": outputs,
        }
        if variant.dynamo:
            torch.onnx.export(
                module,
                (),
                path,
                kwargs=inputs,
                dynamo=True,
                opset_version=18,
                external_data=False,
                dynamic_shapes={key: {axis: torch.export.Dim.DYNAMIC for axis in axes} for key in inputs},
                **common,
            )
        else:
            training = torch.onnx.TrainingMode.PRESERVE if variant.keep_batch_norm else torch.onnx.TrainingMode.EVAL
            torch.onnx.export(
                module,
                tuple(inputs.values()),
                path,
                dynamo=False,
                opset_version=variant.opset,
                training=training,
                dynamic_axes={key: axes for key in [*common["input_names"], *outputs]},
                **common,
            )
        model = onnx.load(path)
    stripped_bytes = stripped.strip(model)
    target = out / f"{name}.onnx"
    onnx.save(model, target)
    kinds = sorted({node.op_type for node in model.graph.node})
    return f"{target.stat().st_size / 1e3:.0f} kB, {stripped_bytes / 1e6:.0f} MB of weights dropped, {len(model.graph.node)} nodes: {' '.join(kinds)}"


def export_in_child(name: str, out: Path) -> bool:
    start = time.monotonic()
    child = subprocess.run(
        [sys.executable, __file__, "--out", str(out), "--here", name], capture_output=True, text=True
    )
    line = (child.stdout if child.returncode == 0 else child.stderr).strip().splitlines()[-1:] or ["no output"]
    print(
        f"{name:26} {'ok' if child.returncode == 0 else 'FAILED':6} {time.monotonic() - start:5.0f} s  {line[0]}",
        flush=True,
    )
    if child.returncode != 0:
        (out / f"{name}.log").write_text(child.stdout + child.stderr)
    return child.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="files to write (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("models/graphs"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=4, help="exports at a time (default: %(default)s)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # export in this process
    arguments = parser.parse_args()
    names = arguments.names or list(VARIANTS)
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown name {unknown[0]!r}; known: {', '.join(VARIANTS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.here:
        for name in names:
            print(export(name, arguments.out))
        return 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        return 0 if all(list(pool.map(lambda name: export_in_child(name, arguments.out), names))) else 1


if __name__ == "__main__":
    sys.exit(main())
