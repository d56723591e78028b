"""What the matched pair writes: regulation actions, steps against complexity, and texts that a reader can judge."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from scipy.stats import spearmanr
from torch import Tensor

from husai.language.gpt import GPTs, Hooks
from husai.language.matched import Texts, losses
from husai.text import grammar


def quality(models: GPTs, of: Texts) -> dict[str, list[float]]:
    """Return the loss a body token and its excess over the grammar's own -ln P of the same texts, in nats, a seed each.

    The excess of the true distribution is 0, whichever texts were drawn.
    """
    tokens, nats = int(of.body.sum()), losses(models, of).sum(1)
    return {"loss": (nats / tokens).tolist(), "excess": ((nats - of.floor.sum()) / tokens).tolist()}


class Written(NamedTuple):
    """Texts that models, or the grammar, wrote for the same tasks: one row a model seed."""

    tasks: tuple[grammar.Task, ...]
    texts: tuple[tuple[str, ...], ...]

    @property
    def steps(self) -> list[list[list[str]]]:
        """The steps of every text of every seed."""
        return [[grammar.parse(text)[1] for text in row] for row in self.texts]

    @property
    def n_steps(self) -> Float[Tensor, "seeds n"]:
        """How many steps every text has."""
        return torch.tensor([[len(steps) for steps in row] for row in self.steps], dtype=torch.float32)

    @property
    def regulation_rate(self) -> list[float]:
        """Regulation actions among the steps, a value a seed; 0 when nothing was written."""
        rows = [[step for steps in row for step in steps] for row in self.steps]
        return [sum(step in grammar.REGULATION for step in row) / max(1, len(row)) for row in rows]

    @property
    def complexity_spearman(self) -> list[float]:
        """Rank correlation of a task's complexity with the steps of its text, a value a seed; 0 if all are alike."""
        complexity = [task.complexity for task in self.tasks]
        rows = [row.tolist() for row in self.n_steps]
        return [float(spearmanr(complexity, row).statistic) if len(set(row)) > 1 else 0.0 for row in rows]

    @property
    def on_task(self) -> list[float]:
        """Share of the other steps that are of their task (`grammar.on_task`), a value a seed."""
        found = []
        for row in self.steps:
            pairs = [(task, step) for task, steps in zip(self.tasks, row, strict=True) for step in steps]
            own = [grammar.on_task(t.name, step) for t, step in pairs if step not in grammar.REGULATION]
            found.append(sum(own) / max(1, len(own)))
        return found

    @property
    def finished(self) -> list[float]:
        """Share of the texts that end with <|end|>, a value a seed."""
        return [sum(text.endswith("<|end|>") for text in row) / len(row) for row in self.texts]

    def values(self) -> dict[str, list[float]]:
        """Return every measure by name, a value a seed each."""
        return {
            "rate": self.regulation_rate,
            "spearman": self.complexity_spearman,
            "steps": self.n_steps.mean(1).tolist(),
            "on_task": self.on_task,
            "finished": self.finished,
        }


def write(models: GPTs, of: Texts, seed: int = 0, hooks: Hooks | None = None, temperature: float = 1.0) -> Written:
    """Return what every model seed writes for the tasks of some texts, one draw a task.

    `hooks` act while it writes, as an ablated head does; they see one position a call after the prompt.
    """
    prompts = [f"<|task|>{task.name}<|steps|>" for task in of.tasks]
    rows = models.generate(prompts, seed, temperature, hooks)
    return Written(of.tasks, tuple(tuple(row) for row in rows))


def by_grammar(of: Texts) -> Written:
    """Return the grammar's own texts: what the measures are when nothing is lost."""
    return Written(of.tasks, (of.texts,))


def listed(text: str) -> str:
    """Return a text's steps as numbered HTML lines; regulation actions stand in italics."""
    steps = [html.escape(step) for step in grammar.parse(text)[1]]
    marked = [f"<em>{step}</em>" if step in grammar.REGULATION else step for step in steps]
    return "<br>".join(f"{number}. {step}" for number, step in enumerate(marked, 1))


def side_by_side(
    written: dict[str, Written], tasks: Sequence[int], seed: int = 0
) -> list[dict[str, str]]:  # fmt: skip
    """Return a row a task, its name and complexity and every style's text as HTML, by the model at place `seed`."""
    one = next(iter(written.values()))
    return [
        {"task": f"{one.tasks[i].name} (complexity {one.tasks[i].complexity})"}
        | {style: listed(found.texts[seed][i]) for style, found in written.items()}
        for i in tasks
    ]
