"""Entry point of `make train`: adapters learnt on one data set, for use on another (APRIL-GAN, section 3).

    python -m train.adapter data=mvtec data.root=... target=visa

The encoder is frozen; all that learns is one affine map per stage, or a pair of vectors
(model=vector_adapter; train/adapters/heads.py). Departs from the published training: each image
meets its own category's text, tokens may come from a cache, categories may be held out to validate on, and several
processes may share each batch (train/adapters/processes.py).
"""

import os
import shlex
from contextlib import nullcontext
from pathlib import Path

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf

from models.clip.backbone import ClipBackbone
from models.clip.text import PromptEnsemble
from models.disk import write_atomically
from models.vector_adapter.model import VectorAdapter
from models.weights.catalogue import refuse_missing
from tracks.command.cli import command, run_main
from tracks.errors import TrackInputError
from tracks.run.build import chosen_names
from tracks.run.log_file import kept_log, log_into, note
from tracks.run.trackers import Record, Tracker, curves_of, flat
from train.adapters.checkpoint import ADAPTER_FILE, CONFIG_FILE, open_run, own_folder
from train.adapters.config import read_options
from train.adapters.heads import Head, VectorHead, WordHead
from train.adapters.processes import ALONE, Processes, joined
from train.adapters.record import describe, run_folder
from train.adapters.source import SYNTHETIC, Course, plan_course
from train.adapters.training import AdapterTraining


@command("train")
def main(cfg: DictConfig) -> None:
    """Train and say where the weights are."""
    run_training(cfg)


@kept_log()
def run_training(cfg: DictConfig) -> Path:
    """Train as the configuration says, alone or with the processes that torchrun started; returns the run folder.

    Raises:
        TrackInputError: anything in the settings or the data that the user can mend.
    """
    with joined(cfg.device) as processes:
        folder = train_in(processes, cfg)
        if processes.first:
            print(f"adapters: {folder / ADAPTER_FILE}\nbeside them: log.csv, loss.png, run.json, config.yaml")
            print(usage(cfg, folder / ADAPTER_FILE))
        return folder


def usage(cfg: DictConfig, file: Path) -> str:
    """How to run the adapters on what they were trained for, and on photos; where no threshold came with them."""
    weights = f"weights={chosen_names().get('weights', 'tiny')}"
    key = "model=vector_adapter model.adapter.path" if has_vectors(cfg) else "weights.adapter.path"
    chosen = f"{weights} {key}={shlex.quote(str(file))}"
    data = "" if str(cfg.target or SYNTHETIC).startswith(SYNTHETIC) else f" data={cfg.target} root=FOLDER"
    lines = ["use them:", f"    vandkit zero-shot {chosen}{data}", f"    vandkit predict photos {chosen}"]
    if not (cfg.validation_categories or cfg.validation_share):
        lines.append(
            "without references they judge by 0.5, a convention: no category was held out to choose a threshold on "
            "(validation_share=0.2)"
        )
    return "\n".join(lines)


def train_in(processes: Processes, cfg: DictConfig) -> Path:
    """The part of one process in a training."""
    options = read_options(cfg)
    tracker: Tracker = instantiate(cfg.tracker)
    make_deterministic(processes.device)
    course = plan_course(instantiate(cfg.data), options)
    head = build_head(cfg, course, options.seed, processes)
    settings = describe(head, course, options)
    folder = run_folder(cfg, settings)
    with own_folder(folder) if processes.first else nullcontext():
        processes.first_then_others(lambda: open_run(folder, settings, fresh=cfg.fresh and processes.first))
        if processes.first:
            log_into(folder)
            write_atomically(folder / CONFIG_FILE, OmegaConf.to_yaml(cfg, resolve=True))
        training = AdapterTraining(head, course, options, folder, processes)
        training.run()
        note(f"epochs {training.state.epoch}, last: {training.state.history[-1]}")
        if processes.first:
            curves = curves_of(training.state.history)
            tracker.write(Record(folder, flat(OmegaConf.to_container(cfg, resolve=True)), {}, curves))  # type: ignore[arg-type]
    return folder


def build_head(cfg: DictConfig, course: Course, seed: int, processes: Processes = ALONE) -> Head:
    """The adapter to train and its encoder, which is moved to the process's device.

    Raises:
        TrackInputError: a model without adapters.
    """
    if has_vectors(cfg):
        refuse_missing(OmegaConf.to_container(cfg.model.backbone, resolve=True))
        return VectorHead(instantiate(cfg.model.backbone).to(processes.device), seed)
    backbone, prompts = build_parts(cfg)
    categories = (*course.learnt, *course.held_out)
    return WordHead(backbone.to(processes.device), prompts, categories, seed, quiet=not processes.first)


def has_vectors(cfg: DictConfig) -> bool:
    """Whether it is vectors without words that are trained."""
    return bool(cfg.model.get("_target_")) and get_class(cfg.model._target_) is VectorAdapter


def build_parts(cfg: DictConfig) -> tuple[ClipBackbone, PromptEnsemble]:
    """The encoder and the words of the model's configuration; its adapter, if any, is not looked at."""
    if OmegaConf.select(cfg, "model.backbone") is None or OmegaConf.select(cfg, "model.prompts") is None:
        raise TrackInputError(
            f"expected a model with adapters to train, got {OmegaConf.select(cfg, 'model._target_')}; use "
            "model=clip_adapter and weights of a CLIP, or model=vector_adapter"
        )
    refuse_missing(OmegaConf.to_container(cfg.model.backbone, resolve=True))
    return instantiate(cfg.model.backbone), instantiate(cfg.model.prompts)


def make_deterministic(device: str) -> None:
    """On a GPU, let kernels give the same sums in every run where such kernels exist."""
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


if __name__ == "__main__":
    run_main(main)
