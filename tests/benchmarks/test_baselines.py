"""The comparison with anomalib: our sides measure themselves, differences and ratios, who is missing."""

import json
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from benchmarks import baselines, baselines_sides
from tests.support.baseline_stand_ins import small_resnet

SETTINGS = {
    "method": "patchcore", "shots": 2, "images": 3, "batch": 2, "seed": 0, "threads": 1, "device": "cpu",
    "processor_time": True, "repeats": 1, "coreset": 0.1, "clip": "",
}  # fmt: skip


def test_a_side_measures_its_stages_and_leaves_its_bank_and_outputs(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines_sides, "load_timm_backbone", lambda *_, **__: small_resnet(224))
    found = baselines_sides.measure("vandkit, 1536 channels", tmp_path, SETTINGS)
    assert set(found["seconds"]) == {"references", "coreset", "images"}
    assert min(found["seconds"].values()) > 0
    assert torch.load(tmp_path / "bank.pt").shape[0] == round(0.1 * 2 * 784)
    outputs = torch.load(tmp_path / "vandkit, 1536 channels.pt")
    assert outputs["maps"].shape == (3, 224, 224)
    assert outputs["patches"].shape == (3, 784)
    assert outputs["scores"].shape == (3,)
    assert outputs["radius"] > 0


def test_differences_are_the_largest_and_ratios_are_to_our_published_side(tmp_path):
    one, other = torch.tensor([1.0, 3, 2]), torch.tensor([1.0, 2.5, 2.25])
    torch.save({"scores": one, "radius": torch.tensor(4.0)}, tmp_path / "first.pt")
    torch.save({"scores": other, "radius": torch.tensor(5.0)}, tmp_path / "other.pt")
    found = dict(baselines._agreement(tmp_path, "first", "other"))
    assert found["scores"] == {"difference": 0.5, "range": 2.0}
    assert found["radius"] == {"first": 4.0, "other": 5.0}
    rows = {
        "vandkit": {"seconds": {"images": 2.0}, "extra_mb": 1.0},
        "anomalib": {"seconds": {"images": 5.0}, "extra_mb": 1.0, "agreement": found},
        "another": {"error": "not installed"},
    }
    lines = baselines.table(rows).splitlines()
    assert "| 2 |" in lines[2]
    assert "5 (x 2.50)" in lines[3]
    assert "not installed" in lines[4]
    assert "image scores differ by up to 5.0e-01" in next(baselines.sentences(rows))


def test_who_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(baselines.importlib.util, "find_spec", lambda name: None)
    assert baselines._run("anomalib", tmp_path, SETTINGS, 1) == {"error": "not installed"}


def test_windows_reach_a_batch_first_tower_the_right_way_round():
    """The package turns (N, L, C) to (L, N, C) around its tower, as older open_clip wanted it."""
    tower = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    class Visual(torch.nn.Module):
        def forward(self, x):
            return tower(x, x, x, need_weights=False)[0]

    model = torch.nn.Module()
    model.clip = torch.nn.Module()
    model.clip.visual = torch.nn.Module()
    model.clip.visual.transformer = Visual()
    windows = torch.randn(5, 4, 8)

    def embed(x):
        return model.clip.visual.transformer(x.permute(1, 0, 2)).permute(1, 0, 2)

    assert (embed(windows) - Visual()(windows)).abs().max() > 1e-3
    assert_close(partial(baselines_sides.batch_first, model, embed)(windows), Visual()(windows))
    assert (embed(windows) - Visual()(windows)).abs().max() > 1e-3


def test_both_sides_see_the_same_pictures():
    assert torch.equal(baselines_sides.pictures(2, 64, 3), baselines_sides.pictures(2, 64, 3))
    assert baselines_sides.pictures(0, 64, 3).shape == (0, 3, 64, 64)


def test_what_goes_wrong_in_a_side_is_its_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["side", "vandkit", str(tmp_path), json.dumps({**SETTINGS, "coreset": 2})])
    monkeypatch.setattr(baselines_sides, "load_timm_backbone", lambda *_, **__: small_resnet(224))
    baselines_sides.main()
    assert "ModelInputError: expected coreset" in json.loads(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("method", baselines_sides.SIDES)
def test_the_first_side_is_ours(method):
    assert next(iter(baselines_sides.SIDES[method])).startswith("vandkit")
