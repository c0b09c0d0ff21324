"""Scores that several machines kept, each of its shard of the photos, taken over into the folder of the whole run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracks.command.paths import below
from tracks.datasets.files import FileSample
from tracks.decide.kept import FOLDER_NAME, NO_MAPS, Kept, Score, facts_in, fingerprint, read_json, rows_of
from tracks.errors import TrackInputError
from tracks.run.store import link_or_copy


def gather(kept: Kept, shards: Sequence[Path], samples: Sequence[FileSample]) -> None:
    """Take over what the folders of shards keep of photos that lack here; maps take no further room on one disk.

    Raises:
        TrackInputError: a shard that was scored on another basis (times of files apart, which machines need not share).
    """
    lacking = kept.lacking(samples) if shards else set()
    wanted = {sample.name: fingerprint(sample) for sample in samples if sample.name in lacking}
    for folder in shards:
        found = read_json(folder / FOLDER_NAME / "basis.json")
        if not found:
            continue  # it has just begun
        _refuse_other_basis(folder, _without_times(found["basis"]), _without_times(kept.basis))
        if kept.facts() is None and (facts := facts_in(folder / FOLDER_NAME)) is not None:
            kept.keep_facts(facts)
        for row in rows_of(folder / FOLDER_NAME / "scores.jsonl", Score):
            if wanted.get(row.name) == row.fingerprint and kept.maps in (NO_MAPS, row.maps):
                if row.map_file:
                    link_or_copy(below(folder, row.map_file), below(kept.folder, row.map_file))
                kept.keep(row)
                kept.scores[row.name] = row
    if shards:
        left = len(kept.lacking(samples))
        print(f"{len(shards)} shards gathered: {len(samples) - left} of {len(samples)} photos are scored", flush=True)


def _refuse_other_basis(folder: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    if changed := [key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key)]:
        raise TrackInputError(
            f"expected shards that were scored as here, got {folder} of other {', '.join(changed)}; score it again by "
            "the same program on the same kind of machine, or delete it"
        )


def _without_times(basis: Mapping[str, Any]) -> dict[str, Any]:
    """A basis in which files of weights and code count by size alone, wherever they lie."""
    weights = {Path(path).name: size for path, (size, _) in basis["weights"].items()}
    code, *own = basis["code"]
    return {**basis, "weights": weights, "code": [code, *(size for size, _ in own)]}
