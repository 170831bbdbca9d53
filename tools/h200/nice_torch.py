#!/usr/bin/env python3
"""Three ordinary PyTorch programs, for measuring reef nice: they know nothing of it.

  nice_torch.py resnet50      trains ResNet-50 (batch 64, bf16, channels last)
  nice_torch.py transformer   trains a transformer encoder (12 layers of width 1024, batch 16 of 512 tokens, bf16)
  nice_torch.py vgg19         VGG-19 inference (batch 1, fp16, one CUDA graph) at fixed intervals

Each says {"ready": true} and takes commands on standard input: "run SECONDS" (training; answers when each step ended) or
"run SECONDS INTERVAL_US" (inference; answers with latencies from when a request was due). Times are of CLOCK_MONOTONIC.
"""

import json
import os
import sys
import time
from collections import deque

import torch


def training(name: str):
    """A function that hands one step to the GPU."""
    if name == "resnet50":
        from torchvision.models import resnet50

        model = resnet50().cuda().to(memory_format=torch.channels_last)
        x = torch.randn(64, 3, 224, 224, device="cuda").contiguous(memory_format=torch.channels_last)
        y = torch.randint(0, 1000, (64,), device="cuda")
    else:
        layer = torch.nn.TransformerEncoderLayer(1024, 16, 4096, batch_first=True, norm_first=True, dropout=0.0)
        model = torch.nn.Sequential(torch.nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), torch.nn.Flatten(0, 1),
                                    torch.nn.Linear(1024, 1000)).cuda()
        x = torch.randn(16, 512, 1024, device="cuda")
        y = torch.randint(0, 1000, (16 * 512,), device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step():
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def train(step, seconds: float) -> dict:
    pending, times = deque(), []
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        step()
        event = torch.cuda.Event()
        event.record()
        pending.append(event)
        if len(pending) > 2:  # the GPU always has the next step; the times are those of ends
            pending.popleft().synchronize()
            times.append(time.monotonic())
    torch.cuda.synchronize()
    return {"times": times}


def inference():
    from torchvision.models import vgg19

    model = vgg19().eval().cuda().half().to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 224, 224, device="cuda", dtype=torch.half).contiguous(memory_format=torch.channels_last)
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(5):
            model(x)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            model(x)
    return graph, stream


def infer(graph, stream, seconds: float, interval_us: float) -> dict:
    times = []
    begin = due = time.monotonic()
    with torch.cuda.stream(stream):
        while due - begin < seconds:
            due += interval_us / 1e6
            while time.monotonic() < due:
                pass
            graph.replay()
            stream.synchronize()
            times.append((time.monotonic() - due) * 1e6)
    times.sort()
    n = len(times)
    return {"p50_us": times[n // 2], "p99_us": times[n * 99 // 100], "max_us": times[-1], "n": n, "begin": begin,
            "end": time.monotonic()}


def main() -> None:
    name = sys.argv[1]
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    if name == "vgg19":
        graph, stream = inference()
        run = lambda *arguments: infer(graph, stream, *arguments)  # noqa: E731
        run(0.2, 5000)
    else:
        step = training(name)
        run = lambda seconds: train(step, seconds)  # noqa: E731
        for _ in range(8):
            step()
        torch.cuda.synchronize()
    print(json.dumps({"ready": True, "pid": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(run(*map(float, line.split()[1:]))), flush=True)


if __name__ == "__main__":
    main()
