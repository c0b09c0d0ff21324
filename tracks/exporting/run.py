"""Judges photos by an exported model: this file, numpy, Pillow, and the runtime that manifest.json names.

    python run.py photo.jpg more/*.png [--threshold 0.4] [--maps folder] [--threads 2]

prints a line of JSON for each photo. From Python:

    from run import Runner
    judged = Runner("folder").judge("photo.jpg")  # judged.verdict, judged.score, judged.anomaly_map
"""

import argparse
import hashlib
import json
import math
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

FORMAT = "vandkit export 1"
DEPTHS = (8, 12, 16)
LEAST = 1e-6
LEAST_SIDE = 4
UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, zlib.error, PIL.Image.DecompressionBombError)

Photo = str | Path | PIL.Image.Image
Arrays = dict[str, np.ndarray]
Network = Callable[[Arrays], list[np.ndarray]]
"""From images and a state by name to maps and scores."""


@dataclass(frozen=True)
class Judged:
    """A verdict (DEFECT, OK, undecided), the raw score, and the map (h, w) float32; higher is worse."""

    verdict: str
    score: float
    anomaly_map: np.ndarray


class Runner:
    """An exported folder. `threads` 0 is one for each core; `threshold` stands in place of the folder's.

    The whole photo and its tiles are looked at side by side, one to a thread; a photo without tiles has all threads.
    Raises ValueError where a file is not what the manifest says.
    """

    def __init__(self, folder: str | Path = ".", threshold: float | None = None, threads: int = 0):
        folder = Path(folder)
        self.manifest = checked(folder)
        self.threshold = self.manifest["threshold"]
        if threshold is not None:
            self.threshold = {"value": float(threshold), "highest_normal": None, "undecided": ""}
        self.threads = threads or cores()
        self.states: dict[str, Arrays] = {}
        with np.load(folder / "state.npz", allow_pickle=False) as arrays:
            for key in arrays.files:
                part, name = key.split("/")
                self.states.setdefault(part, {})[name] = arrays[key]
        self.path = folder / self.manifest["network"]
        self.pool = ThreadPoolExecutor(self.threads)
        self.networks: dict[bool, Network] = {}
        self._network(side_by_side=self.threads > 1 and self.manifest["tiles"] is not None)

    def judge(self, photo: Photo) -> Judged:
        """What is to be said of a photo: a path, or a PIL image."""
        score, anomaly_map = self.predict(photo)
        return Judged(self.verdict(score), score, anomaly_map)

    def predict(self, photo: Photo) -> tuple[float, np.ndarray]:
        """The score of a photo, and its map (h, w) float32."""
        image = opened(photo, self.manifest["bit_depth"])
        tiles = self.manifest["tiles"]
        if tiles is None:
            ((anomaly_map, score),) = self._seen(image, [])
            return float(score), anomaly_map
        grid = layout(image.size, tiles)
        image, places = reduced(image, tiles, grid), list(boxes(grid, tiles["overlap"]))
        (whole, score), *seen = self._seen(image, places)
        level, side = self._levels(score), tiles["map_side"]
        anomaly_map = resized(whole, (side, side))
        if places:
            joined = joined_maps([each for each, _ in seen], places, side, tiles["overlap"])
            anomaly_map = anomaly_map + np.float32(tiles["map_weight"]) * (joined - anomaly_map)
            highest = self._levels(np.stack([score for _, score in seen])).max() - np.float32(tiles["above"])
            level = level + np.float32(tiles["score_weight"]) * (highest - level)
        return float(1 / (1 + np.exp(-level)) if self.manifest["probabilities"] else level), anomaly_map

    def verdict(self, score: float) -> str:
        """DEFECT from the threshold on; undecided between the highest reference and it, or where nothing tells."""
        highest, value = self.threshold["highest_normal"], self.threshold["value"]
        above = highest is None or score > highest
        if self.threshold["undecided"] and above:
            return "undecided"
        if score >= value:
            return "DEFECT"
        return "undecided" if highest is not None and above else "OK"

    def _seen(self, image: PIL.Image.Image, places: list) -> list:
        """Map and score of the whole, and of each tile by what was learnt at the nearest position."""
        learnt = self.manifest["tiles"]["places"] if places else []
        parts = [f"tile{nearest(place, learnt)}" if learnt else "whole" for place in places]
        views = [("whole", (0.0, 0.0, 1.0, 1.0)), *zip(parts, places, strict=True)]
        side_by_side = len(views) > 1 and self.threads > 1
        network = self._network(side_by_side)

        def looked_at(view: tuple) -> tuple:
            part, (left, top, right, bottom) = view
            width, height = image.size
            cut = image.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))
            prepared = preprocessed(cut, self.manifest["preprocess"])[None]
            maps, scores = network({"images": prepared, **self.states[part]})
            return maps[0], scores[0]

        return list(self.pool.map(looked_at, views) if side_by_side else map(looked_at, views))

    def _network(self, side_by_side: bool) -> Network:
        """Made when first needed: for as many calls at a time as there are threads, or for one on all of them."""
        if side_by_side not in self.networks:
            at_once = self.threads if side_by_side else 1
            shapes = [{name: each.shape for name, each in state.items()} for state in self.states.values()]
            runtime = {"onnxruntime": onnxruntime_network, "openvino": openvino_network, "torch": torch_network}
            make = runtime[self.manifest["runtime"]]
            self.networks[side_by_side] = make(self.path, self.threads // at_once, at_once, shapes)
        return self.networks[side_by_side]

    def _levels(self, scores: np.ndarray) -> np.ndarray:
        """Scores on a scale whose differences compare: log odds of probabilities."""
        if not self.manifest["probabilities"]:
            return scores
        held = scores.astype(np.float64).clip(LEAST, 1 - LEAST)
        return np.log(held / (1 - held)).astype(np.float32)


def checked(folder: Path) -> dict[str, Any]:
    """The manifest of a folder whose files are what it says."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"expected a folder of the format {FORMAT}, got {manifest.get('format')}: export it again")
    for name, digest in manifest["files"].items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest() if (folder / name).is_file() else "no file"
        if found != digest:
            raise ValueError(f"expected {name} with sha256 {digest}, got {found}: copy or export the folder again")
    return manifest


def onnxruntime_network(path: Path, threads: int, at_once: int, shapes: list) -> Network:
    """A model of ONNX, run with so many threads for each of `at_once` calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # 3 % slower than with it; memory goes back after each photo
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    known = {each.name for each in session.get_inputs()}
    return lambda given: session.run(None, {name: given[name] for name in given if name in known})


def openvino_network(path: Path, threads: int, at_once: int, shapes: list) -> Network:
    """A model of OpenVINO, of fixed sizes where all states have the same: a quarter quicker."""
    import openvino

    model = openvino.Core().read_model(path)
    known = {name for each in model.inputs for name in each.names}
    if all(each == shapes[0] for each in shapes):
        images = [1, *(size.get_length() for size in list(model.input("images").partial_shape)[1:])]
        model.reshape({"images": images, **{name: list(shapes[0][name]) for name in shapes[0] if name in known}})
    hints = {
        "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": at_once, "INFERENCE_NUM_THREADS": threads * at_once,
    }  # fmt: skip
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    free: SimpleQueue = SimpleQueue()
    for _ in range(at_once):
        free.put(compiled.create_infer_request())

    def run(given: Arrays) -> list[np.ndarray]:
        request = free.get()
        try:
            found = request.infer({name: given[name] for name in given if name in known}, share_inputs=True)
            return [np.array(found[i]) for i in range(2)]
        finally:
            free.put(request)

    return run


def torch_network(path: Path, threads: int, at_once: int, shapes: list) -> Network:
    """A model of TorchScript."""
    import torch

    network = torch.jit.load(str(path))

    def run(given: Arrays) -> list[np.ndarray]:
        torch.set_num_threads(threads)  # of the thread that calls
        tensors = {name: torch.from_numpy(array) for name, array in given.items()}
        with torch.inference_mode():
            return [found.numpy() for found in network(tensors.pop("images"), tensors)]

    return run


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def opened(photo: Photo, bit_depth: int | None) -> PIL.Image.Image:
    """A photo in RGB: upright, transparency on white, more than eight bits scaled down to eight."""
    if not isinstance(photo, PIL.Image.Image) and Path(photo).is_dir():
        raise ValueError("expected a photo, got a folder: name its files, as folder/*.png")
    image = photo if isinstance(photo, PIL.Image.Image) else PIL.ImageOps.exif_transpose(PIL.Image.open(photo))
    if min(image.size) < LEAST_SIDE:
        raise ValueError(f"expected {LEAST_SIDE} or more pixels along each side, got {image.width} x {image.height}")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        depth = bit_depth or next((each for each in DEPTHS if values.max() < 2**each), 16)
        image = PIL.Image.fromarray((values >> (depth - 8)).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("expected a photo of whole numbers, got one of floats: save it with 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def preprocessed(image: PIL.Image.Image, how: dict[str, Any]) -> np.ndarray:
    """(3, S, S) float32: bicubic to the square, less the mean and over the deviation."""
    square = image.resize((how["image_size"],) * 2, PIL.Image.Resampling.BICUBIC)
    pixels = np.asarray(square, dtype=np.float32) / 255
    normal = (pixels - np.asarray(how["mean"], np.float32)) / np.asarray(how["std"], np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1))


def layout(size: tuple[int, int], tiles: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of tiles of a photo of (width, height); (0, 0) for the whole alone."""
    short, long, side, kind = min(size), max(size), tiles["side"], tiles["tiles"]
    if kind == "native":
        along_short = min(tiles["most_native"], count(short / side, tiles))
    else:
        along_short = int(kind) if kind != "auto" else 2 if short > tiles["large"] * side else 1
    width = short * share(along_short, tiles["overlap"])
    along_long = max(along_short, count(long / width / tiles["stretch"], tiles))
    if along_long == 1:
        return 0, 0
    return (along_short, along_long) if size[0] >= size[1] else (along_long, along_short)


def reduced(image: PIL.Image.Image, tiles: dict[str, Any], grid: tuple[int, int]) -> PIL.Image.Image:
    """A photo averaged down by a whole factor, as far as its tiles allow."""
    down, across = (share(n, tiles["overlap"]) for n in grid)
    factor = int(min(image.width * across, image.height * down) / (tiles["kept_times"] * tiles["side"]))
    return image.reduce(factor) if factor > 1 else image


def share(number: int, overlap: float) -> float:
    """A tile's share of a side along which so many of them overlap; of none, the whole side."""
    number = max(1, number)
    return 1 / (number - (number - 1) * overlap)


def count(times: float, tiles: dict[str, Any]) -> int:
    """The fewest tiles along a side that is so many times a tile's."""
    return max(1, math.ceil((times - tiles["overlap"]) / (1 - tiles["overlap"]) - 1e-6))


def boxes(of: tuple[int, int], overlap: float) -> Iterator[tuple[float, ...]]:
    """Left, top, right and bottom of each tile in shares of the sides, row by row."""
    rows, columns = of
    down, across = (share(n, overlap) for n in of)
    for row in range(rows):
        top = (1 - down) * row / max(1, rows - 1)
        for column in range(columns):
            left = (1 - across) * column / max(1, columns - 1)
            yield left, top, left + across, top + down


def nearest(box: tuple[float, ...], places: list) -> int:
    """Which of the places has its middle nearest to a box's."""
    middle = [
        (each[0] + each[2] - box[0] - box[2]) ** 2 + (each[1] + each[3] - box[1] - box[3]) ** 2 for each in places
    ]
    return middle.index(min(middle))


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) to another size, bilinear, corners not aligned."""
    for axis, new in enumerate(size):
        old = values.shape[axis]
        position = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0)
        before = position.astype(int)
        share = (position - before).astype(np.float32)[(slice(None), None) if axis == 0 else slice(None)]
        after = np.minimum(before + 1, old - 1)
        values = values.take(before, axis) * (1 - share) + values.take(after, axis) * share
    return values


def joined_maps(maps: list, places: list, side: int, overlap: float) -> np.ndarray:
    """The maps (h, w) of tiles as one (side, side), weights falling to zero at the tiles' edges."""
    total, weights = np.zeros((2, side, side), np.float32)
    for tile, place in zip(maps, places, strict=True):
        left, top, right, bottom = (round(edge * side) for edge in place)
        size = (bottom - top, right - left)
        down, across = (fading(length, overlap) for length in size)
        weight = down[:, None] * across
        total[top:bottom, left:right] += weight * resized(tile, size)
        weights[top:bottom, left:right] += weight
    return total / weights


def fading(length: int, overlap: float) -> np.ndarray:
    """Weights along a tile's side: 1 inside, falling to nearly 0 over the overlap at both ends."""
    position = np.arange(length, dtype=np.float32) + np.float32(0.5)
    return np.minimum(np.minimum(position, length - position) / np.float32(overlap * length), 1).astype(np.float32)


def main() -> None:
    """Judge the photos of the command line; ends with 3 if one could not be read."""
    parser = argparse.ArgumentParser(description="Judge photos by the exported model in this folder.")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--folder", default=Path(__file__).parent, help="the exported folder")
    parser.add_argument("--threshold", type=float, help="image score from which a photo is a defect")
    parser.add_argument("--maps", type=Path, help="write each map there, as .npy")
    parser.add_argument("--threads", type=int, default=0)
    given = parser.parse_args()
    try:
        if given.threads < 0:
            raise ValueError(f"expected --threads to be 0, one for each core, or a number of them, got {given.threads}")
        if given.maps:
            given.maps.mkdir(parents=True, exist_ok=True)
        runner = Runner(given.folder, given.threshold, given.threads)
    except (OSError, ValueError, KeyError, ImportError) as error:
        sys.exit(f"error: {error}")
    unread = 0
    for number, photo in enumerate(given.photos):
        try:
            judged = runner.judge(photo)
        except UNREADABLE as error:
            unread += 1
            print(json.dumps({"file": photo, "score": None, "verdict": "unreadable", "note": str(error)}), flush=True)
            continue
        row = {"file": photo, "score": judged.score, "verdict": judged.verdict, "threshold": runner.threshold["value"]}
        if given.maps:
            row["map"] = str(given.maps / f"{number:06d}-{Path(photo).stem}.npy")
            np.save(row["map"], judged.anomaly_map)
        print(json.dumps(row), flush=True)
    sys.exit(3 if unread else 0)


if __name__ == "__main__":
    main()
