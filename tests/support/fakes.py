"""A data set and a model small enough to reason about, for tests of everything around them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from models.base import AnomalyModel, Prediction, stacked
from models.transductive import TransductiveModel, batches


@dataclass(frozen=True)
class FakeSample:
    """A grey square; an anomalous one has a bright patch whose place depends on its number."""

    name: str
    category: str
    label: int | None
    defect_type: str
    number: int
    fingerprint: str = "1"
    size: int = 32

    def load_image(self) -> PIL.Image.Image:
        image = np.full((self.size, self.size, 3), 60 + self.number % 7, dtype=np.uint8)
        mask = self.load_mask()
        if mask is not None:
            image[mask] = 220
        return PIL.Image.fromarray(image)

    def load_mask(self) -> np.ndarray | None:
        mask = np.zeros((self.size, self.size), dtype=bool)
        if self.label:
            start = 4 + self.number % 8
            mask[start : start + 6, 8:18] = True
        return mask


class FakeDataset:
    """Two categories of grey squares; counts how often it was asked for train images."""

    name = "fake"
    categories = ("bolt", "nut")

    def __init__(self, images_per_category: int = 10):
        self.images_per_category = images_per_category
        self.train_calls = 0

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        return {"masks": "planted"}

    def train(self, category: str) -> Sequence[FakeSample]:
        self.train_calls += 1
        return [FakeSample(f"train/good/{i:03d}.png", category, 0, "good", i) for i in range(5)]

    def test(self, category: str) -> Sequence[FakeSample]:
        good = [
            FakeSample(f"test/good/{i:03d}.png", category, 0, "good", i) for i in range(self.images_per_category // 2)
        ]
        bad = [FakeSample(f"test/bad/{i:03d}.png", category, 1, "bad", i) for i in range(self.images_per_category // 2)]
        return good + bad


class BrightnessModel(AnomalyModel):
    """Calls bright pixels anomalous; references lower the scale by their own brightness."""

    def __init__(self, fail_after: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1), requires_grad=False)
        self.levels: dict[str, float] = {}
        self.images_seen: list[int] = []
        self.fail_after = fail_after

    @staticmethod
    def preprocess(image: PIL.Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)

    def fit(self, references: Tensor, category: str) -> None:
        self.levels[category] = float(references.mean())

    def predict(self, images: Tensor, categories: Sequence[str]) -> Prediction:
        if self.fail_after is not None and sum(self.images_seen) >= self.fail_after:
            raise KeyboardInterrupt
        self.images_seen.append(len(images))
        level = torch.tensor([self.levels.get(category, 0.0) for category in categories])
        maps = images.mean(1) - level[:, None, None]
        scores = maps.flatten(1).amax(1)
        return Prediction(maps, scores, {"text_score": scores / 2, "map_max": scores})

    def reference_prediction(self, category: str) -> Prediction:
        raise NotImplementedError

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        return {"rule": "brightness"}


class FromTheMean(TransductiveModel):
    """Calls anomalous what differs from the mean of all test images, and of the references if there are any."""

    def __init__(self, fail_after: int | None = None):
        super().__init__()
        self.asked: list[int] = []
        self.fail_after = fail_after

    preprocess = staticmethod(BrightnessModel.preprocess)

    def fit(self, references, category):
        self._states[category] = {"known": torch.stack(list(references)).to(self.device)}

    def _together(self, images, category, at_once):
        self.asked.append(len(images))
        known = self._states[category]["known"] if self._states else []
        total = sum(
            self._grey(part).sum(dim=0) for part in (*batches(images, at_once), *([known] if len(known) else []))
        )
        mean, handed_out = total / (len(images) + len(known)), 0
        for part in batches(images, at_once):
            if self.fail_after is not None and handed_out >= self.fail_after:
                raise KeyboardInterrupt
            maps = (self._grey(part) - mean).abs()
            yield Prediction(maps, maps.amax(dim=(1, 2)), {"spread": maps.flatten(1).std(dim=1)})
            handed_out += len(part)

    def _grey(self, images):
        return stacked(images, self.device).mean(dim=1)

    @property
    def protocol(self):
        return {"rule": "distance from the mean"}
