"""The gates open for what is converged and close for each way of not being so."""

import pytest
import torch

from husai import health
from husai.evidence import Estimate

ENOUGH = 65_536.0  # updates a latent


def rows(seed: int, n: int = 3) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 64, generator=draw) for _ in range(n)]


def test_a_plateau_away_from_the_start_is_converged():
    learned = rows(1, 1) * 3
    found = health.convergence(ENOUGH, rows(0), learned, learned)
    assert found.converged and found.slope == 0 and found.init_cosine < 0.2 and found.updates == ENOUGH


def test_each_criterion_alone_can_fail():
    learned, start = rows(1, 1) * 3, rows(0)
    assert not health.convergence(ENOUGH, learned, learned, learned).converged, "never left its start"
    assert health.convergence(ENOUGH, start, start, learned).slope > 0.5, "still rising"
    assert not health.convergence(ENOUGH / 8, start, learned, learned).converged, "too few updates"


@pytest.mark.parametrize(
    "change, gate",
    [({"fvu": 0.3}, "explained variance"), ({"alive": 0.7}, "dead share"), ({"l0": 5.0}, "L0 on target")],
)
def test_every_gate_sees_its_own_fault(change, gate):
    values = {"fvu": 0.05, "alive": 1.0, "l0": 4.0}
    for given, failing in ((values, []), (values | change, [gate])):
        found = health.passes({key: Estimate(v, v, v, 3) for key, v in given.items()}, 4, True)
        assert [name for name, passed in found.items() if not passed] == failing
