"""External axes: pooled documents give the same probes as rows do, and floors know what they are floors of."""

import pytest
import torch
from torch import Tensor

from husai.activations import Activations
from husai.axes import external
from husai.benches import probing
from husai.benches.questions import text_tasks
from husai.tasks import generator

LABELS = [("a", "b", "c")[i % 3] for i in range(90)]


@pytest.fixture(scope="module")
def text() -> tuple[Activations, Tensor]:
    """Return 90 documents of 4 rows; coordinate 0 says whether a document is of class a."""
    draw = generator(0, "test/external")
    document = torch.arange(90).repeat_interleave(4)
    values = torch.randn(360, 8, generator=draw)
    values[:, 0] += 3.0 * torch.tensor([LABELS[i] == "a" for i in document])
    return Activations(values, document % 5 != 0), document


def test_pooling_once_gives_the_probes_that_every_task_pools_for_itself(text: tuple[Activations, Tensor]) -> None:
    acts, document = text
    tasks = text_tasks(acts, document, LABELS, ["a", "b", "c"], 10, 3)

    def code(rows: Tensor) -> Tensor:
        return (rows @ torch.eye(8)).relu()

    expected = [probing.sparse_probe(*task.parts(task.pooled(code)), (1, 2)).auc for task in tasks]
    assert external.answered(tasks, code, (1, 2)) == pytest.approx(expected, abs=1e-9)
    assert [task.name for task in tasks] == ["a | b", "a | c", "b | c"]


def test_a_column_that_knows_the_class_is_found_and_noise_is_not(text: tuple[Activations, Tensor]) -> None:
    acts, document = text
    tasks = text_tasks(acts, document, LABELS, ["a", "b"], 50, 3)
    assert external.answered(tasks, lambda rows: rows, (1,)).mean() > 0.95
    assert abs(external.answered(tasks, lambda rows: rows[:, 1:], (1,)).mean() - 0.5) < 0.35
