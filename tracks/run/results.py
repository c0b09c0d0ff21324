"""What a run says at its end: results.json, .csv and .md, and the same on the screen."""

import json
from pathlib import Path
from typing import Any

from eval.tables import mean_over_categories, to_csv, to_markdown, track_score
from models.base import TRANSDUCTIVE
from models.disk import write_atomically
from tracks.decide.decision import decision_lines, decision_table, decisions
from tracks.run.scoring import LEGACY_IMAGE_SCORE, RULES
from tracks.run.store import PredictionStore


def summarise(
    settings: dict[str, Any], tables: dict[str, dict[str, Any]], image_score: str, known: dict[str, Any]
) -> dict[str, Any]:
    """The content of results.json; `known` holds what maps alone do not tell, see `known_of_run`."""
    protocol = {**settings["protocol"], **RULES}
    if image_score == "legacy_minmax":
        protocol.update(setting=TRANSDUCTIVE, image_score=LEGACY_IMAGE_SCORE)
    return {
        **{key: settings[key] for key in ("track", "model", "weights", "data", "shots", "seed")},
        "protocol": protocol,
        "images": sum(table["images"] for table in tables.values()),
        **known,
        "categories": tables,
        "mean": mean_over_categories(tables),
        "score": track_score(tables),
    }


def known_of_run(folder: Path) -> dict[str, Any]:
    """What the maps of a run do not tell: what its thresholds decide, and the cost that earlier results state.

    A cost that is not known is None.
    """
    path = folder / "results.json"
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    cost = {key: earlier.get(key) for key in ("seconds", "peak_memory_mb")}
    return {**cost, "decision": decisions(PredictionStore(folder))}


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """Write results.json, results.csv and results.md."""
    write_atomically(folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_atomically(folder / "results.csv", to_csv(results))
    tables = to_markdown(results) + "\nDecided by threshold:\n\n" + decision_table(results["decision"])
    write_atomically(folder / "results.md", f"{tables}\n{decision_lines(results['decision'])}\n")


def report(results: dict[str, Any], folder: Path, predicted: int, latest: Path | None) -> None:
    """Print the table, the track score, what was decided, the cost (if anything was predicted), where the files are."""
    score = results["score"]
    shown = "none" if score is None else f"{100 * score:.1f}"
    earlier = results["images"] - predicted
    print(to_markdown(results))
    print(f"track score (mean over categories of harmonic F1): {shown}")
    print(decision_lines(results["decision"]))
    if predicted:
        seconds = max(results["seconds"], 1e-9)
        print(
            f"{predicted} images in {seconds:.1f} s ({predicted / seconds:.1f} images/s), peak memory "
            f"{results['peak_memory_mb']:.0f} MB"
            + (f"; {earlier} more were there from an earlier run" if earlier > 0 else "")
        )
    else:
        print(f"0 images to predict: all {earlier} were there from an earlier run")
    also = f" (also {latest})" if latest else ""
    print(f"files: {folder}{also}: results.json, results.csv, results.md, predictions/, overlays/")
