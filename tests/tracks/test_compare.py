"""`make compare`: which cells are run, found or refused, and what stands in the table."""

import csv
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import tracks.command.config  # noqa: F401  (registers the schema)
from eval.published.reader import load
from eval.tables import COLUMNS
from models.disk import alone
from tracks.command.cli import CONF
from tracks.compare import choose_models, plan, shared_words
from tracks.comparison import cells
from tracks.comparison.cells import Cell, Outcome, run_all, run_cell, weight_stamps
from tracks.comparison.published import Published, published
from tracks.comparison.table import checks, cost_of, footnotes, rows_of, summary, to_csv, to_markdown
from tracks.errors import TrackInputError

WORDS = ["data=synthetic", "weights=tiny"]
PROTOCOL = {"setting": "inductive", "method": "a method", "resolution": "256 x 256"}


@pytest.fixture
def conf(monkeypatch):
    monkeypatch.delenv("OUT", raising=False)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose("compare", list(overrides))


def planned(cfg, words=WORDS, shots=(0, 1), seeds=(3, 4)):
    return list(plan(cfg, words, choose_models(cfg, shots)[0], shots, seeds, Path("runs")))


def test_every_model_has_its_place_and_the_classes_say_which_track_they_serve(conf):
    cfg = conf()
    assert sorted(cfg.order) == sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    serves, notes = choose_models(cfg, [0, 1])
    assert list(serves) == list(cfg.order)
    zero_shot = {name for name, tracks in serves.items() if "zero-shot" in tracks}
    few_shot = {name for name, tracks in serves.items() if "few-shot" in tracks}
    assert zero_shot == {"constant", "random", "utad", "clipseg", "winclip", "saa", "saa_plus", "clip_adapter"}
    assert few_shot == set(cfg.order) - {"utad", "clipseg", "saa"}
    assert any("spade, padim, patchcore" in note and "zero-shot" in note for note in notes)
    assert any("ensemble" in note and "zero-shot" in note for note in notes)


def test_a_model_that_is_named_is_run_wherever_it_can_be(conf):
    serves, notes = choose_models(conf("models=[ensemble,patchcore]"), [0])
    assert serves == {"patchcore": ["few-shot"], "ensemble": ["zero-shot", "few-shot"]}
    assert notes == ["No zero-shot row of patchcore: a model that does not serve this track."]


@pytest.mark.parametrize("override", ["models=[patchcor]", "+settings.patchcor.coreset=0.1"])
def test_an_unknown_model_is_refused_with_the_near_one(conf, override):
    with pytest.raises(TrackInputError, match="did you mean patchcore"):
        choose_models(conf(override), [0])


def test_zero_shot_is_run_once_and_few_shot_for_every_seed_with_the_same_words(conf):
    found = planned(conf("models=[winclip,spade]"))
    assert [(cell.shots, cell.seed, cell.model) for cell in found] == [
        (0, 3, "winclip"), (1, 3, "spade"), (1, 3, "winclip"), (1, 4, "spade"), (1, 4, "winclip"),
    ]  # fmt: skip
    assert [cell.module for cell in found[:2]] == ["tracks.zero_shot", "tracks.few_shot"]
    assert found[3].overrides == ("model=spade", *WORDS, "shots=1", "seed=4", "overlays=0")
    assert len({cell.folder for cell in found}) == 5


def test_settings_of_one_model_reach_it_alone_and_name_its_folder(conf):
    plain = {cell.model: cell for cell in planned(conf("models=[padim,patchcore]"), shots=[1], seeds=[0])}
    told = conf("models=[padim,patchcore]", "+settings.patchcore.coreset=0.1")
    changed = {cell.model: cell for cell in planned(told, shots=[1], seeds=[0])}
    assert "model.coreset=0.1" in changed["patchcore"].overrides
    assert changed["patchcore"].folder != plain["patchcore"].folder
    assert changed["padim"] == plain["padim"]


def test_the_folder_follows_what_decides_numbers_and_nothing_else(conf):
    def folder(*words):
        return planned(conf("models=[constant]"), [*WORDS, *words], [0], [0])[0].folder

    assert folder() == folder("workers=1")
    assert len({folder(), folder("resolution=64"), folder("categories=[denim]"), folder("data.seed=1")}) == 4


def test_another_device_or_version_is_another_run(conf, monkeypatch):
    def folder():
        return planned(conf("models=[constant]"), WORDS, [0], [0])[0].folder

    first = folder()
    monkeypatch.setattr("tracks.compare.device_name", lambda device: "another processor")
    second = folder()
    monkeypatch.setattr("tracks.compare.versions", lambda: {"torch": "1.0"})
    assert len({first, second, folder()}) == 3


def test_a_weight_file_that_changed_is_another_run(tmp_path):
    file = tmp_path / "own.safetensors"
    file.write_bytes(b"1234")
    config = {"weights": {"backbone": {"weights": str(file), "name": "tiny"}}}
    first = weight_stamps(config)
    assert first[str(file)][0] == 4
    file.write_bytes(b"12345")
    assert weight_stamps(config) != first
    assert set(weight_stamps({"a": ["tiny_clip", "no file.txt"]})) == {"tiny_clip"}


def test_data_and_weights_go_on_to_the_runs_and_own_settings_do_not():
    given = ["models=[a]", "data=mtd", "data.root=${oc.env:ROOT}", "shots=[0]", "categories=[x]", "device=cpu",
             "out=here", "weights.backbone.precision=bfloat16", "+settings.padim.seed=1"]  # fmt: skip
    assert shared_words(given, {"data": "mtd", "weights": "tiny"}) == [
        "data=mtd", "weights=tiny", "data.root=${oc.env:ROOT}", "categories=[x]", "device=cpu",
        "weights.backbone.precision=bfloat16",
    ]  # fmt: skip


def results_of(cell, value=0.5):
    return {
        "track": "few_shot", "model": cell.model, "weights": "tiny", "data": "toy", "shots": cell.shots,
        "seed": cell.seed, "protocol": PROTOCOL, "images": 4, "score": value,
        "categories": {name: dict.fromkeys(COLUMNS, value) for name in ("bolt", "nut")},
    }  # fmt: skip


def cost_entry(**changed):
    known = {"images": 4, "predict_seconds": 2.0, "predict_cpu_seconds": 1.0, "seconds": 8.0, "bank_bytes": 1024**2}
    return {**known, **changed}


def cell_in(tmp_path, model="spade", shots=1, seed=0):
    return Cell(model, shots, seed, (f"model={model}",), tmp_path / f"{model}-{shots}-{seed}")


class Child:
    """Stands for the process of a run: writes what a run writes, or fails as told."""

    def __init__(self, code=0, printed=""):
        self.code, self.printed, self.ran = code, printed, []

    def __call__(self, cell, log):
        self.ran.append(cell.folder.name)
        log.write_text(self.printed)
        if not self.code:
            cell.folder.mkdir(exist_ok=True)
            (cell.folder / "results.json").write_text(json.dumps(results_of(cell)))
            (cell.folder / "run.json").write_text(json.dumps({"references": {"bolt": ["1.png"]}}))
            (cell.folder / "cost.json").write_text(json.dumps({"categories": {"bolt": cost_entry()}}))
        return self.code


@pytest.fixture
def child(monkeypatch):
    def install(**told):
        made = Child(**told)
        monkeypatch.setattr(cells, "_run_child", made)
        return made

    return install


def test_a_finished_cell_is_found_with_its_figures_and_not_run_again(tmp_path, child):
    made, cell = child(), cell_in(tmp_path)
    first, second = (run_cell(cell, tmp_path / "logs") for _ in range(2))
    assert len(made.ran) == 1
    assert (first.found, second.found) == (False, True)
    assert second.results == first.results
    assert second.cost["categories"]["bolt"]["predict_seconds"] == 2
    assert second.references == {"bolt": ["1.png"]}


def test_a_cell_whose_results_another_scorer_made_is_run_again(tmp_path, child, monkeypatch):
    made, cell = child(), cell_in(tmp_path)
    run_cell(cell, tmp_path / "logs")
    monkeypatch.setattr(cells, "_scoring_digest", lambda: "another")
    run_cell(cell, tmp_path / "logs")
    (cell.folder / "results.json").write_text("{")
    assert not run_cell(cell, tmp_path / "logs").found
    assert len(made.ran) == 3


def test_a_model_that_refuses_is_listed_with_its_reason_and_asked_once(tmp_path, child, capsys):
    made = child(code=2, printed="WARNING: x\nerror: expected net to be CLIPSeg, got none\n")
    todo = [cell_in(tmp_path, "clipseg", 1, 0), cell_in(tmp_path, "clipseg", 1, 1), cell_in(tmp_path, "clipseg", 2, 0)]
    outcomes = list(run_all(todo, tmp_path / "logs"))
    assert made.ran == ["clipseg-1-0", "clipseg-2-0"]
    assert {outcome.error for outcome in outcomes} == {"expected net to be CLIPSeg, got none"}
    assert not any(outcome.crashed for outcome in outcomes)
    note = "No result of clipseg (1-shot seed 0, 1-shot seed 1, 2-shot seed 0): expected net to be CLIPSeg, got none"
    assert checks(outcomes) == [note]
    assert "[1/3] 1-shot clipseg seed 0: no result: expected net" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "printed", "expected"),
    [
        (1, "Traceback\nKeyError: 'x'\n", "exit code 1: KeyError: 'x'"),
        (-9, "", "SIGKILL"),
        (2, "", "nothing was printed"),
    ],
)
def test_a_crash_is_told_from_a_refusal(tmp_path, child, code, printed, expected):
    child(code=code, printed=printed)
    outcome = run_cell(cell_in(tmp_path), tmp_path / "logs")
    assert outcome.crashed
    assert expected in outcome.error


def test_two_commands_never_run_the_same_cell_at_once(tmp_path, child, caplog):
    made, cell, logs = child(), cell_in(tmp_path), tmp_path / "logs"
    logs.mkdir()
    with alone(logs / f"{cell.folder.name}.lock", "the test"):
        other = threading.Thread(target=run_cell, args=(cell, logs))
        other.start()
        time.sleep(0.2)
        assert made.ran == []
    other.join(timeout=10)
    assert made.ran == [cell.folder.name]
    assert "another process is at the run of 1-shot spade seed 0; waiting" in caplog.text


def outcome(model, shots=1, seed=0, value=0.5, cost=None, **changed):
    cell = Cell(model, shots, seed, (), Path("runs") / f"{model}-{seed}")
    known = {"results": results_of(cell, value), "cost": cost or {}, "references": {"bolt": ["1.png"]}}
    return Outcome(cell, **{**known, **changed})


def test_rows_hold_mean_and_deviation_and_the_best_of_a_setting_is_bold():
    outcomes = [outcome("a", seed=0, value=0.4), outcome("a", seed=1, value=0.6), outcome("b", seed=0, value=0.3),
                outcome("b", seed=1, value=0.3), outcome("a", shots=2, value=0.1)]  # fmt: skip
    lines = to_markdown(rows_of(outcomes), []).splitlines()
    assert len(lines) == 5
    first, second, third = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:])
    places = dict(zip([cell.strip() for cell in lines[0].split("|")[1:-1]], range(99), strict=False))
    assert first[places["AUROC cls"]] == "**50.0 ± 14.1**"
    assert first[places["F1 floor cls"]] == "50.0 ± 14.1", "a floor is no result to be best in"
    assert second[places["AUROC cls"]] == "30.0 ± 0.0"
    assert (third[0], third[places["AUROC cls"]]) == ("2-shot", "10.0"), "alone in its setting: nothing to be best of"


def test_cost_is_a_rate_over_all_runs_the_mean_bank_and_the_largest_memory():
    costs = [
        {"categories": {"bolt": cost_entry(), "nut": cost_entry(bank_bytes=3 * 1024**2)}, "peak_memory_mb": 700},
        {"categories": {"bolt": cost_entry(images=8, predict_seconds=4.0, bank_bytes=None)}, "peak_memory_mb": 900},
        {},
    ]
    assert cost_of(costs) == {
        "predict_images_per_second": 2.0, "predict_images_per_cpu_second": pytest.approx(16 / 3),
        "images_per_second": pytest.approx(16 / 24), "bank_bytes": 2 * 1024**2, "peak_memory_mb": 900,
        "gpu_memory_mb": None,
    }  # fmt: skip
    assert set(cost_of([{}]).values()) == {None}
    table = to_markdown(rows_of([outcome("a", cost=costs[0])]), [])
    assert "| 2.0 | 4.0 | 0.5 | 2.00 | 700 |" in table
    assert "GPU" not in table


def test_published_figures_stand_below_ours_labelled_and_with_their_source():
    beside = [Published("spade", 1, "april_gan/3", {"auroc_cls": 82.9}, {"auroc_cls": 2.6})]
    rows = rows_of([outcome("spade"), outcome("padim")])
    lines = to_markdown(rows, beside).splitlines()
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["spade", "*spade, published [1]*", "padim"]
    assert "| *82.9 ± 2.6* |" in lines[3]
    notes = footnotes(rows, beside, ["a note"])
    assert "- [1] published" in notes
    assert "arXiv 2305.17382, Table 3" in notes
    assert "- a note" in notes
    assert "- spade: setting inductive; method a method" in notes
    ours, _, printed = csv.DictReader(io.StringIO(to_csv(rows, beside)))
    assert (ours["source"], ours["auroc_cls"], ours["seeds"]) == ("ours", "0.5", "0")
    assert (printed["source"], float(printed["auroc_cls_std"])) == ("april_gan/3", pytest.approx(0.026))
    assert printed["ap_seg"] == ""


def test_seeds_that_cannot_be_averaged_leave_the_first_and_say_why():
    odd = outcome("a", seed=1)
    odd.results["categories"]["nut"]["pro_seg"] = None
    (row,) = rows_of([outcome("a", seed=0, value=0.25), odd])
    assert row["seeds"] == [0]
    assert row["mean"]["auroc_cls"] == {"mean": 0.25, "std": None}
    assert "pro_seg of nut" in row["alone_because"]
    assert summary("toy", WORDS, ["bolt"], [odd], [row], [], [])["notes"][-1].startswith("1-shot a: seed 0 alone")


def test_other_references_or_images_are_told():
    outcomes = [outcome("a"), outcome("b", references={"bolt": ["2.png"]}), outcome("c", seed=1)]
    assert checks(outcomes) == ["NOT THE SAME: 1-shot b seed 0 had other references or images than 1-shot a seed 0."]


MVTEC = [row.words["Object"] for row in load("april_gan/5").rows if row.words["Object"] != "Mean"]


def test_published_means_belong_to_whole_data_sets():
    found = {(each.model, each.shots): each for each in published("mvtec", MVTEC, cells_models(), [0, 1])}
    assert found["winclip", 1].figures["auroc_cls"] == 93.1
    assert found["winclip", 1].deviations["auroc_cls"] == 2.0
    assert "ap_seg" not in found["winclip", 1].figures
    assert found["clip_adapter", 0].figures["f1_seg"] == 43.3
    assert found["utad", 0].figures == {"f1_seg": 23.48, "f1_region": 17.53}
    assert found["saa_plus", 0].table == "saa_extended/1"
    assert ("clip_adapter", 4) not in found


def test_for_part_of_a_data_set_only_figures_by_category_count():
    found = {(each.model, each.shots): each for each in published("mvtec", ["bottle"], cells_models(), [0, 1, 2, 4])}
    assert set(found) == {("clip_adapter", 0), ("clip_adapter", 1), ("clip_adapter", 2), ("clip_adapter", 4), ("saa_plus", 0)}  # fmt: skip  # noqa: E501
    assert found["clip_adapter", 0].figures["auroc_cls"] == 92.0
    two = {each.model: each for each in published("mvtec", ["carpet", "grid"], cells_models(), [0])}
    assert two["saa_plus"].figures["f1_seg"] == pytest.approx((56.64 + 18.09) / 2)
    assert published("mvtec", ["bottle", "my own part"], cells_models(), [0]) == []


def test_sets_of_one_category_and_sets_without_figures():
    assert published("mtd", ["tile"], ["saa_plus"], [0])[0].figures == {"f1_seg": 35.4, "f1_region": 30.27}
    assert published("synthetic", ["denim"], cells_models(), [0, 1]) == []


def cells_models():
    return [path.stem for path in (CONF / "model").glob("*.yaml")]


def test_the_target_hands_on_its_variables():
    told = ["MODELS=a,b", "SHOTS=0,1", "SEEDS=0", "DATA=mtd", "ROOT=../a b", "CATEGORIES=x", "ARGS=resolution=64"]
    ran = subprocess.run(["make", "-n", "-o", ".venv/.ready", "compare", *told], cwd=CONF.parent, capture_output=True)
    words = " ".join(ran.stdout.decode().replace("\\\n", " ").split())
    expected = (
        "-m tracks.compare data=mtd 'data.root=${oc.env:ROOT}' 'models=[a,b]' 'shots=[0,1]' 'seeds=[0]' "
        "'categories=${env_words:CATEGORIES}' resolution=64"
    )
    assert expected in words


@pytest.mark.e2e
def test_the_command_lists_what_cannot_run_and_goes_on_from_what_is_there(tmp_path):
    command = [
        sys.executable, "-m", "tracks.compare", "models=[constant,clipseg]", "shots=[0]", "categories=[denim]",
        "data.test_normal=2", "data.test_per_kind=1", "resolution=32", f"outputs={tmp_path}",
    ]  # fmt: skip
    environment = {**os.environ, "OUT": ""}
    for how in (" s)", "(found)"):
        done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, env=environment, timeout=500)
        assert done.returncode == 0, done.stderr
        assert how in next(line for line in done.stdout.splitlines() if line.startswith("[1/2] zero-shot constant"))
    table = json.loads((tmp_path / "tables" / "latest" / "table.json").read_text())
    assert [row["model"] for row in table["rows"]] == ["constant"]
    assert table["rows"][0]["cost"]["predict_images_per_second"] > 0
    assert "weights=clipseg" in table["failed"][0]["error"]
    assert "No result of clipseg (zero-shot): " in done.stdout
    assert not (tmp_path / "zero_shot").exists()
