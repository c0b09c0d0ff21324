"""The model of a run, from its configuration: built, cut into tiles where wanted, on its device."""

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from models.base import AnomalyModel
from models.clip_adapter.model import ClipAdapter
from models.tiles import WHOLE, Tiled, check_tiles


def build_model(cfg: DictConfig, device: str) -> AnomalyModel:
    """The model of `cfg.model`, in evaluation mode, looking at tiles as `cfg.tiles` says.

    Without `cfg.tiles` as the weights say, for the CLIP adapter; other models see whole images, as published.

    Raises:
        ModelInputError: arguments that do not fit, tiles that this model cannot look at.
    """
    model: AnomalyModel = instantiate(cfg.model)
    tiles = cfg.get("tiles")
    if tiles is None:
        tiles = OmegaConf.select(cfg, "weights.tiles", default=WHOLE) if isinstance(model, ClipAdapter) else WHOLE
    check_tiles(tiles)
    return (model if tiles == WHOLE else Tiled(model, tiles)).to(device).eval()
