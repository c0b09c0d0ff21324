"""APRIL-GAN by its authors' own command, as a process of `benchmarks.authors`: seconds of each image, and its map.

    python -m benchmarks.april_gan_side CHECKOUT FOLDER SHOTS

FOLDER holds what `benchmarks.authors` puts there: pictures, `meta.json`, `clip.pt` and `adapter.pth`. Their `test` is
called as it is but for four things: overlays are not written, no metric is computed, packages that only metrics need
may be missing, and without a GPU what is sent to one stays.
"""

import sys
import time
from argparse import Namespace
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

MODEL, SIDE, STAGES = "ViT-L-14-336", 518, [6, 12, 18, 24]


class Finished(Exception):
    """All images were scored."""


def finish(*_: Any) -> None:
    """In place of the first metric."""
    raise Finished


def main() -> None:
    """Write `theirs.npz`: the maps, and when each was made, by the clock and by the processor."""
    checkout, folder, shots = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for name, content in (("tabulate", {"tabulate": lambda *_, **__: ""}), ("skimage", {"measure": None})):
        if find_spec(name) is None:
            sys.modules[name] = module_from_spec(ModuleSpec(name, None))
            vars(sys.modules[name]).update(content)
    sys.path.insert(0, str(checkout))
    theirs = import_module("test")
    maps, times = [], []

    def seen(anomaly_map: np.ndarray) -> np.ndarray:
        maps.append(anomaly_map.copy())
        times.append((time.perf_counter(), time.process_time()))
        return np.zeros_like(anomaly_map)

    theirs.normalize, theirs.roc_auc_score, theirs.cv2.imwrite = seen, finish, lambda *_: True
    if not torch.cuda.is_available():  # their encoder names the device
        moved: Any = torch.Tensor.to
        torch.Tensor.to = lambda self, *to, **named: moved(  # type: ignore[method-assign]
            self, *("cpu" if isinstance(each, str) else each for each in to), **named
        )
    theirs.setup_seed(0)
    config = checkout / "open_clip/model_configs" / f"{MODEL}.json"
    settings = {
        "data_path": str(folder), "save_path": str(folder / "theirs"), "checkpoint_path": str(folder / "adapter.pth"),
        "config_path": str(config), "dataset": "mvtec", "model": MODEL, "pretrained": str(folder / "clip.pt"),
        "features_list": STAGES, "few_shot_features": STAGES, "image_size": SIDE,
        "mode": "few_shot" if shots else "zero_shot", "k_shot": shots, "seed": 0,
    }  # fmt: skip
    with suppress(Finished):
        theirs.test(Namespace(**settings))
    drawn = (folder / "theirs/k_shot.txt").read_text().split()[-shots:] if shots else []
    np.savez(folder / "theirs.npz", maps=np.stack(maps), times=times, drawn=drawn)


if __name__ == "__main__":
    main()
