#!/usr/bin/env python3
"""Rejects an include that points upward.

The folders under src/ are the stages of a request's path; each may include only what the table in CONTRIBUTING.md
allows. Exits with 1 and one line per offence.
"""

import pathlib
import re
import sys

# folder -> folders it may include; "reef" is include/reef.
ALLOWED = {
    "base": {"base", "reef"},
    "nice": {"nice", "base", "reef"},
    "model": {"model", "base", "reef"},
    "device": {"device", "model", "nice", "base", "reef"},
    "task": {"task", "device", "model", "base", "reef"},
    "queue": {"queue", "task", "device", "base", "reef"},
    "sched": {"sched", "queue", "task", "base", "reef"},
    "api": {"api", "sched", "queue", "task", "device", "model", "base", "reef"},
    "bench": {"bench", "client", "base", "reef"},
    "cli": {"cli", "serve", "client", "bench", "nice", "base", "reef"},
    "serve": {"serve", "client", "base", "reef"},
    "client": {"client", "base", "reef"},
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def offences(root: pathlib.Path) -> list[str]:
    found = []
    for path in sorted((root / "src").rglob("*.[ch]")) + sorted((root / "include").rglob("*.h")):
        parts = path.relative_to(root).parts
        folder = "reef" if parts[0] == "include" else parts[1]
        allowed = {"reef"} if folder == "reef" else ALLOWED.get(folder)
        if allowed is None:
            found.append(f"{path.relative_to(root)}: folder src/{folder} has no row in tests/house/layers.py")
            continue
        for name in INCLUDE.findall(path.read_text(encoding="utf-8")):
            target = name.split("/")[0] if "/" in name else None
            if target not in allowed:
                found.append(f'{path.relative_to(root)}: includes "{name}", but {folder}/ may use {", ".join(sorted(allowed))}')
    return found


def main() -> int:
    root = pathlib.Path(__file__).resolve().parents[2]
    found = offences(root)
    for line in found:
        print(line)
    print(f"{0 if found else 1} passed, {len(found)} failed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
