"""The matched pair: masks that mean what they say, training that learns, artifacts that are made once."""

import math

import pytest
import torch

from husai import artifacts
from husai.language import matched
from husai.language.gpt import GPTConfig, initialise
from husai.text.grammar import REGULATION, STYLES, held_out, parse

TINY = GPTConfig(n_layers=2, n_heads=2, d_model=32, d_mlp=64)


@pytest.mark.parametrize("style", STYLES)
def test_masks_mark_onsets_bodies_and_regulation(style: str) -> None:
    found, tok = matched.texts(style, n=40), matched.tokenizer()
    for i, text in enumerate(found.texts):
        ids, steps = found.tokens[i][found.real[i]].tolist(), parse(text)[1]
        assert tok.decode(ids) == text
        assert tok.decode(found.tokens[i][found.body[i]].tolist()) == text.partition("<|steps|>")[2]
        assert found.tokens[i][found.onset[i]].tolist() == [tok.encode(step)[0] for step in steps]
        assert found.n_steps[i] == len(steps)
        actions = "".join(step for step in steps if step in REGULATION)
        assert tok.decode(found.tokens[i][found.regulation[i]].tolist()) == actions
        before = tok.decode(found.tokens[i][found.before_onset[i]].tolist())
        assert before == "<|steps|>" + "<|sep|>" * (len(steps) - 1)
    assert bool((found.onset & found.regulation).any()) == (style == "adhd")


def test_both_styles_write_the_same_tasks_with_names_of_their_own_part() -> None:
    a, b = (matched.texts(style, n=50) for style in STYLES)
    assert a.tasks == b.tasks and a.complexity.tolist() == [task.complexity for task in a.tasks]
    assert all(held_out(task.name) for task in a.tasks)
    assert not any(held_out(task.name) for task in matched.texts("adhd", "training", 50).tasks)


def test_the_floor_is_below_the_loss_of_any_model_and_a_trained_one_comes_nearer() -> None:
    of = matched.texts("standard", n=64)
    fresh, trained = (matched.matched("standard", [3, 4], TINY, 200, steps, 16, 1e-2) for steps in (1, 80))
    first, later = (matched.losses(one, of).sum(1) / of.body.sum() for one in (fresh, trained))
    assert (first > 0.5 * math.log(512)).all() and (later < 0.4 * first).all() and (later > of.entropy_floor).all()


def test_losses_are_those_of_a_model_that_knows_nothing() -> None:
    models = matched.matched("adhd", [3], TINY, 50, 1, 8)
    blank = models._replace(parameters={n: torch.zeros_like(v) for n, v in models.parameters.items()})
    of = matched.texts("adhd", n=5)
    torch.testing.assert_close(matched.losses(blank, of)[0], of.body.sum(1) * math.log(512))


def test_the_same_arguments_open_the_same_artifact_and_others_another() -> None:
    arguments = ("adhd", [5], TINY, 50, 2, 8)
    assert matched.folder(*arguments) == matched.folder(*arguments) != matched.folder("adhd", [5], TINY, 50, 3, 8)
    assert any(key.startswith("gpts/") for key in artifacts.opened())
    assert (matched.folder(*arguments) / "seed_5" / "config.json").is_file()
    first, _ = matched.train("adhd", [5], TINY, 50, 2, 8, matched.RATE)
    again = matched.matched(*arguments)
    assert all(torch.equal(again.parameters[name], value) for name, value in first.parameters.items())


def test_the_rate_warms_up_and_falls() -> None:
    rates = [matched.learning_rate(1.0, step, 100) for step in range(100)]
    assert max(rates) == 1.0 == rates[5] and rates[0] == 0.2 and rates[-1] < 0.02


@pytest.mark.parametrize(
    ("call", "words"),
    [(lambda: matched.texts("adhd", "test"), "which is 'test'"), (lambda: matched.texts("terse"), "style is 'terse'"),
     (lambda: matched.matched("terse", [0]), "style is 'terse'"),
     (lambda: matched.matched("adhd", [0], steps=0), "steps is 0"),
     (lambda: matched.texts("adhd", config=GPTConfig(context=30)), "config.context is 30")],
)  # fmt: skip
def test_refusals(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_untrained_models_share_nothing_with_the_start_of_the_trained() -> None:
    other, start = matched.untrained("adhd", [0, 1], TINY), initialise(TINY, [0, 1])
    assert (other.config, other.style, other.seeds) == (TINY, "adhd", (0, 1))
    assert {n: v.shape for n, v in other.parameters.items()} == {n: v.shape for n, v in start.items()}
    assert not any(torch.equal(v, start[n]) for n, v in other.parameters.items() if v.ndim == 3)
    with pytest.raises(ValueError, match="style is 'terse'"):
        matched.untrained("terse", [0], TINY)
