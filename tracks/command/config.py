"""The keys a user may set on a track or for `predict`, with their types; Hydra refuses everything else by name.

What they are by default stands in conf/track.yaml and conf/predict.yaml.
"""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from tracks.command.variants import variants


@dataclass
class RunConfig:
    """Settings of whatever runs a model on images."""

    model: Any = MISSING
    """Constructor of the AnomalyModel (conf/model)."""
    weights: Any = MISSING
    """Parts that the model is built from (conf/weights)."""
    prompts: Any = MISSING
    """Words for normal and anomalous (conf/prompts)."""
    references: str | None = MISSING
    """Tracks: a list of references to use instead of a draw, a manifest of ours or selected_samples_per_run.txt.
    `predict`: a folder of photos of good parts; empty: zero-shot."""
    own_references: int = MISSING
    """How many of the images themselves serve as references, those that the model finds least anomalous before it knows
    any: transductive. 0 for none."""
    tiles: Any = MISSING
    """How large images are looked at: "whole", "auto" (whole and in tiles), a number of tiles along the shorter side,
    "native" (tiles of about the model's size); by default as the weights say for the CLIP adapter, else whole."""
    false_alarm_rate: float = MISSING
    """Share of normal images that may be called defects, between 0 and 1, for a threshold fitted on references (or,
    with `threshold=folder`, on the photos)."""
    batch_size: int = MISSING
    workers: int = MISSING
    """Threads that decode and preprocess images."""
    device: str = MISSING
    """"auto", "cpu", "cuda" or "cuda:1"."""
    engine: str = MISSING
    """What images go through the model in: "local" (this process), or "ray" (Ray, extra `ray`; the numbers are the
    same)."""
    ray_address: str | None = MISSING
    """Of a running Ray cluster ("auto", "ray://host:10001"); by default Ray is started on this machine."""
    actors: int | None = MISSING
    """With Ray: how many processes hold the model, by default one; with GPUs one to each."""
    shard: str | None = MISSING
    """The part of the images that this machine of several judges, 2/8 the second of eight, into a folder of the run's
    own; the same command without it gathers them."""
    out: str | None = MISSING
    """The run folder; by default outputs/<track>/<name made of the settings>, with `predict` as the track's name."""
    outputs: str = MISSING
    """Where run folders are made."""
    fresh: bool = MISSING
    """Discard an earlier run of the same settings instead of continuing it."""


@dataclass
class TrackConfig(RunConfig):
    """Settings of the zero-shot and few-shot tracks and of a sweep over them."""

    data: Any = MISSING
    """Constructor of the data set (conf/data)."""
    tracker: Any = MISSING
    """Where results go beside the run folder (conf/tracker): none, tensorboard, mlflow, wandb."""
    shots: int = MISSING
    """K: normal reference images of each category; 0 is zero-shot."""
    seed: int = MISSING
    """Draws the references."""
    draw: str = MISSING
    """How the seed draws them: "by_name", each category by itself; "slices", as AnomalyDINO's code, the first K by name
    for seed 0, the next for 1; or "shuffled", as SubspaceAD's code, by the categories of the run; a complete run's
    references.json is the list for a run of some of them."""
    run: int = MISSING
    """Which run of a selected_samples_per_run.txt."""
    categories: list[str] = MISSING
    """Only these categories; empty means all."""
    resolution: Any = MISSING
    """Side in pixels of the square at which maps are scored, or "native" for each image's own size."""
    map_precision: str = MISSING
    """How maps are stored and scored: "float16", or "float32" in twice the room, without any rounding."""
    mask_resize: str = MISSING
    """How masks are brought to `resolution`: "bilinear" (at least half covered), "full" (wholly), "any" (at all), or
    "nearest" as OpenCV does it."""
    image_score: str = MISSING
    """"model", or "legacy_minmax": APRIL-GAN's transductive score, for reproduction only."""
    maximise: str = MISSING
    """What `sweeper=optuna` maximises: "score", or a number of results.json as "mean/auroc_cls"."""
    overlays: int = MISSING
    """Heat-map overlays to draw of each category; 0 for none, -1 for all."""


@dataclass
class PredictConfig(RunConfig):
    """Settings of `predict`."""

    tracker: Any = MISSING
    """Where counts, lists and overlays go beside the output folder (conf/tracker): none, tensorboard, mlflow, wandb."""
    images: Any = MISSING
    """The photos to judge, no labels: a folder, a file, a pattern ("photos/*.png"), or a list of them; a clip
    ("clip.mp4"), whose frames are photos; a camera ("camera:0")."""
    every: int = MISSING
    """Of a clip or a camera every n-th frame."""
    frames: int | None = MISSING
    """At most so many frames of each clip; how many pictures a camera takes."""
    product: str | None = MISSING
    """A file that `vandkit fit` wrote; it stands in the place of references and says which model."""
    category: str | None = MISSING
    """What the photos show, in words; "object" if empty."""
    recursive: bool = MISSING
    """Also the folders below."""
    bit_depth: int | None = MISSING
    """Bits in use in 16-bit photos, 8 to 16; None guesses 8, 12 or 16 for all of them together."""
    threshold: Any = MISSING
    """Image score from which a photo is a defect; "folder" takes it from the photos themselves (transductive); by
    default from the references, or the weights."""
    roi: Any = MISSING
    """Region of interest: the path of a mask (not black is inside; scaled to each photo), or three or more points [x,y]
    in shares of width and height. Photos and references are cropped to its bounding box, of which the image score is;
    outside the region the map is blank."""
    maps: str = MISSING
    """How maps are stored: "model" (at the model's size), "full" (at the photos'), or "none": scores alone, neither
    maps nor overlays nor regions."""
    quiet: bool = MISSING
    """Print no line for each photo."""
    exit_code: bool = MISSING
    """End with 3 if a photo could not be read, else with 1 if one is a DEFECT, else with 0; without it with 0 in all
    these cases. 2 is always an error."""


@dataclass
class FitConfig:
    """Settings of `fit`."""

    model: Any = MISSING
    weights: Any = MISSING
    prompts: Any = MISSING
    references: str | None = MISSING
    product: str | None = MISSING
    add: str | None = MISSING
    """More photos of good parts, for the product."""
    ok: str | None = MISSING
    """Photos judged good."""
    defect: str | None = MISSING
    """Photos judged defect."""
    roi: Any = MISSING
    """Region of interest, as in `predict`; kept in the product."""
    category: str | None = MISSING
    recursive: bool = MISSING
    tiles: Any = MISSING
    bit_depth: int | None = MISSING
    false_alarm_rate: float = MISSING
    batch_size: int = MISSING
    workers: int = MISSING
    device: str = MISSING
    out: str | None = MISSING


@dataclass
class ExportConfig:
    """Settings of `export`."""

    model: Any = MISSING
    weights: Any = MISSING
    prompts: Any = MISSING
    product: str | None = MISSING
    category: str | None = MISSING
    format: str = MISSING
    precision: str = MISSING
    out: str | None = MISSING
    """The folder to write."""
    check: str | None = MISSING
    """A folder exported before, to compare with the model."""
    images: str | None = MISSING
    """Photos to compare on."""
    tiles: Any = MISSING
    bit_depth: int | None = MISSING
    false_alarm_rate: float = MISSING


ConfigStore.instance().store(name="track_schema", node=TrackConfig)
ConfigStore.instance().store(name="predict_schema", node=PredictConfig)
ConfigStore.instance().store(name="fit_schema", node=FitConfig)
ConfigStore.instance().store(name="export_schema", node=ExportConfig)
for _group, _name, _content in variants():
    ConfigStore.instance().store(_name, _content, group=_group, package="_global_" if _group == "experiment" else None)
