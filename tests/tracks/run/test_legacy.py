import pytest

from tests.support.rows import row
from tracks.errors import TrackInputError
from tracks.run.legacy import transductive_image_scores


def test_mean_of_text_score_and_scaled_map_maximum():
    rows = [
        row("a", text_score=0.2, map_max=1.0),
        row("b", text_score=0.4, map_max=3.0),
        row("c", text_score=0.6, map_max=2.0),
    ]
    assert transductive_image_scores(rows) == pytest.approx({"a": 0.1, "b": 0.7, "c": 0.55})


def test_equal_maxima_are_refused():
    with pytest.raises(TrackInputError, match="different map maxima"):
        transductive_image_scores([row("a", text_score=0.2, map_max=1.0), row("b", text_score=0.4, map_max=1.0)])


def test_rows_without_the_scalars_are_refused():
    with pytest.raises(TrackInputError, match="text_score and map_max"):
        transductive_image_scores([row("a")])
