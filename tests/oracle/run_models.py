#!/usr/bin/env python3
"""Runs whole models through `reef run` and compares with ONNX Runtime on seeded inputs.

Three groups: generated (tools/models/make_models.py), light (in the onnx wheel), ocr (tools/demo/fetch_ocr.py), which
sees parts of the demo's picture: on noise the detector answers with nothing but its sigmoid's rounding.
Floats may differ by 1e-4 of the output's largest value. The last line counts.

Examples:
  python3 tests/oracle/run_models.py --reef build/release/reef
  python3 tests/oracle/run_models.py --group light --group ocr
  python3 tests/oracle/run_models.py resnet152 light_squeezenet --seeds 3
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
try:
    import numpy as np
    import onnx
    import onnx.backend.test
    from PIL import Image
    from reeflib import (
        ROOT,
        Arrays,
        Reef,
        Shapes,
        ToolError,
        difference,
        fail,
        fixed_shapes,
        is_dynamic,
        onnxruntime_session,
        output_names,
        random_feeds,
    )
except ImportError as missing:
    sys.exit(f"run_models.py: {missing.name} is missing: run tools/venv.sh, then use .venv/bin/python")

GROUPS = ("generated", "light", "ocr")


class Model(NamedTuple):
    path: Path
    group: str
    shapes: Optional[Shapes]  # for dynamic inputs; None: batch 1, sequence 128


OCR_SHAPES: Dict[str, Shapes] = {
    "det": {"x": (1, 3, 320, 480)},
    "rec": {"x": (1, 3, 48, 320)},
    "cls": {"x": (1, 3, 48, 192)},
}


def known_models(generated: Path, ocr: Path) -> Dict[str, Model]:
    models = {path.stem: Model(path, "generated", None) for path in sorted(generated.glob("*.onnx"))}
    light = Path(onnx.backend.test.__file__).parent / "data/light"
    models.update({path.stem: Model(path, "light", None) for path in sorted(light.glob("light_*.onnx"))})
    models.update(
        {
            f"ocr_{name}": Model(ocr / f"{name}.onnx", "ocr", shapes)
            for name, shapes in OCR_SHAPES.items()
            if (ocr / f"{name}.onnx").exists()
        }
    )
    return models


def picture_feeds(picture: Path, shapes: Shapes, seed: int) -> Arrays:
    """A part of the picture that depends on the seed, resized to the one input's shape and scaled to [-1, 1]."""
    with Image.open(picture) as image:
        width, height = image.size
        left = width * ((seed * 37) % 50) // 100
        part = image.convert("RGB").crop((left, 0, left + width // 2, height))
    name, (_, _, rows, columns) = next(iter(shapes.items()))
    pixels = np.asarray(part.resize((columns, rows)), dtype=np.float32) / 127.5 - 1
    return {name: np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}


def compare(reef: Reef, name: str, model: Model, seeds: int, batch: int, threads: int, scratch: Path) -> float:
    """The largest error over all seeds and outputs; raises ToolError at the first answer that is wrong."""
    proto = onnx.load(model.path)
    shapes = fixed_shapes(proto, model.shapes)
    dynamic = is_dynamic(proto)
    if dynamic:
        shapes = {key: (batch, *shape[1:]) for key, shape in shapes.items()}
    outputs = output_names(proto)
    session = onnxruntime_session(str(model.path), threads)
    worst = 0.0
    for seed in range(1, seeds + 1):
        if model.group == "ocr":
            feeds = picture_feeds(model.path.parent.parent / "page.png", shapes, seed)
            feeds = {key: np.repeat(array, shapes[key][0], axis=0) for key, array in feeds.items()}
        else:
            feeds = random_feeds(proto, shapes, seed)
        expected = session.run(outputs, feeds)
        answers = reef.run(model.path, feeds, outputs, scratch / name, shapes=dynamic)
        for output, wanted, got in zip(outputs, expected, answers):
            error, complaint = difference(wanted, got)
            if complaint:
                raise ToolError(f"seed {seed}, {output}: {complaint}")
            worst = max(worst, error)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to run (default: all there are)")
    parser.add_argument(
        "--reef",
        type=Path,
        default=ROOT / "build/release/reef",
        help="the program to test (default: build/release/reef)",
    )
    parser.add_argument("--group", action="append", choices=GROUPS, help="only this group; may be repeated")
    parser.add_argument(
        "--models", type=Path, default=ROOT / "build/models", help="folder of generated models (default: build/models)"
    )
    parser.add_argument(
        "--ocr", type=Path, default=ROOT / "build/demo/models", help="folder of OCR models (default: build/demo/models)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="inputs per model (default: %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=1, help="batch of models with a dynamic one (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads for ONNX Runtime (default: %(default)s)")
    parser.add_argument(
        "--args", default="", metavar="TEXT", help='more arguments for reef run, such as "--device cpu"'
    )
    arguments = parser.parse_args()

    models = known_models(arguments.models, arguments.ocr)
    for name in arguments.names:
        if name not in models:
            parser.error(f"no model named {name!r}; there are: {', '.join(models) or 'none'}")
    groups = arguments.group or GROUPS
    chosen: List[str] = arguments.names or [name for name, model in models.items() if model.group in groups]
    for group, maker in (("generated", "tools/models/make_models.py"), ("ocr", "tools/demo/fetch_ocr.py")):
        if not arguments.names and group in groups and not any(model.group == group for model in models.values()):
            if arguments.group:
                fail(f"no {group} models yet: run {maker}")
            print(f"note: no {group} models yet ({maker} makes them)")
    try:
        reef = Reef(arguments.reef, arguments.args.split())
    except ToolError as error:
        fail(str(error))

    scratch, failed = Path(tempfile.mkdtemp(prefix="reef-models-")), 0
    try:
        for name in chosen:
            start = time.monotonic()
            print(f"{name:28} ", end="", flush=True)
            try:
                error = compare(reef, name, models[name], arguments.seeds, arguments.batch, arguments.threads, scratch)
                print(f"ok     {time.monotonic() - start:5.1f} s  error {error:.1e}", flush=True)
            except ToolError as complaint:
                failed += 1
                print(f"FAILED {time.monotonic() - start:5.1f} s  {complaint}", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
