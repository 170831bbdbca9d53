#!/usr/bin/env python3
"""reef nice against a driver that records every call: no GPU is needed. Standard library only.

  tests/nice/test_nice.py --build build/release

A client that makes the calls libcuda makes runs under `reef nice`, with the fake driver below the preloaded library. What
the driver saw and what the client was told must be right; no test looks at how long anything took.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

OK, NOT_PERMITTED, NOT_SUPPORTED, INVALID_CLIENT = 0, 0x1B, 0x56, 0x23
OWN = 2048  # what the client asks for
FAILED_CALL = 0xFFFFFFFF


class World:
    """The programs, and a folder for a run's log and sockets."""

    def __init__(self, build: Path, scratch: Path):
        self.reef = build.resolve() / "reef"
        self.client = build.resolve() / "tests" / "nice_client"
        self.driver = build.resolve() / "tests" / "libfake_driver.so"
        self.scratch = scratch
        self.count = 0
        self.new()

    def new(self):
        self.count += 1
        self.log = self.scratch / f"log{self.count}"
        self.run_dir = self.scratch / f"run{self.count}"
        self.run_dir.mkdir(mode=0o700)

    def environment(self, manners: str = "", **more: str) -> dict:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("REEF_NICE", "LD_PRELOAD"))}
        return {**kept, "LD_PRELOAD": str(self.driver), "FAKE_RM_LOG": str(self.log), "FAKE_RM": manners,
                "XDG_RUNTIME_DIR": str(self.run_dir), **more}

    def nice(self, *arguments: str, manners: str = "", **options) -> subprocess.CompletedProcess:
        return subprocess.run([str(self.reef), "nice", *arguments], env=self.environment(manners), text=True,
                              capture_output=True, timeout=60, **options)

    def lines(self) -> list[tuple]:
        """(pid, what, client, object, value, status) in the order the driver saw them."""
        if not self.log.exists():
            return []
        found = [line.split() for line in self.log.read_text().splitlines()]
        return [(int(f[0]), f[1], *map(int, f[2:])) for f in found]

    def sets(self) -> list[tuple]:
        """(object, us, status) of what was set by reef nice."""
        return [(line[3], line[4], line[5]) for line in self.lines() if line[1] == "set" and line[4] != OWN]

    def check_manners(self):
        """A group is only touched by the process that made it, after a question, and gets exactly what was meant."""
        made, asked = {}, set()
        for pid, what, client, handle, value, status in self.lines():
            if what == "alloc" and value == 0xA06C and status == OK:
                made[client, handle] = pid
            elif what == "get":
                asked.add(pid)
            elif what == "set" and value != OWN:
                expect(made.get((client, handle)) == pid, f"process {pid} sets a group that it did not make")

    def final_slices(self) -> dict:
        slices = {}
        for _, what, client, handle, value, status in self.lines():
            if what == "set" and status == OK:
                slices[client, handle] = value
        return slices


def expect(holds: bool, what) -> None:
    if not holds:
        raise AssertionError(what)


def quiet_success(done: subprocess.CompletedProcess) -> None:
    expect(done.returncode == 0 and not done.stderr, (done.returncode, done.stderr))


# ---- slices -------------------------------------------------------------------------------------------------------


def every_form_of_allocation(world: World):
    for form in ("short", "long", "indirect"):
        world.new()
        quiet_success(world.nice("-n", "19", "--", str(world.client), form))
        world.check_manners()
        # Two groups, one of which runs kernels: it ends with 1 us, the copy engine's with its own.
        expect(sorted(world.final_slices().values()) == [1, OWN], (form, world.lines()))
        expect(any(line[1] == "get" for line in world.lines()), "a slice is read before one is set")


def a_group_known_by_its_compute_object_alone(world: World):
    for form in ("engine-unknown", "serialized"):
        world.new()
        quiet_success(world.nice("--slice", "50", str(world.client), form))
        expect(sorted(world.final_slices().values()) == [50, OWN], (form, world.lines()))


def a_program_that_sets_no_slice_of_its_own(world: World):
    quiet_success(world.nice(str(world.client), "no-own-slice"))
    expect([us for _, us, _ in world.sets()] == [1], world.lines())


def levels_map_to_slices(world: World):
    for level, us in ((19, 1), (10, 37), (5, 275), (1, 1371), (-1, 2435), (-20, 65536)):
        world.new()
        quiet_success(world.nice("-n", str(level), "--", str(world.client)))
        expect({us for _, us, _ in world.sets()} == {us}, (level, world.sets()))


def level_0_and_slice_0_change_nothing(world: World):
    for arguments in (("-n", "0"), ("--slice", "0")):
        world.new()
        quiet_success(world.nice(*arguments, "--", str(world.client)))
        expect(world.sets() == [] and not any(line[1] == "get" for line in world.lines()), world.lines())


def a_freed_group_is_left_alone(world: World):
    quiet_success(world.nice(str(world.client), "free"))
    world.check_manners()
    lines = world.lines()
    freed = next(i for i, line in enumerate(lines) if line[1] == "free")
    expect(all(line[3] != lines[freed][3] for line in lines[freed + 1:] if line[1] == "set"), lines)


# ---- processes and threads ------------------------------------------------------------------------------------------


def children_after_fork(world: World):
    for how in ("fork", "clone"):
        world.new()
        quiet_success(world.nice(str(world.client), how))
        world.check_manners()  # the child sets nothing on the parent's group
        pids = list(dict.fromkeys(line[0] for line in world.lines()))
        expect(len(pids) == 2, pids)
        for pid in pids:
            expect(any(line[0] == pid and line[1] == "set" and line[4] in (1, 1000) and line[5] == OK for line in world.lines()),
                   f"{how}: {'parent' if pid == pids[0] else 'child'} got no slice")
        last = [line for line in world.lines() if line[0] == pids[0] and line[1] == "set"][-1]
        # 1000 us: while the child is there, the two are company to each other.
        expect(last[4] in (1, 1000), "the parent's group is set again after the program set it")


def children_after_exec(world: World):
    for how in ("exec", "vfork"):
        world.new()
        quiet_success(world.nice(str(world.client), how))
        world.check_manners()
        pids = list(dict.fromkeys(line[0] for line in world.lines()))
        expect(len(pids) == 2, (how, pids))
        expect(all(any(line[0] == pid and line[1] == "set" and line[4] in (1, 1000) for line in world.lines()) for pid in pids), how)
        last = [line for line in world.lines() if line[0] == pids[0] and line[1] == "set"][-1]
        expect(last[4] in (1, 1000), f"{how}: the parent's groups are forgotten")


def many_threads(world: World):
    quiet_success(world.nice(str(world.client), "threads"))
    world.check_manners()
    done = [s for s in world.sets() if s[2] == OK]
    expect(len({handle for handle, _, _ in done}) == 160, f"{len(done)} slices were set for 160 contexts")


def other_calls_are_not_touched(world: World):
    quiet_success(world.nice(str(world.client), "others"))


# ---- drivers that refuse or are not known --------------------------------------------------------------------------


def one_line_and_success(done: subprocess.CompletedProcess, words: str):
    lines = done.stderr.splitlines()
    expect(done.returncode == 0, done)
    expect(len(lines) == 1 and words in lines[0] and lines[0].startswith("reef nice["), lines)


def a_refused_slice_is_said_once(world: World):
    one_line_and_success(world.nice(str(world.client), "free", manners="refuse-set"), "refuses a time slice of 1 us")
    expect(set(world.final_slices().values()) == {OWN}, "the program has its own slices")
    world.new()
    one_line_and_success(world.nice(str(world.client), "free", manners="fail-set"), "Permission denied")


def a_driver_that_does_not_answer_is_left_alone(world: World):
    one_line_and_success(world.nice(str(world.client), "threads", manners="refuse-get"), "insufficient permissions")
    expect(world.sets() == [], world.sets())
    expect(sum(line[1] == "get" for line in world.lines()) == 1, "it is asked once")


def unknown_sizes_are_said_once_and_left_alone(world: World):
    for how, number in (("odd-alloc", "0x2b"), ("odd-control", "0x2a"), ("odd-free", "0x29")):
        world.new()
        one_line_and_success(world.nice(str(world.client), how), f"message {number} of 40 bytes")
        expect(world.sets() == [] and not any(line[1] == "get" for line in world.lines()), (how, world.lines()))


def the_shortest_slice_is_found(world: World):
    one_line_and_success(world.nice(str(world.client), "long", manners="shortest=100"), "shortest time slice")
    good = [us for _, us, status in world.sets() if status == OK]
    expect(set(good) == {128}, world.sets())
    refused = [us for _, us, status in world.sets() if status == NOT_SUPPORTED]
    expect(refused == [1, 2, 4, 8, 16, 32, 64], "it is looked for once")


def verbose_says_what_is_done(world: World):
    done = world.nice("--verbose", "-n", "19", "--", str(world.client), "long")
    expect(done.returncode == 0 and re.search(r"channel group 0x[0-9a-f]{8} \(engine 1\): time slice 1 us, the program's own "
                                              r"is 2048 us", done.stderr), done.stderr)
    world.new()
    done = world.nice("--verbose", "sh", "-c", f"exec 2>&-; exec 2>{world.scratch}/own; {world.client} long; echo $?")
    expect(done.stdout == "0\n", done)


def standard_error_of_the_program_is_its_own(world: World):
    """A file that the program opens as descriptor 2 is not written to."""
    code = ("import os, ctypes, subprocess; os.close(2); fd = os.open('%s', os.O_WRONLY | os.O_CREAT, 0o600); assert fd == 2; "
            "ctypes.CDLL(None).ioctl(-1, 0x46)") % (world.scratch / "data")
    done = subprocess.run([str(world.reef), "nice", "--verbose", sys.executable, "-c", code], env=world.environment(),
                          capture_output=True, text=True, timeout=60)
    expect(done.returncode == 0, done)
    expect((world.scratch / "data").read_bytes() == b"", "the program's file was written to")


# ---- the control socket ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(world: World, *arguments: str, manners: str = "", **more: str):
    """A client that waits with its context: (process, pid, tell)."""
    process = subprocess.Popen([str(world.reef), "nice", *arguments, "--", str(world.client), "hold"],
                               env=world.environment(manners, **more), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.DEVNULL if manners else None)
    pid = int(process.stdout.readline().split()[1])

    def tell(what: str) -> str:
        process.stdin.write(what + "\n")
        process.stdin.flush()
        return process.stdout.readline().strip()
    try:
        yield process, pid, tell
    finally:
        process.stdin.close()
        expect(process.wait(timeout=60) in (0, -signal.SIGKILL), "the client failed")


def listed(world: World) -> list:
    done = world.nice("--list", "--json")
    quiet_success(done)
    return json.loads(done.stdout)


def a_process_is_listed_and_changed(world: World):
    with held(world, "-n", "19") as (process, pid, tell):
        expect(pid == process.pid, "reef nice becomes the program")
        found = listed(world)
        expect(len(found) == 1 and found[0]["pid"] == pid and found[0]["level"] == 19 and "hold" in found[0]["command"], found)
        expect([(g["slice_us"], g["own_slice_us"], g["engine"], g["channels"]) for g in found[0]["groups"]] ==
               [(1, OWN, 1, 1)], found)
        text = world.nice("--list").stdout
        expect(f"{pid}  level 19, 1 us" in text and "slice 1 us  (the program's own: 2048 us)" in text, text)

        quiet_success(world.nice("--set", str(pid), "-n", "5"))
        expect(set(world.final_slices().values()) == {275, OWN}, world.final_slices())
        expect(tell("another") == "done", "")
        expect(sorted(world.final_slices().values()) == [275, 275, OWN, OWN], "groups to come have it too")
        quiet_success(world.nice("--set", str(pid), "--slice", "77"))
        found = listed(world)
        expect(found[0]["level"] is None and [g["slice_us"] for g in found[0]["groups"]] == [77, 77], found)
        # Level 0 gives the program its own slice back.
        quiet_success(world.nice("--set", str(pid), "-n", "0"))
        expect(set(world.final_slices().values()) == {OWN}, world.final_slices())
        expect([g["slice_us"] for g in listed(world)[0]["groups"]] == [OWN, OWN], listed(world))
        tell("free")
        expect(len(listed(world)[0]["groups"]) == 1, "a freed group is not listed")
    expect(listed(world) == [] and list((world.run_dir / "reef").iterdir()) == [], "its socket is gone with it")


def a_program_started_at_level_0_can_be_changed(world: World):
    with held(world, "-n", "0") as (_, pid, tell):
        quiet_success(world.nice("--set", str(pid), "-n", "19"))
        expect(set(world.final_slices().values()) == {1, OWN}, world.final_slices())


def a_reused_descriptor_is_not_written_to(world: World):
    for how in ("close", "replace"):
        world.new()
        with held(world, "-n", "19") as (_, pid, tell):
            before = len(world.sets())
            expect(tell(how) == "done", how)
            quiet_success(world.nice("--set", str(pid), "-n", "5"))
            # What the number now stands for was asked nothing (another kind of file), or said "not your client".
            expect(all(status == INVALID_CLIENT for _, _, status in world.sets()[before:]), (how, world.sets()))
            expect(listed(world)[0]["groups"] == [], (how, "a group whose file is gone is forgotten"))


def a_program_that_closes_every_descriptor(world: World):
    with held(world, "-n", "19") as (_, pid, tell):
        expect(tell("closeall") == "done", "")
        done = world.nice("--set", str(pid), "-n", "5")
        expect(done.returncode in (0, 1), done)  # the thread may sit in its last accept
        expect(tell("another") == "done", "the program goes on")
        expect(1 in world.final_slices().values() or 275 in world.final_slices().values(), "and is still nice")


def a_forked_child_leaves_its_parents_socket(world: World):
    with held(world, "-n", "19") as (_, pid, tell):
        child = int(tell("fork").split()[1])
        try:
            expect([p["pid"] for p in listed(world)] == [pid], "the child has no groups")
        finally:
            os.kill(child, signal.SIGKILL)
        expect([p["pid"] for p in listed(world)] == [pid], "the parent is still there")


def a_dead_process_is_cleaned_up(world: World):
    process = subprocess.Popen([str(world.reef), "nice", str(world.client), "hold"], env=world.environment(),
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.kill()
    process.wait()
    expect(len(list((world.run_dir / "reef").iterdir())) == 2, "killed, it could not remove its socket and its claim")
    expect(listed(world) == [] and list((world.run_dir / "reef").iterdir()) == [], "the list removes it")
    done = world.nice("--set", str(process.pid), "-n", "5")
    expect(done.returncode == 1 and "does not answer" in done.stderr and len(done.stderr.splitlines()) == 1, done)


def sockets_are_the_users_alone(world: World):
    with held(world, "-n", "19") as (_, pid, _tell):
        folder = world.run_dir / "reef"
        expect(folder.stat().st_mode & 0o7777 == 0o700, oct(folder.stat().st_mode))
        expect((folder / f"nice-{pid}").stat().st_mode & 0o777 == 0o600, "the socket's mode")
    # A runtime folder that others can write to, or that is not there, is not used; /tmp/reef-UID is.
    world.run_dir.chmod(0o777)
    with held(world, "-n", "19") as (_, pid, _tell):
        path = Path(f"/tmp/reef-{os.geteuid()}")
        expect((path / f"nice-{pid}").exists() and path.stat().st_mode & 0o7777 == 0o700, "the place to fall back to")
        expect(pid in [p["pid"] for p in listed(world)], "and it is found there")


def a_planted_folder_is_not_used(world: World):
    (world.run_dir / "elsewhere").mkdir(mode=0o700)
    (world.run_dir / "reef").symlink_to(world.run_dir / "elsewhere")
    with held(world, "-n", "19") as (_, pid, _tell):
        expect(list((world.run_dir / "elsewhere").iterdir()) == [], "a link is not followed")
    (world.run_dir / "reef").unlink()
    (world.run_dir / "reef").mkdir(mode=0o755)
    (world.run_dir / "reef").chmod(0o755)
    with held(world, "-n", "19") as (_, pid, _tell):
        expect(list((world.run_dir / "reef").iterdir()) == [], "a folder that others can enter is not used")


def eventually(holds, what) -> None:
    """Of what another process does when it is told: it may take its time, up to a minute."""
    end = time.monotonic() + 60
    while not holds():
        expect(time.monotonic() < end, what)
        time.sleep(0.01)


def slices_of(world: World) -> dict:
    """By process, of its first group."""
    return {process["pid"]: process["groups"][0]["slice_us"] for process in listed(world)}


def programs_that_yield_to_each_other_get_longer_slices(world: World):
    with held(world, "-n", "19") as (_, first, _tell):
        expect(slices_of(world) == {first: 1}, "alone")
        with held(world, "-n", "10") as (_, second, _tell):
            eventually(lambda: slices_of(world) == {first: 1000, second: 1000}, "together they would do nothing but switch")
            # A level that does not yield so soon is no company, and back.
            quiet_success(world.nice("--set", str(second), "-n", "0"))
            eventually(lambda: slices_of(world) == {first: 1, second: OWN}, "the other one has long slices")
            quiet_success(world.nice("--set", str(second), "-n", "19"))
            eventually(lambda: slices_of(world) == {first: 1000, second: 1000}, "and short ones again")
            with held(world, "-n", "19", CLIENT_GPU="3") as (_, third, _tell):
                eventually(lambda: slices_of(world) == {first: 1000, second: 1000, third: 1}, "a program on another GPU")
            # A slice that was asked for as such is given as such.
            quiet_success(world.nice("--set", str(second), "--slice", "50"))
            eventually(lambda: slices_of(world) == {first: 1000, second: 50}, "an exact slice")
        eventually(lambda: slices_of(world) == {first: 1}, "alone again")
        with held(world, "-n", "19") as (process, second, _tell):
            eventually(lambda: slices_of(world) == {first: 1000, second: 1000}, "together again")
            process.kill()
            process.wait()
            eventually(lambda: slices_of(world) == {first: 1}, "one that was killed is noticed")
    expect(list((world.run_dir / "reef").iterdir()) == [], "nothing is left behind")


def say(path: Path, message: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.connect(str(path))  # waits while earlier ones are in the queue
        s.settimeout(20)
        s.send(message)
        return s.recv(65536)


def malformed_requests_are_answered_and_survived(world: World):
    with held(world, "-n", "19") as (_, pid, _tell):
        path = world.run_dir / "reef" / f"nice-{pid}"
        before = world.final_slices()
        for bad in (b"x", b"list\n", b"list\0", b"LIST", b"set", b"set ", b"set level", b"set level 20", b"set level -21",
                    b"set slice -1", b"set slice 1000001", b"set slice 99999999999999999999", b"set level 1 ", b"set level +1",
                    b"set slice 0x10", b"\xff" * 63, b"a" * 64, b"a" * 5000, b"set level 5\0set level 6"):
            expect(say(path, bad).startswith(b"error "), bad)
        for _ in range(20):  # connected and gone
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            s.connect(str(path))
            s.close()
        expect(world.final_slices() == before, "nothing was changed")
        expect(say(path, b"list").startswith(b"ok 1 level 19\ngroup "), "and it still answers")


def malformed_replies_are_refused(world: World):
    """A process of the user's own, but not one of ours, sits on a socket."""
    folder = world.run_dir / "reef"
    folder.mkdir(mode=0o700)
    for reply in (b"", b"ok", b"ok 1 level 19", b"ok 2 level 19\n", b"ok 1 level 20\n", b"ok 1 level 19\ngroup 1 2 3\n",
                  b"ok 1 level 19\ngroup 1 2 3 4 2 6 7 8\n", b"ok 1 level 19\ngroup 4294967296 2 3 4 1 6 7 8\n",
                  b"ok 1 level 19\ngroup 1 2 3 4 1 6 7 8", b"ok 1 level 19\n" + b"group 1 2 3 4 1 6 7 8\n" * 129,
                  b"error \x1b[31mred\n", b"error two\nlines\n", b"x" * 16384):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.bind(str(folder / f"nice-{os.getpid()}"))
            s.listen(8)
            tool = subprocess.Popen([str(world.reef), "nice", "--set", str(os.getpid()), "-n", "5"], text=True,
                                    env=world.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            peer, _ = s.accept()
            peer.recv(100)
            if reply:
                peer.send(reply)
            peer.close()
            out, err = tool.communicate(timeout=60)
        (folder / f"nice-{os.getpid()}").unlink()
        expect(tool.returncode == 1 and not out and len(err.splitlines()) == 1 and "\x1b" not in err, (reply[:60], err))


def a_refusing_driver_is_reported_to_set(world: World):
    with held(world, "-n", "0", manners="refuse-set") as (_, pid, _tell):
        done = world.nice("--set", str(pid), "-n", "5")
        expect(done.returncode == 1 and "refused 1 of 1 channel groups (status 0x1b, insufficient permissions)" in done.stderr,
               done)


# ---- a process's own slice ------------------------------------------------------------------------------------------


def own(world: World, binding: str, *arguments: str, manners: str = "", **more: str) -> list[str]:
    tests = world.client.parent
    done = subprocess.run([str(tests / "nice_own"), str(tests / f"libfake_cuda.{binding}.so"), *arguments],
                          env=world.environment(manners, **more), text=True, capture_output=True, timeout=60)
    quiet_success(done)
    return done.stdout.splitlines()


def a_process_sets_its_own_slice(world: World):
    for binding in ("lazy", "now"):
        world.new()
        said = own(world, binding, "8000", "long", "short")
        expect(said == ["none: no channel group was seen", "8000 us in 1 groups",
                        "8000 us in 2 groups", "4000 us in 2 groups"], said)
        world.check_manners()
        expect(sorted(world.final_slices().values()) == [OWN, OWN, 4000, 4000], world.final_slices())


def its_own_slice_in_threads_and_children(world: World):
    said = own(world, "lazy", "8000", "threads", "fork", "clone")
    expect(said[1] == "none: no channel group that runs kernels was seen", said)  # all freed
    world.check_manners()
    pids = {line[0] for line in world.lines() if line[1] == "set" and line[4] == 8000}
    expect(len(pids) >= 2, "the child of fork has its own")


def its_own_slice_is_refused(world: World):
    said = own(world, "now", "8000", "long", manners="refuse-set")
    expect("insufficient permissions" in said[1] and said[1].startswith("none: the NVIDIA driver refuses"), said)
    world.new()
    said = own(world, "now", "8000", "odd-alloc")
    expect("form of its interface that is not known" in said[1], said)


def under_reef_nice_the_outer_command_wins(world: World):
    done = world.nice("-n", "19", str(world.client.parent / "nice_own"), str(world.client.parent / "libfake_cuda.now.so"), "8000",
                      "long")
    quiet_success(done)
    expect(sorted(world.final_slices().values()) == [1, OWN], world.final_slices())


# ---- the command -------------------------------------------------------------------------------------------------------


def wrong_usage(world: World):
    for arguments, words in (
        ((), "the program is missing"), (("-n", "20", "true"), "-20 to 19"), (("-n", "-21", "true"), "-20 to 19"),
        (("-n", "x", "true"), "'x'"), (("-n",), "needs a N"), (("-x", "true"), "unknown option '-x'"),
        (("--slice", "1000001", "true"), "1000000"), (("--slice", "-1", "true"), "0 to 1000000"),
        (("-n", "1", "--slice", "5", "true"), "exclude"), (("--list", "true"), "--list stands alone"),
        (("--list", "-n", "1"), "--list stands alone"), (("--set", "1"), "needs -n LEVEL"), (("--set", "0", "-n", "1"), "--set"),
        (("--set", "1", "-n", "1", "true"), "does not start one"), (("--json", "true"), "--json goes with"),
    ):
        done = world.nice(*arguments)
        expect(done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, (arguments, done))


def exit_codes_and_arguments_are_the_programs(world: World):
    expect(world.nice("sh", "-c", "exit 41").returncode == 41, "exit status")
    expect(world.nice("-n", "3", "echo", "--slice", "-n", "x").stdout == "--slice -n x\n", "arguments")
    expect(world.nice("--", "sh", "-c", 'echo $1', "x", "--help").stdout == "--help\n", "after --")
    done = world.nice("/nonexistent/program")
    expect(done.returncode == 127 and "/nonexistent/program" in done.stderr, done)
    done = world.nice("/")
    expect(done.returncode == 126 and "/: cannot be started" in done.stderr, done)
    done = world.nice("sh", "-c", "kill -PIPE $$; echo alive")
    expect(done.returncode == -signal.SIGPIPE, f"SIGPIPE is as it was: {done}")


def what_was_preloaded_stays(world: World):
    done = world.nice("sh", "-c", "echo $LD_PRELOAD; echo $REEF_NICE")
    first, second = done.stdout.split("\n")[:2]
    expect(first.endswith(f"libreef-nice.so:{world.driver}") and second == "level 19", done.stdout)
    done = world.nice(str(world.reef), "nice", "--slice", "9", "sh", "-c", "echo $LD_PRELOAD; echo $REEF_NICE")
    expect(done.stdout.count("libreef-nice.so") == 1 and done.stdout.endswith("slice 9\n"), done.stdout)


def a_bad_environment_is_said(world: World):
    library = world.reef.parent / "libreef-nice.so"
    for text in ("level 99", "slice", "", "19"):
        world.new()
        done = subprocess.run([str(world.client), "long"], capture_output=True, text=True,
                              env=world.environment(LD_PRELOAD=f"{library}:{world.driver}", REEF_NICE=text))
        one_line_and_success(done, "REEF_NICE in the environment is not")
        expect(world.sets() == [], world.sets())


def the_library_exports_one_name(world: World):
    done = subprocess.run(["nm", "-D", "--defined-only", str(world.reef.parent / "libreef-nice.so")], capture_output=True,
                          text=True, check=True)
    names = [line.split()[-1] for line in done.stdout.splitlines()]
    expect(names == ["ioctl"], names)


TESTS = [value for name, value in list(globals().items()) if callable(value) and getattr(value, "__annotations__", {}).keys() == {"world"}
         and name not in ("listed",)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=Path("build/release"))
    parser.add_argument("only", nargs="*", help="parts of the names of the tests to run")
    arguments = parser.parse_args()
    failed = ran = 0
    with tempfile.TemporaryDirectory(prefix="reef-nice-") as scratch:
        world = World(arguments.build, Path(scratch))
        for test in TESTS:
            if arguments.only and not any(part in test.__name__ for part in arguments.only):
                continue
            ran += 1
            world.new()
            try:
                test(world)
            except Exception:
                failed += 1
                print(f"FAILED {test.__name__}\n{traceback.format_exc()}")
    print(f"{ran - failed} passed, {failed} failed")
    return 1 if failed or not ran else 0


if __name__ == "__main__":
    sys.exit(main())
