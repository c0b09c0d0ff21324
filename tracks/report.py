"""Entry point of `make report RUN=...`: a run as one HTML page, from its store, with no model."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from tracks.command.cli import command, explain, run_main
from tracks.command.given_runs import open_run
from tracks.decide.page import PAGE_FILE
from tracks.errors import TrackInputError
from tracks.report_page.choice import Choice
from tracks.report_page.page import PageOptions, render_page, write_page
from tracks.report_page.pictures import Photos
from tracks.run.store import SETTINGS_FILE, PredictionStore, read_settings

OUR_DATA_SETS = "tracks.datasets."


def write_report(store: PredictionStore, out: Path | None, options: PageOptions, photos: Photos) -> Path:
    """Write the page of a run to `out`, a file or a folder; report.html in the run's folder if None."""
    path = store.folder / "report.html" if out is None else out if out.suffix == ".html" else out / "report.html"
    size = write_page(path, render_page(store, photos, options))
    for remark in photos.remarks:
        print(f"note: {remark}")
    print(f"files: {path} ({size:,} bytes)")
    return path


def open_photos(settings: Mapping[str, Any], root: str | None = None, trust: bool = False) -> Photos:
    """The photos of the data set that run.json names, with `root` as its folder if given; if gone, none and why.

    A run folder may come from somebody else, so a constructor outside tracks.datasets is called only with `trust`.
    """
    node = (settings.get("config") or {}).get("data")
    if not node:
        return Photos(None, "run.json does not say how to open the data set")
    foreign = [target for target in _targets(node) if not target.startswith(OUR_DATA_SETS)]
    if foreign and not trust:
        return Photos(None, f"run.json names code outside tracks.datasets, {foreign[0]}; ARGS=trust=true lets it run")
    try:
        return Photos(instantiate({**node, "root": root} if root else node))
    except InstantiationException as error:
        return Photos(None, explain(error) or str(error).splitlines()[0])


def _targets(node: Any) -> Iterator[str]:
    """Every constructor that a configuration names."""
    if isinstance(node, Mapping):
        yield from (str(value) for key, value in node.items() if key == "_target_")
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _targets(child)


def page_of_photos(run: Any) -> Path | None:
    """The page of a folder that `predict` wrote, said where it is; None of another folder."""
    if not isinstance(run, str) or not run:
        return None
    folder = Path(run).expanduser()
    settings = read_settings(folder / SETTINGS_FILE) if (folder / SETTINGS_FILE).is_file() else {}
    if settings.get("track") != "predict":
        return None
    page = folder / PAGE_FILE
    if not page.is_file():
        raise TrackInputError(f"expected the page that `predict` ends with, got no {page}; run that command again")
    print(f"files: {page} ({page.stat().st_size:,} bytes), as `predict` wrote it; the same command writes it anew")
    return page


def report(cfg: DictConfig) -> Path:
    """`write_report` with the settings of conf/report.yaml."""
    if (page := page_of_photos(cfg.run)) is not None:
        return page
    store = open_run(cfg.run)
    options = PageOptions(Choice(cfg.misses, cfg.false_alarms, cfg.hits), cfg.picture_side, cfg.workers)
    photos = open_photos(store.settings, cfg.root or None, cfg.trust)
    return write_report(store, Path(cfg.out).expanduser() if cfg.out else None, options, photos)


@command("report")
def main(cfg: DictConfig) -> None:
    """Write the page and say where it is and how large."""
    report(cfg)


if __name__ == "__main__":
    run_main(main)
