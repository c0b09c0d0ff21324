"""`fit`: a product judges as its references do, grows as if fitted on all, and refuses what it was not made for."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from models.errors import ModelInputError
from tracks.api import composed
from tracks.decide.product import packed, read_product, unpacked
from tracks.errors import TrackInputError
from tracks.fit import fit, judged_threshold
from tracks.predict import predict

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"weights": "tiny", "weights.backbone.image_size": 64, "device": "cpu", "workers": 1, "category": "bolt"}
PATCHCORE = {**SMALL, "model": "patchcore"}


def save_photos(folder, count, seed, spot=False):
    folder.mkdir()
    drawn = np.random.default_rng(seed)
    for i in range(count):
        pixels = drawn.integers(90, 130, (48, 48, 3)).astype(np.uint8)
        pixels[8:40, 8:40] //= 2
        if spot:
            pixels[20:30, 20:30] = (255, 0, 0)
        PIL.Image.fromarray(pixels).resize((96, 96)).save(folder / f"{folder.name}{i}.png")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Good parts in two folders and in one, photos to judge."""
    root = tmp_path_factory.mktemp("photos")
    save_photos(root / "good", 3, 0)
    save_photos(root / "more", 2, 1)
    save_photos(root / "photos", 2, 2)
    save_photos(root / "bad", 2, 3, spot=True)
    (root / "all").mkdir()
    for path in [*(root / "good").iterdir(), *(root / "more").iterdir()]:
        (root / "all" / path.name).write_bytes(path.read_bytes())
    return root


@pytest.fixture(scope="module")
def file(folders):
    """A product of PatchCore."""
    path = folders / "bolt.safetensors"
    fit(composed("fit", {**PATCHCORE, "references": str(folders / "good"), "out": str(path)}))
    return path


def judged(folders, out, **settings):
    cfg = composed("predict", {"images": str(folders / "photos"), "out": str(out), "device": "cpu", **settings})
    verdicts = predict(cfg)
    maps = {path.name: path.read_bytes() for path in sorted((out / "maps").iterdir())}
    threshold = json.loads((out / "threshold.json").read_text())
    pictures = {path.name: path.read_bytes() for path in sorted((out / "overlays").iterdir())}
    return [(one.name, one.score, one.verdict) for one in verdicts], maps, threshold, pictures


@pytest.mark.parametrize("model", ["clip_adapter", "patchcore"])
def test_a_product_judges_as_its_references_do_to_the_bit(model, folders, tmp_path):
    settings, good, path = {**SMALL, "model": model}, str(folders / "good"), tmp_path / "bolt.safetensors"
    expected = judged(folders, tmp_path / "a", references=good, **settings)
    fit(composed("fit", {**settings, "references": good, "out": str(path)}))
    assert judged(folders, tmp_path / "b", product=str(path)) == expected


def test_a_region_of_interest_stays_in_the_product(folders, tmp_path):
    region, path = [[0.1, 0.1], [0.8, 0.2], [0.5, 0.9]], tmp_path / "bolt.safetensors"
    good = str(folders / "good")
    expected = judged(folders, tmp_path / "a", references=good, roi=region, **PATCHCORE)
    fit(composed("fit", {**PATCHCORE, "references": good, "roi": region, "out": str(path)}))
    assert judged(folders, tmp_path / "b", product=str(path)) == expected
    assert judged(folders, tmp_path / "c", product=str(path), roi=region) == expected
    with pytest.raises(TrackInputError, match="but it learnt another region"):
        judged(folders, tmp_path / "d", product=str(path), roi=[[0, 0], [1, 0], [0, 1]])
    added = fit(composed("fit", {"product": str(path), "add": str(folders / "more")}))
    assert added.region.digest == read_product(path).region.digest


def test_adding_good_parts_equals_fitting_on_all(folders, file, tmp_path, capsys):
    at_once = fit(
        composed("fit", {**PATCHCORE, "references": str(folders / "all"), "out": str(tmp_path / "a.safetensors")})
    )
    added = fit(
        composed("fit", {"product": str(file), "add": str(folders / "more"), "out": str(tmp_path / "b.safetensors")})
    )
    assert "2 of 2 photos are new; 3 were known" in capsys.readouterr().out
    assert added.state.keys() == at_once.state.keys()
    assert all(torch.equal(added.state[name].cpu(), tensor.cpu()) for name, tensor in at_once.state.items())
    assert added.facts.reference_scores == at_once.facts.reference_scores
    assert (added.facts.pixels.as_array() == at_once.facts.pixels.as_array()).all()
    again = fit(composed("fit", {"product": str(tmp_path / "b.safetensors"), "add": str(folders / "more")}))
    assert "0 of 2 photos are new; 5 were known" in capsys.readouterr().out
    assert len(again.names) == 5


def test_a_model_whose_knowledge_adds_up_learns_the_new_ones_alone(folders, tmp_path, monkeypatch):
    settings = {**SMALL, "model": "subspace_ad"}
    at_once, first = tmp_path / "all.safetensors", tmp_path / "a.safetensors"
    expected = fit(composed("fit", {**settings, "references": str(folders / "all"), "out": str(at_once)}))
    fit(composed("fit", {**settings, "references": str(folders / "good"), "out": str(first)}))
    monkeypatch.setattr("tracks.fit.fit_images", lambda *_: pytest.fail("all were learnt again"))
    added = fit(composed("fit", {"product": str(first), "add": str(folders / "more")}))
    assert added.state.keys() == expected.state.keys()
    assert all(torch.equal(added.state[name].cpu(), tensor.cpu()) for name, tensor in expected.state.items())
    assert added.facts.reference_scores == expected.facts.reference_scores


def test_judged_photos_refit_the_threshold_and_say_how_many_there_were(folders, file, tmp_path, capsys):
    out = tmp_path / "c.safetensors"
    both = {"ok": str(folders / "photos"), "defect": str(folders / "bad")}
    fit(composed("fit", {"product": str(file), "out": str(out), **both}))
    assert "on 2 photos judged OK and 2 judged DEFECT: 2 of 2 defects found" in capsys.readouterr().out
    assert judged(folders, tmp_path / "out", product=str(out))[2]["value"] == read_product(out).judged.value


def test_the_threshold_of_judged_photos_lies_between_them():
    found = judged_threshold([0.1, 0.2, 0.3], [0.25, 0.5, 0.7])
    assert found.value == pytest.approx(0.225)
    assert found.false_alarm_rate == pytest.approx(1 / 3)
    assert judged_threshold([0.1, 0.2], [0.6]).value == pytest.approx(0.4)
    assert "tells them not apart" in judged_threshold([0.5, 0.6], [0.1]).undecided


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"references": "good"}, "got both; add good parts with"),
        ({"roi": [[0, 0], [1, 0], [0, 1]]}, "expected the region of interest .* but it learnt whole photos"),
        ({"category": "nut"}, "expected category as the product was fitted with, 'bolt', got 'nut'"),
        ({"model": "padim"}, "expected model._target_ as the product was fitted with"),
        ({"tiles": 3}, "expected tiles as the product was fitted with, 'whole', got 3"),
        ({"product": "nowhere.safetensors"}, "nowhere.safetensors, which is no file"),
    ],
)
def test_other_settings_than_the_products_are_refused(settings, said, folders, file, tmp_path):
    with pytest.raises(TrackInputError, match=said):
        judged(folders, tmp_path / "out", **{"product": str(file), **settings})


def test_other_weights_files_and_code_are_refused(folders, file, tmp_path):
    product, path = read_product(file), tmp_path / "d.safetensors"
    replace(product, weights="0" * 16).write(path)
    with pytest.raises(TrackInputError, match=r"expected the weights that the product was fitted with .*0000"):
        judged(folders, tmp_path / "out", product=str(path))
    for target in ("os.system", "models.disk.os.system"):
        replace(product, config={**product.config, "_target_": target}).write(path)
        with pytest.raises(TrackInputError, match=f"one that calls {target}"):
            judged(folders, tmp_path / "out", product=str(path))
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(TrackInputError, match="which is another file"):
        read_product(path)
    path.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelInputError, match="truncated"):
        read_product(path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "got neither"),
        ({"references": "good"}, "expected a file to write"),
        ({"references": "good", "out": "x.bin"}, "ends in .safetensors"),
        ({"product": "x.safetensors"}, "expected something to do"),
        ({"product": "x.safetensors", "ok": "good"}, "of both kinds"),
        ({"references": "good", "add": "more", "out": "x.safetensors"}, "expected a product to add"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(TrackInputError, match=said):
        fit(composed("fit", settings))


@pytest.mark.parametrize(
    "image",
    [
        torch.randint(0, 256, (3, 9, 7), generator=torch.Generator().manual_seed(0)).to(torch.uint8),
        torch.randint(0, 256, (3, 9, 7), generator=torch.Generator().manual_seed(1)) / 255 - 0.48,
        torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(2)),
        torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(3)),
    ],
)
def test_a_packed_image_comes_back_to_the_bit(image):
    back = unpacked(packed(image))
    assert back.dtype == image.dtype
    assert torch.equal(back, image)


@pytest.mark.e2e
def test_the_command_fits_and_predicts(folders, tmp_path):
    out = tmp_path / "steel.safetensors"
    small = ["weights.backbone.image_size=64", "device=cpu"]
    first = ["fit", str(folders / "good"), "--category", "steel bolt", f"out={out}", *small]
    then = ["predict", str(folders / "photos"), f"product={out}", f"out={tmp_path / 'judged'}", "device=cpu"]
    for words in (first, then):
        done = subprocess.run([sys.executable, "-m", "tracks.cli", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "judged/predictions.csv").is_file()
