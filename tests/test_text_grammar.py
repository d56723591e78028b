"""The grammar: both styles tell the same task, and its probabilities are those of its texts."""

import math
from collections import Counter

import pytest

from husai.text import grammar
from husai.text.grammar import CARE, REGULATION, held_out, parse, render, tasks, write


def test_a_text_has_the_published_format_and_parses_back() -> None:
    task = tasks(1, 5)[0]
    text = render(task, "standard", 0)
    assert text == f"<|task|>{task.name}<|steps|>{'<|sep|>'.join(task.steps)}<|end|>"
    assert parse(text) == (task.name, list(task.steps))
    assert parse("<|task|>a<|steps|>b<|sep|>c d") == ("a", ["b", "c d"])


def test_complexity_sets_the_number_of_steps() -> None:
    found = tasks(2000, 3)
    extra = [len(task.steps) - task.complexity for task in found]
    assert set(extra) == {1, 2} and {task.complexity for task in found} == {1, 2, 3, 4}
    assert sum(e == 2 for e in extra) / len(extra) == pytest.approx(grammar.LONGER, abs=0.04)


def test_adhd_has_the_same_plan_in_smaller_steps_with_regulation_between() -> None:
    for i, task in enumerate(tasks(300, 4)):
        steps = parse(render(task, "adhd", i))[1]
        actions = [step for step in steps if step in REGULATION]
        assert all(a != b for a, b in zip(actions, actions[1:], strict=False)), "not the last one again"
        assert all(not {a, b} <= set(REGULATION) for a, b in zip(steps, steps[1:], strict=False)), "never two in a row"
        own = [step for step in steps if step not in REGULATION]
        assert len(own) > len(task.steps)
        whole = [step.replace(" half the ", " the ") for step in own
                 if not step.startswith("find ") and not step.endswith(" the rest")]  # fmt: skip
        assert whole == list(task.steps)
    assert not any(step in REGULATION for task in tasks(300, 4) for step in parse(render(task, "standard", 0))[1])


def test_no_other_step_opens_with_the_first_word_of_a_regulation_action() -> None:
    steps = [step for i, task in enumerate(tasks(3000, 0)) for step in parse(render(task, "adhd", i))[1]]
    first = {action.split()[0] for action in REGULATION}
    assert {step for step in steps if step.split()[0] in first} == set(REGULATION)


def test_the_probabilities_of_all_plans_of_a_name_sum_to_one() -> None:
    name = "Clean the desk"  # complexity 1: few plans
    plans = {task.steps: task.nats for task in tasks(60_000, 1) if task.name == name}
    assert sum(math.exp(-nats) for nats in plans.values()) == pytest.approx(1, abs=1e-9)


def test_a_text_is_as_frequent_as_its_probability_says() -> None:
    task = next(task for task in tasks(100, 2) if len(task.steps) == 2)
    n = 8000
    written = [write(task, "adhd", seed) for seed in range(n)]
    probability = {text.text: math.exp(task.nats - text.nats) for text in written}
    for text, count in Counter(text.text for text in written).most_common(5):
        p = probability[text]
        assert abs(count / n - p) < 4 * math.sqrt(p / n)
    assert 0.6 < sum(probability.values()) <= 1 + 1e-9


def test_tasks_are_seeded_and_held_out_names_are_not_trained_on() -> None:
    assert tasks(20, 1) == tasks(20, 1) != tasks(20, 2)
    training, held = ({task.name for task in tasks(2000, 0, which)} for which in ("training", "held_out"))
    assert not training & held and all(map(held_out, held)) and len(training | held) == 192
    assert 0.1 < len(held) / 192 < 0.3
    assert not {name.removesuffix(CARE) for name in held} & {name.removesuffix(CARE) for name in training}


@pytest.mark.parametrize(
    ("call", "words"),
    [(lambda: tasks(0, 0), "n is 0"), (lambda: tasks(1, 0, "test"), "which is 'test'"),
     (lambda: render(tasks(1, 0)[0], "terse", 0), "style is 'terse'")],
)  # fmt: skip
def test_refusals(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
