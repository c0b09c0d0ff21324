"""`make compare`: which runs are planned, under which names, and the command from beginning to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import tracks.command.config  # noqa: F401  (registers the schema)
from tracks.command.cli import CONF
from tracks.compare import choose_models, planned_runs, shared_words, weight_stamps
from tracks.errors import TrackInputError

WORDS = ["data=synthetic", "weights=tiny"]


@pytest.fixture
def conf():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose("compare", list(overrides))


def planned(cfg, words=WORDS, shots=(0, 1), seeds=(3, 4)):
    return list(planned_runs(cfg, words, choose_models(cfg, shots)[0], shots, seeds, Path("runs")))


def test_every_model_has_its_rank_and_the_classes_say_which_track_they_serve(conf):
    cfg = conf()
    assert sorted(cfg.order) == sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    serves, notes = choose_models(cfg, [0, 1])
    assert list(serves) == list(cfg.order)
    zero_shot = {name for name, tracks in serves.items() if "zero-shot" in tracks}
    few_shot = {name for name, tracks in serves.items() if "few-shot" in tracks}
    assert zero_shot == {
        "constant",
        "random",
        "utad",
        "clipseg",
        "subspace_ad_batch",
        "anomaly_dino_batch",
        "winclip",
        "musc",
        "saa",
        "saa_plus",
        "vector_adapter",
        "clip_adapter",
    }
    assert few_shot == set(cfg.order) - {"utad", "clipseg", "saa", "subspace_ad_batch", "anomaly_dino_batch", "musc"}
    assert any("spade, padim, patchcore, anomaly_dino, subspace_ad" in note and "zero-shot" in note for note in notes)
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
    assert [(run.shots, run.seed, run.model) for run in found] == [
        (0, 3, "winclip"), (1, 3, "spade"), (1, 3, "winclip"), (1, 4, "spade"), (1, 4, "winclip"),
    ]  # fmt: skip
    assert found[3].words == ("model=spade", *WORDS, "shots=1", "seed=4", "overlays=0")
    assert [run.name for run in found[:2]] == ["zero-shot winclip", "1-shot spade seed 3"]
    assert len({run.out for run in found}) == 5


def test_settings_of_one_model_reach_it_alone_and_name_its_folder(conf):
    plain = {run.model: run for run in planned(conf("models=[padim,patchcore]"), shots=[1], seeds=[0])}
    told = conf("models=[padim,patchcore]", "+settings.patchcore.coreset=0.1")
    changed = {run.model: run for run in planned(told, shots=[1], seeds=[0])}
    assert "model.coreset=0.1" in changed["patchcore"].words
    assert changed["patchcore"].out != plain["patchcore"].out
    assert changed["padim"] == plain["padim"]


def test_the_folder_follows_what_decides_numbers_and_nothing_else(conf, monkeypatch):
    def folder(*words):
        return planned(conf("models=[constant]"), [*WORDS, *words], [0], [0])[0].out

    first = folder()
    assert first == folder("workers=1")
    names = {first, folder("resolution=64"), folder("categories=[denim]"), folder("data.seed=1")}
    monkeypatch.setattr("tracks.compare.device_name", lambda device: "another processor")
    names.add(folder())
    monkeypatch.setattr("tracks.compare.versions", lambda: {"torch": "1.0"})
    names.add(folder())
    monkeypatch.setattr("tracks.compare.code_digest", lambda patterns=(): "another scorer" if patterns else "a model")
    assert len(names | {folder()}) == 7


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
    given = ["models=[a]", "data=mtd", "data.root=${oc.env:VANDKIT_ROOT}", "shots=[0]", "categories=[x]", "device=cpu",
             "out=here", "weights.backbone.precision=bfloat16", "+settings.padim.seed=1"]  # fmt: skip
    assert shared_words(given, {"data": "mtd", "weights": "tiny"}) == [
        "data=mtd", "weights=tiny", "data.root=${oc.env:VANDKIT_ROOT}", "categories=[x]", "device=cpu",
        "weights.backbone.precision=bfloat16",
    ]  # fmt: skip


def test_the_target_hands_on_its_variables():
    told = ["MODELS=a,b", "SHOTS=0,1", "SEEDS=0", "DATA=mtd", "ROOT=../a b", "CATEGORIES=x", "ARGS=resolution=64"]
    ran = subprocess.run(["make", "-n", "-o", ".venv/.ready", "compare", *told], cwd=CONF.parent, capture_output=True)
    words = " ".join(ran.stdout.decode().replace("\\\n", " ").split())
    expected = (
        "bin/vandkit compare data=mtd 'data.root=${oc.env:VANDKIT_ROOT}' 'models=[a,b]' 'shots=[0,1]' 'seeds=[0]' "
        "'categories=${env_words:VANDKIT_CATEGORIES}' resolution=64"
    )
    assert expected in words


@pytest.mark.e2e
def test_the_command_lists_what_cannot_run_and_resumes(tmp_path):
    command = [
        sys.executable, "-m", "tracks.compare", "models=[constant,clipseg]", "shots=[0]", "categories=[denim]",
        "data.test_normal=2", "data.test_per_kind=1", "resolution=32", f"outputs={tmp_path}",
    ]  # fmt: skip
    for how in (" s)", "(found)"):
        done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        assert how in [line for line in done.stdout.splitlines() if line.startswith("[1/2] zero-shot constant")][-1]
    table = json.loads((tmp_path / "tables" / "latest" / "table.json").read_text())
    assert [row["model"] for row in table["rows"]] == ["constant"]
    assert table["rows"][0]["cost"]["predict_images_per_second"] > 0
    assert "weights=clipseg" in table["failed"][0]["error"]
    assert "No result of clipseg (zero-shot): " in done.stdout
    assert not (tmp_path / "zero_shot").exists()
