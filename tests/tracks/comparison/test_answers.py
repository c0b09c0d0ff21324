"""Which of our experiments answer a published table: every name they use exists, and which runs they need."""

import pytest

from eval.published.reader import list_tables, load
from tests.support.published_stand_ins import like_the_paper
from tracks.comparison.answers import Need, answers_to, assign, experiment, group, needs_of
from tracks.errors import TrackInputError


def test_answers_name_experiments_rows_and_groups_that_exist():
    answered = 0
    for name in list_tables():
        table, ours = load(name), answers_to(name)
        assert ours.answers or ours.unanswered, name
        for answer in ours.answers:
            assert set(answer.columns) <= set(table.columns)
            assert len(table.matching(answer.where)) == 1 or answer.by, (name, answer.where)
            assert answer.by is None or table.matching({answer.by: answer.mean})
            sets = {experiment(one).data for one in answer.experiments}
            assert sets <= set(table.data)
            for column in answer.columns.values():
                assert column.over is None or column.over in sets or group(column.over)
            answered += 1
    assert answered == 2 * (4 + 1 + 4 * 3) + 8 + 2 * 5 + 5 + (2 + 2 * 3 + 1) + 14 + 2 + 4 + 12


def test_each_table_names_its_runs_once():
    assert needs_of("april_gan/9") == [Need("april_gan_visa", 0, 0)]
    assert needs_of("april_gan/8", seeds=[7]) == [Need("april_gan_mvtec", 4, 7)]
    assert [need.seed for need in needs_of("april_gan/8")] == [0, 1, 2, 3, 4]
    assert len(needs_of("april_gan/3")) == 2 + 5 * 3 * 5
    assert len(needs_of("april_gan/3", models=["clip_adapter"])) == 1 + 3 * 5
    assert len(needs_of("saa_extended/1")) == 4 * 4 + 2
    assert len(needs_of("saa_extended/2")) == 7 * 4  # both metrics come from the same runs
    assert needs_of("saa_extended/1", only=["mtd"], models=["saa_plus"]) == [Need("saa_plus_mtd", 0, 0)]


def test_given_runs_stand_for_the_seeds_of_the_table():
    needs = needs_of("april_gan/10")
    taken = assign([like_the_paper("april_gan/10", shots=1, seed=seed) for seed in (3, 9)], needs, "april_gan/10")
    assert {need.seed: run.results["seed"] for need, run in taken.items()} == {3: 3, 0: 9}
    with pytest.raises(TrackInputError, match=r"visa with 1 shots.*got visa with 2 shots"):
        assign([like_the_paper("april_gan/10", shots=2)], needs, "april_gan/10")


def test_given_runs_answer_the_rows_of_their_model_and_others_the_papers_own():
    runs = [
        like_the_paper("april_gan/6", data="mvtec", shots=1, seed=seed, model=model)
        for model, seed in (("patchcore", 2), ("own_model", 2), ("winclip", 9))
    ]
    taken = assign(runs, needs_of("april_gan/3"), "april_gan/3")
    assert [(need.model, need.seed) for need in taken] == [("patchcore", 2), ("clip_adapter", 2), ("winclip", 0)]
