"""A plan computes each distinct prefix once, and every row reads its own prefix and nothing else."""

import pytest
import torch

from husai.config import TaskConfig
from husai.prefixes import plan
from husai.tasks import sequences

VOCABULARY = 11


def batch(*rows):
    return torch.stack([sequences(TaskConfig(p=7)).tokens[list(row)] for row in rows])


@pytest.mark.parametrize(
    "tokens", [batch(range(20), range(15, 35)), batch([5] * 9, [6] * 9), batch([5]), batch(range(49))]
)
def test_following_a_plan_from_its_last_rows_spells_the_batch(tokens):
    """Each row of a block is replaced by the tokens that it sees, as its sources spell them."""
    inputs, blocks = plan(tokens, VOCABULARY, 3)
    spelled = [[(divmod(code, VOCABULARY)[1],) for code in inputs.tolist()] for _ in tokens]
    for block in blocks:
        spelled = [
            [
                tuple(seed[i][-1] for i in sources[: position + 1])
                for sources, position in zip(rows, block.position.tolist(), strict=True)
            ]
            for seed, rows in zip(spelled, block.sources.tolist(), strict=True)
        ]
        assert torch.equal(block.visible.sum(1), block.position + 1)
    assert spelled == [[tuple(row) for row in rows] for rows in tokens.tolist()]


def test_a_whole_grid_needs_p_rows_a_position_until_the_second_operand():
    inputs, (entry, middle, last) = plan(batch(range(49)), VOCABULARY, 3)
    assert inputs.tolist() == [7, *range(11, 18), 32, *range(33, 40), 53]  # BOS; a; +; b; =
    assert torch.equal(entry.position, middle.position)
    assert entry.position.bincount().tolist() == [1, 7, 7, 49, 49]
    assert last.position.tolist() == [4] * 49
    assert plan(batch(range(49)), VOCABULARY, 1)[1][0].sources.shape == (1, 49, 5)
