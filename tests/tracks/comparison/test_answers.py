"""Which of our experiments answer a published table: every name they use exists."""

from eval.published.reader import list_tables, load
from tracks.comparison.answers import answers_to, experiment, group


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
    assert answered == 2 * (4 + 1 + 4 * 3) + 8 + 2 * 5 + 5 + (2 + 2 * 3 + 1) + 14 + 2
