"""The keys a user may set when training adapters, with their types; Hydra refuses everything else by name."""

from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from tracks.command.names import unknown
from tracks.errors import TrackInputError

CACHE_MODES = ("auto", "always", "never")
SELECTIONS = ("last", "best")
SELECTION_METRICS = ("ap_seg", "auroc_seg", "f1_seg")


@dataclass
class TrainOptions:
    """How adapters are trained; the defaults are the published ones where there are any."""

    target: str | None = None
    """The data set that the weights are for, never the one trained on; may be left out for synthetic data only."""
    allow_same_dataset: bool = False
    """Train on the target's own data set all the same; the header says so."""
    categories: list[str] = field(default_factory=list)
    """Only these categories, to learn from or to validate on; empty means all."""
    validation_categories: list[str] = field(default_factory=list)
    """Categories to validate on; nothing is learnt from them."""
    validation_share: float = 0.0
    """Or a share of the categories, drawn by seed."""
    epochs: int = 15
    """Times through the images; may be raised later to train on. Published: 15 on VisA, 3 on MVTec AD."""
    batch_size: int = 8
    learning_rate: float = 1e-3
    """Of Adam; constant."""
    betas: list[float] = field(default_factory=lambda: [0.5, 0.999])
    """Of Adam."""
    seed: int = 0
    """Initial weights, order of the images, mosaics, categories held out."""
    aug_rate: float = 0.2
    """Probability that an image is replaced by a mosaic of four of its category; mosaics are never cached."""
    dice_on_normal: bool = True
    """Count the dice term of defect-free images, as published."""
    select: str = "last"
    """Which epoch's weights are kept: "last", as published, or "best" on the validation categories."""
    select_metric: str = "ap_seg"
    """What "best" is judged by: ap_seg, auroc_seg or f1_seg."""
    cache: str = "auto"
    """Encoder tokens on disk: "auto" where there is room, "always" or an error, "never"."""
    max_cache_gb: float = 25.0
    """The cache's largest size in 10^9 bytes; asked before anything is written."""
    cache_dir: str | None = None
    """Where the cache goes; by default into the run folder."""
    keep_cache: bool = False
    """Leave the cache on disk after the last epoch."""
    checkpoint_every: int = 0
    """Steps between resumable checkpoints within an epoch; 0 for one after each epoch only."""
    workers: int = 2
    """Threads that decode and preprocess images."""


@dataclass
class TrainConfig(TrainOptions):
    """Settings of `python -m train.adapter`."""

    model: Any = MISSING
    """Constructor of the model whose adapters are trained (conf/model): its `backbone` and `prompts` are used."""
    weights: Any = MISSING
    """Parts that the model is built from (conf/weights)."""
    prompts: Any = MISSING
    """Words for normal and anomalous (conf/prompts)."""
    data: Any = MISSING
    """Constructor of the data set to train on (conf/data): its test split, which has the masks."""
    tracker: Any = MISSING
    """Where results go beside the run folder (conf/tracker): none, tensorboard, mlflow, wandb."""
    device: str = "auto"
    """"auto", "cpu", "cuda" or "cuda:1"."""
    out: str | None = None
    """The run folder; by default outputs/train/<name made of the settings>."""
    outputs: str = "outputs"
    """Where run folders are made."""
    fresh: bool = False
    """Discard an earlier training of the same settings instead of continuing it."""


ConfigStore.instance().store(name="train_schema", node=TrainConfig)


def read_options(cfg: DictConfig) -> TrainOptions:
    """The options among the settings, checked."""
    names = [option.name for option in fields(TrainOptions)]
    values: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, names), resolve=True)
    options = TrainOptions(**values)
    check_options(options)
    return options


def check_options(options: TrainOptions) -> None:
    """Refuse values that no type can refuse.

    Raises:
        TrackInputError: naming the key.
    """
    for key, least in (("epochs", 1), ("batch_size", 1), ("workers", 1), ("checkpoint_every", 0), ("seed", 0)):
        if getattr(options, key) < least:
            raise TrackInputError(f"expected {key} to be {least} or more, got {getattr(options, key)}")
    if not options.learning_rate > 0:
        raise TrackInputError(f"expected learning_rate to be above 0, got {options.learning_rate:g}; try 1e-3")
    if not options.max_cache_gb > 0:
        raise TrackInputError(
            f"expected max_cache_gb to be above 0, got {options.max_cache_gb:g}; cache=never goes without"
        )
    if len(options.betas) != 2 or not all(0 <= beta < 1 for beta in options.betas):
        raise TrackInputError(f"expected betas to be two numbers from 0 up to less than 1, got {list(options.betas)}")
    for key, known in (("cache", CACHE_MODES), ("select", SELECTIONS), ("select_metric", SELECTION_METRICS)):
        if getattr(options, key) not in known:
            raise unknown(key, getattr(options, key), known)
    if options.select == "best" and not (options.validation_categories or options.validation_share):
        raise TrackInputError(
            "expected categories to select the best epoch by, got none; hold some out with validation_categories or "
            "validation_share, or keep select=last"
        )
