"""Two stores against each other: the numbers, what is refused, and what is printed and written."""

import json

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from eval.uncertainty.bootstrap import RESAMPLED
from eval.uncertainty.paired import A_BETTER, B_BETTER, NO_DIFFERENCE, TOO_FEW
from tracks.command.cli import CONF
from tracks.compare_runs import HEADLINE, compare_configured
from tracks.comparison.pairs import CompareOptions, compare_stores
from tracks.errors import TrackInputError
from tracks.run.scoring import resample_rows, score_category, scorer_of
from tracks.run.store import PredictionStore, Row

OPTIONS = CompareOptions(bootstrap=200)
SIDE = 16


def mask_of(i):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[2 + i % 5 : 7 + i % 7, 3:9] = True
    return mask


def make_run(folder, lift=1.0, categories=("nut", "bolt"), number=16, noise_seed=0, change=lambda values: values, **settings):  # fmt: skip  # noqa: E501
    """A run over `number` images of each category, every second anomalous; `lift` is how well it sees defects.

    `change` may replace the fields (label, mask, size, known, name) of an image, or leave it out by returning None.
    """
    known = {"categories": list(categories), "seed": 0, "shots": 0, "protocol": {"resolution": "16 x 16"}, **settings}
    store = PredictionStore.create(folder, known)
    for category in categories:
        rng, own = np.random.default_rng(len(category)), np.random.default_rng(noise_seed)
        for i in range(number):
            base = rng.normal(size=(SIDE, SIDE))
            image = {"name": f"{i}.png", "label": i % 2, "mask": mask_of(i) * bool(i % 2), "category": category}
            score = rng.normal() + 0.3 * own.normal() + lift * (i % 2)
            anomaly_map = base + 0.5 * own.normal(size=base.shape) + lift * image["mask"]
            if (image := change(image)) is None:
                continue
            mask, size = image["mask"], image.get("size", SIDE)
            row = Row(
                name=image["name"], category=category, label=image["label"], defect_type="", image_score=float(score),
                height=size, width=size, map_file=store.map_file(category, image["name"]),
                has_mask=image.get("known", True), fingerprint=str(folder),
            )  # fmt: skip
            store.add(row, np.resize(anomaly_map, (size, size)), np.resize(mask, (size, size)))
    return store


def only(name, **changed):
    """Change one image of the category nut."""
    return lambda image: {**image, **changed} if (image["name"], image["category"]) == (name, "nut") else image


def without(*names, category="nut"):
    return lambda image: None if image["name"] in names and image["category"] == category else image


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "good", lift=2.0, noise_seed=1, shots=4)


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "poor", lift=0.3, noise_seed=2)


@pytest.fixture(scope="module")
def compared(good, poor):
    return compare_stores(good, poor, OPTIONS)


def test_the_values_compared_are_the_scores_of_both_runs(compared, good, poor):
    for category in ("nut", "bolt"):
        for metric, found in compared["categories"][category]["metrics"].items():
            a, b = (score_category(None, category, store)[metric] for store in (good, poor))
            assert (found["a"], found["b"], found["difference"]) == (a, b, a - b)
            assert found["low"] <= found["high"]
    assert set(compared["mean"]) == set(RESAMPLED)
    for metric, found in compared["mean"].items():
        both = [compared["categories"][category]["metrics"][metric] for category in ("nut", "bolt")]
        assert found["a"] == pytest.approx(np.mean([each["a"] for each in both]))
        assert found["difference"] == pytest.approx(np.mean([each["difference"] for each in both]))
        assert found["categories"] == 2
    assert (compared["categories"]["nut"]["images"], compared["categories"]["nut"]["anomalous"]) == (16, 8)


def test_the_run_that_sees_more_is_called_better(compared, good, poor):
    assert {compared["mean"][metric]["verdict"] for metric in ("auroc_seg", "f1_seg", "pro_seg")} == {A_BETTER}
    assert compared["categories"]["nut"]["metrics"]["ap_seg"]["verdict"] == A_BETTER
    swapped = compare_stores(poor, good, OPTIONS)
    assert swapped["mean"]["pro_seg"]["verdict"] == B_BETTER
    assert swapped["mean"]["pro_seg"]["low"] == pytest.approx(-compared["mean"]["pro_seg"]["high"])


def test_holm_is_applied_over_the_categories(compared):
    for metric in RESAMPLED:
        both = [compared["categories"][category]["metrics"][metric] for category in ("nut", "bolt")]
        smaller, larger = sorted(both, key=lambda each: each["p_value"])
        assert smaller["p_adjusted"] == pytest.approx(min(1, 2 * smaller["p_value"]))
        assert larger["p_adjusted"] == pytest.approx(max(larger["p_value"], smaller["p_adjusted"]))
        assert compared["mean"][metric]["p_adjusted"] == compared["mean"][metric]["p_value"]


def test_equal_predictions_show_no_difference(tmp_path, good):
    same = make_run(tmp_path / "same", lift=2.0, noise_seed=1)
    results = compare_stores(good, same, OPTIONS)
    for metric in RESAMPLED:
        found = results["mean"][metric]
        assert (found["difference"], found["low"], found["high"], found["p_value"]) == (0, 0, 0, 1)
        assert found["verdict"] == NO_DIFFERENCE


def test_what_differs_between_the_runs_is_listed(compared, tmp_path, good):
    assert compared["differs"] == {"shots": [4, 0]}
    assert compared["a"]["shots"] == 4
    assert compared["b"]["protocol"] == {"resolution": "16 x 16"}
    other = make_run(tmp_path / "other", number=10, protocol={"resolution": "16 x 16", "pro": "exact"}, weights="mine")
    results = compare_stores(good, other, CompareOptions(common=True, bootstrap=100))
    assert results["differs"] == {"weights": [None, "mine"], "shots": [4, 0], "pro": [None, "exact"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("3.png", "5.png"), r"same images of nut in both runs.*only A: 3\.png, 5\.png.*common=true"),
        (only("3.png", label=None), r"same label in both runs, got 1 and None for nut/3\.png"),
        (only("3.png", mask=np.eye(SIDE, dtype=bool)), r"same mask in both runs, got \d+ and 16 .* nut/3\.png"),
        (only("2.png", known=False), r"know the same masks.*nut/2\.png"),
        (only("3.png", size=8), r"16 x 16 and 8 x 8 pixels for nut/3\.png.*resolution=16"),
        (without(*(f"{i}.png" for i in range(10))), r"got 16 in A and 6 in B \(only A: 0\.png, .* and 4 more\)"),
    ],
)
def test_stores_that_do_not_match_are_refused(tmp_path, good, change, message):
    with pytest.raises(TrackInputError, match=message):
        compare_stores(good, make_run(tmp_path / "other", change=change), OPTIONS)


def test_other_categories_are_refused_and_left_out_with_common(tmp_path, good, poor, compared):
    other = make_run(tmp_path / "other", lift=0.3, noise_seed=2, categories=("screw", "nut"))
    with pytest.raises(TrackInputError, match=r"same categories.*only A: bolt; only B: screw"):
        compare_stores(good, other, OPTIONS)
    results = compare_stores(good, other, CompareOptions(common=True, bootstrap=200))
    assert list(results["categories"]) == ["nut"]
    assert results["notes"] == ["left out, as one run lacks each category: only A: bolt; only B: screw"]
    nut, before = (each["categories"]["nut"]["metrics"]["pro_seg"] for each in (results, compared))
    assert nut["difference"] == pytest.approx(before["difference"])
    with pytest.raises(TrackInputError, match="images in common, got none"):
        compare_stores(good, make_run(tmp_path / "far", categories=("x",)), CompareOptions(common=True, bootstrap=200))


def test_common_images_alone_are_scored(tmp_path, good, poor):
    shorter = make_run(tmp_path / "shorter", lift=0.3, noise_seed=2, change=without("0.png", "1.png"))
    results = compare_stores(good, shorter, CompareOptions(common=True, bootstrap=200))
    assert results["categories"]["nut"]["images"] == 14
    assert results["categories"]["bolt"]["images"] == 16
    assert "image of nut: only A: 0.png, 1.png" in results["notes"][0]
    left = [row for row in good.rows("nut") if row.name not in ("0.png", "1.png")]
    expected = scorer_of(left, "nut", good).compute().metrics["pro_seg"]
    assert results["categories"]["nut"]["metrics"]["pro_seg"]["a"] == expected


def test_too_few_images_give_a_difference_without_a_verdict(tmp_path):
    stores = [make_run(tmp_path / name, number=6, noise_seed=seed) for seed, name in enumerate("ab")]
    results = compare_stores(*stores, OPTIONS)
    found = results["mean"]["auroc_seg"]
    assert found["difference"] != 0
    assert (found["low"], found["p_value"], found["verdict"]) == (None, None, TOO_FEW)
    assert results["categories"]["nut"]["blank_because"]["pro_seg"].startswith("3 anomalous and 3 normal images")


def test_metrics_without_a_meaning_are_blank_with_the_reason(tmp_path):
    def anomalous(image):
        return image if image["label"] else None

    stores = [make_run(tmp_path / name, number=12, noise_seed=n, change=anomalous) for n, name in enumerate("ab")]
    results = compare_stores(*stores, OPTIONS)
    assert results["mean"]["auroc_cls"] is None
    assert results["categories"]["nut"]["metrics"]["auroc_cls"] is None
    assert results["categories"]["nut"]["blank_because"]["auroc_cls"] == "no normal image among 6"
    assert results["mean"]["pro_seg"]["p_value"] is not None


def test_both_runs_get_the_same_draws_and_intervals_hold_the_estimate(good):
    rows = good.rows("nut")
    scorer = scorer_of(rows, "nut", good)
    one, again = (resample_rows(scorer, rows, "nut", good, resamples=150) for _ in range(2))
    np.testing.assert_array_equal(one.samples["pro_seg"], again.samples["pro_seg"])
    other = resample_rows(scorer, rows, "nut", good, resamples=150, seed=1)
    assert (one.samples["pro_seg"] != other.samples["pro_seg"]).any()
    intervals = one.intervals()
    metrics = scorer.compute().metrics
    assert all(low <= metrics[metric] <= high for metric, (low, high) in intervals.items())


def config(monkeypatch, *overrides, **environment):
    for variable in ("A", "B", "OUT"):
        monkeypatch.setenv(f"VANDKIT_{variable}", str(environment.get(variable, "")))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("compare_runs", ["bootstrap=200", *overrides])


def test_the_command_prints_a_table_and_writes_both_files(monkeypatch, tmp_path, good, poor, capsys):
    out = tmp_path / "to, here"
    results = compare_configured(config(monkeypatch, A=good.folder, B=poor.folder, OUT=out))
    printed = capsys.readouterr().out
    assert f"A: {good.folder}\nB: {poor.folder}\ndiffers: shots: A 4, B 0\n" in printed
    pro = results["mean"]["pro_seg"]
    assert f"| PRO seg | {100 * pro['a']:.1f} | {100 * pro['b']:.1f} | {100 * pro['difference']:+.1f} |" in printed
    assert "**A better**" in printed
    assert "| category | images | AUROC cls | F1-max cls | AUROC seg | F1-max seg | PRO seg | F1 harmonic |" in printed
    assert "| nut | 16 | " in printed
    assert "200 draws" in printed
    assert "Holm" in printed
    assert str(out) in printed
    assert json.loads((out / "compare.json").read_text()) == json.loads(json.dumps(results))
    written = (out / "compare.md").read_text()
    assert all(f"\n{title}\n\n| category |" in written for title in ("PRO seg", "F1-max region", "AP cls"))


def test_metrics_and_a_level_of_ones_own_and_the_folder_by_default(monkeypatch, tmp_path, good, poor, compared, capsys):
    monkeypatch.chdir(tmp_path)
    wide = compare_configured(config(monkeypatch, "metrics=[ap_seg]", "level=0.99", A=good.folder, B=poor.folder))
    printed = capsys.readouterr().out
    assert "| category | images | A | B | A - B | 99 % interval | p | p (Holm) | verdict |" in printed
    assert "AP seg" in printed
    assert "PRO seg" not in printed
    spans = [each["mean"]["pro_seg"]["high"] - each["mean"]["pro_seg"]["low"] for each in (wide, compared)]
    assert spans[0] > spans[1]
    assert (tmp_path / "outputs" / "compare" / "good__poor" / "compare.md").is_file()


def test_runs_that_are_not_named_or_the_same_and_unknown_metrics_are_refused(monkeypatch, good, poor):
    with pytest.raises(TrackInputError, match=r"two finished runs to compare, got A= and B=.*make compare-runs"):
        compare_configured(config(monkeypatch))
    with pytest.raises(TrackInputError, match="two different runs"):
        compare_configured(config(monkeypatch, A=good.folder, B=good.folder))
    with pytest.raises(TrackInputError, match="expected a run folder"):
        compare_configured(config(monkeypatch, A=good.folder, B="/nowhere"))
    with pytest.raises(TrackInputError, match=r"got 'pro'; did you mean pro_seg"):
        compare_configured(config(monkeypatch, "metrics=[pro]", A=good.folder, B=poor.folder))


def test_the_headline_metrics_can_be_resampled():
    assert set(HEADLINE) <= set(RESAMPLED)
