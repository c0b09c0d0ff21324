"""Shards together are the whole run, batch by batch."""

import pytest
from omegaconf import OmegaConf

from tests.tracks.run.test_runner import config
from tracks.errors import TrackInputError
from tracks.run.shard import Shard, read_shard
from tracks.run.track import run_track

IMAGES = {"bolt": list(range(11)), "nut": list(range(100, 103)), "cap": list(range(200, 230))}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_every_image_is_in_one_shard_and_batches_stay_whole(count):
    shards = [Shard(number + 1, count).of(IMAGES, 4) for number in range(count)]
    for name, images in IMAGES.items():
        assert [image for shard in shards for image in shard[name]] == images
        begun = [images.index(shard[name][0]) for shard in shards if shard[name]]
        assert all(first % 4 == 0 for first in begun)
    sizes = [sum(-(-len(each) // 4) for each in shard.values()) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


def test_what_is_no_shard_is_refused():
    assert (read_shard(None), read_shard("2/8")) == (None, Shard(2, 8))
    for text in ("0/8", "9/8", "2", "2 of 8", "a/b"):
        with pytest.raises(TrackInputError, match="expected shard as 2/8"):
            read_shard(text)


def test_a_track_in_shards_gathered_is_the_run_of_one_machine(tmp_path, capsys):
    whole = run_track(config(tmp_path, out=str(tmp_path / "whole"), shots=3), "few_shot")
    given = config(tmp_path, out=str(tmp_path / "gathered"), shots=3)
    for number in (2, 1, 3):
        alone = run_track(OmegaConf.merge(given, {"shard": f"{number}/3"}), "few_shot")
        assert alone["score"] is None
    capsys.readouterr()
    gathered = run_track(given, "few_shot")
    printed = capsys.readouterr().out
    assert "3 shards gathered: 20 images are predicted" in printed
    assert "0 images to predict" in printed
    for key in ("categories", "mean", "score", "decision", "protocol"):
        assert gathered[key] == whole[key]
    for file in ("predictions/bolt.jsonl", "predictions/nut.jsonl", "thresholds.json", "references.json"):
        assert (tmp_path / "gathered" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_shard_of_other_settings_or_of_a_transductive_model_is_refused(tmp_path):
    run_track(config(tmp_path, out=str(tmp_path / "run"), shard="1/2"), "zero_shot")
    with pytest.raises(TrackInputError, match=r"shards/1-of-2.*seed there 0, here 1"):
        run_track(config(tmp_path, out=str(tmp_path / "run"), seed=1), "zero_shot")
    together = {"_target_": "tests.support.fakes.FromTheMean"}
    with pytest.raises(TrackInputError, match="expected no shard for FromTheMean"):
        run_track(config(tmp_path, model=together, shard="1/2"), "zero_shot")
