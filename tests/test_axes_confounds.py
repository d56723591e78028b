"""Confounds of the published frontier: each is shown by the smallest computation that has it."""

import math

import pytest
import torch
from torch import Tensor

from husai import metrics, study
from husai.activations import split
from husai.axes import confounds
from husai.evidence import Estimate
from husai.recipes import converged
from husai.tasks import generator


@pytest.fixture(scope="module")
def x() -> Tensor:
    draw = generator(0, "test/confounds")
    return torch.randn(512, 5, generator=draw) @ torch.randn(5, 12, generator=draw) + 3


@pytest.fixture(scope="module")
def studies(x: Tensor) -> dict[str, study.Study]:
    recipes = {
        "topk": converged(16, 3, steps=40),
        "switch": converged(16, 3, steps=40, architecture="switch", experts=4),
    }
    return study.run({name: (split(x, 0), config) for name, config in recipes.items()}, [0, 1, 2])


def test_the_published_ev_is_the_ratio_of_a_mean_to_a_sum(x: Tensor) -> None:
    x_hat = x + torch.randn(x.shape, generator=generator(1, "test/confounds")) * x.std(0)
    fvu = metrics.fvu(x, x_hat, x.mean(0))
    wrong = 1 - float((x - x_hat).square().mean() / x.var(0, correction=0).sum())
    found = confounds.published_ev(Estimate(fvu, fvu - 0.1, fvu + 0.2, 3), 12)
    assert found.value == pytest.approx(wrong, abs=1e-4) and found.value > 0.9, "noise as large as the signal"
    assert found.low == pytest.approx(1 - (fvu + 0.2) / 12)


@pytest.mark.parametrize("experts", [2, 4, 8])
def test_a_router_without_a_task_becomes_uniform(x: Tensor, experts: int) -> None:
    assert confounds.blind_router(x, experts).numpy() == pytest.approx(math.log(experts), abs=1e-4)
    assert float(confounds.blind_router(x, experts, steps=1).mean()) < math.log(experts) - 0.02, "it does not start so"


def test_entropy_is_zero_for_a_certain_choice_and_ln_e_for_none() -> None:
    p = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert confounds.entropy(p).tolist() == pytest.approx([0.0, math.log(4)])


def test_the_router_of_a_switch_sae_chooses(studies: dict[str, study.Study], x: Tensor) -> None:
    found = confounds.routing_entropy(studies["switch"].saes, x)
    assert found.shape == (3,) and bool((found < math.log(4)).all())
    with pytest.raises(ValueError, match="switch"):
        confounds.routing_entropy(studies["topk"].saes, x)


def test_a_jump_without_a_straight_through_gradient_is_a_relu(studies: dict[str, study.Study], x: Tensor) -> None:
    saes = studies["topk"].saes
    assert confounds.without_straight_through(saes, x) == 0.0
    assert confounds.without_straight_through(saes, x, weight=100.0) == 0.0, "whatever the penalty's weight"
