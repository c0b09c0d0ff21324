"""One side of `benchmarks.baselines` in a process of its own: ours, or anomalib's with our random weights.

python -m benchmarks.baselines_sides NAME FOLDER JSON, with a name of `SIDES`, the folder in which the sides of one case
leave what they share (words, bank) and their outputs, and the settings. Prints a line of JSON.

anomalib's WinCLIP was written for an open_clip before 2.26.1, whose towers took (L, N, C) within; with a later one its
windows attend to each other. `anomalib` is handed its windows the right way round, `anomalib as installed` is not.
"""

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import open_clip
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from benchmarks.machine import peak_mb, reset_peak
from benchmarks.saa_detector import Clock
from models.baselines import patchcore
from models.baselines.winclip import WinCLIP
from models.clip.backbone import ClipBackbone, load_backbone
from models.clip.text import PromptEnsemble
from models.imagenet.backbone import load_timm_backbone
from models.nearest import nearest_rows

CATEGORY = "bottle"
PROMPTS = Path(__file__).resolve().parents[1] / "conf/prompts/winclip.yaml"
Outputs = dict[str, Tensor]


class Side(Protocol):
    """An implementation of a method, its stages timed by a clock that it was given."""

    image_size: int

    def fit(self, references: Tensor, folder: Path) -> Outputs:
        """Learn from (K, 3, S, S), K >= 0; what was learnt. What another side left in the folder takes its place."""

    def predict(self, images: Tensor) -> Outputs:
        """Maps, image scores and, where they are not maps alone, distances of patches."""


def clip_backbone(name: str, seed: int) -> ClipBackbone:
    """A vision transformer of open_clip with random weights, at its own size."""
    tower = open_clip.get_model_config(name)["vision_cfg"]
    size, layers = tower["image_size"], tower["layers"]
    return load_backbone(name, weights=f"random:{seed}", image_size=size, stages=[layers], activation="gelu")


class OurWinCLIP:
    def __init__(self, settings: dict[str, Any], clock: Clock):
        fields = yaml.safe_load(PROMPTS.read_text())
        names = ("normal_states", "anomalous_states", "templates")
        prompts = PromptEnsemble(**{name: fields[name] for name in names})
        backbone = clip_backbone(settings["clip"], settings["seed"])
        self.model = WinCLIP(backbone, prompts).to(clock.device)
        self.clock, self.image_size = clock, backbone.image_size

    def fit(self, references: Tensor, folder: Path) -> Outputs:
        self.model._texts.clear()  # kept from the last repeat
        text = self.clock.timed("words", self.model._text)(CATEGORY, self.clock.device)
        torch.save(F.normalize(text, dim=0).T.cpu(), folder / "text.pt")
        if len(references):
            self.clock.timed("references", self.model.fit)(references, CATEGORY)
        return {"text": text.T}

    def predict(self, images: Tensor) -> Outputs:
        found = self.clock.timed("images", self.model.predict)(images, [CATEGORY] * len(images))
        return {"maps": found.anomaly_maps, "scores": found.image_scores}


class AnomalibWinCLIP:
    def __init__(self, settings: dict[str, Any], clock: Clock, mend: bool = True):
        from anomalib.models.image.winclip import torch_model

        with mock.patch.multiple(torch_model, PRETRAINED=None, BACKBONE=settings["clip"]):
            self.model = torch_model.WinClipModel().eval()
        backbone = clip_backbone(settings["clip"], settings["seed"])
        self.model.clip.load_state_dict(backbone.clip.state_dict())
        self.model.to(clock.device)
        self.clock, self.image_size = clock, backbone.image_size
        if mend and self.model.clip.visual.transformer.batch_first:
            self.model._get_window_embeddings = partial(batch_first, self.model, self.model._get_window_embeddings)

    def fit(self, references: Tensor, folder: Path) -> Outputs:
        if len(references):
            self.clock.timed("references", self.model.setup)(None, references)
        self.clock.timed("words", self.model._collect_text_embeddings)(CATEGORY)
        text = F.normalize(self.model.text_embeddings, dim=1)
        self.model._text_embeddings = torch.load(folder / "text.pt").to(text)
        return {"text": text}

    def predict(self, images: Tensor) -> Outputs:
        found = self.clock.timed("images", self.model)(images)
        return {"maps": found.anomaly_map, "scores": found.pred_score}


def batch_first(model: Any, embed: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Anomalib's embedding of windows, with its tower fed (N, L, C)."""
    tower = model.clip.visual.transformer
    turned = partial(_turned, tower.forward)
    with mock.patch.object(tower, "forward", turned):
        return embed(*arguments)


def _turned(forward: Callable[[Tensor], Tensor], sequence: Tensor) -> Tensor:
    return forward(sequence.transpose(0, 1)).transpose(0, 1)


class OurPatchCore:
    image_size = 224

    def __init__(self, settings: dict[str, Any], clock: Clock, channels: int | None = 1024):
        backbone = load_timm_backbone("wide_resnet50_2", weights=f"random:{settings['seed']}")
        options: dict[str, Any] = {"stage_dim": channels, "target_dim": channels, "coreset": settings["coreset"]}
        self.model = patchcore.PatchCore(backbone, **options).to(clock.device)
        self.clock, self.shares_bank = clock, channels is None

    def fit(self, references: Tensor, folder: Path) -> Outputs:
        with mock.patch.object(patchcore, "greedy_coreset", self.clock.timed("coreset", patchcore.greedy_coreset)):
            self.clock.timed("references", self.model.fit)(references, CATEGORY)
        self.clock.seconds["references"] -= self.clock.seconds.get("coreset", 0.0)
        known = self.model._states[CATEGORY]
        if self.shares_bank:
            torch.save(known["bank"].cpu(), folder / "bank.pt")
        return {"radius": radius(known["patches"].flatten(0, 1), known["bank"])}

    def predict(self, images: Tensor) -> Outputs:
        with mock.patch.object(self.model, "_prediction", wraps=self.model._prediction) as spied:
            found = self.clock.timed("images", self.model.predict)(images, [CATEGORY] * len(images))
        return {"maps": found.anomaly_maps, "scores": found.image_scores, "patches": spied.call_args.args[0]}


class AnomalibPatchCore:
    image_size = 224

    def __init__(self, settings: dict[str, Any], clock: Clock):
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

        self.model = PatchcoreModel(["layer2", "layer3"], "wide_resnet50_2", pre_trained=False).eval()
        state = load_timm_backbone("wide_resnet50_2", weights=f"random:{settings['seed']}").net.state_dict()
        net = self.model.feature_extractor.feature_extractor
        net.load_state_dict({name: state[name] for name in net.state_dict()})
        self.model.to(clock.device)
        self.share, self.clock = settings["coreset"], clock
        self.patches: list[Tensor] = []
        self.model.anomaly_map_generator.register_forward_pre_hook(lambda _, given: self.patches.append(given[0]))

    def fit(self, references: Tensor, folder: Path) -> Outputs:
        self.model.training = True  # of this module alone: the network stays as it is
        for part in references.split(8):
            self.clock.timed("references", self.model)(part)
        self.model.training = False
        rows = torch.vstack(self.model.embedding_store)
        self.clock.timed("coreset", self.model.subsample_embedding)(self.share)
        found = radius(rows, self.model.memory_bank)
        self.model.memory_bank = torch.load(folder / "bank.pt").to(rows)
        return {"radius": found}

    def predict(self, images: Tensor) -> Outputs:
        with torch.no_grad():
            found = self.clock.timed("images", self.model)(images)
        return {"maps": found.anomaly_map[:, 0], "scores": found.pred_score, "patches": self.patches[-1].flatten(1)}


def radius(rows: Tensor, bank: Tensor) -> Tensor:
    """How far the row is that the bank stands for worst: what greedy selection makes small."""
    return nearest_rows(rows, bank)[0].max()


SIDES: dict[str, dict[str, Callable[[dict[str, Any], Clock], Side]]] = {
    "winclip": {
        "vandkit": OurWinCLIP,
        "anomalib": AnomalibWinCLIP,
        "anomalib as installed": partial(AnomalibWinCLIP, mend=False),
    },
    "patchcore": {
        "vandkit, 1536 channels": partial(OurPatchCore, channels=None),
        "vandkit": OurPatchCore,
        "anomalib": AnomalibPatchCore,
    },
}
"""By method. The first of each leaves what the others share; it computes what anomalib does."""


def pictures(count: int, size: int, seed: int) -> Tensor:
    """(count, 3, S, S) of smooth patches and some noise, standardised as preprocessing would."""
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn(max(count, 1), 3, 12, 12, generator=generator)
    noise = torch.randn(max(count, 1), 3, size, size, generator=generator)
    return (F.interpolate(smooth, (size, size), mode="bicubic") + 0.1 * noise)[:count]


def measure(name: str, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Least seconds by stage over the repeats, and memory in MB above that of the model; outputs go to the folder."""
    torch.set_num_threads(settings["threads"])
    device = torch.device(settings["device"])
    clock = Clock(device, settings["processor_time"])
    side = SIDES[settings["method"]][name](settings, clock)
    references = pictures(settings["shots"], side.image_size, settings["seed"] + 1).to(device)
    images = pictures(settings["images"], side.image_size, settings["seed"] + 2).to(device)
    before = reset_peak()
    runs = []
    for _ in range(settings["repeats"]):
        clock.seconds.clear()
        learnt = side.fit(references, folder)
        outputs = {**learnt, **_joined([side.predict(part) for part in images.split(settings["batch"])])}
        runs.append(dict(clock.seconds))
    torch.save({key: value.cpu() for key, value in outputs.items()}, folder / f"{name}.pt")
    seconds = {stage: min(run[stage] for run in runs) for stage in runs[0]}
    return {"seconds": {**seconds, "images": seconds["images"] / len(images)}, "extra_mb": peak_mb() - before}


def _joined(parts: Sequence[Outputs]) -> Outputs:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def main() -> None:
    """Measure; what goes wrong is the result as well."""
    name, folder, settings = sys.argv[1:]
    try:
        result = measure(name, Path(folder), json.loads(settings))
    except Exception as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
