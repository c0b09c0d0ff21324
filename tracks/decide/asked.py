"""The model behind `predict`: what is asked of it, once, and on what its answers depend."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.base import TRANSDUCTIVE, AnomalyModel
from models.weights.catalogue import named_files
from tracks.datasets.files import FileSample
from tracks.datasets.photos import REFERENCE_PREFIX
from tracks.datasets.region import Region
from tracks.decide.kept import Facts, Kept, facts_of, fingerprint
from tracks.run.fingerprint import code_digest, device_name, versions
from tracks.run.runner import Loaded, RunnerOptions, Scored, fit_references, score_images


class Asked:
    """The model of a run, built and taught not before it is needed: where all is kept it never is."""

    def __init__(
        self, build: Callable[[], AnomalyModel], category: str, references: Sequence[FileSample],
        options: RunnerOptions, region: Region | None = None,
    ):  # fmt: skip
        self.category, self.references, self.options, self.region = category, references, options, region
        self.names = [sample.name.removeprefix(REFERENCE_PREFIX) for sample in references]
        self.build, self.model = cache(build), cache(self._model)

    def _model(self) -> AnomalyModel:
        """The model, once it has seen the photos of good parts."""
        model, started = self.build(), time.perf_counter()
        if self.references:
            fit_references(model, self.references, self.category, self.options.device)
            print(f"learnt {len(self.references)} references in {time.perf_counter() - started:.1f} s", flush=True)
        return model

    def facts(self, kept: Kept) -> Facts:
        """What is to be known of the model and the references: what was kept, or what they say now."""
        facts = kept.facts()
        if facts is None:
            facts = facts_of(self.model(), self.category, self.names, self.region)
            kept.keep_facts(facts)
        return facts

    def scored(self, samples: Sequence[FileSample], kept: Kept) -> Iterator[tuple[Loaded, Scored | None]]:
        """The photos of which no score is kept, and what the model says of each.

        Of a transductive model all of them, once any photo is new, changed or gone.
        """
        wanted = kept.lacking(samples)
        facts, names = self.facts(kept), {sample.name for sample in samples}
        if facts.setting == TRANSDUCTIVE and (wanted or kept.scores.keys() != names):
            wanted = names
        kept.forget_others(samples, wanted)
        if len(wanted) < len(samples):
            print(f"{len(samples) - len(wanted)} of {len(samples)} photos were scored before", flush=True)
        return score_images(self.model(), samples, self.category, self.options, wanted) if wanted else iter(())


def basis(model: Mapping[str, Any], references: Sequence[FileSample], device: str) -> dict[str, Any]:
    """What scores depend on beside the photos and the settings: a kept score is good for nothing after a change.

    `model` is the configuration of the model, a plain container.
    """
    own: list[Path] = []
    with suppress(ImportError, ValueError):  # a class of the user's own, or one that is gone
        source = find_spec(str(model.get("_target_", "")).rpartition(".")[0])
        own = [Path(source.origin)] if source and source.origin else []
    return {
        "weights": {str(path): _size_and_time(path) for path in named_files(model)},
        "references": [[sample.name, fingerprint(sample)] for sample in references],
        "device": device_name(device),
        "code": [code_digest(), *map(_size_and_time, own)],
        "versions": versions(),
    }


def _size_and_time(path: Path) -> list[int]:
    return [path.stat().st_size, path.stat().st_mtime_ns]
