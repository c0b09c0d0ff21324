"""The same from Python: each call runs exactly what the command of its name runs.

```python
from tracks.api import learn, load_model, predict_folder, run_track, score

model = load_model("clip_adapter", weights="tiny")
learn(model, "good_parts", "steel bracket")
print(score(model, "photo.jpg", "steel bracket")[0].score)
print(predict_folder("photos", references="good_parts", category="steel bracket").table())
print(run_track("few_shot", shots=4, data="mvtec", root="/data/mvtec"))
```
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import tracks.command.config  # noqa: F401  (registers the schema)
from models.base import AnomalyModel, Prediction, as_batch
from models.references import Prepared, joined
from models.transductive import TransductiveModel
from tracks.command.explained import CONF
from tracks.command.text_settings import in_quotes
from tracks.datasets.images import read_image
from tracks.datasets.photos import find_images
from tracks.decide.verdict import CSV_FILE
from tracks.errors import TrackInputError
from tracks.run.build import build_model, pick_device
from tracks.run.resize import resize_map

Image = str | Path | PIL.Image.Image | np.ndarray
"""A path, a PIL image, or an array (h, w) or (h, w, 3) of uint8."""
AT_ONCE = 8
SHORT = {"root": "data.root"}


@dataclass(frozen=True)
class Scored:
    """What a model says of one image: its score, and its map (h, w) float32 at the image's size; higher is worse."""

    score: float
    anomaly_map: np.ndarray


@dataclass(frozen=True)
class TrackResults:
    """A finished run: its folder, and the content of its results.json."""

    folder: Path
    results: Mapping[str, Any]

    def table(self) -> pd.DataFrame:
        """A row for each category and the mean, as in results.csv."""
        return pd.read_csv(self.folder / "results.csv", dtype={"category": str}, keep_default_na=False, na_values=[""])

    def __str__(self) -> str:
        """The table as Markdown."""
        return (self.folder / "results.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class PhotoResults:
    """Judged photos: the folder with their page, table, maps and overlays."""

    folder: Path

    def table(self) -> pd.DataFrame:
        """A row for each photo, as in predictions.csv."""
        text = (self.folder / CSV_FILE).read_text(encoding="utf-8-sig", errors="surrogateescape")
        return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values={"score": [""], "threshold": [""]})

    def __str__(self) -> str:
        """How many photos got which verdict."""
        return ", ".join(f"{count} {verdict}" for verdict, count in self.table()["verdict"].value_counts().items())


def load_model(
    name: str = "clip_adapter", *, weights: str = "tiny", device: str = "auto", **settings: Any
) -> AnomalyModel:
    """The model that `vandkit predict model=NAME weights=WEIGHTS` builds, on a device, in evaluation mode.

    `settings` are those of the command (`tiles="whole"`) and, with any other name, arguments of the model
    (`max_references=8`).

    Raises:
        TrackInputError, ModelInputError: a name that is not known, weights that are not here, values that do not fit.
    """
    return build_model(composed("predict", {"model": name, "weights": weights, **settings}), pick_device(device))


def learn(model: AnomalyModel, references: Image | Sequence[Image], category: str = "object") -> None:
    """Show a model the normal images of a category: paths (a folder: all in it), PIL images or arrays."""
    images = [model.preprocess(image) for image in _pictures(references)]
    with torch.inference_mode():
        model.fit(as_batch(images, str(model.device)), category)


def score(model: AnomalyModel, images: Image | Sequence[Image], category: str = "object") -> list[Scored]:
    """Score images of a category: paths (a folder: all in it), PIL images or arrays; one result each, in order.

    A transductive model scores them by each other.
    """
    found: list[Scored] = []
    pictures = _pictures(images)
    if isinstance(model, TransductiveModel):
        with torch.inference_mode():
            parts = [part.cpu() for part in model.predict_together(Prepared(pictures, model.preprocess), category)]
        return _found(pictures, joined(parts, range(len(pictures))))
    for start in range(0, len(pictures), AT_ONCE):
        part = pictures[start : start + AT_ONCE]
        batch = as_batch([model.preprocess(image) for image in part], str(model.device))
        with torch.inference_mode():
            prediction = model.predict(batch, [category] * len(part)).cpu()
        found += _found(part, prediction)
    return found


def _found(pictures: Sequence[PIL.Image.Image], prediction: Prediction) -> list[Scored]:
    each = zip(pictures, prediction.anomaly_maps, prediction.image_scores, strict=True)
    return [
        Scored(float(value), resize_map(one, (image.height, image.width), np.float32)) for image, one, value in each
    ]


def predict_folder(
    images: str | Path | Sequence[str | Path], references: str | Path | None = None, category: str = "object", *,
    quiet: bool = True, **settings: Any,
) -> PhotoResults:  # fmt: skip
    """Judge photos as `vandkit predict` does, its settings by name; `quiet=False` prints what it prints.

    `images` is a folder, a file, a pattern or a list of them.
    """
    from tracks.decide.settings import describe, output_folder, recorded
    from tracks.predict import predict

    paths = str(images) if isinstance(images, str | Path) else [str(path) for path in images]
    given = {"images": paths, "references": None if references is None else str(references), "category": category}
    cfg = recorded(composed("predict", {**given, **settings}))
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        predict(cfg)
    return PhotoResults(output_folder(cfg, describe(cfg)))


def run_track(track: str = "few_shot", *, quiet: bool = True, **settings: Any) -> TrackResults:
    """Run a track as `vandkit zero-shot` and `vandkit few-shot` do; `root` is short for `data.root`."""
    from tracks.run.track import run_track as run

    if track not in ("zero_shot", "few_shot"):
        raise TrackInputError(f"expected the track to be zero_shot or few_shot, got {track!r}")
    cfg = composed(track, settings)
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        results = run(cfg, track)
    return TrackResults(Path(results["folder"]), results)


def composed(config: str, settings: Mapping[str, Any]) -> DictConfig:
    """The configuration of a command with settings by name; a name that it has not is an argument of the model."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        known = {str(key) for key in compose(config, [])} | {path.name for path in CONF.iterdir() if path.is_dir()}
        words = [_override(key, value, known) for key, value in settings.items()]
        HydraConfig.instance().set_config(compose(config, words, return_hydra_config=True))
        return compose(config, words)


def _override(key: str, value: Any, known: set[str]) -> str:
    key = SHORT.get(key, key)
    if "." not in key and key not in known:
        key = f"model.{key}"
    if isinstance(value, str) and (CONF / key).is_dir():
        return f"{key}={value}"
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(_value, value))}]"
    return in_quotes(str(value))


def _pictures(images: Image | Sequence[Image]) -> list[PIL.Image.Image]:
    return list(_each(images))


def _each(images: Image | Sequence[Image]) -> Iterator[PIL.Image.Image]:
    if isinstance(images, PIL.Image.Image):
        yield images
    elif isinstance(images, np.ndarray):
        yield PIL.Image.fromarray(images)
    elif isinstance(images, str | Path):
        path = Path(images).expanduser()
        yield from (read_image(each) for each in (find_images(path) if path.is_dir() else [path]))
    else:
        for image in images:
            yield from _each(image)
