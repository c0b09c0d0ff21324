import pytest

from tracks.run.ahead import BATCHES_AHEAD, cut, load_ahead


def test_batches_come_in_order_with_what_was_loaded_of_them():
    batches = list(load_ahead(cut(range(7), 3), lambda number: number * number, workers=3))
    assert batches == [(range(3), [0, 1, 4]), (range(3, 6), [9, 16, 25]), (range(6, 7), [36])]


def test_no_more_is_loaded_than_what_may_wait():
    loaded = []
    batches = load_ahead(cut(range(100), 4), loaded.append, workers=2)
    next(batches)
    assert len(loaded) <= 4 * (BATCHES_AHEAD + 1)


def test_what_came_before_an_error_is_handed_out():
    batches = load_ahead(cut([1, 2, 0, 4], 1), lambda number: 8 // number, workers=2)
    assert [next(batches)[1], next(batches)[1]] == [[8], [4]]
    with pytest.raises(ZeroDivisionError):
        next(batches)
