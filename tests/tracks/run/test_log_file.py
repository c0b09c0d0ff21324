"""log.txt: what a command said, in the folder of its run, one command after the other."""

import logging
import warnings

import pytest

from tests.support.fakes import FakeDataset
from tests.tracks.run.test_runner import config
from tracks.run.log_file import RUN_LOG, kept_log, log_into
from tracks.run.track import run_track

log = logging.getLogger("tracks.somewhere")


def test_what_is_logged_before_and_after_the_folder_is_known_stands_in_it_once(tmp_path):
    @kept_log()
    def work():
        log.warning("the first")
        log_into(tmp_path)
        log.warning("the second, not ascii: é")
        warnings.warn("of Python", stacklevel=1)

    with pytest.warns(UserWarning, match="of Python"):
        work()
    log.warning("too late")
    lines = (tmp_path / RUN_LOG).read_text(encoding="utf-8").splitlines()
    said = [line.split(" ", 2)[2] for line in lines]
    assert said[0].startswith("INFO vandkit: begun: ")
    assert said[1:3] == ["WARNING tracks.somewhere: the first", "WARNING tracks.somewhere: the second, not ascii: é"]
    assert said[3].startswith("WARNING vandkit: ")
    assert said[3].endswith("UserWarning: of Python")
    assert said[4:] == ["INFO vandkit: finished"]


def test_an_error_stands_in_the_log_with_its_place_and_goes_on(tmp_path):
    @kept_log()
    def work():
        log_into(tmp_path)
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        work()
    text = (tmp_path / RUN_LOG).read_text()
    assert "ERROR vandkit: ended by ValueError\nTraceback" in text
    assert "finished" not in text
    assert "MemoryHandler" not in str(logging.getLogger().handlers)


def test_nothing_is_written_where_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with kept_log():
        log.warning("anything")
    log_into(tmp_path)  # outside of a command
    assert not list(tmp_path.iterdir())


def test_a_run_that_goes_on_adds_to_its_log_and_a_fresh_one_begins_anew(tmp_path, monkeypatch):
    test = FakeDataset.test

    def odd(self, category):
        log.warning("odd about %s", category)  # before the folder of the run is known
        return test(self, category)

    monkeypatch.setattr(FakeDataset, "test", odd)
    folder = tmp_path / "run"
    for fresh, begun, predicted in ((False, 1, "20"), (False, 2, "0"), (True, 1, "20")):
        results = run_track(config(tmp_path, out=str(folder), fresh=fresh), "zero_shot")
        text = (folder / RUN_LOG).read_text()
        assert text.count("begun: ") == text.count("INFO vandkit: finished") == begun
        assert text.count("WARNING tracks.somewhere: odd about bolt") == begun
        assert f"{predicted} images predicted, {results['images']} scored on cpu" in text.splitlines()[-2]
