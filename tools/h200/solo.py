#!/usr/bin/env python3
"""Times the five DISB networks alone on a GPU, ours and PyTorch's, and writes the rows of docs/results/h200/solo.json.

Ours: one process per network and precision, `reef run --solo` (input and output on the device, as for PyTorch) and its
ordinary requests (host buffers). The error is the largest difference to ONNX Runtime in float32 on the CPU, over the
largest output. PyTorch: the same networks from torchvision and transformers, channels last, replayed as a CUDA graph, and
compiled with mode="reduce-overhead"; each in a process of its own, which compiles while others do but is timed alone.

Runs on the machine with the GPU; run.sh brings it there. Examples:
  python3 tools/h200/solo.py --reef ./reef --out out
  python3 tools/h200/solo.py --reef ./reef --out out --precisions fp16 --no-torch vgg19
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
FIVE = ("resnet152", "densenet201", "vgg19", "inception_v3", "distilbert")
COMPILED = ("fp16", "tf32")


# ---- PyTorch ---------------------------------------------------------------------------------------------------------


def torch_network(name: str):
    import torch

    if name == "distilbert":
        from transformers import DistilBertConfig, DistilBertModel

        config = DistilBertConfig()
        config._attn_implementation = "sdpa"
        return DistilBertModel(config), torch.randint(0, 30000, (1, 128))
    import torchvision.models as zoo

    options = {"aux_logits": True, "init_weights": False} if name == "inception_v3" else {}
    side = 299 if name == "inception_v3" else 224
    return getattr(zoo, name)(**options), torch.randn(1, 3, side, side)


def torch_times(call, runs: int) -> list[float]:
    import torch

    for _ in range(20):
        call()
    torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - begun) * 1e6)
    return sorted(times)


def torch_worker(name: str, precision: str, runs: int, lock_file: str) -> None:
    import torch

    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True
    dtype = torch.float16 if precision == "fp16" else torch.float32
    network, x = torch_network(name)
    network = network.eval().to("cuda", dtype)
    x = x.cuda()
    if x.dim() == 4:
        network = network.to(memory_format=torch.channels_last)
        x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    row = {}
    with torch.no_grad(), open(lock_file, "w") as lock:
        compiled = torch.compile(network, mode="reduce-overhead") if precision in COMPILED else None
        if compiled is not None:
            for _ in range(4):
                compiled(x)
        fcntl.flock(lock, fcntl.LOCK_EX)
        if compiled is not None:
            row["torch_compile_p50_us"] = torch_times(lambda: compiled(x), runs)[runs // 2]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                network(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            network(x)
        row["torch_graph_p50_us"] = torch_times(graph.replay, runs)[runs // 2]
    print(json.dumps(row))


def torch_rows(names: list[str], precisions: list[str], runs: int, out: Path) -> dict[tuple[str, str], dict]:
    """Starts a process for each network and precision at once; the lock keeps their timing apart."""
    environment = dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS="4")
    jobs = {}
    for precision in precisions:
        for name in names:
            command = [sys.executable, __file__, "--torch-worker", name, precision, str(runs), str(out / "torch.lock")]
            log = open(out / f"torch.{name}.{precision}.log", "w")
            jobs[name, precision] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )
    rows = {}
    for key, job in jobs.items():
        text, _ = job.communicate()
        rows[key] = json.loads(text.strip().splitlines()[-1]) if job.returncode == 0 else {}
        if job.returncode:
            print(f"torch {key}: failed, see its log", file=sys.stderr)
    return rows


# ---- ours ------------------------------------------------------------------------------------------------------------


def make_models(names: list[str], folder: Path) -> None:
    script = HERE.parent / "models" / "make_models.py"
    jobs = [subprocess.Popen([sys.executable, str(script), "--out", str(folder), name]) for name in names]
    if any([job.wait() for job in jobs]):
        sys.exit("solo.py: a model could not be made")


def reference(model: Path, folder: Path):
    """Inputs, as files, and ONNX Runtime's outputs."""
    import numpy as np
    import onnx
    from reeflib import fixed_shapes, onnxruntime_session, output_names, random_feeds

    graph = onnx.load(str(model), load_external_data=False)
    feeds = random_feeds(graph, fixed_shapes(graph), 1)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, (name, array) in enumerate(feeds.items()):
        files[name] = folder / f"feed_{number}.npy"
        np.save(files[name], array)
    names = output_names(graph)
    return files, names, onnxruntime_session(str(model), threads=8).run(names, feeds)


def run_ours(reef: Path, model: Path, precision: str, runs: int, files, names, expected, folder: Path) -> dict:
    import numpy as np
    from reeflib import output_file

    folder.mkdir(parents=True, exist_ok=True)
    command = [str(reef), "run", str(model), "--device", "cuda:0", "--precision", precision, "--solo", "--json"]
    command += ["--repeat", str(runs), "--output", str(folder)]
    for name, file in files.items():
        command += ["--input", f"{name}={file}"]
    loads, answer = [], {}
    for _ in range(2):  # the first may choose variants; the second finds them in the cache
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"solo.py: {model.name} {precision}: {done.stderr.strip()}")
        answer = json.loads(done.stdout)
        loads.append(answer["load_s"])
    worst = 0.0
    for name, want in zip(names, expected):
        got = np.load(output_file(folder, name))
        scale = float(np.abs(want).max()) or 1.0
        worst = max(worst, float(np.abs(got.astype(np.float64) - want).max()) / scale)
    return {
        "ours_p50_us": answer["solo_us"]["p50"],
        "ours_p99_us": answer["solo_us"]["p99"],
        "ours_end_to_end_p50_us": answer["latency_us"]["p50"],
        "ours_end_to_end_p99_us": answer["latency_us"]["p99"],
        "max_rel_err": worst,
        "kernels": answer["kernels"],
        "load_cold_s": loads[0],
        "load_warm_s": loads[1],
        "device_weights_bytes": answer["device_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks (default: all five)")
    parser.add_argument("--reef", type=Path, default=Path("./reef"))
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--models", type=Path, default=Path("/tmp/reef-models"), help="where model files are made")
    parser.add_argument("--precisions", default="fp16,tf32")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--torch-worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.torch_worker:
        name, precision, runs, lock = args.torch_worker
        torch_worker(name, precision, int(runs), lock)
        return
    names, precisions = args.names or list(FIVE), args.precisions.split(",")
    args.reef = args.reef.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    make_models(names, args.models)
    rows = []
    for name in names:
        model = args.models / f"{name}.onnx"
        files, outputs, expected = reference(model, args.models / f"{name}.feeds")
        for precision in precisions:
            folder = args.models / f"{name}.{precision}"
            ours = run_ours(args.reef, model, precision, args.runs, files, outputs, expected, folder)
            rows.append({"model": name, "precision": precision, **ours})
            print(json.dumps(rows[-1]), flush=True)
            (args.out / "solo.json").write_text(json.dumps(rows, indent=1) + "\n")
    if not args.no_torch:
        theirs = torch_rows(names, precisions, args.runs, args.out)
        for row in rows:
            row.update(theirs[row["model"], row["precision"]])
    (args.out / "solo.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{'network':14s} {'precision':9s} {'ours':>8s} {'p99':>8s} {'graph':>8s} {'compile':>8s} {'ratio':>6s} error")
    for row in rows:
        graph, compiled = row.get("torch_graph_p50_us"), row.get("torch_compile_p50_us")
        best = min([t for t in (graph, compiled) if t] or [0])
        print(
            f"{row['model']:14s} {row['precision']:9s} {row['ours_p50_us']:8.1f} {row['ours_p99_us']:8.1f} "
            f"{graph or 0:8.1f} {compiled or 0:8.1f} {best / row['ours_p50_us']:6.2f} {row['max_rel_err']:.1e}"
        )


if __name__ == "__main__":
    main()
