"""Entry point of `make compare`: all models on the same images, references and weights, in the papers' layout.

Each run (model, shots, seed) is an ordinary run of a track in a folder named after what decides it, so that a command
that was killed resumes. A model that cannot run with the weights is listed.
"""

import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import tracks.command.config  # noqa: F401  (registers the schema)
from models.base import BOTH
from models.disk import write_atomically
from models.weights.catalogue import catalogue, texts_in
from tracks.command.cli import CONF, EXIT_BAD_INPUT, command, run_main
from tracks.command.names import unknown
from tracks.command.paths import folder_name
from tracks.comparison.finished import FinishedRun, finished_in
from tracks.comparison.model_table import footnotes, rows_of, summary, to_csv, to_markdown
from tracks.comparison.plan import PlannedRun, as_words, run_all, setting_of, track_of
from tracks.comparison.published import published
from tracks.datasets.registry import announce_licence
from tracks.errors import TrackInputError
from tracks.run.build import pick_device
from tracks.run.fingerprint import code_digest, device_name, settings_digest, versions
from tracks.run.run_folder import link_latest
from tracks.run.track import choose_categories

ZERO_SHOT_ALONE = "own_references"
"""A setting that runs with references of their own are not given."""
GIVEN_ON = (
    "data", "weights", "categories", "resolution", "map_precision", "mask_resize", "batch_size", "workers", "device",
    ZERO_SHOT_ALONE,
)  # fmt: skip
DECIDES_NOTHING = ("out", "outputs", "workers", "overlays", "fresh")
SCORING = ("eval/**/*.py", "tracks/decide/*.py", "tracks/run/scoring.py")


def compare_models(cfg: DictConfig, words: Sequence[str]) -> dict[str, Any]:
    """Run what is not finished, print the table and write it; returns the content of table.json plus `folder`.

    `words` are settings as each track's command takes them, the same for all runs.

    Raises:
        TrackInputError: an unknown model or category, or anything else that would stop every run.
    """
    dataset = instantiate(cfg.data)
    announce_licence(dataset.name)
    categories = choose_categories(dataset, list(cfg.categories))
    shots, seeds = _numbers(cfg.shots, "shots"), _numbers(cfg.seeds, "seeds")
    serves, notes = choose_models(cfg, shots)
    outputs = Path(cfg.outputs).expanduser()
    plan = list(planned_runs(cfg, words, serves, shots, seeds, outputs / "runs"))
    print(f"{dataset.name}: {len(categories)} categories, {len(serves)} models, {len(plan)} runs", flush=True)
    outcomes = list(run_all(plan, finished, outputs / "logs"))
    rows = rows_of(outcomes)
    beside = published(dataset.name, categories, [row["model"] for row in rows], shots)
    shown = [str(OmegaConf.create({"word": word}).word) for word in words]
    content = summary(dataset.name, shown, categories, outcomes, rows, beside, notes)
    name = f"{dataset.name}-{settings_digest({'cells': [run.file_name for run in plan]})}"
    folder = Path(cfg.out).expanduser() if cfg.out else outputs / "tables" / folder_name(name)
    text = f"{content['title']}\n\n{to_markdown(rows, beside)}\n{footnotes(rows, beside, content['notes'])}"
    print(f"\n{text}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "table.md", text)
    write_atomically(folder / "table.csv", to_csv(rows, beside))
    write_atomically(folder / "table.json", json.dumps(content, indent=2) + "\n")
    if not cfg.out:
        link_latest(folder.parent, folder)
    print(f"files: {folder}: table.md, table.csv, table.json (by category too)")
    return {**content, "folder": str(folder)}


def choose_models(cfg: DictConfig, shots: Sequence[int]) -> tuple[dict[str, list[str]], list[str]]:
    """The models in the order of rows with the tracks each is run on, and what is left out and why.

    Raises:
        TrackInputError: a name that is no model, with the nearest one.
    """
    known = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    for name in [*cfg.models, *cfg.settings]:
        if name not in known:
            raise unknown("model", name, known)
    order = [*cfg.order, *(name for name in known if name not in cfg.order)]
    serves = {name: served_tracks(name) for name in order if not cfg.models or name in cfg.models}
    notes = []
    for track in dict.fromkeys(track_of(number) for number in shots):
        if without := [name for name, served in serves.items() if track not in served]:
            notes.append(f"No {track} row of {', '.join(without)}: a model that does not serve this track.")
        left_out = {} if cfg.models else cfg.left_out.get(track, {})
        for name, reason in left_out.items():
            serves[name].remove(track)
            notes.append(f"No {track} row of {name}: {reason}.")
    return serves, notes


def served_tracks(model: str) -> list[str]:
    """The tracks that a model of conf/model serves, asked of its class."""
    node = compose("zero_shot", [f"model={model}", "weights=none"]).model
    return list(getattr(get_class(node._target_), "serves", BOTH))


def planned_runs(
    cfg: DictConfig, words: Sequence[str], serves: Mapping[str, Sequence[str]], shots: Sequence[int],
    seeds: Sequence[int], runs: Path,
) -> Iterator[PlannedRun]:  # fmt: skip
    """Every run: zero-shot once, as nothing is drawn there, few-shot for every seed."""
    settings: Any = OmegaConf.to_container(cfg.settings, resolve=True)
    for number in shots:
        given = [word for word in words if not number or _top_key(word) != ZERO_SHOT_ALONE]
        for seed in seeds if number else seeds[:1]:
            for model in (name for name, served in serves.items() if track_of(number) in served):
                own = as_words(settings.get(model) or {}, "model")
                all_words = (f"model={model}", *given, *own, f"shots={number}", f"seed={seed}", "overlays=0")
                out = runs / f"{model}-{number}shot-seed{seed}-{_digest(all_words, number)}"
                name = f"{setting_of(number)} {model}" + (f" seed {seed}" if number else "")
                yield PlannedRun(name, model, number, seed, all_words, outputs=runs, out=out)


def finished(run: PlannedRun) -> FinishedRun | None:
    """A run that was made before; its folder is named after all that decides its results."""
    return finished_in(run.out) if run.out else None


def shared_words(overrides: Sequence[str], choices: Mapping[str, Any]) -> list[str]:
    """What each track's command is given of this command's own overrides, data and weights first."""
    chosen = [f"{group}={choices[group]}" for group in ("data", "weights")]
    given = [word for word in overrides if _top_key(word) in GIVEN_ON]
    return [*chosen, *(word for word in given if word.partition("=")[0] not in ("data", "weights"))]


def _top_key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].partition(".")[0]


def _digest(words: Sequence[str], shots: int) -> str:
    """Of all settings of a run, the code, the weight files as they lie there, the device and the versions."""
    composed = compose("few_shot" if shots else "zero_shot", list(words))
    try:
        config: Any = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException:  # a setting that these weights lack: the run itself says which
        config = OmegaConf.to_container(composed, resolve=False)
    decides = {key: value for key, value in config.items() if key not in DECIDES_NOTHING}
    return settings_digest({
        "config": decides, "code": code_digest(), "scoring": code_digest(SCORING), "weights": weight_stamps(decides),
        "versions": versions(), "device": device_name(pick_device(composed.device)),
    })  # fmt: skip


def weight_stamps(config: Any) -> dict[str, list[int] | None]:
    """Size and time of change of every weight file that a plain configuration names; None for one that is not here."""
    entries, stamps = catalogue(), {}
    for text in texts_in(config):
        path = entries[text].path if text in entries else Path(text)
        if text in entries or (path.suffix and path.is_file()):
            stamps[text] = [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None
    return stamps


def _numbers(values: Any, name: str) -> list[int]:
    """A setting that is one whole number or a list of them, none below 0, each once."""
    numbers = list(values) if OmegaConf.is_list(values) else [values]
    good = numbers and all(isinstance(number, int) and number >= 0 for number in numbers)
    if not good:
        raise TrackInputError(f"expected {name} as whole numbers from 0 on, got {values}; for example {name}=[0,1]")
    return list(dict.fromkeys(numbers))


@command("compare")
def main(cfg: DictConfig) -> None:
    """Compare; exit code 2 if a run crashed or none has a result."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run in progress too
    hydra_config = HydraConfig.get()
    given: Any = OmegaConf.to_container(hydra_config.overrides.task, resolve=False)  # ${oc.env:...} keeps its commas
    words = shared_words(given, hydra_config.runtime.choices)
    content = compare_models(cfg, words)
    if not content["rows"] or any(failure["crashed"] for failure in content["failed"]):
        sys.exit(EXIT_BAD_INPUT)


if __name__ == "__main__":
    run_main(main)
