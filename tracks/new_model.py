"""Entry point of `vandkit new-model NAME [folder=mine]`: a model of one's own to begin with, outside this project."""

import importlib.util
import keyword
import os
import re
from pathlib import Path
from string import Template

from omegaconf import DictConfig

from models.disk import write_atomically
from tracks.command.cli import command, run_main
from tracks.command.variants import choices
from tracks.errors import TrackInputError

MODEL = Template('''"""$kind: a model of your own, to be filled with your idea (vandkit's docs/own_model.md)."""

import torch
from models.base import BOTH, AnomalyModel, Prediction, groups, stacked


class $kind(AnomalyModel):
    """Begins as: how far each pixel's grey is from the nearest reference, or from the image's mean without any."""

    serves = BOTH  # (ZERO_SHOT,) if it cannot learn from references, (FEW_SHOT,) if it can do nothing without

    def __init__(self, side: int = 64):
        super().__init__()
        self.side = side

    def preprocess(self, image):
        """One RGB image to (3, h, w), the same for all: here grey, side x side, 0 to 1."""
        grey = torch.tensor(list(image.convert("L").resize((self.side, self.side)).tobytes()))
        return grey.view(1, self.side, self.side).expand(3, -1, -1) / 255

    def fit(self, references, category):
        """Learn from K >= 1 normal images; all that is learnt stands in self._states, as tensors."""
        known = torch.stack([reference.to(self.device)[0] for reference in references])
        self._states[category] = {"known": known}

    def predict(self, images, categories):
        """A map and a score for each of B images, of which each may be of another category."""
        grey = stacked(images, self.device)[:, 0]
        maps = torch.empty_like(grey)
        for category, rows in groups(categories):
            known = self._states[category]["known"] if self._states else None
            maps[rows] = self._far(grey[rows], known)
        return Prediction(maps, maps.flatten(1).amax(dim=1))

    def reference_prediction(self, category):
        """Each reference as if it were not among the references: what a threshold is fitted on."""
        known = self._states[category]["known"]
        others = [torch.cat([known[:i], known[i + 1 :]]) for i in range(len(known))]
        maps = torch.cat(
            [self._far(one[None], rest if len(rest) else None) for one, rest in zip(known, others, strict=True)]
        )
        return Prediction(maps, maps.flatten(1).amax(dim=1))

    def _far(self, grey, known):
        if known is None:
            return (grey - grey.mean(dim=(1, 2), keepdim=True)).abs()
        return (grey[:, None] - known[None]).abs().amin(dim=1)

    @property
    def protocol(self):
        """Labels that every number made with this model carries."""
        return {"method": "$name", "model_image_size": self.side}
''')
CONFIG = Template("""# $kind ($name.py); the keys are the constructor's arguments.
_target_: $name.$kind
_convert_: all
side: 64
""")
TEST = Template('''"""What every model promises, of $kind."""

import pytest
from $name import $kind
from models.contract import checks_of


@pytest.mark.parametrize("check", checks_of($kind), ids=lambda check: check.__name__)
def test_it_keeps_what_models_promise(check):
    check($kind())
''')


@command("new_model")
def main(cfg: DictConfig) -> None:
    """Write the files and say how to run them."""
    folder = Path(cfg.folder)
    written = write_model(str(cfg.name or ""), folder)
    find = f"set PYTHONPATH={folder}&& " if os.name == "nt" else f"PYTHONPATH={folder} "
    print("\n".join(f"written: {path}" for path in written))
    print(f"test it: {find}python -m pytest {written[2]}")
    print(f"run it:  {find}vandkit zero-shot --config-dir {folder / 'conf'} model={cfg.name} weights=none")


def write_model(name: str, folder: Path) -> list[Path]:
    """Write the class, its YAML and its test into a folder; returns their paths.

    Raises:
        TrackInputError: a name that cannot be a module's or is taken; a file that is there already.
    """
    check_name(name)
    kind = "".join(word.capitalize() for word in name.split("_"))
    texts = {f"{name}.py": MODEL, f"conf/model/{name}.yaml": CONFIG, f"test_{name}.py": TEST}
    for there in filter(Path.exists, map(folder.joinpath, texts)):
        raise TrackInputError(f"expected a place for a new model, got {there}, which is there; choose another name")
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / path, text.substitute(name=name, kind=kind))
    return [folder / path for path in texts]


def check_name(name: str) -> None:
    """Refuse a name that Python cannot import, or would import something else by."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise TrackInputError(
            f"expected a name of small letters, digits and _, got {name!r}; for example: vandkit new-model my_idea"
        )
    if name in choices("model"):
        raise TrackInputError(f"expected a new name, got {name}, which is a model here; try my_{name}")
    if importlib.util.find_spec(name):
        raise TrackInputError(f"expected a name of its own, got {name}, which Python has a module of; try my_{name}")


if __name__ == "__main__":
    run_main(main)
