"""A fitted product: one file with all that judging photos of one category takes but the weights.

A safetensors file. Its metadata `product` is JSON: the settings that the model is built from, the digest of its
weights, what the references scored. Its tensors are `state.*`, what the model learnt (`AnomalyModel.state`);
`reference<i>.*`, the references as the model's `preprocess` made them, which adding more of them needs; and `pixels`.
"""

import copy
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from eval.ranking.histogram import ValueCounts
from models.base import AnomalyModel, State, below
from models.errors import ModelInputError
from models.references import Prepared
from models.tensor_file import DIGEST_KEY, read_metadata, read_tensors, write_tensors
from tracks.datasets.region import Region
from tracks.decide.asked import Asked
from tracks.decide.kept import Facts, Kept
from tracks.decide.settings import region_of
from tracks.decide.threshold import Threshold
from tracks.errors import TrackInputError
from tracks.run.fingerprint import weights_digest
from tracks.run.runner import RunnerOptions

FORMAT = "vandkit product 2"
LEVELS = 256


@dataclass(frozen=True)
class Product:
    """What is kept.

    `config` is the constructor of the model, a plain container; `names` are those of the references; `judged` is the
    threshold that judged photos gave, None where the references give it.
    """

    category: str
    config: dict[str, Any]
    tiles: str | int
    defects: list[str]
    bit_depth: int | None
    weights: str
    names: list[str]
    facts: Facts
    judged: Threshold | None
    state: State = field(repr=False)
    images: list[State] = field(repr=False)
    digest: str = ""
    region: Region | None = None

    def settings(self, cfg: DictConfig) -> DictConfig:
        """The settings of a command with those of the product in their place.

        Raises:
            TrackInputError: one that was given is another than the product's, or a file that names strange code.
        """
        if cfg.get("references"):
            raise TrackInputError(
                "expected a product or references, got both; add good parts with `vandkit fit product=file add=folder`"
            )
        given_region = region_of(cfg)
        if given_region is not None and (self.region is None or given_region.digest != self.region.digest):
            learnt = "whole photos" if self.region is None else "another region"
            raise TrackInputError(
                f"expected the region of interest that the product was fitted with, got one, but it learnt {learnt}; "
                "leave roi out, or fit another product with `vandkit fit references=... roi=...`"
            )
        own = {"category": self.category, "tiles": self.tiles, "bit_depth": self.bit_depth}
        for key, value in own.items():
            if cfg[key] not in (None, "", value):
                raise _other(key, value, cfg[key])
        if cfg.prompts.defects and list(cfg.prompts.defects) != self.defects:
            raise _other("prompts.defects", self.defects, list(cfg.prompts.defects))
        mine = copy.deepcopy(cfg)
        mine.prompts.defects = self.defects
        given = OmegaConf.to_container(mine.model, resolve=True)
        if _chosen() and given != self.config:
            ours, theirs = (dict(_leaves(each)) for each in (self.config, given))
            key = next(key for key in (*ours, *theirs) if ours.get(key) != theirs.get(key))
            raise _other(f"model.{key}", ours.get(key), theirs.get(key))
        _check_targets(self.config, given)
        mine.model = OmegaConf.create(self.config)
        for key, value in own.items():
            mine[key] = value
        return mine

    def load_into(self, model: AnomalyModel) -> AnomalyModel:
        """Let a model, built by the product's settings, know the category as if it had been fitted.

        Raises:
            TrackInputError: its weights are not those that the product was fitted with.
        """
        if (found := weights_digest(model)) != self.weights:
            raise TrackInputError(
                f"expected the weights that the product was fitted with (digest {self.weights}), got others ({found}): "
                "they have changed since; bring those back, or fit the product again with `vandkit fit`"
            )
        with torch.inference_mode():
            model.load_state(self.state, self.category, Prepared(self.images, unpacked))
        return model

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        kept = {key: getattr(self, key) for key in ("category", "config", "tiles", "defects", "bit_depth", "weights")}
        facts = {key: value for key, value in vars(self.facts).items() if key != "pixels"}
        judged = None if self.judged is None else asdict(self.judged)
        text = json.dumps({**kept, "names": self.names, "facts": facts, "judged": judged})
        tensors = {f"state.{name}": tensor for name, tensor in self.state.items()}
        for i, image in enumerate(self.images):
            tensors |= {f"reference{i}.{name}": tensor for name, tensor in image.items()}
        if self.region is not None:
            tensors["region"] = _as_png(self.region.mask)
        tensors["pixels"] = torch.from_numpy(self.facts.pixels.as_array())
        write_tensors(path, tensors, {"format": FORMAT, "product": text})


def read_product(path: str | Path) -> Product:
    """The product of a file.

    Raises:
        TrackInputError: no such file, or not one that `vandkit fit` wrote.
        ModelInputError: a damaged file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise TrackInputError(f"expected a fitted product, got {file}, which is no file; make one with `vandkit fit`")
    found = read_metadata(file).get("format", "")
    if found != FORMAT and found.startswith(FORMAT[:-1]):
        raise TrackInputError(f"expected a {FORMAT}, got {file}, a {found} of another version; fit it again")
    if found != FORMAT:
        raise TrackInputError(f"expected a product that `vandkit fit` wrote, got {file}, which is another file")
    tensors, metadata = read_tensors(file)
    try:
        kept = json.loads(metadata["product"])
        facts = Facts(**kept.pop("facts"), pixels=ValueCounts.from_array(tensors["pixels"].numpy()))
        judged = None if kept["judged"] is None else _threshold(kept["judged"])
        images = [below(tensors, f"reference{i}.") for i in range(len(kept["names"]))]
        region = Region(_of_png(tensors["region"]) > 0) if "region" in tensors else None
        known = {**kept, "region": region, "facts": facts, "judged": judged, "digest": metadata[DIGEST_KEY]}
        return Product(**known, state=below(tensors, "state."), images=images)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelInputError(
            f"expected {file} to hold a product, got one that another version wrote ({error}); fit it again"
        ) from error


def _threshold(kept: Mapping[str, Any]) -> Threshold:
    known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    return Threshold(**{each.name: known[each.name] for each in fields(Threshold)})


class AskedOfProduct(Asked):
    """The model of a run that has learnt from a product's file, not from references."""

    def __init__(self, product: Product, build: Callable[[], AnomalyModel], options: RunnerOptions):
        super().__init__(lambda: product.load_into(build()), product.category, [], options, product.region)
        self.product, self.names = product, product.names

    def facts(self, kept: Kept) -> Facts:
        """What was found when the product was fitted."""
        if kept.facts() is None:
            kept.keep_facts(self.product.facts)
        return self.product.facts


def packed(image: Tensor) -> State:
    """An image that a model's `preprocess` made, in little room and so that `unpacked` gives it back to the bit.

    Three channels of no more than 256 values each, which a resized photo has, are the values and a PNG of their
    numbers.
    """
    if image.ndim == 3 and len(image) == 3:
        found = [channel.unique(return_inverse=True) for channel in image]
        if max(len(values) for values, _ in found) <= LEVELS:
            numbers = torch.stack([places for _, places in found], dim=-1).to(torch.uint8)
            levels = torch.stack([F.pad(values, (0, LEVELS - len(values))) for values, _ in found])
            return {"levels": levels, "png": _as_png(numpy_of(numbers))}
    return {"image": image}


def unpacked(kept: State) -> Tensor:
    """The image that `packed` was given."""
    if "image" in kept:
        return kept["image"]
    numbers = torch.from_numpy(_of_png(kept["png"])).long()
    return torch.stack([kept["levels"][channel][numbers[..., channel]] for channel in range(3)])


def _as_png(pixels: np.ndarray) -> Tensor:
    encoded = io.BytesIO()
    PIL.Image.fromarray(pixels).save(encoded, "PNG")
    return torch.frombuffer(bytearray(encoded.getvalue()), dtype=torch.uint8)


def _of_png(content: Tensor) -> np.ndarray:
    with PIL.Image.open(io.BytesIO(numpy_of(content).tobytes())) as picture:
        return np.array(picture)


def numpy_of(tensor: Tensor) -> np.ndarray:
    """The values of a tensor on the processor."""
    return tensor.cpu().numpy()


def _other(key: str, ours: Any, theirs: Any) -> TrackInputError:
    return TrackInputError(
        f"expected {key} as the product was fitted with, {ours!r}, got {theirs!r}; leave {key.partition('.')[0]} out, "
        "or fit another product with `vandkit fit`"
    )


def _chosen() -> bool:
    """Whether the command line says anything of the model."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    return any(key.split(".")[0] in ("model", "weights", "prompts") for key in keys if key != "prompts.defects")


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a container by their dotted keys; lists are values."""
    if not isinstance(node, Mapping):
        yield key, node
    for name, value in node.items() if isinstance(node, Mapping) else ():
        yield from _leaves(value, f"{key}.{name}" if key else str(name))


def _check_targets(config: Any, given: Any) -> None:
    """Refuse a file that would have other code called than models of this project, or those of the command line."""
    allowed = set(_targets(given))
    for target in _targets(config):
        if target in allowed or (target.startswith("models.") and _home(target).startswith("models.")):
            continue
        raise TrackInputError(
            f"expected a product of a model of this project, got one that calls {target}; if that is a model of yours, "
            "name it as you did when you fitted it (model=...)"
        )


def _home(target: str) -> str:
    """The module that a name's object is of: what `models.x.os.system` leads to is not ours."""
    try:
        return str(getattr(get_object(target), "__module__", ""))
    except (ImportError, ValueError):
        return ""


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        yield from (str(value) for key, value in node.items() if key == "_target_")
    parts: Sequence[Any] = list(node.values()) if isinstance(node, Mapping) else node if isinstance(node, list) else []
    for part in parts:
        yield from _targets(part)
