"""The `Model` that the harness of VAND 3.0's few-shot track (MVTec LOCO, 2025) loads, around any model of ours.

For each category the harness makes `Model()`, asks `weights_url(category)`, moves it to its device, and for each draw
of k images calls `setup({"few_shot_samples": (k, 3, 256, 256) in [0, 1], "dataset_category": name})`, then
`model(images)` on batches (B, 3, 256, 256) in [0, 1]. It scores `pred_score` (B,) of what comes back; `anomaly_map` is
not looked at. So its file src/eval/submission/model.py needs one line, where this project is installed:
`from tracks.submission.vand2025_model import Model`.

Source: the harness's evaluate.py. Assumed, as no source states it: with k = 0 `few_shot_samples` is None or absent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from models.base import AnomalyModel, as_batch
from models.clip.backbone import load_backbone
from models.clip.text import PromptEnsemble
from models.clip_adapter.checkpoint import trained_adapter
from models.clip_adapter.model import ClipAdapter
from models.vector_adapter.checkpoint import trained_vectors
from tracks.errors import TrackInputError

CONF = Path(__file__).resolve().parents[2] / "conf"


@dataclass(frozen=True)
class Scored:
    """What `Model` returns where anomalib is not installed; the fields are named as those of its ImageBatch."""

    image: Tensor
    pred_score: Tensor
    anomaly_map: Tensor


class Model(nn.Module):
    """A model of ours as the harness wants it: pixels in [0, 1] in, image scores and maps out.

    Args:
        build: makes the model; by default the one that ships with the project. For another, subclass `Model` in the
            harness's file and give its maker to `super().__init__`.
    """

    def __init__(self, build: Callable[[], AnomalyModel] | None = None) -> None:
        super().__init__()
        self.model = (build or shipped_model)().eval()
        self.category: str | None = None
        self._fitted = False

    def weights_url(self, category: str) -> str | None:
        """None: the weights come with the model, for every category."""
        return None

    def setup(self, setup_data: Mapping[str, Any]) -> None:
        """Take the k normal images (k, 3, h, w) in [0, 1] of a category in place of any earlier ones.

        Raises:
            TrackInputError: no category, images of another shape or range, or none after a call with some.
        """
        category, images = setup_data.get("dataset_category"), setup_data.get("few_shot_samples")
        if not isinstance(category, str) or not category:
            raise TrackInputError(f"expected the name of a category as dataset_category, got {category!r}")
        if images is None or not len(images):
            if self._fitted:
                raise TrackInputError(
                    "expected few_shot_samples, as in the call before, got none; make a new Model to go on without"
                )
        else:
            with torch.inference_mode():
                self.model.fit(self._preprocessed(images), category)
            self._fitted = True
        self.category = category

    def forward(self, image: Tensor) -> Any:
        """Score B images (B, 3, h, w) in [0, 1], each by itself: an ImageBatch of anomalib, or `Scored` without it.

        `pred_score` is (B,) and `anomaly_map` (B, h, w), both float32, higher = more anomalous.

        Raises:
            TrackInputError: before `setup`, or images of another shape or range.
        """
        if self.category is None:
            raise TrackInputError("expected setup(...) with a category before the first image, got none")
        with torch.inference_mode():
            found = self.model.predict(self._preprocessed(image), [self.category] * len(image))
            maps = functional.interpolate(found.anomaly_maps[:, None].float(), image.shape[-2:], mode="bilinear")
        scores, maps = found.image_scores.float().to(image.device), maps[:, 0].to(image.device)
        return result_type()(image=image, pred_score=scores.clone(), anomaly_map=maps.clone())

    def _preprocessed(self, images: Tensor) -> Any:
        """Pixels as photos of 8 bit, then through the model's own preprocessing."""
        photos = [to_photo(image) for image in checked_images(images)]
        return as_batch([self.model.preprocess(photo) for photo in photos], str(images.device))


def result_type() -> Callable[..., Any]:
    """The ImageBatch of anomalib where that is installed, as in the harness, else `Scored`."""
    try:
        from anomalib.data import ImageBatch
    except ImportError:
        return Scored
    return ImageBatch


def checked_images(images: Tensor) -> Tensor:
    """The images, (N, 3, h, w) float in [0, 1]; TrackInputError for anything else."""
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise TrackInputError(
            f"expected float images (N, 3, h, w) in [0, 1], got {tuple(images.shape)} {images.dtype}; give them as the "
            "harness does"
        )
    low, high = float(images.min()), float(images.max())
    if not (-1e-3 <= low <= high <= 1 + 1e-3):
        raise TrackInputError(
            f"expected pixels in [0, 1], got {low:.4g} to {high:.4g}; divide by 255, do not normalise"
        )
    return images


def to_photo(image: Tensor) -> PIL.Image.Image:
    """(3, h, w) in [0, 1] as an RGB image of 8 bit, to the nearest level."""
    levels = (image.detach().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return PIL.Image.fromarray(np.ascontiguousarray(levels.cpu().numpy()))


def shipped_model() -> AnomalyModel:
    """The CLIP and adapter that ship with the project, with the settings of conf/weights/tiny.yaml."""
    weights, words = _settings("weights/tiny"), _settings("prompts/april_gan")
    chosen = dict(_settings("variants")["files"]["model/preset/clip_adapter_tiny"])
    chosen["vectors"] = trained_vectors(weights["vectors"])
    prompts = PromptEnsemble(
        normal_states=_texts(words["normal_states"]),
        anomalous_states=_texts(words["anomalous_states"]),
        templates=_texts(words["templates"]),
        clean_names=weights["clean_names"],
    )
    backbone = load_backbone(weights["backbone"]["name"], weights=weights["backbone"]["weights"])
    return ClipAdapter(backbone, trained_adapter(weights["adapter"]["path"]), prompts, **chosen)


def _settings(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))


def _texts(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(values)
