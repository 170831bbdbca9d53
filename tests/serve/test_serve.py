#!/usr/bin/env python3
"""The server, from outside: the protocol with an unmodified tritonclient, and everything a client should not do.

  tests/serve/test_serve.py --reef build/release/reef --fake build/release/reef-fake
  tests/serve/test_serve.py hostile ring        # only tests with these words in their names

No test looks at how long anything took. --fake is the same command on an engine that can be told to fail.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Callable, List

import numpy as np
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harness import ROOT, Server, files_of, memory_of, permutation_model, permuted, read_answer, serving, types_model

REEF = ROOT / "build/release/reef"
FAKE = ROOT / "build/release/reef-fake"
LAYERS, WIDTH = 3, 8
TESTS: List[Callable] = []


def test(function: Callable) -> Callable:
    TESTS.append(function)
    return function


def models_in(folder: Path) -> Path:
    models = folder / "models"
    permutation_model(models / "small.onnx", 1, WIDTH, LAYERS)
    (models / "small.json").write_text('{"class": "rt"}')
    types_model(models / "types.onnx")
    (models / "types.json").write_text('{"labels": {"f2": "f2.txt"}}')
    (models / "f2.txt").write_text("zero\none\ntwo\n")
    permutation_model(models / "slow.onnx", 512, 512, 24)
    permutation_model(models / "batched.onnx", "n", WIDTH, LAYERS)
    (models / "batched.json").write_text(
        '{"shapes": {"x": [1, 8]}, "batching": {"max_batch": 6, "delay_us": 20000}, "queue": 64}'
    )
    for version, shift in ((1, 1), (2, 2)):
        permutation_model(models / "versions" / str(version) / "model.onnx", 1, WIDTH, 1, shift)
    (models / "versions" / "config.json").write_text('{"versions": "all"}')
    (models / "broken.onnx").write_bytes(b"\x08\x07not a model")
    permutation_model(models / "misconfigured.onnx", 1, WIDTH, 1)
    (models / "misconfigured.json").write_text('{"clas": "rt"}')
    return models


def question(seed: int, width: int = WIDTH, rows: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 1000, (rows, width)).astype(np.float32)


def tensor(name: str, array: np.ndarray, datatype: str = "FP32", binary: bool = True) -> triton.InferInput:
    value = triton.InferInput(name, list(array.shape), datatype)
    value.set_data_from_numpy(array, binary_data=binary)
    return value


def infer_body(x: np.ndarray, **fields) -> bytes:
    inputs = [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.flatten().tolist()}]
    return json.dumps({"inputs": inputs, **fields}).encode()


def raises(status: str, words: str, call: Callable, *arguments, **named) -> None:
    try:
        call(*arguments, **named)
    except InferenceServerException as error:
        assert re.search(words, error.message()), f"'{words}' is not in '{error.message()}'"
        assert status in str(error.status()), f"{error.status()}, not {status}"
        return
    raise AssertionError(f"no error, where one about '{words}' should be")


# ---- the protocol with tritonclient ----------------------------------------------------------------------------------


@test
def protocol_metadata_and_health(server: Server, client) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata()["name"] == "reef"
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    about = client.get_model_metadata("types")
    assert [(i["name"], i["datatype"], i["shape"]) for i in about["inputs"]] == [("f", "FP32", [2, 3]), ("l", "INT64", [4])]
    assert client.get_model_metadata("batched")["inputs"][0]["shape"] == [-1, WIDTH]
    assert client.get_model_config("batched")["max_batch_size"] == 6
    assert client.is_model_ready("small") and client.is_model_ready("small", "1")
    assert not client.is_model_ready("broken") and not client.is_model_ready("nothing")
    assert client.get_model_metadata("versions")["versions"] == ["1", "2"]
    raises("404", "no model 'nothing'", client.get_model_metadata, "nothing")


@test
def protocol_json_and_binary(server: Server, client) -> None:
    for binary_in in (False, True):
        for binary_out in (False, True):
            x = question(binary_in * 2 + binary_out)
            wanted = [triton.InferRequestedOutput("y", binary_data=binary_out)]
            answer = client.infer("small", [tensor("x", x, binary=binary_in)], outputs=wanted, request_id="q 1\"")
            assert np.array_equal(answer.as_numpy("y"), permuted(x, LAYERS))
            assert answer.get_response()["id"] == 'q 1"'
    f, l = question(5, 3, 2), np.array([1, 0, 9, 4], np.int64)
    answer = client.infer("types", [tensor("l", l, "INT64"), tensor("f", f)])  # in another order, one binary block after another
    assert np.array_equal(answer.as_numpy("f2"), f * 2) and np.array_equal(answer.as_numpy("l2"), l * 2)
    assert np.array_equal(answer.as_numpy("row"), np.arange(20, dtype=np.float32).reshape(10, 2)[l])
    some = client.infer("types", [tensor("f", f), tensor("l", l, "INT64", False)], outputs=[triton.InferRequestedOutput("l2")])
    assert some.as_numpy("f2") is None and np.array_equal(some.as_numpy("l2"), l * 2)
    half = client.infer("small", [tensor("x", question(6).astype(np.float16), "FP16")])
    assert np.array_equal(half.as_numpy("y"), permuted(question(6), LAYERS))


@test
def protocol_short_answers_come_in_one_piece(server: Server, client) -> None:
    """A client that is woken by the headers alone waits a second time, and may have to wait for its turn."""
    x = question(7)
    header = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "parameters": {"binary_data_size": x.nbytes}}],
                         "parameters": {"binary_data_output": True}}).encode()  # fmt: skip
    request = "POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\n" + (
        f"Inference-Header-Content-Length: {len(header)}\r\nContent-Length: {len(header) + x.nbytes}\r\n\r\n"
    )
    with server.connect() as connection:
        for _ in range(50):
            connection.sendall(request.encode() + header + x.tobytes())
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(permuted(x, LAYERS).tobytes()), answer
    large = np.arange(512 * 512, dtype=np.float32).reshape(512, 512)  # too large for that
    assert np.array_equal(client.infer("slow", [tensor("x", large)]).as_numpy("y"), permuted(large, 24))


@test
def protocol_versions(server: Server, client) -> None:
    x = question(1)
    for version, shift in (("1", 1), ("2", 2), ("", 2)):
        answer = client.infer("versions", [tensor("x", x)], model_version=version)
        assert np.array_equal(answer.as_numpy("y"), permuted(x, 1, shift))
    raises("404", "no version '3'", client.infer, "versions", [tensor("x", x)], model_version="3")


@test
def protocol_classification(server: Server, client) -> None:
    f, l = np.array([[1, 9, 5], [7, 0, 8]], np.float32), np.zeros(4, np.int64)
    for binary in (False, True):
        wanted = [triton.InferRequestedOutput("f2", binary_data=binary, class_count=2)]
        answer = client.infer("types", [tensor("f", f), tensor("l", l, "INT64")], outputs=wanted).as_numpy("f2")
        texts = [t.decode() if isinstance(t, bytes) else t for t in answer.flatten()]
        assert answer.shape == (2, 2), answer
        assert texts == ["18.000000:1:one", "10.000000:2:two", "16.000000:2:two", "14.000000:0:zero"], texts


@test
def protocol_shared_memory(server: Server, client) -> None:
    region = shm.create_shared_memory_region("in and out", "/reef_test_region", 4096)
    try:
        x = question(7)
        shm.set_shared_memory_region(region, [x], offset=64)
        client.register_system_shared_memory("region", "/reef_test_region", 4096)
        assert client.get_system_shared_memory_status()[0]["byte_size"] == 4096
        raises("400", "already registered", client.register_system_shared_memory, "region", "/reef_test_region", 4096)
        given, wanted = triton.InferInput("x", [1, WIDTH], "FP32"), triton.InferRequestedOutput("y")
        given.set_shared_memory("region", x.nbytes, offset=64)
        wanted.set_shared_memory("region", x.nbytes, offset=1024)
        client.infer("small", [given], outputs=[wanted])
        y = shm.get_contents_as_numpy(region, np.float32, [1, WIDTH], offset=1024)
        assert np.array_equal(y, permuted(x, LAYERS))
        for offset, words in ((4096, "do not lie"), (2**62, "do not lie")):
            given.set_shared_memory("region", x.nbytes, offset=offset)
            raises("400", words, client.infer, "small", [given])
        given.set_shared_memory("region", x.nbytes - 4)
        raises("400", "28 bytes", client.infer, "small", [given])
        # Its owner cuts it off while it is registered: an error, not the end of the server.
        given.set_shared_memory("region", x.nbytes, offset=64)
        os.truncate("/dev/shm/reef_test_region", 0)
        raises("400", "truncated", client.infer, "small", [given])
        client.unregister_system_shared_memory("region")
        assert client.get_system_shared_memory_status() == []
    finally:
        shm.destroy_shared_memory_region(region)
    raises("403", "does not start with", client.register_system_shared_memory, "a", "/other_thing", 64)
    raises("400", "plain name", client.register_system_shared_memory, "a", "/../etc/passwd", 64)
    raises("400", "cannot be opened", client.register_system_shared_memory, "a", "/reef_test_nothing", 64)
    raises("400", "no shared memory region", client.infer, "small", [_in_region("nothing")])
    client.unregister_system_shared_memory()


def _in_region(name: str) -> triton.InferInput:
    value = triton.InferInput("x", [1, WIDTH], "FP32")
    value.set_shared_memory(name, 4 * WIDTH)
    return value


@test
def protocol_concurrent_clients_get_their_own_answers(server: Server, client) -> None:
    wrong: List[str] = []

    def ask(index: int) -> None:
        with triton.InferenceServerClient(server.address) as mine:
            for i in range(60):
                name = ("small", "batched")[(index + i) % 2]
                x = question(index * 1000 + i)
                y = mine.infer(name, [tensor("x", x, binary=i % 3 > 0)], priority=1 + i % 2).as_numpy("y")
                if not np.array_equal(y, permuted(x, LAYERS)):
                    wrong.append(f"{index}/{i}")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong


@test
def protocol_batching_shares_runs(server: Server, client) -> None:
    before = client.get_inference_statistics("batched")["model_stats"][0]
    questions = [question(i, rows=1 + i % 3) for i in range(30)]
    with triton.InferenceServerClient(server.address, concurrency=30) as many:
        pending = [many.async_infer("batched", [tensor("x", x)], priority=2) for x in questions]
        for x, one in zip(questions, pending):
            assert np.array_equal(one.get_result().as_numpy("y"), permuted(x, LAYERS))
    after = client.get_inference_statistics("batched")["model_stats"][0]
    items = after["inference_count"] - before["inference_count"]
    runs = after["execution_count"] - before["execution_count"]
    assert items == sum(len(x) for x in questions) and runs < 30, (items, runs)
    alone = client.infer("batched", [tensor("x", questions[2])], priority=1)  # RT: no waiting, padded
    assert np.array_equal(alone.as_numpy("y"), permuted(questions[2], LAYERS))
    raises("400", "1 to 6 items", client.infer, "batched", [tensor("x", question(1, rows=7))])


@test
def protocol_load_unload_and_index(server: Server, client) -> None:
    states = {(m["name"], m["version"]): m for m in client.get_model_repository_index()}
    assert states["broken", "1"]["state"] == "UNAVAILABLE" and "ONNX" in states["broken", "1"]["reason"]
    assert "unknown field 'clas'" in states["misconfigured", "1"]["reason"]
    assert states["small", "1"]["state"] == "READY"
    client.unload_model("small")
    raises("503", "not ready", client.infer, "small", [tensor("x", question(1))])
    assert client.is_model_ready("types")
    client.load_model("small")
    assert np.array_equal(client.infer("small", [tensor("x", question(1))]).as_numpy("y"), permuted(question(1), LAYERS))
    client.load_model("small")  # again: a new one takes over
    raises("400", "no model 'nothing'", client.load_model, "nothing")
    raises("400", "ONNX", client.load_model, "broken")
    raises("400", "come from the server's folder", client.load_model, "small", config='{"class": "be"}')


@test
def protocol_load_under_traffic_loses_nothing(server: Server, client) -> None:
    stop, failures = threading.Event(), []

    def ask() -> None:
        with triton.InferenceServerClient(server.address) as mine:
            i = 0
            while not stop.is_set():
                i += 1
                try:
                    y = mine.infer("small", [tensor("x", question(i))]).as_numpy("y")
                    if not np.array_equal(y, permuted(question(i), LAYERS)):
                        failures.append("wrong")
                except Exception as error:  # noqa: BLE001 - whatever it is, it should not be
                    failures.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        client.load_model("small")
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[:3]


@test
def protocol_statistics_and_metrics(server: Server, client) -> None:
    before = client.get_inference_statistics("small")["model_stats"][0]
    for i in range(5):
        client.infer("small", [tensor("x", question(i))])
    time.sleep(0.05)  # an answer is counted once it has left
    after = client.get_inference_statistics("small")["model_stats"][0]
    assert after["inference_count"] == before["inference_count"] + 5
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 5
    text = server.http("GET", "/metrics")[2].decode()
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) .*|[a-z_]+(\{([a-z]+="[^"]*",?)+\})? [0-9.e+-]+', line), line
    assert 'reef_request_duration_seconds_count{model="small",version="1",class="rt"}' in text
    assert json.loads(server.http("GET", "/v2/reef/status")[2])["device"]["units"] >= 1


@test
def classes_deadline_passes_in_the_queue(server: Server, client) -> None:
    slow = np.zeros((512, 512), np.float32)
    with triton.InferenceServerClient(server.address, concurrency=4) as many:
        for attempt in range(40):  # what should be in front may come too late, or be done already
            busy = [many.async_infer("slow", [tensor("x", slow)], priority=1) for _ in range(3)]
            time.sleep(0.002 * attempt)
            try:
                client.infer("slow", [tensor("x", slow)], priority=2, timeout=1000)
                late = None
            except triton.InferenceServerException as error:
                late = error
            for one in busy:
                one.get_result()
            if late:
                break
    assert late and "504" in str(late.status()) and "timeout passed" in late.message(), late
    client.infer("slow", [tensor("x", slow)], timeout=60_000_000)


@test
def classes_real_time_is_served_beside_saturating_best_effort(server: Server, client) -> None:
    slow = np.zeros((512, 512), np.float32)
    with triton.InferenceServerClient(server.address, concurrency=8) as many:
        busy = [many.async_infer("slow", [tensor("x", slow)], priority=2) for _ in range(6)]
        for i in range(50):
            x = question(i)
            assert np.array_equal(client.infer("small", [tensor("x", x)], priority=1).as_numpy("y"), permuted(x, LAYERS))
        for one in busy:
            one.get_result()


@test
def flow_full_queues_answer_503(folder: Path) -> None:
    models = folder / "full"
    permutation_model(models / "slow.onnx", 512, 512, 24)
    permutation_model(models / "small.onnx", 1, WIDTH, LAYERS)
    with serving(REEF, models, "--queue", "2") as server:
        body = infer_body(np.zeros((512, 512), np.float32))
        json_bytes = len(body)
        connections = []
        for _ in range(12):
            connection = server.connect()
            connection.sendall(f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {json_bytes}\r\n\r\n".encode() + body)
            connections.append(connection)
        x = question(1)
        status, _, answer = server.http("POST", "/v2/models/small/infer", infer_body(x, parameters={"priority": 1}))
        assert status == 200 and np.array_equal(json.loads(answer)["outputs"][0]["data"], permuted(x, LAYERS)[0])
        answers = [read_answer(connection) for connection in connections]
        refused = [headers for status, headers, _ in answers if status == 503]
        assert refused and all(int(headers["retry-after"]) >= 1 for headers in refused), [a[0] for a in answers]
        assert sum(status == 200 for status, _, _ in answers) == 12 - len(refused)


@test
def flow_a_client_that_leaves_cancels_its_request(server: Server, client) -> None:
    name = 'reef_requests_total{model="slow",version="1",class="be",outcome="cancelled"}'
    before = server.metric(name)
    body = infer_body(np.zeros((512, 512), np.float32))
    connections = [server.connect() for _ in range(12)]  # one runs, the others wait for it
    for connection in connections:
        connection.sendall(f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    flying = 'reef_requests_in_flight{model="slow",version="1",class="be"}'
    while server.metric(flying) < 4:
        time.sleep(0.005)
    for connection in connections:
        connection.close()
    end = time.monotonic() + 60
    while server.metric(flying) > 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert server.metric(flying) == 0 and server.metric(name) > before


# ---- what clients should not do --------------------------------------------------------------------------------------


@test
def hostile_requests_get_the_protocols_error(server: Server, client) -> None:
    x = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [0] * WIDTH}
    binary = {"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "parameters": {"binary_data_size": 4 * WIDTH}}
    cases = [
        ({"inputs": [{**x, "shape": [1, 2**63]}]}, "malformed|too big"),
        ({"inputs": [{**x, "shape": [2**62, 4]}]}, "shape must be"),
        ({"inputs": [{**x, "shape": [-1, WIDTH]}]}, "shape must be"),
        ({"inputs": [{**x, "shape": [1.5, WIDTH]}]}, "shape must be"),
        ({"inputs": [{**x, "shape": ["NaN", WIDTH]}]}, "shape must be"),
        ({"inputs": [{**x, "shape": None}]}, "shape must be"),
        ({"inputs": [{**x, "shape": [1] * 1000}]}, "shape must be"),
        ({"inputs": [{**x, "datatype": "FP31"}]}, "FP31"),
        ({"inputs": [{**x, "datatype": "BYTES"}]}, "BYTES"),
        ({"inputs": [{**x, "datatype": "INT32"}]}, "must be FP32"),
        ({"inputs": [{**x, "datatype": 7}]}, "datatype"),
        ({"inputs": [{**x, "data": [0] * (WIDTH - 1)}]}, "7 elements"),
        ({"inputs": [{**x, "data": [0] * (WIDTH + 1)}]}, "more than"),
        ({"inputs": [{**x, "data": [[[[0] * WIDTH]]]}]}, "nested deeper"),
        ({"inputs": [{**x, "data": ["a"] * WIDTH}]}, "not a number"),
        ({"inputs": [{**x, "data": {}}]}, "not an array"),
        ({"inputs": [x, x]}, "given twice"),
        ({"inputs": [{**x, "name": "z"}]}, "no input 'z'"),
        ({"inputs": [{**x, "name": "z" * 5000}]}, "no input"),
        ({"inputs": []}, "is missing"),
        ({"inputs": {}}, "'inputs' is missing"),
        ({"inputs": [7]}, "name"),
        ([], "not a JSON object"),
        ({"inputs": [x], "outputs": [{"name": "q"}]}, "no output 'q'"),
        ({"inputs": [x], "outputs": [{"name": "y"}, {"name": "y"}]}, "twice"),
        ({"inputs": [x], "outputs": [{"name": "y", "parameters": {"classification": 10**6}}]}, "1000 classes"),
        ({"inputs": [x], "id": 7}, "'id'"),
        ({"inputs": [x], "parameters": {"priority": -1}}, "priority"),
        ({"inputs": [x], "parameters": {"timeout": "soon"}}, "timeout"),
        ({"inputs": [x], "parameters": {"sequence_id": 5}}, "sequence"),
        ({"inputs": [x], "parameters": []}, "not an object"),
        ({"inputs": [binary]}, "0 bytes are left"),
        ({"inputs": [{**binary, "parameters": {"binary_data_size": 2**62}}]}, "left in the body"),
        ({"inputs": [{**binary, "parameters": {"binary_data_size": -4}}]}, "at least 0"),
        ({"inputs": [{**x, "parameters": {"binary_data_size": 4}}]}, "exactly one"),
        ({"inputs": [{**binary, "parameters": {"shared_memory_region": "a", "shared_memory_byte_size": 4}}]}, "no shared memory"),
    ]
    for request, words in cases:
        status, headers, body = server.http("POST", "/v2/models/small/infer", json.dumps(request).encode())
        assert status == 400 and headers["content-type"] == "application/json", (request, status, body)
        assert re.search(words, json.loads(body)["error"]), (words, body)
    for body in (b"", b"{", b"\xff\xfe", b"[" * 100000, b'{"inputs":' + b"[" * 5000, b'{"a":1,"a":2}', b"\0" * 100):
        status, _, answer = server.http("POST", "/v2/models/small/infer", body)
        assert status == 400 and json.loads(answer)["error"], (body[:20], status)
    # Binary parts that overlap, lack or exceed what the JSON says.
    head = json.dumps({"inputs": [binary]}).encode()
    for extra, split, words in ((31, len(head), "left"), (33, len(head), "left over"), (32, len(head) + 8, "malformed|JSON")):
        header = [f"Inference-Header-Content-Length: {split}"]
        status, _, answer = server.http("POST", "/v2/models/small/infer", head + bytes(extra), header)
        assert status == 400 and re.search(words, json.loads(answer)["error"]), (extra, answer)
    for value in ("99999999999999999999", "-1", "abc", "1e9", str(len(head) + 1000)):
        header = [f"Inference-Header-Content-Length: {value}"]
        status, _, _ = server.http("POST", "/v2/models/small/infer", head + bytes(32), header)
        assert status == 400, value
    assert np.array_equal(client.infer("small", [tensor("x", question(3))]).as_numpy("y"), permuted(question(3), LAYERS))


@test
def hostile_addresses_and_methods(server: Server, client) -> None:
    for path in ("/", "/v2/models", "/v2/models//infer", "/v2/models/small/versions", "/v2/models/small/versions//infer", "/x" * 500,
                 "/v2/models/small/infer/more", "/v2/models/..%2f..%2fetc/infer", "/v2/repository/models//load"):
        status, _, body = server.http("POST", path, b"{}")
        assert status in (400, 404, 405) and json.loads(body)["error"], (path, status)
    status, headers, _ = server.http("DELETE", "/v2/models/small")
    assert status == 405 and headers["allow"] == "GET"
    assert server.http("GET", "/v2/models/small/infer")[0] == 405
    status, _, body = server.http("POST", "/v2/repository/models/..%2fsmall/load", b"{}")
    assert status in (400, 404), (status, body)
    assert server.http("POST", "/v2/models/small/infer", b"x", ["Content-Encoding: gzip"])[0] == 415


@test
def hostile_sizes_and_halves(server: Server, client) -> None:
    with server.connect() as connection:  # more than is taken: said at once
        connection.sendall(b"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert read_answer(connection)[0] == 413
    with server.connect() as connection:
        connection.sendall(b"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            connection.recv(1000)
    for text in (b"GARBAGE\r\n\r\n", b"GET\r\n", b"\0\0\0\0\r\n\r\n", b"GET /v2 HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
        with server.connect() as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                connection.recv(1000)
    body = infer_body(question(4))
    with server.connect() as connection:  # a byte at a time, in chunks, two requests in one packet
        head = f"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for byte in head + body:
            connection.sendall(bytes([byte]))
        assert read_answer(connection)[0] == 200
        chunked = b"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(chunked + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert read_answer(connection)[0] == 200
    idle = [server.connect() for _ in range(200)]
    for connection in idle[::2]:
        connection.sendall(b"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Le")
    assert client.is_server_ready()
    for connection in idle:
        connection.close()


@test
def hostile_slow_clients_are_cut_off(folder: Path) -> None:
    models = folder / "slowloris"
    permutation_model(models / "small.onnx", 1, WIDTH, LAYERS)
    with serving(REEF, models, "--receive", "1", "--idle", "1", "--send", "1") as server:
        with server.connect() as body, server.connect() as head, server.connect() as quiet:
            body.sendall(b"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            head.sendall(b"POST /v2/models")
            end = time.monotonic() + 20
            answers = {}
            while len(answers) < 3 and time.monotonic() < end:
                for name, connection in (("body", body), ("head", head), ("quiet", quiet)):
                    if name not in answers:
                        with contextlib.suppress(OSError):
                            if name == "body":
                                connection.sendall(b" ")  # a byte now and then does not help
                        connection.settimeout(0.1)
                        try:
                            answers[name] = connection.recv(1000)
                        except socket.timeout:
                            pass
                        except OSError:
                            answers[name] = b""
            assert len(answers) == 3, answers
            assert b"408" in answers["body"] or answers["body"] == b""
        server.wait_log("event=cut_off")


@test
def hostile_connection_floods_leave_room(folder: Path) -> None:
    models = folder / "flood"
    permutation_model(models / "small.onnx", 1, WIDTH, LAYERS)
    with serving(REEF, models, "--connections", "100") as server:
        flood = []
        for _ in range(300):
            with contextlib.suppress(OSError):
                flood.append(server.connect())
        server.wait_ready()  # the longest idle ones make room
        for connection in flood:
            connection.close()


@test
def access_token(folder: Path) -> None:
    models = folder / "token"
    permutation_model(models / "small.onnx", 1, WIDTH, LAYERS)
    token = folder / "secret"
    token.write_text("correct-horse-battery\n")
    token.chmod(0o600)
    with serving(REEF, models, "--token-file", str(token)) as server:
        for headers in ([], ["Authorization: Bearer wrong"], ["Authorization: Basic abc"], ["Authorization: Bearer correct-horse-batterz"],
                        ["Authorization: Bearer "], ["Authorization: Bearer correct-horse-battery-and-more"]):
            for path in ("/v2/models/small", "/metrics", "/v2", "/v2/reef/status"):
                status, answer, _ = server.http("GET", path, b"", headers)
                assert status == 401 and answer["www-authenticate"] == "Bearer", (headers, status)
            assert server.http("POST", "/v2/models/small/infer", infer_body(question(1)), headers)[0] == 401
        assert server.http("GET", "/v2/health/live")[0] == 200
        with triton.InferenceServerClient(server.address) as client:
            y = client.infer("small", [tensor("x", question(1))], headers={"Authorization": "Bearer correct-horse-battery"})
            assert np.array_equal(y.as_numpy("y"), permuted(question(1), LAYERS))
    token.chmod(0o644)
    result = subprocess.run([REEF, "serve", str(models), "--token-file", str(token)], capture_output=True, text=True, timeout=30)
    assert result.returncode == 1 and "chmod 600" in result.stderr, result.stderr


@test
def access_tls(folder: Path) -> None:
    if not shutil.which("openssl"):
        print("  (no openssl: skipped)")
        return
    models = folder / "tls"
    permutation_model(models / "small.onnx", 1, WIDTH, LAYERS)
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    key.chmod(0o600)
    server = Server(REEF, models, "--tls-cert", str(certificate), "--tls-key", str(key))
    try:
        context = ssl.create_default_context(cafile=str(certificate))
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
                with context.wrap_socket(plain, server_hostname="localhost") as secure:
                    body = infer_body(question(1))
                    secure.sendall(f"POST /v2/models/small/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                    status, _, answer = read_answer(secure)
                    assert status in (200, 404, 503), answer
        assert status == 200
        assert server.stop() == 0
    finally:
        server.process.kill()


# ---- the process -----------------------------------------------------------------------------------------------------


@test
def process_sigterm_finishes_what_is_under_way(folder: Path) -> None:
    models = folder / "drain"
    permutation_model(models / "slow.onnx", 512, 512, 24)
    for supervise in ((), ("--no-supervise",)):
        with serving(REEF, models, *supervise) as server:
            body = infer_body(np.ones((512, 512), np.float32))
            with server.connect() as connection:
                connection.sendall(f"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                time.sleep(0.3)
                server.process.send_signal(signal.SIGTERM)
                status, _, answer = read_answer(connection)
                assert status == 200, answer[:200]
            assert server.process.wait(30) == 0, server.text()


@test
def process_sigterm_tells_those_who_come_late(folder: Path) -> None:
    with serving(FAKE, fake_models(folder / "late-models", 600000)) as server, server.connect() as early:
        early.sendall(f"POST /v2/models/a/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(FAKE_BODY)}\r\n\r\n".encode() + FAKE_BODY)
        wait_for(lambda: b'in_flight{model="a",version="1",class="be"} 1' in server.http("GET", "/metrics")[2], "a request under way")
        server.process.send_signal(signal.SIGTERM)
        server.wait_log("event=drain busy=1")
        assert server.http("GET", "/v2/health/ready")[0] == 503
        out = subprocess.run([REEF, "top", "--url", f"http://{server.address}", "--ready", "--json"], capture_output=True, text=True, timeout=60)
        assert out.returncode == 1 and out.stdout == '{"ready":false}\n' and "is not ready: it answered 503" in out.stderr, out
        status, headers, answer = server.http("POST", "/v2/models/a/infer", FAKE_BODY)
        assert status == 503 and b"ending" in answer and headers["connection"] == "close", (status, headers, answer)
        assert read_answer(early)[0] == 200
        assert server.process.wait(30) == 0 and 'text="orderly"' in server.text(), server.text()


@test
def process_sigterm_cancels_what_takes_too_long(folder: Path) -> None:
    models = fake_models(folder / "long-models", 20000000)
    for supervise in ((), ("--no-supervise",)):
        with serving(FAKE, models, "--drain", "0", *supervise) as server, server.connect() as connection:
            connection.sendall(f"POST /v2/models/a/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(FAKE_BODY)}\r\n\r\n".encode() + FAKE_BODY)
            wait_for(lambda: b'in_flight{model="a",version="1",class="be"} 1' in server.http("GET", "/metrics")[2], "a request under way")
            server.process.send_signal(signal.SIGTERM)
            status, _, answer = read_answer(connection)
            assert status == 503 and b"the server is ending" in answer, answer
            assert server.process.wait(30) == 0 and "event=drain cancelled=1 limit_s=0" in server.text(), server.text()


@test
def process_sigterm_while_connections_come_and_go(folder: Path) -> None:
    """Whatever the server's threads are doing when it ends, it ends well."""
    models = fake_models(folder / "busy-models", 100)
    for i in range(12):
        with serving(FAKE, models, "--threads", "4") as server:
            stop = threading.Event()

            def knock(address: int = server.port, stop: threading.Event = stop) -> None:
                while not stop.is_set():
                    with contextlib.suppress(OSError, ValueError), socket.create_connection(("127.0.0.1", address), timeout=5) as connection:
                        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
                        read_answer(connection)

            clients = [threading.Thread(target=knock) for _ in range(i % 3)]
            for thread in clients:
                thread.start()
            with server.connect():
                time.sleep(0.05)
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(30) == 0 and 'text="orderly"' in server.text(), server.text()
            stop.set()
            for thread in clients:
                thread.join()


@test
def process_sigterm_finishes_requests_of_the_ring(folder: Path) -> None:
    ring = folder / "ending.sock"
    with serving(FAKE, fake_models(folder / "ring-end-models", 400000), "--ring", str(ring)) as server, tempfile.NamedTemporaryFile(suffix=".json") as file:
        one = ring_bench(ring, "--model", "a", "--seconds", "2", "--warmup", "0", "--json", file.name)
        wait_for(lambda: b'outcome="ok"} 1' in server.http("GET", "/metrics")[2], "the first answer")
        wait_for(lambda: b'in_flight{model="a",version="1",class="be"} 1' in server.http("GET", "/metrics")[2], "a request under way")
        server.process.send_signal(signal.SIGTERM)
        out, error = one.communicate(timeout=60)
        assert one.returncode == 0 and json.loads(Path(file.name).read_text())["ok"] == 1, out + error
        assert server.process.wait(30) == 0 and "event=drain busy=1" in server.text(), server.text()


@test
def process_sighup_looks_again(folder: Path) -> None:
    models = folder / "rescan"
    permutation_model(models / "one.onnx", 1, WIDTH, 1)
    with serving(REEF, models) as server, triton.InferenceServerClient(server.address) as client:
        permutation_model(models / "two.onnx", 1, WIDTH, 2)
        permutation_model(models / "one.onnx", 1, WIDTH, 3)
        assert not client.is_model_ready("two")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("event=model name=two version=1 state=READY")
        x = question(1)
        assert np.array_equal(client.infer("two", [tensor("x", x)]).as_numpy("y"), permuted(x, 2))
        assert np.array_equal(client.infer("one", [tensor("x", x)]).as_numpy("y"), permuted(x, 3))
        (models / "one.onnx").unlink()
        (models / "two.onnx").write_bytes(b"now it is broken")
        server.process.send_signal(signal.SIGHUP)
        server.wait_log("name=one version=1 state=UNAVAILABLE")
        server.wait_log("name=two version=1 state=READY reason=")
        assert np.array_equal(client.infer("two", [tensor("x", x)]).as_numpy("y"), permuted(x, 2))  # the old one goes on


@test
def process_log_and_timeline_follow_a_request(folder: Path) -> None:
    models, timeline = folder / "timeline-models", folder / "timeline.json"
    permutation_model(models / "one.onnx", 1, WIDTH, 1)
    with serving(REEF, models, "--log", "requests", "--timeline", str(timeline)) as server:
        with triton.InferenceServerClient(server.address) as client:
            client.infer("one", [tensor("x", question(1))], request_id="trace me", priority=1)
        server.wait_log(r'event=request id="trace me" model=one version=1 class=rt status=200 .*run_us=[0-9.]+')
    events = json.loads(timeline.read_text().rstrip().rstrip(",") + "]")
    assert [e["name"] for e in events] == ["decode", "queue", "run", "answer"], events
    assert all(e["args"] == {"id": "trace me", "model": "one"} and e["dur"] >= 0 for e in events)


@test
def process_wrong_options(folder: Path) -> None:
    models = folder / "wrong"
    permutation_model(models / "one.onnx", 1, WIDTH, 1)
    for options, words in (
        ([str(folder / "nothing")], "must be a folder"),
        ([str(models), "--listen", "8000"], "HOST:PORT"),
        ([str(models), "--listen", "127.0.0.1:99999"], "127.0.0.1:99999"),
        ([str(models), "--tls-cert", "x"], "come together"),
        ([str(models), "--token-file", str(folder / "no")], "token-file"),
        ([str(models), "--shm-prefix", "a/b"], "without '/'"),
        ([str(models), "--log", "loud"], "loud"),
        ([str(models), "--ring", "/nowhere/at/all"], "/nowhere/at/all"),
        ([str(models), "--device", "tpu"], "tpu"),
    ):
        result = subprocess.run([REEF, "serve", *options], capture_output=True, text=True, timeout=60)
        lines = [line for line in result.stderr.splitlines() if line.startswith("reef serve:")]
        assert result.returncode in (1, 2) and len(lines) == 1 and words in lines[0], (options, result.stderr)


@test
def process_that_forks_never_starts_cuda(folder: Path) -> None:
    """A driver that was loaded before a fork refuses every call of the child's: the supervisor must leave it alone."""
    source, record = folder / "cuda.c", folder / "loaded-by"
    source.write_text(
        '#include <stdio.h>\n#include <unistd.h>\n'
        '__attribute__((constructor)) static void loaded(void)\n'
        f'{{ FILE *file = fopen("{record}", "a"); if (file) {{ fprintf(file, "%d\\n", (int)getpid()); fclose(file); }} }}\n'
    )
    (folder / "driver").mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(folder / "driver/libcuda.so.1"), str(source)], check=True)
    (folder / "no-models").mkdir()
    command = [REEF, "serve", str(folder / "no-models"), "--device", "cuda:0", "--listen", "127.0.0.1:0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "LD_LIBRARY_PATH": str(folder / "driver")})
    _, errors = server.communicate(timeout=60)
    assert server.returncode in (1, 2) and "cuda:0" in errors, errors  # the stub has no GPU
    assert lines_of(record) and str(server.pid) not in lines_of(record), (server.pid, lines_of(record))


def fake_models(folder: Path, microseconds: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.onnx").write_bytes(b"\x08" * microseconds)
    (folder / "b.onnx").write_bytes(b"\x08" * 100)
    return folder


FAKE_BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, -2, 3, -4]}]}).encode()


@test
def supervise_a_lost_device_is_a_new_process(folder: Path) -> None:
    trigger = folder / "fault"
    with serving(FAKE, fake_models(folder / "fault-models", 1000), env={"FAKE_REEF_FAULT": str(trigger)}) as server:
        first = server.worker()
        assert server.http("POST", "/v2/models/a/infer", FAKE_BODY)[0] == 200
        assert server.http("POST", "/v2/repository/models/b/unload", b"{}")[0] == 200
        trigger.write_text("")
        status, headers, body = server.http("POST", "/v2/models/a/infer", FAKE_BODY)
        assert status == 503 and "device failed" in json.loads(body)["error"] and headers["retry-after"], body
        server.wait_log("event=listening", count=2)
        server.wait_ready()
        assert server.worker() != first
        assert json.loads(server.http("POST", "/v2/models/a/infer", FAKE_BODY)[2])["outputs"][0]["data"] == [1, 0, 3, 0]
        assert server.http("GET", "/v2/models/b/ready")[0] == 503  # what a client unloaded stays unloaded
        assert server.http("GET", "/v2/models/a/ready")[0] == 200


@test
def supervise_a_crash_answers_whoever_waits(folder: Path) -> None:
    trigger = folder / "crash"
    with serving(FAKE, fake_models(folder / "crash-models", 300000), env={"FAKE_REEF_CRASH": str(trigger)}) as server:
        waiting = []
        for _ in range(3):
            connection = server.connect()
            connection.sendall(f"POST /v2/models/a/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(FAKE_BODY)}\r\n\r\n".encode() + FAKE_BODY)
            waiting.append(connection)
        time.sleep(0.1)
        trigger.write_text("")
        if not re.search("/[at]san/", str(FAKE)):  # there the sanitizer's report comes first
            for connection in waiting:
                status, headers, body = read_answer(connection)
                assert status == 503 and "crashed" in json.loads(body)["error"] and headers["retry-after"], body
        server.wait_log("event=worker", count=1)
        server.wait_log("event=listening", count=2)
        server.wait_ready()
        assert server.http("POST", "/v2/models/b/infer", FAKE_BODY)[0] == 200


@test
def supervise_kill_9_of_the_worker(folder: Path) -> None:
    with serving(FAKE, fake_models(folder / "kill-models", 1000)) as server:
        for i in range(2):
            os.kill(server.worker(), signal.SIGKILL)
            server.wait_log("event=listening", count=2 + i)
            server.wait_ready()
            assert server.http("POST", "/v2/models/a/infer", FAKE_BODY)[0] == 200


# ---- beside other processes on a GPU (the fake engine's) --------------------------------------------------------------


def gpu_models(folder: Path) -> Path:
    """a: real-time; b: best-effort."""
    fake_models(folder, 1000)
    (folder / "a.json").write_text('{"class": "rt"}')
    return folder


def keep_asking(connection: socket.socket, model: str, body: bytes = FAKE_BODY, first: int = 0, pause: Callable = lambda: None) -> None:
    """One request on a connection that stays; its first bytes go ahead, then comes the pause."""
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    if first:
        connection.sendall(head + body[:first])
        pause()
        connection.sendall(body[first:])
    else:
        connection.sendall(head + body)
    assert read_answer(connection)[0] == 200


def lines_of(path: Path) -> List[str]:
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"it never came to this: {what}"
        time.sleep(0.01)


@test
def gpu_slice_is_raised_and_shown(folder: Path) -> None:
    models, record = gpu_models(folder / "slice-models"), folder / "slice-record"
    env = {"FAKE_REEF_GPU": str(record)}
    for options, wanted in (((), 10000), (("--slice", "4321"), 4321)):
        with serving(FAKE, models, *options, env=env) as server:
            assert lines_of(record)[-1] == f"slice {wanted}"
            assert server.metric("reef_device_slice_microseconds") == wanted
            assert json.loads(server.http("GET", "/v2/reef/status")[2])["device"]["slice_us"] == wanted
            assert f"event=slice state=set us={wanted}" in server.text()
            out = subprocess.run([FAKE, "top", "--url", f"http://{server.address}", "--count", "1", "--interval", "0.1"], capture_output=True, text=True, timeout=60)
            assert f"time slice {wanted} us" in out.stdout, out.stdout + out.stderr
    record.unlink()
    with serving(FAKE, models, "--slice", "0", env=env) as server:
        assert lines_of(record) == [] and "reef_device_slice" not in server.http("GET", "/metrics")[2].decode()


@test
def gpu_slice_that_is_refused_is_logged_once(folder: Path) -> None:
    models, record = gpu_models(folder / "refused-models"), folder / "refused-record"
    with serving(FAKE, models, env={"FAKE_REEF_GPU": str(record), "FAKE_REEF_SLICE": "refused"}) as server:
        for _ in range(3):
            assert server.http("POST", "/v2/models/a/infer", FAKE_BODY)[0] == 200
            assert "reef_device_slice" not in server.http("GET", "/metrics")[2].decode()
        assert json.loads(server.http("GET", "/v2/reef/status")[2])["device"]["slice_us"] is None
        assert server.text().count("event=slice state=refused") == 1 and "the fake driver refuses" in server.text()
        out = subprocess.run([FAKE, "top", "--url", f"http://{server.address}", "--count", "1", "--interval", "0.1"], capture_output=True, text=True, timeout=60)
        assert out.returncode == 0 and "time slice" not in out.stdout, out.stdout + out.stderr


@test
def gpu_slice_is_nothing_for_a_cpu(folder: Path) -> None:
    models = gpu_models(folder / "cpu-models")
    out = subprocess.run([FAKE, "serve", models, "--listen", "127.0.0.1:0", "--slice", "500"], capture_output=True, text=True, timeout=60)
    assert out.returncode in (1, 2) and re.search("reef serve: .*--slice: device 'cpu' has no time slices; leave", out.stderr), out.stderr
    out = subprocess.run([FAKE, "serve", models, "--slice", "1000001"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 2 and "--slice" in out.stderr, out.stderr
    with serving(FAKE, models) as server, server.connect() as connection:
        assert "event=slice" not in server.text() and "reef_device_slice" not in server.http("GET", "/metrics")[2].decode()
        for _ in range(3):  # the first hint finds out that there are none
            keep_asking(connection, "a", first=40, pause=lambda: time.sleep(0.05))
        assert [server.metric(f"reef_hints_{kind}_total") for kind in ("sent", "used", "refused")] == [0, 0, 0]


@test
def hint_of_a_slow_body(folder: Path) -> None:
    models, record = gpu_models(folder / "body-models"), folder / "body-record"
    with serving(FAKE, models, env={"FAKE_REEF_GPU": str(record)}) as server, server.connect() as connection:
        before = len(lines_of(record))
        keep_asking(connection, "a", first=40, pause=lambda: wait_for(lambda: lines_of(record)[before:] == ["hint 1000000"], "a hint while the body is read"))
        assert lines_of(record)[before:] == ["hint 1000000", "rt"]
        assert server.metric("reef_hints_sent_total") == 1
        keep_asking(connection, "b", first=40, pause=lambda: time.sleep(0.2))
        keep_asking(connection, "a")  # all at once
        assert lines_of(record)[before:] == ["hint 1000000", "rt", "be", "rt"]
        # Bodies that never come: after eight the engine takes no more.
        for _ in range(10):
            sent, refused = server.metric("reef_hints_sent_total"), server.metric("reef_hints_refused_total")
            with server.connect() as lost:
                lost.sendall(b"POST /v2/models/a/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n" + b" " * 3000)
                wait_for(lambda: server.metric("reef_hints_sent_total") + server.metric("reef_hints_refused_total") > sent + refused, "a hint")
            time.sleep(0.01)  # while one hint is in force there is no other
        assert server.metric("reef_hints_sent_total") == 9 and server.metric("reef_hints_refused_total") == 2
        keep_asking(connection, "a")
        # Two at once, where this machine was slow to read what followed the header of the request before.
        keep_asking(connection, "a", first=40, pause=lambda: wait_for(lambda: server.metric("reef_hints_sent_total") >= 10, "hints again"))
    before = len(lines_of(record))
    with serving(FAKE, models, "--no-hints", env={"FAKE_REEF_GPU": str(record)}) as server, server.connect() as connection:
        keep_asking(connection, "a", first=40, pause=lambda: time.sleep(0.2))
        assert lines_of(record)[before:] == ["slice 10000", "rt"] and server.metric("reef_hints_sent_total") == 0


@test
def hint_of_a_header_whose_body_follows(folder: Path) -> None:
    models, record = gpu_models(folder / "header-models"), folder / "header-record"
    chunk = f"{len(FAKE_BODY):x}\r\n".encode() + FAKE_BODY + b"\r\n0\r\n\r\n"

    def ask(connection: socket.socket, pause: float, chunked: bool) -> None:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(FAKE_BODY)}"
        connection.sendall(f"POST /v2/models/a/infer HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        time.sleep(pause)
        connection.sendall(chunk if chunked else FAKE_BODY)
        assert read_answer(connection)[0] == 200

    def hints() -> int:
        return lines_of(record).count("hint 1000000")

    for chunked in (True, False):
        with serving(FAKE, models, env={"FAKE_REEF_GPU": str(record)}) as server, server.connect() as connection:
            end, before = time.monotonic() + 60, hints()
            while hints() < before + 3 or not server.metric("reef_hints_used_total"):  # pauses are as long as this machine makes them
                assert time.monotonic() < end, f"{lines_of(record)[-40:]}"
                for _ in range(10):
                    ask(connection, 0.0003, chunked)
            before = -1
            while hints() > before:  # bodies that come late get none: a hint would have gone by
                assert time.monotonic() < end, f"{lines_of(record)[-40:]}"
                ask(connection, 0.02, chunked)  # perhaps after a last hint
                before = hints()
                for _ in range(10):
                    ask(connection, 0.02, chunked)


@test
def hint_of_a_periodic_client(folder: Path) -> None:
    models, record = gpu_models(folder / "rhythm-models"), folder / "rhythm-record"

    def hints() -> int:  # 1000000: of a header, where this machine is slow to read what follows
        return sum(line.startswith("hint") and line != "hint 1000000" for line in lines_of(record))

    with serving(FAKE, models, env={"FAKE_REEF_GPU": str(record)}) as server, server.connect() as connection:
        for _ in range(300):  # a burst
            keep_asking(connection, "a")
        assert hints() == 0
        # However busy this machine is, some five requests in a row are on time; then there is a hint before the next.
        due, end = time.monotonic(), time.monotonic() + 60
        while hints() < 3 or server.metric("reef_hints_used_total") < 3:
            assert time.monotonic() < end, f"{lines_of(record)[-40:]}"
            for _ in range(20):
                due = max(due + 0.03, time.monotonic())
                time.sleep(max(0, due - time.monotonic()))
                keep_asking(connection, "a")
        assert server.metric("reef_hints_sent_total") >= server.metric("reef_hints_used_total") >= 3
        time.sleep(0.2)
        sent = server.metric("reef_hints_sent_total")  # it has stopped: at most the one hint for the request that did not come
        time.sleep(0.3)
        assert server.metric("reef_hints_sent_total") == sent
        assert hints() <= lines_of(record).count("rt") - 300
        for _ in range(12):  # best-effort clients have no rhythm
            keep_asking(connection, "b")
            time.sleep(0.03)
        assert server.metric("reef_hints_sent_total") == sent


# ---- the ring --------------------------------------------------------------------------------------------------------


def ring_bench(path: Path, *options: str, **named) -> subprocess.Popen:
    return subprocess.Popen([REEF, "bench", "--ring", str(path), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **named)


@test
def ring_clients_are_served_and_compared(server: Server, client) -> None:
    for wake in ("adaptive", "poll", "block"):
        one = ring_bench(server.ring, "--model", "small", "--seconds", "0.5", "--warmup", "0", "--connections", "4", "--wake", wake)
        out, error = one.communicate(timeout=60)
        assert one.returncode == 0 and "0 answers differ" in out, out + error
    for model in ("types", "slow", "batched"):
        one = ring_bench(server.ring, "--model", model, "--seconds", "0.5", "--warmup", "0", "--class", "be")
        out, error = one.communicate(timeout=60)
        assert one.returncode == 0 and "0 answers differ" in out, out + error
    for model, words in (("nothing", "no model"), ("broken", "not ready")):
        one = ring_bench(server.ring, "--model", model)
        assert words in one.communicate(timeout=60)[1] and one.returncode == 1


@test
def ring_killed_clients_leave_nothing(server: Server, client) -> None:
    def memories() -> int:
        return sum("reef-ring" in name for name in files_of(worker)) + Path(f"/proc/{worker}/maps").read_text().count("reef-ring")

    worker = server.worker()
    for model in ("small", "slow"):
        for delay in (0.0, 0.01, 0.05, 0.2, 0.4):
            one = ring_bench(server.ring, "--model", model, "--seconds", "30", "--connections", "4")
            time.sleep(delay)
            one.kill()
            one.communicate()
    end = time.monotonic() + 30
    while memories() and time.monotonic() < end:
        time.sleep(0.05)
    assert memories() == 0
    flying = [line for line in server.http("GET", "/metrics")[2].decode().splitlines() if line.startswith("reef_requests_in_flight")]
    assert all(line.endswith(" 0") for line in flying), flying


@test
def ring_hostile_messages_are_hung_up_on(server: Server, client) -> None:
    magic = 0x66656572

    def message(kind: int, version: int = 1, model: int = 0, data: int = 4096, name: bytes = b"small", size: int = 168, head: int = magic) -> bytes:
        return (struct.pack("<IIIIQ", head, kind, version, model, data) + name.ljust(128, b"\0") + bytes(16))[:size]

    for first in (b"x", bytes(168), message(1)[:-1], message(1) + b"x", message(2), message(3), message(9), message(1, head=7)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(server.ring))
            connection.settimeout(30)
            connection.send(first)
            assert connection.recv(65536) == b"", first
    for data in (0, 2**63, 2**64 - 1, 2**40):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(server.ring))
            connection.send(message(1, data=data))
            status, text = struct.unpack("<II480s", connection.recv(65536)[:488])[1:]
            assert status != 0 and b"shared memory" in text, (data, text)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:  # a name without an end, after a good hello
        connection.connect(str(server.ring))
        connection.settimeout(30)
        connection.send(message(1))
        data, memory, _, _ = socket.recv_fds(connection, 65536, 1)
        try:
            os.ftruncate(memory[0], 0)
            raise AssertionError("the ring's memory can be cut off")
        except PermissionError:
            pass
        connection.send(message(2, name=b"x" * 128))
        assert connection.recv(65536) == b""
        os.close(memory[0])
    assert oct(os.stat(server.ring).st_mode & 0o777) == "0o600"
    ring_clients_are_served_and_compared(server, client)


@test
def ring_hostile_memory_is_hung_up_on(server: Server, client) -> None:
    """Writes into the shared memory what a client never would; the layout is src/client/ring.h's."""
    import mmap

    cases = {
        "tail": lambda memory: struct.pack_into("<I", memory, 0, 1000),
        "slot": lambda memory: (struct.pack_into("<I", memory, 128, 5000), struct.pack_into("<I", memory, 0, 1)),
        "model": lambda memory: (struct.pack_into("<I", memory, 128 + 256, 77), struct.pack_into("<I", memory, 0, 1)),
        "offset": lambda memory: (
            struct.pack_into("<Q", memory, 128 + 256 + 16, 2**63),
            struct.pack_into("<I", memory, 0, 1),
        ),
        "garbage": lambda memory: memory.__setitem__(slice(0, 4096), os.urandom(4096)),
    }
    for name, spoil in cases.items():
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(str(server.ring))
            connection.settimeout(5)
            connection.send(struct.pack("<IIIIQ", 0x66656572, 1, 1, 0, 4096) + bytes(144))
            answer, fds, _, _ = socket.recv_fds(connection, 65536, 1)
            size = struct.unpack_from("<Q", answer, 488)[0]
            with mmap.mmap(fds[0], size) as memory:
                os.close(fds[0])
                connection.send(struct.pack("<IIIIQ", 0x66656572, 2, 0, 0, 0) + b"small".ljust(128, b"\0") + bytes(16))
                assert struct.unpack_from("<I", connection.recv(65536), 4)[0] == 0
                spoil(memory)
                with contextlib.suppress(socket.timeout):
                    connection.settimeout(1.5)
                    connection.recv(65536)
    assert client.is_server_live()
    ring_clients_are_served_and_compared(server, client)


@test
def tools_top_and_bench(server: Server, client) -> None:
    url = f"http://{server.address}"
    out = subprocess.run([REEF, "top", "--url", url, "--count", "1", "--interval", "0.2"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 0 and "small" in out.stdout and "compute units" in out.stdout, out.stdout + out.stderr
    out = subprocess.run([REEF, "top", "--url", url, "--count", "1", "--interval", "0.1", "--json"], capture_output=True, text=True, timeout=60)
    assert json.loads(out.stdout)["ready"] is True
    for options, says in (((), ""), (("--json",), '{"ready":true}\n')):
        out = subprocess.run([REEF, "top", "--url", url, "--ready", *options], capture_output=True, text=True, timeout=60)
        assert out.returncode == 0 and out.stdout == says and not out.stderr, out
    out = subprocess.run([REEF, "top", "--url", "http://127.0.0.1:1", "--ready"], capture_output=True, text=True, timeout=60)
    assert out.returncode == 1 and "refused" in out.stderr, out
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        out = subprocess.run([REEF, "bench", "--url", url, "--model", "types", "--seconds", "0.5", "--warmup", "0", "--connections", "3",
                              "--rate", "200", "--json", file.name], capture_output=True, text=True, timeout=60)
        assert out.returncode == 0, out.stderr
        result = json.loads(Path(file.name).read_text())
        assert result["ok"] > 0 and result["mismatches"] == 0 and result["added_us"]["n"] == result["ok"], result
    for options in (["--url", url], ["--url", "ftp://x", "--model", "a"], ["--url", "https://x", "--model", "a"], ["--ring", "/nowhere", "--model", "a"],
                    ["--url", url, "--ring", "x", "--model", "a"], ["--url", "http://127.0.0.1:1", "--model", "a"]):
        out = subprocess.run([REEF, "bench", *options], capture_output=True, text=True, timeout=60)
        assert out.returncode in (1, 2) and out.stderr.count("\n") == 1, (options, out.stderr)


def main() -> int:
    global REEF, FAKE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run only tests with one of these in their names")
    parser.add_argument("--reef", type=Path, default=REEF)
    parser.add_argument("--fake", type=Path, default=FAKE)
    arguments = parser.parse_args()
    REEF, FAKE = arguments.reef.resolve(), arguments.fake.resolve()
    chosen = [t for t in TESTS if not arguments.words or any(word in t.__name__ for word in arguments.words)]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="reef-serve-") as name:
        folder = Path(name)
        ring = folder / "ring.sock"
        with serving(REEF, models_in(folder), "--shm-prefix", "reef_test_", "--ring", str(ring)) as server:
            server.ring = ring
            worker, memory = server.worker(), 0
            for function in chosen:
                try:
                    if "folder" in function.__code__.co_varnames[: function.__code__.co_argcount]:
                        function(folder)
                    else:
                        with triton.InferenceServerClient(server.address, network_timeout=120) as client:
                            function(server, client)
                        assert server.worker() == worker, "the worker was replaced"
                    print(f"ok      {function.__name__}", flush=True)
                except Exception:  # noqa: BLE001 - the next test may still say something
                    failed += 1
                    print(f"FAILED  {function.__name__}", flush=True)
                    traceback.print_exc()
            memory = memory_of(worker)
            print(f"the server has {memory >> 20} MiB and {len(files_of(worker))} files open at the end", flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
