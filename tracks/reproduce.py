"""Entry point of `make reproduce TABLE=april_gan/9`: a published table, ours, the difference, and why there may be one.

What the table needs is taken from finished runs below `outputs`, or run. Exit code 2, and what is missing by name,
where the data or the weights are not here.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

import tracks.command.config  # noqa: F401  (registers the schema)
from eval.errors import ScoringInputError
from eval.published.reader import PublishedTable, list_tables, load
from models.disk import write_atomically
from models.weights.catalogue import how_to_fetch, missing_files
from tracks.command.cli import command, run_main
from tracks.command.names import listed, unknown
from tracks.comparison.answers import answers_to, experiment
from tracks.comparison.reproduce_compare import Line, compare, summary, to_csv, to_text
from tracks.comparison.reproduce_runs import (
    Finished,
    Need,
    assign,
    duration,
    find_run,
    missing_data,
    needs_of,
    read_run,
    scores_of,
    signature,
    signature_of,
)
from tracks.errors import TrackInputError
from tracks.run.fingerprint import code_digest
from tracks.run.resize import MASK_RULES
from tracks.run.track import run_track


def reproduce(cfg: DictConfig) -> list[Line]:
    """Compare one table as conf/reproduce.yaml says; prints it and writes comparison.csv and comparison.md.

    Raises:
        TrackInputError: an unknown table, one that no run can answer, a run that does not fit, missing data or weights.
    """
    if cfg.table not in list_tables():
        raise unknown("TABLE", cfg.table, list_tables())
    table, answered = load(cfg.table), answers_to(cfg.table)
    if not answered.answers:
        raise TrackInputError(
            f"expected a table that can be computed, got {table.name} ({table.caption}): {answered.unanswered}; its "
            "figures are there to be read all the same, in eval/published"
        )
    needs = chosen_needs(cfg, table)
    given = [path for runs in (cfg.run, cfg.runs) for path in ([runs] if isinstance(runs, str) else runs or []) if path]
    if given:
        finished = assign([read_run(Path(path)) for path in given], needs, table.name)
    else:
        finished = found_or_run(cfg, table, needs)
    metrics = {metric for answer in answered.answers for column in answer.columns.values() for metric in column.ours}
    lines = compare(table, {need: scores_of(run, metrics) for need, run in finished.items()}, cfg.tolerance)
    text = page(cfg, table, finished, lines)
    print(text)
    out = Path(cfg.out or Path(cfg.outputs) / "reproduce" / table.name).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "comparison.csv", to_csv(lines))
    write_atomically(out / "comparison.md", text)
    print(f"files: {out}: comparison.csv, comparison.md")
    return lines


def chosen_needs(cfg: DictConfig, table: PublishedTable) -> list[Need]:
    """The runs that the table needs, or those of them on the data sets `only` and of the `models` that were named.

    Raises:
        TrackInputError: a name that none of its runs has.
    """
    needs = needs_of(table)
    for key, known in (("only", {need.data: None for need in needs}), ("models", {need.model: None for need in needs})):
        for name in cfg[key]:
            if name not in known:
                raise unknown(key, name, known)
    seeds = [cfg.seeds] if isinstance(cfg.seeds, int) else list(cfg.seeds)
    return needs_of(table, seeds, list(cfg.only), list(cfg.models))


def found_or_run(cfg: DictConfig, table: PublishedTable, needs: Sequence[Need]) -> dict[Need, Finished]:
    """Every run that is needed: from `outputs` where it is finished, else run now.

    Raises:
        TrackInputError: data or weights that are not here, all of them named, before anything is run.
    """
    finished, todo = {}, []
    for need in needs:
        run = find_run(Path(cfg.outputs).expanduser() / need.track, wanted_settings(track_config(cfg, need)))
        if run is None:
            todo.append(need)
        else:
            finished[need] = run
    if todo:
        refuse_if_missing(cfg, table, todo)
        print(f"{table.name}, {table.caption}: {duration(todo)}; {len(finished)} were found below {cfg.outputs}")
    for need in todo:
        print(f"\n{need}")
        track_cfg = track_config(cfg, need)
        track_cfg.data.root = str(data_root(cfg, need.data, table.data))
        finished[need] = read_run(Path(run_track(track_cfg, need.track)["folder"]))
    return finished


def track_config(cfg: DictConfig, need: Need) -> DictConfig:
    """The configuration of one run, and Hydra told of it, so that its folder is named as the track itself names it."""
    weights = [f"weights={cfg.use_weights}"] if cfg.use_weights else []
    settings = as_overrides(cfg.settings)
    composed = compose(need.track, [*need.overrides, *weights, *settings], return_hydra_config=True)
    if weights:  # as they are by themselves: an experiment sets adapters that belong to its own
        own = [setting for setting in settings if setting.startswith("weights.")]
        composed.weights = compose(need.track, [*weights, *own]).weights
    HydraConfig.instance().set_config(composed)
    with open_dict(composed):
        del composed["hydra"]
    composed.outputs, composed.device, composed.workers = str(Path(cfg.outputs).expanduser()), cfg.device, cfg.workers
    return composed


def as_overrides(settings: Any, prefix: str = "") -> list[str]:
    """A nested mapping as Hydra takes it on the command line: {weights: {backbone: {x: 1}}} as weights.backbone.x=1."""
    if OmegaConf.is_config(settings):
        settings = OmegaConf.to_container(settings, resolve=True)
    if not isinstance(settings, Mapping):
        plain = isinstance(settings, str) and re.fullmatch(r"[\w./-]+", settings)
        return [f"{prefix}={settings if plain else json.dumps(settings)}"]
    return [
        override
        for key, value in settings.items()
        for override in as_overrides(value, f"{prefix}.{key}" if prefix else str(key))
    ]


def wanted_settings(track_cfg: DictConfig) -> dict[str, Any]:
    """What `find_run` looks for."""
    config = {key: OmegaConf.to_container(track_cfg[key], resolve=True) for key in ("model", "data")}
    side = track_cfg.resolution
    resolution = "each image's own" if side == "native" else f"{side} x {side}"
    return signature(
        config, track_cfg.shots, track_cfg.seed, resolution, map_precision=track_cfg.map_precision,  # type: ignore[arg-type]
        mask_resize=MASK_RULES[track_cfg.mask_resize], image_score=track_cfg.image_score,
        chosen_categories=list(track_cfg.categories),
    )  # fmt: skip


def data_root(cfg: DictConfig, name: str, all_sets: Sequence[str]) -> Path | None:
    """Where a data set lies: roots.<name>, the folder of its name in root, or root itself if the table has one set."""
    if name in cfg.roots:
        return Path(cfg.roots[name]).expanduser()
    if not cfg.root:
        return None
    root = Path(cfg.root).expanduser()
    alone = len(set(cfg.only) & set(all_sets) or set(all_sets)) == 1
    return root / name if (root / name).is_dir() or not alone else root


def refuse_if_missing(cfg: DictConfig, table: PublishedTable, needs: Sequence[Need]) -> None:
    """Name every data set and weight file that is missing, and how long the runs would take."""
    sets = dict.fromkeys(need.data for need in needs)
    data = [text for name in sets if (text := missing_data(name, data_root(cfg, name, table.data)))]
    experiments = {need.experiment: need for need in needs}.values()
    models = [wanted_settings(track_config(cfg, need))["model"] for need in experiments]
    if files := missing_files(models):
        data.append(f"the weights {', '.join(file.name for file in files)} ({how_to_fetch(files)})")
    if data:
        each = f" (ROOT may hold a folder for each of {', '.join(sets)})" if len(sets) > 1 else ""
        raise TrackInputError(
            f"expected all that {table.name} needs, got neither a finished run below {cfg.outputs} nor: "
            f"{'; '.join(data)}{each}. With them: {duration(needs)}. A run made elsewhere is compared with RUN=folder"
        )


def page(cfg: DictConfig, table: PublishedTable, finished: Mapping[Need, Finished], lines: Sequence[Line]) -> str:
    """All that is printed: the table, what lies within the tolerance, known reasons for a gap, which runs these are."""
    where = f"arXiv {table.source.arxiv}" if table.source.arxiv else table.source.title
    number = f", Table {table.number}" if table.number else ""
    parts = [
        f"{table.name}: {table.caption} ({where}{number}), in percent\n",
        to_text(lines),
        summary(lines, cfg.tolerance),
    ]
    answered = answers_to(table.name)
    if answered.unanswered:
        parts.append(f"not compared: {answered.unanswered}")
    if answered.reasons:
        parts.append("known reasons for a gap:")
        parts += [f"  {name}: {reason}" for name, reason in answered.reasons.items()]
    parts.append(f"ours, {len(finished)} of the {len(needs_of(table))} runs behind the table:")
    for need, run in finished.items():
        parts.append(f"  {run.folder} ({need})")
        parts += [f"    note: {note}" for note in [*departures(need, run), *run.notes]]
    return "\n".join(parts) + "\n"


def departures(need: Need, run: Finished) -> list[str]:
    """In what a run is not the set-up of the table: its model and weights, other settings, seed, code."""
    composed = compose(need.track, [*need.overrides], return_hydra_config=True)
    published, choices = wanted_settings(composed), composed.hydra.runtime.choices
    results, notes = run.results, []
    for key in ("model", "weights"):
        if results.get(key) != choices[key]:
            notes.append(f"{key} {results.get(key)}, not the published set-up's {choices[key]}")
    same_kind = not notes
    if run.store is not None:
        made = run.store.settings
        actual = signature_of(made, shots=results["shots"], seed=need.seed)
        different = sorted(key for key in _differences(actual, published) if same_kind or not key.startswith("model."))
        if different:
            notes.append(f"settings that are not the published set-up's: {listed(different)}")
    if results.get("images") not in (None, experiment(need.experiment).images):
        notes.append(f"{results['images']:,} images, where the table is over {experiment(need.experiment).images:,}")
    if results["seed"] != need.seed and need.shots:
        notes.append(f"seed {results['seed']} stands for seed {need.seed}")
    if run.store is not None and run.store.settings.get("code_digest") != code_digest():
        notes.append("made by another version of the code")
    return notes


def _differences(one: Any, other: Any, prefix: str = "") -> Iterator[str]:
    """The keys at which two plain containers differ, written a.b.c."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in {**one, **other}:
            yield from _differences(one.get(key), other.get(key), f"{prefix}.{key}" if prefix else key)
    elif one != other:
        yield prefix


@command("reproduce")
def main(cfg: DictConfig) -> None:
    """Compare the table that was named, or list all."""
    if cfg.table:
        try:
            reproduce(cfg)
        except ScoringInputError as error:
            raise TrackInputError(str(error)) from error
        return
    for name in list_tables():
        table = load(name)
        number = len(needs_of(table))
        can = f"{number} run{'s' if number > 1 else ''}" if number else "to read only"
        print(f"{name:26} {can:>12}  {table.caption}")


if __name__ == "__main__":
    run_main(main)
