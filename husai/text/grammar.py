"""A seeded grammar of household tasks that writes the same task in two styles, with exact probabilities.

The matched-pair study's design: *standard* lists a task's steps in a plain order; *adhd* splits every step into smaller
ones and interleaves regulation actions. Source: the InterpGPT model cards; the grammar is this project's own.
"""

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from husai.config import require, stream_seed

STYLES = ("standard", "adhd")
SPECIAL = ("<|pad|>", "<|unk|>", "<|task|>", "<|steps|>", "<|sep|>", "<|end|>")
REGULATION = ("sip water", "deep breath", "close eyes briefly", "quick stretch", "pause")
"""The regulation actions; no step opens with the first word of one."""
CARE = " with care"

VERBS = {  # verb: (tool, actions in order, depth: added to the complexity)
    "Clean": ("cloth", ("dust", "wipe", "scrub", "polish"), 0),
    "Paint": ("brush", ("sand", "tape", "prime", "coat"), 1),
    "Inspect": ("list", ("check", "measure", "note", "photograph"), 0),
    "Repair": ("hammer", ("test", "loosen", "glue", "tighten"), 1),
    "Tidy": ("box", ("clear", "sort", "stack", "label"), 0),
    "Decorate": ("ribbon", ("trim", "wrap", "pin", "light"), 1),
    "Move": ("cart", ("pad", "lift", "load", "strap"), 1),
    "Store": ("sheet", ("dry", "oil", "cover", "tag"), 0),
}
OBJECTS = {  # object: (parts in order, size: added to the complexity)
    "desk": (("lamp", "drawer", "screen", "chair"), 1),
    "kitchen": (("sink", "stove", "counter", "shelf"), 2),
    "bedroom": (("bed", "rug", "mirror", "closet"), 2),
    "bike": (("wheel", "chain", "seat", "brake"), 1),
    "garden": (("fence", "gate", "bench", "path"), 2),
    "boat": (("deck", "mast", "sail", "rudder"), 1),
    "car": (("hood", "window", "trunk", "mat"), 1),
    "office": (("table", "cabinet", "printer", "board"), 2),
    "porch": (("step", "rail", "swing", "door"), 1),
    "bathroom": (("tub", "tap", "tile", "towel"), 2),
    "tent": (("pole", "floor", "flap", "rope"), 1),
    "workshop": (("saw", "vise", "ladder", "rack"), 2),
}

LONGER = 0.3
"""Probability that a task has one step more than its complexity asks for."""
STAY = 0.6
"""Probability that the next step is the next action on the same part."""
EVEN = (1.0, 1.0)
"""Odds of starting on a part with the first or with the second action."""
SPLITS = {("find", "whole"): 0.4, ("half", "rest"): 0.35, ("find", "half", "rest"): 0.25}
"""How the adhd style splits a step, and how often; fetching the tool is always found first, then done whole."""
INTERLEAVED = {"find": 0.15, "half": 0.25, "whole": 0.45, "rest": 0.45}
"""Probability of a regulation action after each kind of small step."""


class Task(NamedTuple):
    """A task and its plan, before any style."""

    name: str
    """As "Clean the kitchen with care"."""
    complexity: int
    """1 to 4: size of the object, depth of the verb, and one for care; what the number of steps depends on."""
    steps: tuple[str, ...]
    """The plain steps in order, as "wipe the sink"; `complexity + 1` of them, or one more."""
    nats: float
    """-ln P(steps | name)."""


class Text(NamedTuple):
    """A task, written."""

    text: str
    """`<|task|>name<|steps|>step<|sep|>step...<|end|>`."""
    nats: float
    """-ln P(everything after <|steps|> | name, style): no model can be better on average."""


class _Draws:
    """A stream of choices that keeps count of their probability."""

    def __init__(self, seed: int, stream: str, nats: float = 0.0) -> None:
        self.random, self.nats = random.Random(stream_seed(seed, stream)), nats

    def pick(self, weights: Sequence[float]) -> int:
        index = self.random.choices(range(len(weights)), weights)[0]
        self.nats -= math.log(weights[index] / sum(weights))
        return index

    def happens(self, probability: float) -> bool:
        return self.pick([1 - probability, probability]) == 1


def held_out(name: str) -> bool:
    """Return whether a task of this name is kept from training: about one in five, by the hash of verb and object.

    A name and its twin "with care" are on one side: to hold out one of them only would leave little to generalise to.
    """
    return stream_seed(0, f"grammar/held_out/{name.removesuffix(CARE)}") % 5 == 0


def tasks(n: int, seed: int, which: str = "") -> list[Task]:
    """Return n tasks with independently drawn names and plans: of all names, or `which` is "training" or "held_out".

    ValueError: n below 1, another `which`.
    """
    require(n >= 1, "n", n, "at least one task")
    require(which in ("", "training", "held_out"), "which", which, "'training', 'held_out', or nothing for all")
    draws = _Draws(seed, f"grammar/tasks/{which}")
    found: list[Task] = []
    while len(found) < n:
        verb, thing = draws.random.choice(list(VERBS)), draws.random.choice(list(OBJECTS))
        care = draws.random.random() < 0.5
        name = f"{verb} the {thing}" + CARE * care
        if not which or held_out(name) == (which == "held_out"):
            found.append(_planned(name, verb, thing, VERBS[verb][2] + OBJECTS[thing][1] + care, draws))
    return found


def _planned(name: str, verb: str, thing: str, complexity: int, draws: _Draws) -> Task:
    """Draw a plan: fetch the tool; then from part to part, on each a run of the verb's actions in their order."""
    draws.nats = 0.0
    tool, actions, _ = VERBS[verb]
    parts, _ = OBJECTS[thing]
    steps, part, action = [f"get the {tool}"], 0, draws.pick(EVEN)
    for _ in range(complexity + draws.happens(LONGER)):
        if len(steps) > 1:
            stay = action + 1 < len(actions) and draws.happens(STAY)
            part, action = (part, action + 1) if stay else (part + 1, draws.pick(EVEN))
        steps.append(f"{actions[action]} the {parts[part % len(parts)]}")
    return Task(name, complexity, tuple(steps), draws.nats)


def write(task: Task, style: str, seed: int) -> Text:
    """Return a task's text in a style, with its probability; `seed` draws splits and regulation actions.

    ValueError: an unknown style.
    """
    require(style in STYLES, "style", style, f"one of {STYLES}")
    draws = _Draws(seed, f"grammar/{style}/{task.name}/{task.steps}", task.nats)
    steps = list(task.steps) if style == "standard" else _smaller(task.steps, draws)
    return Text(f"<|task|>{task.name}<|steps|>{'<|sep|>'.join(steps)}<|end|>", draws.nats)


def render(task: Task, style: str, seed: int) -> str:
    """Return a task's text in a style: `write` without the probability."""
    return write(task, style, seed).text


def _smaller(steps: Sequence[str], draws: _Draws) -> list[str]:
    """Split every step, and put regulation actions in between: never two in a row, never the last one again."""
    found: list[str] = []
    last = -1
    for index, step in enumerate(steps):
        action, part = step.split(" the ")
        texts = {"find": f"find the {part}", "whole": step, "half": f"{action} half the {part}",
                 "rest": f"{action} the rest"}  # fmt: skip
        split = list(SPLITS)[draws.pick(list(SPLITS.values()))] if index else ("find", "whole")
        for kind in split:
            found.append(texts[kind])
            if draws.happens(INTERLEAVED[kind]):
                last = draws.pick([float(i != last) for i in range(len(REGULATION))])
                found.append(REGULATION[last])
    return found


def parse(text: str) -> tuple[str, list[str]]:
    """Return the name and the steps of a text; one that a model left unfinished gives the steps that it has."""
    name, _, rest = text.removeprefix("<|task|>").partition("<|steps|>")
    steps = rest.partition("<|end|>")[0].split("<|sep|>")
    return name, [step.strip() for step in steps if step.strip()]


def on_task(name: str, step: str) -> bool:
    """Return whether a step, no regulation action, is one that a plan of this task could hold in some style.

    Its action must be the verb's (or get, find), its noun the tool, a part of the object, or the rest.
    """
    verb, _, thing = name.removesuffix(CARE).partition(" the ")
    action, _, noun = step.replace(" half the ", " the ").partition(" the ")
    if verb not in VERBS or thing not in OBJECTS:
        return False
    (tool, actions, _), (parts, _) = VERBS[verb], OBJECTS[thing]
    nouns = {"get": (tool,), "find": (tool, *parts)}.get(action, (*parts, "rest") if action in actions else ())
    return noun in nouns and not (" half " in step and (noun == "rest" or action in ("get", "find")))
