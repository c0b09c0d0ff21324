"""The training itself: it learns, resumes to the same weights, and says what it is."""

import csv
import json
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout
from sklearn.metrics import roc_curve
from torch.testing import assert_close

from models.clip_adapter.adapter import random_adapter
from models.clip_adapter.checkpoint import load_adapter
from models.clip_adapter.model import ClipAdapter
from tests.models.test_model_contract import DEVICES
from tests.support.train_stand_ins import PROMPTS, FlatDataset, break_off, small_backbone
from tracks.errors import TrackInputError
from train.adapters.checkpoint import StateFile, open_run, own_folder
from train.adapters.config import TrainOptions, check_options
from train.adapters.forward import validate, zero_shot
from train.adapters.heads import WordHead
from train.adapters.images import TrainingImages
from train.adapters.record import describe, draw_curves
from train.adapters.source import plan_course
from train.adapters.tokens import LiveTokens
from train.adapters.training import AdapterTraining

BACKBONE = small_backbone()
OPTIONS = TrainOptions(target="mvtec", epochs=3, batch_size=5, validation_categories=["tube"], aug_rate=0.5)


@dataclass(frozen=True)
class SameWords:
    """Normal and damaged point the same way whatever the category, which random text towers do not offer."""

    def text_features(self, backbone, category):
        return torch.eye(backbone.embed_dim)[:, :2]


def training(folder, options=OPTIONS, dataset=None, prompts=PROMPTS) -> AdapterTraining:
    course = plan_course(dataset or FlatDataset(), options)
    head = word_head(course, options, prompts)
    open_run(folder, describe(head, course, options))
    return AdapterTraining(head, course, options, folder)


def word_head(course, options=OPTIONS, prompts=PROMPTS) -> WordHead:
    return WordHead(BACKBONE, prompts, (*course.learnt, *course.held_out), options.seed)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No picture after each epoch: it costs more than the epoch."""
    monkeypatch.setattr("train.adapters.training.draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run folder of a training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.adapters.training.draw_curves", lambda *_: None)
        training(folder).run()
    return folder


def weights(folder) -> dict[str, torch.Tensor]:
    return load_adapter(folder / "adapter.safetensors")[0].state_dict()


def run_until(step: int, folder, options=OPTIONS) -> None:
    """Begin a training and break it off after so many steps, like a kill between two steps."""
    break_off(training(folder, options), step)


def log_rows(folder) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "log.csv").open()))


def test_it_learns_to_outline_what_it_never_saw(tmp_path):
    options = replace(OPTIONS, epochs=25, aug_rate=0.0)
    training(tmp_path, options, prompts=SameWords()).run()
    rows = log_rows(tmp_path)
    assert len(rows) == 25
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    assert float(rows[-1]["auroc_seg"]) > 0.8
    assert float(rows[-1]["ap_seg"]) > float(rows[0]["ap_seg"])


def test_only_the_adapters_learn(tmp_path):
    before = {name: tensor.clone() for name, tensor in BACKBONE.state_dict().items()}
    job = training(tmp_path, replace(OPTIONS, epochs=1))
    start = {name: tensor.clone() for name, tensor in job.adapter.state_dict().items()}
    job.run()
    assert all(torch.equal(before[name], tensor) for name, tensor in BACKBONE.state_dict().items())
    assert all(not torch.equal(start[name], tensor) for name, tensor in job.adapter.state_dict().items())


# 16 images in batches of 5 are 4 steps to an epoch. Steps 3, 7: before the last of an epoch; 4: exactly between two.
@pytest.mark.parametrize(("step", "checkpoint_every"), [(3, 0), (6, 0), (6, 1), (7, 2), (4, 1), (9, 4)])
def test_killed_and_continued_ends_in_the_same_weights(whole, tmp_path, step, checkpoint_every):
    options = replace(OPTIONS, checkpoint_every=checkpoint_every)
    run_until(step, tmp_path, options)
    training(tmp_path, options).run()
    expected, killed = weights(whole), weights(tmp_path)
    assert all(torch.equal(expected[name], killed[name]) for name in expected)
    ours, theirs = log_rows(tmp_path), log_rows(whole)
    assert [{**row, "seconds": ""} for row in ours] == [{**row, "seconds": ""} for row in theirs]


@pytest.mark.parametrize("device", DEVICES)
def test_after_a_resume_adams_state_lies_where_it_lay(tmp_path, device):
    file, places = StateFile(tmp_path), []
    for _ in range(2):
        layer = torch.nn.Linear(2, 1).to(device)
        optimizer = torch.optim.Adam(layer.parameters())
        state = file.restore(layer, optimizer, device)  # the second time there is something
        if not optimizer.state:
            layer(torch.ones(1, 2, device=device)).sum().backward()
            optimizer.step()
            file.save(state, layer, optimizer)
        places.append({key: value.device for key, value in optimizer.state[layer.weight].items()})
    assert places[0] == places[1]
    assert places[0]["exp_avg"].type == torch.device(device).type
    assert places[0]["step"].type == "cpu"  # a step counter on a GPU would make it wait at every step


def test_a_step_checkpoint_saves_the_steps_before_it(tmp_path):
    options = replace(OPTIONS, checkpoint_every=2)
    run_until(7, tmp_path, options)
    job = training(tmp_path, options)
    assert (job.state.epoch, job.state.step) == (1, 2)
    inner, steps = job._step, []
    job._step = lambda batch: steps.append(1) or inner(batch)
    job.run()
    assert len(steps) == 2 + 4


def test_continuing_with_the_cache_ends_in_the_same_weights(tmp_path):
    options = replace(OPTIONS, aug_rate=0.0)
    training(tmp_path / "whole", options).run()
    run_until(6, tmp_path / "killed", options)
    assert (tmp_path / "killed" / "cache").is_dir()
    training(tmp_path / "killed", options).run()
    assert not (tmp_path / "killed" / "cache").exists()
    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_cached_and_computed_tokens_end_in_like_weights(tmp_path):
    for cache in ("always", "never"):
        training(tmp_path / cache, replace(OPTIONS, aug_rate=0.0, cache=cache)).run()
    cached, computed = weights(tmp_path / "always"), weights(tmp_path / "never")
    for name, tensor in computed.items():
        assert_close(cached[name], tensor, atol=1e-3, rtol=1e-3)
    losses = [[float(row["loss"]) for row in log_rows(tmp_path / cache)] for cache in ("always", "never")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


def test_more_epochs_continue_a_finished_training(tmp_path):
    training(tmp_path / "five", replace(OPTIONS, epochs=5)).run()
    training(tmp_path / "three", OPTIONS).run()
    training(tmp_path / "three", replace(OPTIONS, epochs=5)).run()
    five, three = weights(tmp_path / "five"), weights(tmp_path / "three")
    assert all(torch.equal(five[name], three[name]) for name in five)
    with pytest.raises(TrackInputError, match="expected epochs to be 5 or more"):
        training(tmp_path / "three", OPTIONS).run()


def test_a_finished_training_is_not_trained_again(tmp_path):
    training(tmp_path).run()
    before = weights(tmp_path)
    (tmp_path / "adapter.safetensors").unlink()
    job = training(tmp_path)
    job._step = lambda batch: pytest.fail("trained again")
    job.run()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path).items())


def test_a_folder_of_other_settings_is_refused(tmp_path):
    training(tmp_path)
    with pytest.raises(TrackInputError, match=r"learning_rate there 0\.001, here 0\.01"):
        training(tmp_path, replace(OPTIONS, learning_rate=0.01))
    with pytest.raises(TrackInputError, match="images there"):
        training(tmp_path, dataset=FlatDataset(good=5))
    training(tmp_path, replace(OPTIONS, workers=1, max_cache_gb=1.0))
    file = tmp_path / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "deviation": False}))  # as earlier versions wrote it
    training(tmp_path)
    file.write_text(file.read_text().replace('"deviation": false', '"deviation": true'))
    with pytest.raises(TrackInputError, match="deviation there True, here None"):
        training(tmp_path)


def test_fresh_discards_and_spares_other_folders(tmp_path):
    course = plan_course(FlatDataset(), OPTIONS)
    settings = describe(word_head(course), course, OPTIONS)
    training(tmp_path / "run").run()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    open_run(tmp_path / "run", {**settings, "seed": 9}, fresh=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"run.json", "notes.txt"}
    assert training(tmp_path / "run", replace(OPTIONS, seed=9)).state.epoch == 0
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_text("")
    with pytest.raises(TrackInputError, match="which holds other files"):
        open_run(tmp_path / "photos", settings, fresh=True)
    assert (tmp_path / "photos" / "one.png").exists()


def test_another_device_or_version_is_said_when_a_training_goes_on(tmp_path, monkeypatch, caplog):
    run_until(6, tmp_path)
    training(tmp_path)
    assert "begun with" not in caplog.text
    monkeypatch.setattr("train.adapters.checkpoint.device_name", lambda device: "another GPU")
    monkeypatch.setattr("train.adapters.checkpoint.versions", lambda: {"torch": "1.0"})
    training(tmp_path).run()
    assert "continued with another GPU" in caplog.text
    assert "continued with 1.0" in caplog.text


def test_one_process_at_a_time_works_in_a_run_folder_and_a_foreign_one_is_not_touched(tmp_path):
    run, foreign = tmp_path / "run", tmp_path / "photos"
    foreign.mkdir()
    (foreign / "one.png").write_text("")
    with own_folder(run), pytest.raises(Timeout), FileLock(run / ".lock", timeout=0):
        pass
    with own_folder(foreign):
        assert [path.name for path in foreign.iterdir()] == ["one.png"]
    with own_folder(run):
        training(run)
    assert {path.name for path in run.iterdir()} == {"run.json"}


def test_a_damaged_state_is_told(tmp_path):
    run_until(6, tmp_path)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:500])
    with pytest.raises(TrackInputError, match="begin anew with fresh=true"):
        training(tmp_path)


def test_a_loss_that_is_no_number_stops_and_keeps_the_earlier_epochs(tmp_path):
    job = training(tmp_path)
    inner, count = job._step, 0

    def broken(batch):
        nonlocal count
        count += 1
        return inner(batch) * (float("nan") if count > 4 else 1.0)

    job._step = broken
    with pytest.raises(TrackInputError, match="expected a finite loss, got nan in epoch 2"):
        job.run()
    assert training(tmp_path).state.epoch == 1


def test_the_header_says_what_it_was_trained_on(whole):
    adapter, header = load_adapter(whole / "adapter.safetensors")
    assert adapter.trained_on == header.trained_on == ("flat",)
    assert (header.backbone, header.stages, header.image_size, header.activation) == ("small", (1, 2), 32, "gelu")
    assert header.backbone_fingerprint == BACKBONE.fingerprint
    assert header.commit
    assert "learnt from plate, cord; held out tube; last epoch, 3 of 3" in header.notes
    assert header.threshold_source.startswith(
        "highest recall less at most 10% false alarms (Youden's J), the zero-shot image scores (Eq. 1) of tube in flat"
    )
    samples = FlatDataset().test("tube")
    model = ClipAdapter(BACKBONE, adapter, PROMPTS)
    images = torch.stack([BACKBONE.preprocess(sample.load_image()) for sample in samples])
    scores = model.predict(images, ["tube"] * len(samples)).image_scores
    false_alarms, recall, cuts = roc_curve([sample.label for sample in samples], scores, drop_intermediate=False)
    best = np.isclose(recall - false_alarms, max(recall - false_alarms))
    assert header.image_threshold == pytest.approx(min(cuts[best]), abs=1e-4)


def test_without_validation_no_threshold_is_claimed(tmp_path):
    training(tmp_path, replace(OPTIONS, validation_categories=[], epochs=1)).run()
    _, header = load_adapter(tmp_path / "adapter.safetensors")
    assert header.image_threshold is None
    assert header.threshold_source == ""
    assert log_rows(tmp_path)[0]["ap_seg"] == ""


def test_best_keeps_the_epoch_that_validates_best(tmp_path, monkeypatch):
    values = iter([0.3, 0.5, 0.4])
    monkeypatch.setattr(
        AdapterTraining, "_validate", lambda *_: {"ap_seg": next(values), "image_threshold": 0.25, "auroc_seg": None}
    )
    training(tmp_path / "best", replace(OPTIONS, select="best")).run()
    monkeypatch.undo()
    training(tmp_path / "two", replace(OPTIONS, epochs=2)).run()
    best, two = weights(tmp_path / "best"), weights(tmp_path / "two")
    assert all(torch.equal(best[name], two[name]) for name in best)
    assert "best epoch, 2 of 3" in load_adapter(tmp_path / "best" / "adapter.safetensors")[1].notes


def test_each_image_meets_its_own_categorys_text(tmp_path):
    """The map of an image is the same in a batch of several categories as alone, and as the model's."""
    dataset = FlatDataset()
    samples = [dataset.test(category)[5] for category in dataset.categories]
    text = {category: PROMPTS.text_features(BACKBONE, category) for category in dataset.categories}
    source = LiveTokens(BACKBONE, TrainingImages(samples, BACKBONE.preprocess), "cpu")
    adapter = random_adapter(BACKBONE.stage_widths, BACKBONE.embed_dim)
    scores, maps = zero_shot(adapter, next(source.batches(range(3), 3)), text)
    images = torch.stack([BACKBONE.preprocess(sample.load_image()) for sample in samples])
    expected = ClipAdapter(BACKBONE, adapter, PROMPTS).predict(images, list(dataset.categories))
    assert_close(maps, expected.anomaly_maps)
    assert_close(scores, expected.image_scores)
    for index in range(3):
        alone = zero_shot(adapter, next(source.batches([index], 1)), text)[1]
        assert_close(maps[index], alone[0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(text["plate"], text["tube"], atol=1e-3)


def test_validation_is_the_mean_over_categories(tmp_path):
    dataset = FlatDataset()
    text = {category: PROMPTS.text_features(BACKBONE, category) for category in dataset.categories}
    adapter = random_adapter(BACKBONE.stage_widths, BACKBONE.embed_dim)

    def result(*categories):
        samples = [sample for category in categories for sample in dataset.test(category)]
        source = LiveTokens(BACKBONE, TrainingImages(samples, BACKBONE.preprocess), "cpu")
        return validate(partial(zero_shot, adapter, text=text), source, samples, 3)

    both, plate, tube = result("plate", "tube"), result("plate"), result("tube")
    for metric in ("auroc_seg", "ap_seg", "f1_seg", "auroc_cls"):
        assert both.mean[metric] == pytest.approx((plate.mean[metric] + tube.mean[metric]) / 2)
    good = replace(dataset, blots=0, holes=0).test("plate")
    source = LiveTokens(BACKBONE, TrainingImages(good, BACKBONE.preprocess), "cpu")
    alone = validate(partial(zero_shot, adapter, text=text), source, good, 3)
    assert alone.image_threshold is None
    assert alone.mean["auroc_seg"] is None


def test_the_picture_of_the_curves_is_a_png(tmp_path):
    rows = [{"epoch": 1, "loss": 2.0, "ap_seg": 0.1, "auroc_cls": None}, {"epoch": 2, "loss": 1.0, "ap_seg": 0.2}]
    draw_curves(tmp_path / "with.png", rows)
    draw_curves(tmp_path / "without.png", [{"epoch": 1, "loss": 2.0, "ap_seg": None}])
    sizes = []
    for name in ("with.png", "without.png"):
        content = (tmp_path / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        sizes.append(int.from_bytes(content[16:20], "big"))
    assert sizes[0] == 2 * sizes[1]


def test_the_state_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    job = training(tmp_path)
    job.run()
    before = (tmp_path / "state.pt").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        StateFile(tmp_path).save(job.state, job.adapter, job.optimizer)
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 0}, "epochs to be 1 or more"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"betas": [0.5]}, "betas to be two numbers"),
        ({"betas": [0.5, 1.0]}, "betas"),
        ({"cache": "alwys"}, "did you mean always"),
        ({"select": "bst"}, "select to be one of"),
        ({"select": "best", "validation_categories": []}, "categories to select the best epoch by"),
        ({"max_cache_gb": 0.0}, "max_cache_gb"),
    ],
)
def test_bad_options_are_refused(changed, message):
    with pytest.raises(TrackInputError, match=message):
        check_options(replace(OPTIONS, **changed))
