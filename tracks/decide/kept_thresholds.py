"""What a run keeps so that its decision thresholds can be had again without the model: thresholds.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from models.base import AnomalyModel
from models.disk import write_atomically
from tracks.decide.threshold import Threshold, leave_one_out
from tracks.decide.threshold_fit import fit_threshold, owners
from tracks.errors import TrackInputError

THRESHOLDS_FILE = "thresholds.json"
NOT_KEPT = (
    "the run folder keeps neither scores of references nor a threshold of the weights for it; give the command of the "
    "run again"
)


class KeptThresholds:
    """The basis of each category's threshold: scores of its references, a known threshold, or why there is none.

    Thresholds are fitted when they are asked for, so another target rate needs no model either. `target_rate` in
    (0, 1) is kept with the run; None takes the one that the run was made with.

    Raises:
        TrackInputError: the file is there but is no JSON of ours.
    """

    def __init__(self, folder: Path, target_rate: float | None = None):
        self._path = folder / THRESHOLDS_FILE
        kept = _read(self._path)
        self.target_rate: float | None = kept["target_rate"] if target_rate is None else target_rate
        self._categories: dict[str, dict[str, Any]] = kept["categories"]
        if self.target_rate != kept["target_rate"]:
            self._write()

    def __contains__(self, category: str) -> bool:
        return category in self._categories

    def keep_fitted(self, category: str, model: AnomalyModel, names: Sequence[str] | None = None) -> None:
        """Keep the leave-one-out image scores of the references that `model` was fitted to, or why there are none.

        `names` are those of the references; the ones that score like defects are listed for the reader of the file.
        """
        try:
            prediction = leave_one_out(model, category)
            basis: dict[str, Any] = {"reference_scores": prediction.image_scores.tolist()}
            basis["probabilities"] = model.scores_are_probabilities
            if (of := owners(prediction)) != list(range(len(of))):
                basis["references"] = of
            if names is not None:
                basis["names"] = list(names)
            basis["odd_references"] = list(_fitted(basis, 0.05).odd_references)  # refuses scores that are not finite
        except TrackInputError as error:
            basis = {"none_because": str(error)}
        self._keep(category, basis)

    def keep_known(self, category: str, threshold: Threshold) -> None:
        """Keep a threshold that needs no fit."""
        self._keep(category, {"known": asdict(threshold)})

    def threshold(self, category: str) -> Threshold | str:
        """The threshold of a category, or the reason why there is none."""
        basis = self._categories.get(category, {"none_because": NOT_KEPT})
        if "known" in basis:
            lists = {key: tuple(value) for key, value in basis["known"].items() if isinstance(value, list)}
            return Threshold(**{**basis["known"], **lists})
        if "reference_scores" in basis:
            assert self.target_rate is not None
            return _fitted(basis, self.target_rate)
        return str(basis["none_because"])

    def is_fitted(self, category: str) -> bool:
        """Whether the threshold of a category is one that was fitted on references."""
        return "reference_scores" in self._categories.get(category, {})

    def _keep(self, category: str, basis: dict[str, Any]) -> None:
        if self._categories.get(category) != basis:
            self._categories[category] = basis
            self._write()

    def _write(self) -> None:
        content = {"target_rate": self.target_rate, "categories": self._categories}
        write_atomically(self._path, (json.dumps(content, indent=2) + "\n").encode())


def _fitted(basis: dict[str, Any], target_rate: float) -> Threshold:
    return fit_threshold(
        basis["reference_scores"], target_rate, bool(basis.get("probabilities")),
        references=basis.get("references"), names=basis.get("names"),
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {"target_rate": None, "categories": {}}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {"target_rate": kept["target_rate"], "categories": dict(kept["categories"])}
    except (ValueError, KeyError, TypeError) as error:
        raise TrackInputError(
            f"expected the thresholds of a run as JSON in {path}, got {error!r}; delete the file and give the command "
            "of the run again"
        ) from error
