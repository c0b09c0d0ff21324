"""Entry point of `vandkit demo`: a page in the browser to drop photos on; needs the extra `demo`."""

from importlib.util import find_spec
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from tracks.command.cli import command, run_main
from tracks.demo_page.loaded import Models
from tracks.demo_page.uploads import Limits
from tracks.errors import TrackInputError
from tracks.run.build import chosen_names, pick_device

OF_THE_MODEL = ("model", "weights", "prompts", "tiles")


def check_extra() -> None:
    """Refuse to go on without gradio.

    Raises:
        TrackInputError: it is not installed.
    """
    if find_spec("gradio") is None:
        raise TrackInputError(
            "expected gradio, which draws the page, found none; `pip install '.[demo]'` in the folder of this project "
            "(or `pip install 'gradio>=6,<7'`) installs it, and so does `make demo`"
        )


def given_settings(cfg: DictConfig) -> dict[str, Any]:
    """What the command line says of the chosen model, for `tracks.api.load_model`."""
    words = [word.lstrip("+").partition("=") for word in HydraConfig.get().overrides.task]
    found: dict[str, Any] = {}
    for key, _, value in words:
        if key == "prompts":
            found[key] = value
        elif key.split(".")[0] in OF_THE_MODEL and key not in OF_THE_MODEL[:3]:
            chosen = OmegaConf.select(cfg, key)
            found[key] = OmegaConf.to_container(chosen) if OmegaConf.is_config(chosen) else chosen
    return found


@command("demo")
def main(cfg: DictConfig) -> None:
    """Serve the page until interrupted."""
    check_extra()
    from tracks.demo_page.page import serve  # imports gradio

    names = chosen_names()
    chosen = names["model"], names["weights"]
    models = Models(pick_device(cfg.device), {chosen: given_settings(cfg)})
    limits = Limits(cfg.max_photos, cfg.max_references, cfg.max_megabytes, cfg.max_megapixels)
    serve(models, chosen, limits, cfg.false_alarm_rate, cfg.host, cfg.port, cfg.open)


if __name__ == "__main__":
    run_main(main)
