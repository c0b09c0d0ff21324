"""Lists of references: the manifest that a run writes, the lists of the VAND 2023 challenge, plain lists of paths."""

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from models.disk import write_atomically
from tracks.command.names import listed, missing_path, unknown
from tracks.command.paths import below
from tracks.datasets.files import FileSample
from tracks.datasets.sample import Dataset, Sample
from tracks.errors import TrackInputError

MANIFEST_FORMAT = "vandkit references 1"
SHOT_LISTS = ("selected_samples_per_run.txt", "k_shot.txt")
SHOT_LIST_LINE = re.compile(r"(\d+)-(\d+):(.*)")
"""`<run>-<k>: <stem> <stem> ...`, the lists of the VAND 2023 challenge."""


def from_list(
    path: Path, dataset: Dataset, category: str, samples: Sequence[Sample], shots: int, run: int
) -> list[Sample]:
    """Those of the `samples` that a list names; see `tracks.run.references.resolve`."""
    path = _list_file(path.expanduser(), category)
    if path.suffix.lower() == ".json":
        return _from_manifest(path, samples, shots, category)
    if any(SHOT_LIST_LINE.match(line) for line in _lines(path)):
        _check_concerns(path, dataset, category)
        return _match(read_selected_samples(path, run, shots), samples, path)
    return _match(_first(_plain_list(path, dataset, category), shots, category, path), samples, path)


def write_manifest(path: str | Path, references: Mapping[str, Sequence[Sample]], shots: int, seed: int) -> None:
    """Write which images were handed out, by category, with the digests of their content."""
    content = {
        "format": MANIFEST_FORMAT,
        "shots": shots,
        "seed": seed,
        "categories": {
            category: [{"name": sample.name, "sha256": content_sha256(sample)} for sample in samples]
            for category, samples in references.items()
        },
    }
    write_atomically(Path(path), json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_manifest(path: str | Path) -> dict[str, dict[str, str | None]]:
    """Digests by name by category from a manifest of ours; an entry that is a bare name has the digest None.

    Raises:
        TrackInputError: not such a file, or an image named twice in a category.
    """
    path = Path(path)
    try:
        categories = json.loads(_read_text(path))["categories"]
        return {category: _entries(entries) for category, entries in categories.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, TrackInputError):
            raise
        raise TrackInputError(
            f'expected {path} to be a manifest of references, JSON with "categories": {{category: [{{"name": ...}}]}}, '
            f"got {type(error).__name__}: {error}; take references.json of a run folder"
        ) from error


def read_selected_samples(path: str | Path, run: int, shots: int) -> list[str]:
    """The stems in the line `<run>-<shots>:` of a selected_samples_per_run.txt.

    Raises:
        TrackInputError: a line of another form, no such line or two, or not `shots` different stems in it.
    """
    path = Path(path)
    found: dict[tuple[int, int], list[str]] = {}
    for line in _lines(path):
        if not (match := SHOT_LIST_LINE.fullmatch(line)):
            raise TrackInputError(f"expected lines like '0-2: 013 048' (run-shots: names) in {path}, got {line[:80]!r}")
        key = int(match[1]), int(match[2])
        if key in found:
            raise TrackInputError(f"expected one line {key[0]}-{key[1]} in {path}, got two; remove one")
        found[key] = match[3].split()
    if (run, shots) not in found:
        have = listed([f"{key[0]}-{key[1]}" for key in found])
        raise TrackInputError(
            f"expected a line {run}-{shots} (run-shots) in {path}, got {have}; set run and shots to one"
        )
    stems = found[run, shots]
    if len(stems) != shots:
        raise TrackInputError(
            f"expected {shots} names in line {run}-{shots} of {path}, got {len(stems)}; mend the line"
        )
    return stems


def content_sha256(sample: Sample) -> str:
    """Digest of an image's content: of the file's bytes, or of the fingerprint of an image that is no file."""
    content = sample.path.read_bytes() if isinstance(sample, FileSample) else sample.fingerprint.encode()
    return hashlib.sha256(content).hexdigest()


def _list_file(path: Path, category: str) -> Path:
    """The file that lists the references of a category, where `path` is that file or a folder of such files."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise missing_path("a list of references", path)
    files = [below(path, category) / inner / name for inner in ("", "train/good") for name in SHOT_LISTS]
    for file in files:
        if file.is_file():
            return file
    raise TrackInputError(
        f"expected a list of references of {category} at {files[0]} or {files[2]}, got none; "
        "give the folder that holds the folders of the categories, or the file itself"
    )


def _from_manifest(path: Path, samples: Sequence[Sample], shots: int, category: str) -> list[Sample]:
    manifest = read_manifest(path)
    if category not in manifest:
        raise unknown(f"category (in {path})", category, manifest)
    names = _first(list(manifest[category]), shots, category, path)
    chosen = _match(names, samples, path)
    for name, sample in zip(names, chosen, strict=True):
        digest = manifest[category][name]
        if digest is not None and digest != content_sha256(sample):
            file = sample.path if isinstance(sample, FileSample) else sample.name
            raise TrackInputError(
                f"expected the reference {file} as it was when {path} was written, got other content; "
                "restore the image, or draw references anew"
            )
    return chosen


def _entries(entries: Sequence[Any]) -> dict[str, str | None]:
    pairs = [(entry, None) if isinstance(entry, str) else (entry["name"], entry.get("sha256")) for entry in entries]
    _check_different([name for name, _ in pairs], "a manifest")
    return dict(pairs)


def _plain_list(path: Path, dataset: Dataset, category: str) -> list[str]:
    """The lines of a list of image paths; where lines go through folders named like categories, only this one's."""
    lines = [line.replace("\\", "/") for line in _lines(path)]
    if any(name in PurePosixPath(line).parts for line in lines for name in dataset.categories):
        return [line for line in lines if category in PurePosixPath(line).parts]
    _check_concerns(path, dataset, category)
    return lines


def _check_concerns(path: Path, dataset: Dataset, category: str) -> None:
    """Refuse a list that says nowhere which of several categories it is for."""
    if len(dataset.categories) > 1 and category not in path.absolute().parts[-4:-1]:  # as in _list_file
        raise TrackInputError(
            f"expected a list of references for each of {len(dataset.categories)} categories, got the one file {path}; "
            f"give a folder that holds {category}/{SHOT_LISTS[0]} and so on, or run one category"
        )


def _first(names: list[str], shots: int, category: str, path: Path) -> list[str]:
    if len(names) < shots:
        raise TrackInputError(
            f"expected {shots} references of {category} in {path}, got {len(names)}; ask for fewer shots or name more"
        )
    return names[:shots]


def _match(tokens: Sequence[str], samples: Sequence[Sample], path: Path) -> list[Sample]:
    """The sample that each token names: by its name, the end of it, its stem, or a longer path that ends in it."""
    chosen = [_match_one(posixpath.normpath(token), samples, path) for token in tokens]
    _check_different([sample.name for sample in chosen], str(path))
    return chosen


def _match_one(token: str, samples: Sequence[Sample], path: Path) -> Sample:
    found = [sample for sample in samples if _names(token, sample.name)]
    if not found:
        stems = sorted(PurePosixPath(sample.name).stem for sample in samples)
        raise unknown(f"each reference in {path}", token, stems)
    if len(found) > 1:
        raise TrackInputError(
            f"expected {token!r} in {path} to name one image, got {found[0].name} and {found[1].name}; spell out which"
        )
    return found[0]


def _names(token: str, name: str) -> bool:
    return token == PurePosixPath(name).stem or f"/{name}".endswith(f"/{token}") or token.endswith(f"/{name}")


def _check_different(names: Sequence[str], source: str) -> None:
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise TrackInputError(f"expected different references in {source}, got {twice} twice; remove one")


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _read_text(path).splitlines() if line.strip()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TrackInputError(
            f"expected text in UTF-8 in {path}, got something else ({error}); save it as text"
        ) from error
