#!/usr/bin/env python3
"""Reads the text of a picture with PP-OCRv4: detect lines, cut them out, recognise each.

The networks are run by an engine that the caller brings: `engine(model, feeds) -> outputs`, model being "det" or "rec".
Run as a program, it uses ONNX Runtime.

      picture -> detector -> map of text -> boxes -> crops 48 px high -> recogniser -> letters per column -> text

Example:
  python3 tools/demo/ocr.py build/demo/page.png
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
try:
    import numpy as np
    from PIL import Image
    from reeflib import ROOT, Arrays, fail, onnxruntime_session
except ImportError as missing:
    sys.exit(f"ocr.py: {missing.name} is missing: run tools/venv.sh, then use .venv/bin/python")

Engine = Callable[[str, Arrays], List[np.ndarray]]

SCALE = 2.5  # the page is small: letters are about 10 px high
LINE_HEIGHT = 48  # what the recogniser was trained on
LINE_WIDTH = 320  # fixed at load; longer lines are read in pieces, cut between words
WORD_GAP = 8  # columns without ink between words of a line 48 px high; between letters there are fewer
TEXT_ABOVE = 0.3  # detector: a pixel is text above this
BOX_ABOVE = 0.5  # detector: a box counts if its pixels reach this on average
GROW = 1.6  # detector: it marks the core of a line; boxes grow by area x GROW / perimeter
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Box(NamedTuple):
    left: int
    top: int
    right: int  # exclusive
    bottom: int  # exclusive


class Reading(NamedTuple):
    text: str
    lines: List[str]
    boxes: List[Box]
    detector_feed: np.ndarray
    recogniser_feeds: List[np.ndarray]


def load_picture(path: Path, scale: float = SCALE) -> np.ndarray:
    """The picture as (H,W,3) bytes, enlarged, both sides a multiple of 32 as the detector needs."""
    with Image.open(path) as image:
        size = [max(32, round(side * scale / 32) * 32) for side in image.size]
        return np.asarray(image.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC))


def detector_feed(picture: np.ndarray) -> np.ndarray:
    """(H,W,3) bytes -> (1,3,H,W) normalized."""
    values = (picture[:, :, ::-1].astype(np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(
        DEVIATION, np.float32
    )
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def components(mask: np.ndarray) -> np.ndarray:
    """Labels the 8-connected regions of a (H,W) mask from 1; 0 is background. Joins runs of consecutive rows."""
    labels = np.zeros(mask.shape, np.int32)
    parent = [0]

    def root(label: int) -> int:
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    for row in range(mask.shape[0]):
        for start, end in zip(np.flatnonzero(edges[row] == 1), np.flatnonzero(edges[row] == -1)):
            above = labels[row - 1, max(start - 1, 0) : end + 1] if row else labels[:0, 0]
            touching = sorted({root(label) for label in np.unique(above[above > 0]).tolist()})
            if not touching:
                parent.append(len(parent))
                touching = [len(parent) - 1]
            for other in touching[1:]:
                parent[other] = touching[0]
            labels[row, start:end] = touching[0]
    return np.array([root(label) for label in range(len(parent))], np.int32)[labels]


def find_boxes(probability: np.ndarray) -> List[Box]:
    """Boxes of text in a (H,W) map, in reading order."""
    height, width = probability.shape
    labels = components(probability > TEXT_ABOVE)
    boxes = []
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        if min(bottom - top, right - left) < 4 or probability[rows, columns].mean() < BOX_ABOVE:
            continue
        grow = round((bottom - top) * (right - left) * GROW / (2 * (bottom - top + right - left)))
        boxes.append(Box(max(0, left - grow), max(0, top - grow), min(width, right + grow), min(height, bottom + grow)))
    return reading_order(boxes)


def reading_order(boxes: Sequence[Box]) -> List[Box]:
    """Top to bottom; boxes whose middles share a line go left to right."""
    lines: List[List[Box]] = []
    for box in sorted(boxes, key=lambda box: box.top + box.bottom):
        middle = (box.top + box.bottom) / 2
        if lines and lines[-1][0].top < middle < lines[-1][0].bottom:
            lines[-1].append(box)
        else:
            lines.append([box])
    return [box for line in lines for box in sorted(line)]


class Piece(NamedTuple):
    pixels: np.ndarray  # (48,W,3), W <= LINE_WIDTH
    ends_word: bool  # cut between words, not inside one that is too long


def cut_line(picture: np.ndarray, box: Box) -> List[Piece]:
    """The line in pieces that the recogniser takes, cut in the widest gaps."""
    crop = Image.fromarray(picture[box.top : box.bottom, box.left : box.right])
    width = max(1, round(crop.width * LINE_HEIGHT / crop.height))
    line = np.asarray(crop.resize((width, LINE_HEIGHT), Image.Resampling.BICUBIC))
    ink = line.astype(np.float32).mean(axis=2).std(axis=0)  # of each column: small between letters
    blank = ink < ink.min() + 0.3 * (ink.max() - ink.min())
    edges = np.diff(np.pad(blank, 1).astype(np.int8))
    gaps = list(zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist()))
    pieces: List[Piece] = []
    start = 0
    while width - start > LINE_WIDTH:
        within = [
            (last - first, (first + last) // 2)
            for first, last in gaps
            if start + LINE_WIDTH // 2 < (first + last) // 2 <= start + LINE_WIDTH
        ]
        gap, cut = max(within, default=(0, start + LINE_WIDTH))
        pieces.append(Piece(line[:, start:cut], gap >= WORD_GAP))
        start = cut
    return [*pieces, Piece(line[:, start:], True)]


def recogniser_feed(piece: np.ndarray) -> np.ndarray:
    """(48,W,3) bytes -> (1,3,48,LINE_WIDTH) in -1..1, zeros to the right."""
    feed = np.zeros((1, 3, LINE_HEIGHT, LINE_WIDTH), np.float32)
    feed[0, :, :, : piece.shape[1]] = (piece[:, :, ::-1].astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)
    return feed


def load_characters(path: Path) -> List[str]:
    """Label -> character. Label 0 is CTC's blank; a space comes after the model's own characters."""
    return ["", *path.read_text(encoding="utf-8").split("\n"), " "]


def decode(probabilities: np.ndarray, characters: Sequence[str]) -> str:
    """Greedy CTC over (T,labels): the best label per column, repeats merged, blanks dropped."""
    best = probabilities.argmax(axis=1)
    kept = best[np.insert(best[1:] != best[:-1], 0, True)]
    return "".join(characters[label] for label in kept)


def read(picture: np.ndarray, engine: Engine, characters: Sequence[str]) -> Reading:
    feed = detector_feed(picture)
    boxes = find_boxes(engine("det", {"x": feed})[0][0, 0])
    lines, feeds = [], []
    for box in boxes:
        line = ""
        for piece in cut_line(picture, box):
            feeds.append(recogniser_feed(piece.pixels))
            line += decode(engine("rec", {"x": feeds[-1]})[0][0], characters).strip() + (" " if piece.ends_word else "")
        lines.append(line.strip())
    lines = [line for line in lines if line]
    return Reading("\n".join(lines), lines, boxes, feed, feeds)


def onnxruntime_engine(models: Path, threads: int = 2) -> Engine:
    sessions: Dict[str, object] = {}

    def engine(model: str, feeds: Arrays) -> List[np.ndarray]:
        if model not in sessions:
            sessions[model] = onnxruntime_session(str(models / f"{model}.onnx"), threads)
        return sessions[model].run(None, feeds)

    return engine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "picture",
        type=Path,
        nargs="?",
        default=ROOT / "build/demo/page.png",
        help="what to read (default: build/demo/page.png)",
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=ROOT / "build/demo/models",
        help="folder of det.onnx, rec.onnx, characters.txt (default: build/demo/models)",
    )
    parser.add_argument("--scale", type=float, default=SCALE, help="enlarge the picture by this (default: %(default)s)")
    parser.add_argument("--boxes", action="store_true", help="print where each line is")
    arguments = parser.parse_args()
    if not (arguments.models / "characters.txt").exists():
        fail(f"no models in {arguments.models}: run tools/demo/fetch_ocr.py")
    try:
        picture = load_picture(arguments.picture, arguments.scale)
    except OSError as error:
        fail(f"cannot read {arguments.picture}: {error.strerror or error}")
    reading = read(picture, onnxruntime_engine(arguments.models), load_characters(arguments.models / "characters.txt"))
    print(reading.text)
    if arguments.boxes:
        for box in reading.boxes:
            print(*box, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
