"""What the pair writes: the grammar's own texts are the oracle, spoilt ones score as spoilt."""

import pytest
import torch

from husai.language import behaviour, gpt, matched
from husai.language.behaviour import Written, by_grammar, listed, quality, side_by_side, write
from husai.language.gpt import GPTConfig, GPTs
from husai.text.grammar import on_task, tasks

TINY = GPTConfig(n_layers=1, n_heads=2, d_model=16, d_mlp=16)


def test_the_grammars_own_texts_are_on_task_and_their_rates_are_those_of_the_masks() -> None:
    of = matched.texts("adhd", n=300)
    found = by_grammar(of)
    assert found.on_task == found.finished == [1.0]
    actions = int((of.onset & of.regulation).sum())
    assert found.regulation_rate == [actions / int(of.n_steps.sum())]
    assert found.n_steps[0].tolist() == of.n_steps.tolist() and 0.6 < found.complexity_spearman[0] < 1
    assert by_grammar(matched.texts("standard", n=300)).regulation_rate == [0.0]


def test_steps_of_another_task_are_off_task() -> None:
    name = "Clean the desk with care"
    for step in ("get the cloth", "find the lamp", "wipe the lamp", "wipe half the lamp", "wipe the rest"):
        assert on_task(name, step), step
    for step in ("get the brush", "find the sink", "sand the lamp", "wipe", "find half the lamp", "find the rest", ""):
        assert not on_task(name, step), step
    assert not on_task("Eat the desk", "get the cloth")
    one = tasks(1, 0)[0]
    texts = (f"<|task|>{one.name}<|steps|>{one.steps[0]}<|sep|>dance<|sep|>pause<|end|>", "<|task|>a<|steps|>sip water")
    found = Written((one, one), (texts,))
    assert found.on_task == [0.5] and found.finished == [0.5] and found.regulation_rate == [0.5]


def test_steps_that_do_not_vary_have_no_rank_correlation() -> None:
    of = matched.texts("standard", n=5)
    assert Written(of.tasks, (("<|task|>a<|steps|>b<|end|>",) * 5,)).complexity_spearman == [0.0]


def test_models_write_for_every_task_and_quality_is_loss_less_the_floor() -> None:
    of, seeds = matched.texts("standard", n=4), (0, 1, 2)
    models = GPTs(TINY, "standard", seeds, gpt.initialise(TINY, seeds), matched.tokenizer())
    found = write(models, of)
    assert len(found.texts) == 3 and all(len(row) == 4 for row in found.texts)
    assert {len(row) for row in found.values().values()} == {3}
    measured = quality(models, of)
    assert [a - b for a, b in zip(measured["loss"], measured["excess"], strict=True)] == pytest.approx(
        [of.entropy_floor] * 3, abs=1e-5
    )
    flat = models._replace(parameters={name: torch.zeros_like(v) for name, v in models.parameters.items()})
    assert quality(flat, of)["loss"] == pytest.approx([torch.tensor(512.0).log().item()] * 3)


def test_texts_side_by_side_are_numbered_and_escaped() -> None:
    assert listed("<|task|>a<|steps|>x & y<|sep|>pause<|end|>") == "1. x &amp; y<br>2. <em>pause</em>"
    of = {style: matched.texts(style, n=3) for style in ("standard", "adhd")}
    rows = side_by_side({style: behaviour.by_grammar(texts) for style, texts in of.items()}, [2])
    assert list(rows[0]) == ["task", "standard", "adhd"] and of["adhd"].tasks[2].name in rows[0]["task"]
