"""What stands behind the demo page, without the page: judged as the commands judge, broken files named, limits kept."""

import tempfile

import numpy as np
import PIL.Image
import pytest

import tracks.demo as door
from models.errors import ModelInputError
from tracks import api
from tracks.decide.threshold import DEFECT
from tracks.demo_page import judging, loaded
from tracks.demo_page.uploads import Limits, uploads
from tracks.errors import TrackInputError

NUMBERS = (0, 1, 2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for number in NUMBERS:
        pixels = draw.integers(90, 130, (60, 80, 3), dtype=np.uint8)
        pixels[20:30, 30:45] = 255 * (number == 2)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _pictures_go_with_the_tests(tmp_path_factory):
    """As with the server, which gives them a folder of its own."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("pictures"))
    yield
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def models():
    return loaded.Models("cpu")


@pytest.fixture(scope="module")
def judged(models, photos):
    return judging.judge(models, [photos / f"{name}.png" for name in ("0", "broken", "1", "2")], category="nut")


def test_scores_are_those_of_the_api_and_the_highest_comes_first(models, judged, photos):
    scored = api.score(models.get("clip_adapter", "tiny"), [photos / f"{number}.png" for number in NUMBERS], "nut")
    expected = {f"{number}.png": each.score for number, each in zip(NUMBERS, scored, strict=True)}
    assert {each.name: each.score for each in judged.drawn} == pytest.approx(expected, abs=1e-6)
    scores = [each.score for each in judged.drawn]
    assert scores == sorted(scores, reverse=True)
    assert judged.verdicts[-1].name == "broken.png"


def test_a_broken_file_is_named_and_costs_the_others_nothing(judged):
    assert len(judged.notes) == 1
    assert "broken.png" in judged.notes[0]
    assert "/" not in judged.notes[0].split("broken.png")[0]
    assert "1 unreadable" in judging.summary(judged)
    assert len(judging.gallery(judged)) == len(NUMBERS)


def test_a_moved_threshold_judges_again_and_goes_back(judged):
    lowest = judged.drawn[-1].score
    low, high = judging.judged_again(judged, lowest), judging.judged_again(judged, 2.0)
    assert judging.summary(low).startswith("3 DEFECT")
    assert judging.summary(high).startswith("3 OK")
    assert judging.judged_again(low, 2.0).fitted() == judged
    rows = judging.listed(low).read_text("utf-8-sig").splitlines()
    assert len(rows) == 1 + len(judged.verdicts)
    assert f"{lowest:.9g}" in rows[1]


def test_pictures_come_with_and_without_heat_and_outline_defects_alone(judged):
    low = judging.judged_again(judged, judged.drawn[-1].score).drawn[0]
    high = judging.judged_again(judged, 2.0).drawn[0]
    assert low.verdict == DEFECT != high.verdict
    plain, outlined, not_outlined = (
        np.asarray(PIL.Image.open(judging.picture(judged, each, heat=heat)), dtype=int)
        for each, heat in ((low, False), (low, True), (high, True))
    )
    assert plain.shape == (60, 80, 3)
    assert outlined.shape[0] > 60, "a legend below"
    assert np.abs(outlined[:60] - not_outlined[:60]).max() > 60


def test_references_are_learnt_and_forgotten(models, judged, photos):
    given = [photos / f"{number}.png" for number in NUMBERS]
    fitted = judging.judge(models, given, [*given[:2], photos / "broken.png"], "nut")
    assert "of 2 references" in fitted.threshold.source
    assert any("broken.png" in note for note in fitted.notes)
    model = api.load_model(device="cpu")
    api.learn(model, given[:2], "nut")
    expected = [each.score for each in api.score(model, given, "nut")]
    assert sorted(each.score for each in fitted.drawn) == pytest.approx(sorted(expected), abs=1e-6)
    again = judging.judge(models, given, category="nut")
    assert [each.score for each in again.drawn] == [each.score for each in judged.drawn]


def test_one_model_is_kept_until_other_words_come(monkeypatch):
    calls = []
    monkeypatch.setattr(loaded.api, "load_model", lambda *names, **settings: calls.append(settings) or object())
    models = loaded.Models("cpu", {("a", "b"): {"tiles": "whole"}})
    assert models.get("a", "b") is models.get("a", "b")
    assert models.get("a", "b", ["dent"]) is models.get("a", "b", ["dent"])
    assert calls == [
        {"weights": "b", "device": "cpu", "tiles": "whole"},
        {"weights": "b", "device": "cpu", "tiles": "whole", "prompts.defects": ["dent"]},
    ]


def test_uploads_of_one_name_are_told_apart(tmp_path):
    assert [each.name for each in uploads([tmp_path / "a/x.png", tmp_path / "b/x.png"])] == [
        "x.png",
        "x.png (2)",
    ]
    assert uploads(None) == []


@pytest.mark.parametrize(
    ("count", "references", "limits", "said"),
    [(0, 0, {}, "got none"), (3, 0, {"photos": 2}, "at most 2 photos"),
     (1, 2, {"references": 1}, "at most 1 good parts"),
     (1, 0, {"megabytes": 0.001}, "0.png: expected at most 0.001 MB"),
     (1, 0, {"megapixels": 0.001}, "0.001 megapixels")],
)  # fmt: skip
def test_limits_are_kept(models, photos, count, references, limits, said):
    given = [photos / f"{number}.png" for number in NUMBERS]
    with pytest.raises(TrackInputError, match=said):
        judging.judge(models, given[:count], given[:references], limits=Limits(**limits))


def test_a_model_without_its_references_says_so(models, photos):
    with pytest.raises(ModelInputError, match="expected references for patchcore"):
        judging.judge(models, [photos / "0.png"], model="patchcore")


def test_only_what_is_here_is_offered():
    names, weights = loaded.choices()
    assert {"clip_adapter", "saa_plus", "patchcore"} <= set(names)
    assert not {"constant", "random"} & set(names)
    assert "tiny" in weights
    assert not {"none", "random_vitl14_336", "resnet18", "openai_vitl14_336"} & set(weights)


def test_without_the_extra_the_door_says_what_to_install(monkeypatch):
    monkeypatch.setattr(door, "find_spec", lambda name: None)
    with pytest.raises(TrackInputError, match=r"pip install '\.\[demo\]'"):
        door.check_extra()
