"""A published table beside ours: from made-up results, from a store, and from a small run on two pictures each."""

import csv
import json
import shutil
import statistics
import sys

import numpy as np
import PIL.Image
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from eval.legacy import legacy_pro, legacy_region_f1
from eval.published.reader import load
from models.weights.catalogue import missing_files
from tracks.command.cli import CONF, run_main
from tracks.comparison.answers import group
from tracks.comparison.reproduce_compare import compare, summary, to_csv, to_text
from tracks.comparison.reproduce_runs import (
    Finished,
    Need,
    assign,
    duration,
    find_run,
    needs_of,
    read_run,
    scores_of,
    signature,
)
from tracks.errors import TrackInputError
from tracks.reproduce import main, reproduce
from tracks.run.store import PredictionStore, Row

ZERO_SHOT = Need("april_gan_visa", 0, 0)
METRICS = {
    "AUROC-segm": "auroc_seg", "F1-max-segm": "f1_seg", "AP-segm": "ap_seg", "PRO-segm": "pro_seg",
    "AUROC-cls": "auroc_cls", "F1-max-cls": "f1_cls", "AP-cls": "ap_cls",
}  # fmt: skip


def results_like_the_paper(name, shift=0.0, **keys):
    """A results dict whose figures are the paper's, all moved by `shift` points."""
    *rows, _ = load(name).rows
    tables = {
        row.words["Object"]: {METRICS[column]: (value + shift) / 100 for column, value in row.figures.items()}
        for row in rows
    }
    return {"data": "visa", "shots": 0, "seed": 0, "model": "m", "weights": "w", "categories": tables} | keys


def write_run(folder, results):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """Settings of the command, with Hydra set up as the command does it."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    for variable in ("RUN", "ROOT", "OUT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "no_weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no_hub"))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose("reproduce", [f"outputs={tmp_path / 'outputs'}", *overrides])


def test_a_run_with_the_papers_figures_differs_nowhere_but_in_rounded_means():
    table = load("april_gan/9")
    lines = compare(
        table,
        {ZERO_SHOT: scores_of(Finished(None, results_like_the_paper("april_gan/9"), None), METRICS.values())},
        0.06,
    )
    ours = [line for line in lines if line.metric != "legacy_pro"]
    assert len(ours) == 13 * 7
    assert [line.row for line in ours if line.column == "AP-cls"] == [
        *(r.words["Object"] for r in table.rows[:-1]),
        "mean",
    ]
    assert all(line.within for line in ours)
    assert all(line.difference == pytest.approx(0, abs=1e-9) for line in ours if line.row != "mean")
    legacy = [line for line in lines if line.metric == "legacy_pro"]
    assert len(legacy) == 13
    assert all((line.ours, line.within, line.paper_std) == (None, None, None) for line in legacy)


def test_the_printed_table_marks_what_lies_beyond_the_tolerance():
    results = results_like_the_paper("april_gan/9", shift=0.9)
    results["categories"]["candle"]["auroc_seg"] = 0.95  # the paper says 97.8
    lines = compare(load("april_gan/9"), {ZERO_SHOT: scores_of(Finished(None, results, None), METRICS.values())}, 1.0)
    text = to_text(lines)
    candle = next(line for line in text.splitlines() if line.startswith("| candle"))
    assert "| 97.8 → 95.0 (-2.8*) |" in candle
    assert "| 39.4 → 40.3 (+0.9) |" in candle
    assert "| 92.5 → none |" in candle
    assert summary(lines, 1.0).startswith(
        "90 of 91 figures within the tolerance; 0 of 0 figures by the paper's own (legacy)"
    )
    rows = list(csv.DictReader(to_csv(lines).splitlines()))
    first = next(row for row in rows if (row["row"], row["metric"]) == ("candle", "auroc_seg"))
    assert float(first["difference"]) == pytest.approx(-2.8)
    assert (first["paper"], first["within"], first["paper_std"]) == ("97.8", "False", "")


def test_seeds_give_mean_and_deviation_and_the_papers_own_deviation_widens_the_tolerance():
    table = load("april_gan/10")
    scores = {}
    for seed, shift in ((0, 0.0), (1, 2.0), (4, 4.0)):
        results = results_like_the_paper("april_gan/10", shift=shift - 4, shots=1, seed=seed)
        scores[Need("april_gan_visa", 1, seed)] = scores_of(Finished(None, results, None), METRICS.values())
    lines = {(line.row, line.metric): line for line in compare(table, scores, 1.0)}
    line = lines["pcb1", "auroc_cls"]
    assert (line.paper, line.paper_std) == (89.0, 7.3)
    assert (line.ours, line.ours_std) == (pytest.approx(87.0), pytest.approx(statistics.stdev([0, 2, 4])))
    assert line.within is True  # 2 points off, but the paper's own seeds are 7.3 apart
    assert lines["pcb4", "auroc_cls"].within is False
    assert lines["pcb4", "legacy_minmax_auroc_cls"].ours is None


def test_no_mean_where_categories_are_missing():
    results = results_like_the_paper("april_gan/9")
    del results["categories"]["cashew"]
    lines = compare(load("april_gan/9"), {ZERO_SHOT: scores_of(Finished(None, results, None), METRICS.values())}, 1.0)
    assert [line.ours for line in lines if line.row in ("mean", "cashew")] == [None] * 16
    assert sum(line.ours is not None for line in lines) == 11 * 7


def test_groups_over_four_data_sets():
    """Textures score 0.6 and objects 0.3, but for one of each; the sums are by hand."""
    textures = set(group("texture"))
    mvtec = [row.words["Object"] for row in load("april_gan/5").rows[:-1]]
    visa = [row.words["Object"] for row in load("april_gan/9").rows[:-1]]
    of_set = {
        "mvtec": {f"mvtec/{name}": {"f1_seg": 0.6 if f"mvtec/{name}" in textures else 0.3} for name in mvtec},
        "visa": {f"visa/{name}": {"f1_seg": 0.3} for name in visa},
        "ksdd2": {"ksdd2/surface": {"f1_seg": 0.95}},
        "mtd": {"mtd/tile": {"f1_seg": 0.6}},
    }
    of_set["visa"]["visa/candle"]["f1_seg"] = 0.52
    scores = {Need(f"saa_plus_{name}", 0, 0): found for name, found in of_set.items()}
    table = load("saa_extended/1")
    lines = {line.column: line for line in compare(table, scores, 1.0) if line.metric == "f1_seg"}
    expected = {
        "VisA": 30 + 22 / 12, "MVTec-AD": 40.0, "KSDD2": 95.0, "MTD": 60.0,
        "Texture": 60 + 35 / 7, "Object": 30 + 22 / 22, "Total": (7 * 65 + 22 * 31) / 29,
    }  # fmt: skip
    assert {column: line.ours for column, line in lines.items()} == pytest.approx(expected)
    assert {line.row for line in lines.values()} == {"F_p, SAA+"}
    assert lines["Object"].difference == pytest.approx(31 - 28.82)
    del scores[Need("saa_plus_mtd", 0, 0)]
    fewer = {line.column: line.ours for line in compare(table, scores, 1.0) if line.metric == "f1_seg"}
    assert (fewer["Texture"], fewer["Total"], fewer["MTD"]) == (None, None, None)
    assert fewer["Object"] == pytest.approx(31.0)


@pytest.fixture
def stored_run(tmp_path):
    """A run of one category with maps, masks and the two scalars of the legacy image score."""
    generator = np.random.default_rng(0)
    store = PredictionStore.create(tmp_path / "stored", {"categories": ["candle"], "data": "visa"})
    for number in range(6):
        mask = np.zeros((24, 24), dtype=bool)
        if number >= 3:
            mask[4:12, 5 + number : 14] = True
        anomaly_map = (generator.random((24, 24)) + 0.7 * mask).astype(np.float16)
        scalars = {"text_score": float(generator.random()), "map_max": float(anomaly_map.max())}
        name = f"{number}.png"
        row = Row(
            name, "candle", int(number >= 3), "bad", 0.5, 24, 24, store.map_file("candle", name), True, "", scalars
        )
        store.add(row, anomaly_map, mask)
    results = {"data": "visa", "shots": 1, "seed": 0, "categories": {"candle": {"auroc_cls": 0.75}}}
    (store.folder / "results.json").write_text(json.dumps(results))
    return store


def test_legacy_variants_come_from_the_store(stored_run):
    names = ["auroc_cls", "legacy_pro", "legacy_region_f1", "legacy_minmax_auroc_cls"]
    run = read_run(stored_run.folder)
    scores = scores_of(run, names)["visa/candle"]
    rows = stored_run.rows("candle")
    maps, masks = [stored_run.read_map(row) for row in rows], [stored_run.read_mask(row) for row in rows]
    maxima = [row.scalars["map_max"] for row in rows]
    mixed = [
        (r.scalars["text_score"] + (m - min(maxima)) / (max(maxima) - min(maxima))) / 2
        for r, m in zip(rows, maxima, strict=True)
    ]
    won = [(bad > good) + 0.5 * (bad == good) for bad in mixed[3:] for good in mixed[:3]]
    assert scores == pytest.approx(
        {
            "auroc_cls": 0.75,
            "legacy_pro": legacy_pro(maps, masks),
            "legacy_region_f1": legacy_region_f1(maps, masks).value,
            "legacy_minmax_auroc_cls": sum(won) / 9,
        }
    )
    assert run.notes == []


def test_what_a_run_cannot_give_is_noted(stored_run, tmp_path):
    alone = tmp_path / "alone" / "results.json"
    alone.parent.mkdir()
    shutil.copy(stored_run.folder / "results.json", alone)
    run = read_run(alone)
    assert scores_of(run, ["auroc_cls", "legacy_pro", "f1_cls"]) == {
        "visa/candle": {"auroc_cls": 0.75, "legacy_pro": None, "f1_cls": None}
    }
    assert run.notes == ["no legacy_pro: they need the maps, and only results.json is here"]


def test_each_table_names_its_runs_once():
    assert needs_of(load("april_gan/9")) == [ZERO_SHOT]
    assert needs_of(load("april_gan/8"), seeds=[7]) == [Need("april_gan_mvtec", 4, 7)]
    assert [need.seed for need in needs_of(load("april_gan/8"))] == [0, 1, 2, 3, 4]
    assert len(needs_of(load("april_gan/3"))) == 2 + 5 * 3 * 5
    assert len(needs_of(load("april_gan/3"), models=["clip_adapter"])) == 1 + 3 * 5
    assert len(needs_of(load("saa_extended/1"))) == 4 * 4 + 2
    assert len(needs_of(load("saa_extended/2"))) == 7 * 4  # both metrics come from the same runs
    assert needs_of(load("saa_extended/1"), only=["mtd"], models=["saa_plus"]) == [Need("saa_plus_mtd", 0, 0)]
    assert duration([ZERO_SHOT]).startswith("1 run of 2,162 images in all, roughly 4 minutes on a GPU or 9 hours on")


def test_given_runs_stand_for_the_seeds_of_the_table(tmp_path):
    runs = [
        read_run(write_run(tmp_path / str(seed), results_like_the_paper("april_gan/10", shots=1, seed=seed)))
        for seed in (3, 9)
    ]
    needs = needs_of(load("april_gan/10"))
    taken = assign(runs, needs, "april_gan/10")
    assert {need.seed: run.results["seed"] for need, run in taken.items()} == {3: 3, 0: 9}
    other = read_run(write_run(tmp_path / "other", results_like_the_paper("april_gan/10", shots=2)))
    with pytest.raises(TrackInputError, match=r"visa with 1 shots.*got visa with 2 shots"):
        assign([other], needs, "april_gan/10")


def test_given_runs_answer_the_rows_of_their_model_and_others_the_papers_own(tmp_path):
    needs = needs_of(load("april_gan/3"))
    runs = [
        Finished(tmp_path, {"data": "mvtec", "shots": 1, "seed": seed, "model": model, "categories": {}}, None)
        for model, seed in (("patchcore", 2), ("own_model", 2), ("winclip", 9))
    ]
    taken = assign(runs, needs, "april_gan/3")
    assert [(need.model, need.seed) for need in taken] == [("patchcore", 2), ("clip_adapter", 2), ("winclip", 0)]


def test_rows_and_columns_come_in_the_papers_order():
    table = load("april_gan/3")
    mvtec = [row.words["Object"] for row in load("april_gan/5").rows[:-1]]
    found = {f"mvtec/{name}": dict.fromkeys(METRICS.values(), 0.5) for name in mvtec}
    lines = compare(table, dict.fromkeys(needs_of(table, seeds=[0]), found), 1.0)
    printed = [", ".join(row.words.values()) for row in table.rows]
    assert list(dict.fromkeys(line.row for line in lines)) == printed
    first = [line.column for line in lines if line.row == printed[0] and not line.metric.startswith("legacy_")]
    assert first == [column for column in table.columns if column != "AP-segm"]
    assert all(line.ours == 50 for line in lines if not line.metric.startswith("legacy_"))


@pytest.mark.parametrize(("setting", "known"), [("models=[winclip]", "clip_adapter"), ("only=[mvtec]", "visa")])
def test_a_model_or_data_set_that_the_table_does_not_need_is_refused(settings, setting, known):
    with pytest.raises(TrackInputError, match=f"to be {known}, got|to be one of {known}, got"):
        reproduce(settings("table=april_gan/9", setting))


def test_a_file_that_is_no_result_is_refused(tmp_path):
    with pytest.raises(TrackInputError, match=r"results\.json"):
        read_run(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(TrackInputError, match="without categories, data, seed, shots"):
        read_run(tmp_path)


def test_a_finished_run_is_found_wherever_its_data_lay(tmp_path):
    config = {"model": {"a": 1}, "data": {"name": "visa", "root": "/there", "categories": []}}
    made = {"config": config, "shots": 0, "seed": 0, "protocol": {"resolution": "518 x 518"}}
    for name in ("old", "unfinished"):
        PredictionStore.create(tmp_path / name, made)
    (tmp_path / "old/results.json").write_text(json.dumps(results_like_the_paper("april_gan/9")))
    (tmp_path / "latest").symlink_to("old")
    here = {"model": {"a": 1}, "data": {"name": "visa", "root": "/here", "categories": None}}
    assert find_run(tmp_path, signature(here, 0, 0, "518 x 518")).folder == tmp_path / "old"
    assert find_run(tmp_path, signature(here, 0, 0, "256 x 256")) is None
    for other in ({"map_precision": "float32"}, {"mask_resize": "nearest"}, {"image_score": "legacy_minmax"},
                  {"chosen_categories": ["candle"]}):  # fmt: skip
        assert find_run(tmp_path, signature(here, 0, 0, "518 x 518", **other)) is None
    assert find_run(tmp_path, signature(here | {"model": {"a": 2}}, 0, 0, "518 x 518")) is None


def test_weights_that_are_not_here_are_named(settings):
    found = missing_files({"a": ["sam_vit_b", "tiny_clip", {"b": "april_gan_visa"}], "c": 3})
    assert [entry.name for entry in found] == ["sam_vit_b", "april_gan_visa"]


def test_what_is_missing_is_said_by_name_with_the_time_it_takes(settings, tmp_path):
    with pytest.raises(TrackInputError) as refused:
        reproduce(settings("table=saa_report/1", "models=[saa_plus]"))
    message = str(refused.value)
    for named in ("VisA", "MVTec AD", "sam_vit_h, wide_resnet50_2", "groundingdino_swint_ogc", "3,887 images", "hours"):
        assert named in message
    assert "a folder for each of mvtec, visa" in message
    with pytest.raises(TrackInputError, match=f"no folder {tmp_path / 'gone'}; make data DATA=visa") as refused:
        reproduce(settings("table=april_gan/9", f"root={tmp_path / 'gone'}"))
    assert "openai_vitl14_336, april_gan_mvtec" in str(refused.value)
    assert "MVTec AD" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"), [("april_gan/13", "expected TABLE to be one of april_gan/1, "), ("april_gan/1", "are not public")]
)
def test_a_table_that_cannot_be_computed_is_refused(settings, name, said):
    with pytest.raises(TrackInputError, match=said):
        reproduce(settings(f"table={name}"))


def test_the_command_lists_the_tables_and_leaves_with_exit_code_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setenv("VANDKIT_WEIGHTS", str(tmp_path / "no_weights"))
    monkeypatch.setattr(sys, "argv", ["reproduce"])
    run_main(main)
    assert "april_gan/9 1 run Zero-shot APRIL-GAN on VisA by category" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(sys, "argv", ["reproduce", "table=april_gan/9", f"outputs={tmp_path}"])
    with pytest.raises(SystemExit) as left:
        run_main(main)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("error: expected all that april_gan/9 needs")


def visa_of_two_pictures(root):
    """The converted layout of VisA: in each category a normal and a defective test image."""
    generator = np.random.default_rng(0)
    for row in load("april_gan/9").rows[:-1]:
        folder = root / row.words["Object"]
        for part in ("train/good", "test/good", "test/bad", "ground_truth/bad"):
            (folder / part).mkdir(parents=True)
        normal = generator.integers(90, 110, (48, 64, 3), dtype=np.uint8)
        bad, mask = normal.copy(), np.zeros((48, 64), dtype=np.uint8)
        bad[10:20, 20:34], mask[10:20, 20:34] = 240, 1
        for part, picture in (("train/good/0", normal), ("test/good/1", normal), ("test/bad/2", bad)):
            PIL.Image.fromarray(picture).save(folder / f"{part}.JPG")
        PIL.Image.fromarray(mask).save(folder / "ground_truth/bad/2.png")
    return root


def test_a_small_run_ends_in_the_comparison_and_is_found_again(settings, tmp_path, capsys):
    root = visa_of_two_pictures(tmp_path / "visa")
    small = ["use_weights=tiny", "device=cpu"]
    small += [f"+settings.{one}" for one in ("resolution=64", "overlays=0", "weights.backbone.precision=float32")]
    cfg = settings("table=april_gan/9", f"root={root}", *small)
    lines = reproduce(cfg)
    printed = capsys.readouterr().out
    assert "april_gan/9, Zero-shot APRIL-GAN on VisA by category: 1 run of 2,162 images" in printed
    assert "weights tiny, not the published set-up's openai_vitl14_336" in printed
    assert "settings that are not the published set-up's: resolution\n" in printed
    assert "24 images, where the table is over 2,162" in printed
    assert "ours, 1 of the 1 runs behind the table:" in printed
    assert "pro: the paper's PRO is taken at 200 evenly spaced thresholds" in printed
    assert len(lines) == 13 * 8
    assert all(line.ours is not None for line in lines)
    out = tmp_path / "outputs/reproduce/april_gan/9"
    assert len((out / "comparison.csv").read_text().splitlines()) == 1 + len(lines)
    assert (out / "comparison.md").read_text() in printed
    run = next((tmp_path / "outputs/zero_shot").glob("clip_adapter-tiny-visa-0shot-seed0-*"))
    results = json.loads((run / "results.json").read_text())
    candle = next(line for line in lines if (line.row, line.metric) == ("candle", "pro_seg"))
    assert candle.ours == pytest.approx(100 * results["categories"]["candle"]["pro_seg"])
    shutil.rmtree(root)
    again = reproduce(settings("table=april_gan/9", *small))
    assert again == lines
    assert str(run) in capsys.readouterr().out
    assert reproduce(settings("table=april_gan/9", f"run={run}")) == lines
