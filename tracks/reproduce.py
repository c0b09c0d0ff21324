"""Entry point of `make reproduce TABLE=april_gan/9`: a published table, ours, the difference, and why there may be one.

What the table needs is taken from finished runs below `outputs`, or run. Exit code 2, and what is missing by name,
where the data or the weights are not here; and where a run failed, after the figures of all others.
"""

import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf

import tracks.command.config  # noqa: F401  (registers the schema)
from eval.published.reader import PublishedTable, list_tables, load
from models.disk import write_atomically
from models.weights.catalogue import how_to_fetch, missing_files
from tracks.command.cli import EXIT_BAD_INPUT, command, run_main
from tracks.command.names import listed, unknown
from tracks.comparison.answers import Need, answers_to, assign, experiment, needs_of
from tracks.comparison.finished import FinishedRun, find_run, read_run, signature
from tracks.comparison.lines import Line, lines_of, summary, to_csv, to_markdown
from tracks.comparison.plan import PlannedRun, as_words, duration, run_all
from tracks.comparison.published import paper_of
from tracks.datasets.registry import registry
from tracks.errors import TrackInputError
from tracks.run.fingerprint import code_digest
from tracks.run.resize import MASK_RULES


def reproduce(cfg: DictConfig) -> tuple[list[Line], list[str]]:
    """Compare one table as conf/reproduce.yaml says; prints it and writes comparison.csv and comparison.md.

    Returns the lines, and what failed.

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
    failed: list[str] = []
    given = [path for runs in (cfg.run, cfg.runs) for path in ([runs] if isinstance(runs, str) else runs or []) if path]
    if given:
        finished = assign([read_run(Path(path)) for path in given], needs, table.name)
    else:
        finished, failed = found_or_run(cfg, table, needs)
    if failed and not finished:
        raise TrackInputError(f"expected a run behind {table.name} to end well, got: {'; '.join(failed)}")
    metrics = {metric for answer in answered.answers for column in answer.columns.values() for metric in column.ours}
    lines = lines_of(table, {need: run.scores(metrics) for need, run in finished.items()}, cfg.tolerance)
    text = page(cfg, table, finished, lines, failed)
    print(text)
    out = Path(cfg.out or Path(cfg.outputs) / "reproduce" / table.name).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "comparison.csv", to_csv(lines))
    write_atomically(out / "comparison.md", text)
    print(f"files: {out}: comparison.csv, comparison.md")
    return lines, failed


def chosen_needs(cfg: DictConfig, table: PublishedTable) -> list[Need]:
    """The runs that the table needs, or those of them on the data sets `only` and of the `models` that were named.

    Raises:
        TrackInputError: a name that none of its runs has.
    """
    needs = needs_of(table.name)
    for key, known in (("only", {need.data: None for need in needs}), ("models", {need.model: None for need in needs})):
        for name in cfg[key]:
            if name not in known:
                raise unknown(key, name, known)
    seeds = [cfg.seeds] if isinstance(cfg.seeds, int) else list(cfg.seeds)
    return needs_of(table.name, seeds, list(cfg.only), list(cfg.models))


def found_or_run(
    cfg: DictConfig, table: PublishedTable, needs: Sequence[Need]
) -> tuple[dict[Need, FinishedRun], list[str]]:
    """Every run that is needed, from `outputs` where it is finished, else run now; and why others have no result.

    Raises:
        TrackInputError: data or weights that are not here, all of them named, before anything is run.
    """
    outputs = Path(cfg.outputs).expanduser()
    plan = {need: planned(cfg, need, data_root(cfg, need.data, table.data), outputs) for need in needs}
    wanted = {run: wanted_settings(compose(need.track, list(run.words))) for need, run in plan.items()}

    def find(run: PlannedRun) -> FinishedRun | None:
        return find_run(outputs / ("few_shot" if run.shots else "zero_shot"), signature(wanted[run]))

    if todo := {need: run for need, run in plan.items() if find(run) is None}:
        if lacking := missing(todo, [wanted[run]["config"]["model"] for run in todo.values()]):
            raise TrackInputError(
                f"expected all that {table.name} needs, got neither a finished run below {cfg.outputs} nor: {lacking}. "
                f"With them: {effort(todo)}. A run made elsewhere is compared with RUN=folder"
            )
        print(f"{table.name}, {table.caption}: {effort(todo)}; {len(needs) - len(todo)} were found below {cfg.outputs}")
    outcomes = list(run_all(list(plan.values()), find, outputs / "reproduce" / "logs"))
    finished = {need: one.finished for need, one in zip(plan, outcomes, strict=True) if one.finished is not None}
    return finished, [f"{one.run.name}: {one.error}" for one in outcomes if one.error]


def planned(cfg: DictConfig, need: Need, root: Path | None, outputs: Path) -> PlannedRun:
    """The run of a need with the settings of this command."""
    settings = as_words(OmegaConf.to_container(cfg.settings, resolve=True))
    words = [*need.words, *([f"weights={cfg.use_weights}"] if cfg.use_weights else []), *settings]
    if cfg.use_weights:
        words += _weights_alone(need, words, cfg.use_weights)
    words += [f"device={cfg.device}", f"workers={cfg.workers}"]
    return PlannedRun(str(need), need.model, need.shots, need.seed, tuple(words), outputs, root=root)


def _weights_alone(need: Need, words: Sequence[str], weights: str) -> Iterator[str]:
    """What makes the weights what they are by themselves: an experiment sets adapters that belong to its own."""
    own = [word for word in words if word.startswith("weights.")]
    mixed: Any = OmegaConf.to_container(compose(need.track, list(words)).weights)
    alone: Any = OmegaConf.to_container(compose(need.track, [f"weights={weights}", *own]).weights)
    for key in _differences(mixed, alone):
        *above, last = key.split(".")
        place = reduce(lambda node, name: node[name], above, alone)
        yield from as_words(place[last], f"++weights.{key}") if last in place else [f"~weights.{key}"]


def wanted_settings(track_cfg: DictConfig) -> dict[str, Any]:
    """What `signature` reads in the run.json of such a run."""
    side = track_cfg.resolution
    return {
        "config": {key: OmegaConf.to_container(track_cfg[key], resolve=True) for key in ("model", "data")},
        "shots": track_cfg.shots,
        "seed": track_cfg.seed,
        "protocol": {
            "resolution": "each image's own" if side == "native" else f"{side} x {side}",
            "map_precision": track_cfg.map_precision,
            "mask_resize": MASK_RULES[track_cfg.mask_resize],
        },
        "image_score": track_cfg.image_score,
        "chosen_categories": list(track_cfg.categories),
    }


def data_root(cfg: DictConfig, name: str, all_sets: Sequence[str]) -> Path | None:
    """Where a data set lies: roots.<name>, the folder of its name in root, or root itself if the table has one set."""
    if name in cfg.roots:
        return Path(cfg.roots[name]).expanduser()
    if not cfg.root:
        return None
    root = Path(cfg.root).expanduser()
    alone = len(set(cfg.only) & set(all_sets) or set(all_sets)) == 1
    return root / name if (root / name).is_dir() or not alone else root


def missing(todo: Mapping[Need, PlannedRun], models: Sequence[Any]) -> str:
    """Every data set and weight file that is not here, in words; nothing where all are."""
    roots = {need.data: run.root for need, run in todo.items()}
    said = []
    for name, root in roots.items():
        if root is None or not root.is_dir():
            where = f"no folder {root}" if root else "no folder was named"
            bring = f"make data DATA={name} ROOT=folder brings it"
            said.append(f"the data set {name} ({registry()[name].title}; {where}; {bring})")
    if files := missing_files(models):
        said.append(f"the weights {', '.join(file.name for file in files)} ({how_to_fetch(files)})")
    each = f" (ROOT may hold a folder for each of {', '.join(roots)})" if said and len(roots) > 1 else ""
    return "; ".join(said) + each


def effort(needs: Iterable[Need]) -> str:
    """How many images the runs score, and roughly how long that takes: estimated, not measured."""
    known = [experiment(need.experiment) for need in needs]
    images = sum(one.images for one in known)
    on_gpu = sum(one.images * one.gpu_seconds for one in known)
    on_cpu = sum(one.images * one.cpu_seconds for one in known)
    runs = f"{len(known)} run{'s' if len(known) != 1 else ''} of {images:,} images in all"
    return f"{runs}, roughly {duration(on_gpu)} on a GPU or {duration(on_cpu)} on a few CPU cores (an estimate)"


def page(
    cfg: DictConfig, table: PublishedTable, finished: Mapping[Need, FinishedRun], lines: Sequence[Line],
    failed: Sequence[str] = (),
) -> str:  # fmt: skip
    """All that is printed: the table, what lies within the tolerance, known reasons for a gap, which runs these are."""
    answered = answers_to(table.name)
    parts = [
        f"{table.name}: {table.caption} ({paper_of(table)}), in percent\n",
        to_markdown(lines),
        summary(lines, cfg.tolerance),
    ]
    if answered.unanswered:
        parts.append(f"not compared: {answered.unanswered}")
    if answered.reasons:
        parts.append("known reasons for a gap:")
        parts += [f"  {name}: {reason}" for name, reason in answered.reasons.items()]
    parts.append(f"ours, {len(finished)} of the {len(needs_of(table.name))} runs behind the table:")
    for need, run in finished.items():
        parts.append(f"  {run.folder} ({need})")
        parts += [f"    note: {note}" for note in [*departures(need, run), *run.notes]]
    return "\n".join([*parts, *(f"no result of {each}" for each in failed)]) + "\n"


def departures(need: Need, run: FinishedRun) -> list[str]:
    """In what a run is not the set-up of the table: its model and weights, other settings, seed, code."""
    composed = compose(need.track, [*need.words], return_hydra_config=True)
    published, choices = wanted_settings(composed), composed.hydra.runtime.choices
    results, notes = run.results, []
    for key in ("model", "weights"):
        if results.get(key) != choices[key]:
            notes.append(f"{key} {results.get(key)}, not the published set-up's {choices[key]}")
    same_kind = not notes
    if run.store is not None:
        actual = signature({**run.store.settings, "shots": results["shots"], "seed": need.seed})
        different = sorted(_differences(actual, signature(published)))
        if different := [key for key in different if same_kind or not key.startswith("model.")]:
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
    """Compare the table that was named, or list all; exit code 2 if a run failed."""
    if cfg.table:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the run in progress too
        if reproduce(cfg)[1]:
            sys.exit(EXIT_BAD_INPUT)
        return
    for name in list_tables():
        number = len(needs_of(name))
        can = f"{number} run{'s' if number > 1 else ''}" if number else "to read only"
        print(f"{name:26} {can:>12}  {load(name).caption}")


if __name__ == "__main__":
    run_main(main)
