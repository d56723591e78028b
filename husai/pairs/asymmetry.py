"""The feature diff of every SAE seed on every pair of models, and how much of it comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from husai import comparison, metrics, stats
from husai.config import require
from husai.evidence import Estimate, format_value
from husai.pairs import cells, diff
from husai.pairs.diff import Contrast, Onsets, Reader, Residuals, Return, Senses
from husai.saes import SAEBatch
from husai.shards import in_memory
from husai.study import Study
from husai.text.bpe import Tokenizer

Key = tuple[int, int]
"""A model's position among the seeds, and an SAE seed's."""
OTHER = {"adhd": "standard", "standard": "adhd"}


@dataclass(frozen=True)
class Survey:
    """One layer's SAEs of both styles, read at the step onsets of both."""

    studies: Mapping[str, Sequence[Study]]
    """{style: one study a model}; a pair of models shares its position."""
    at: Mapping[str, Onsets]
    readers: Mapping[Key, Reader]
    """The adhd SAEs."""
    contrasts: Mapping[Key, Contrast]
    """On the adhd model and on its pair."""
    foreign: Mapping[tuple[str, int, int], list[Contrast]]
    """The same SAE on its own model against every other pair's model of a style, mapped to its own model's axes."""
    senses: Mapping[Key, Senses]
    misfit: Mapping[tuple[str, int, int], list[float]]
    """FVU of each SAE at step onsets of its "own" model, of its "pair", and of other pairs' models, mapped."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of models and of SAE seeds."""
        return len(self.studies["adhd"]), len(self.studies["adhd"][0].seeds)

    def table(self, value: Any) -> Float64[np.ndarray, "models seeds"]:
        """Return `value(key)` of every model and SAE seed."""
        models, seeds = self.shape
        return np.array([[float(value((i, s))) for s in range(seeds)] for i in range(models)])

    @property
    def counts(self) -> Float64[np.ndarray, "models seeds"]:
        """Number of asymmetric latents."""
        return self.table(lambda key: self.readers[key].asymmetric.sum())

    @property
    def width(self) -> int:
        """Number of latents of an SAE."""
        return self.studies["adhd"][0].config.sae.d_sae

    def against(self, style: str) -> Float64[np.ndarray, "models seeds"]:
        """Return the share of latents that are asymmetric against the other pairs' models of a style, their mean."""
        return self.table(lambda key: np.mean([one.asymmetric().mean() for one in self.foreign[(style, *key)]]))

    def summary(self) -> dict[str, Estimate | float | int | bool]:
        """Return how many latents are asymmetric, against what, and in which senses the other model lacks them."""
        share, lacks = self.counts / self.width, ("silent", "no_decoder", "no_function")
        found: dict[str, Any] = {"asymmetric_share": share, "asymmetric_count": self.counts}
        found |= {f"foreign_{style}_share": self.against(style) for style in OTHER}
        found["style_gap"] = found["foreign_standard_share"] - found["foreign_adhd_share"]
        for sense in lacks:
            found[sense] = self.table(lambda key, sense=sense: diff.share(self._lacking(key, sense)))
        found["all_senses"] = self.table(
            lambda key: diff.share(torch.stack([self._lacking(key, sense) for sense in lacks]).all(0))
        )
        for whose in ("own", "pair", *OTHER):
            found[f"fvu_{whose}"] = self.table(lambda key, whose=whose: np.mean(self.misfit[(whose, *key)]))
        found["decoder_by_chance"] = self.table(self._near_by_chance)
        found |= {"top_ratio": self.table(lambda key: self.contrasts[key].ratio[self.contrasts[key].chosen])}
        whole = {name: stats.crossed(values).estimate for name, values in found.items()}
        least = int(self.counts.min())
        return whole | {"least_asymmetric": least, "found_everywhere": least > 0}

    def _lacking(self, key: Key, sense: str) -> torch.Tensor:
        return getattr(self.senses[key], sense)[self.readers[key].asymmetric]

    def _near_by_chance(self, key: Key) -> float:
        acts, pair = self.studies["adhd"][key[0]].activations, self.studies["standard"][key[0]]
        return diff.near_by_chance(in_memory(acts.fit), pair.saes.W_dec[key[1]], key[1])

    def returns(self) -> dict[str, Estimate]:
        """Return what comes back under another SAE seed of the same model, and under another model seed.

        `seed_*` generalise over models and SAE seeds, `model_*` over models: means over the SAE seeds of both. Shares
        of both directions are averaged. The names are those of `diff.Return`.
        """
        models, seeds = self.shape
        within = [[[self._return((i, s), (i, t)) for t in range(seeds)] for s in range(seeds)] for i in range(models)]
        across = [[self._mean(i, j) for j in range(models)] for i in range(models)]
        found = {}
        for name in Return._fields:
            tables = [[[getattr(one, name) for one in row] for row in table] for table in within]
            found[f"seed_{name}"] = comparison.summarise(symmetric(tables))
            if name != "decoder":
                found[f"model_{name}"] = stats.pairwise(symmetric([[one[name] for one in row] for row in across]))
        for scope in ("seed", "model"):
            values = found[f"{scope}_function"], found[f"{scope}_chance"]
            require(all(np.isfinite(one.value) for one in values), scope, values, "finite shares")
        return found

    def _return(self, a: Key, b: Key) -> Return:
        return diff.returns(self.readers[a], self.readers[b], a[0] == b[0])

    def _mean(self, i: int, j: int) -> dict[str, float]:
        """Return the mean over SAE seeds of what becomes of one model's latents in another's."""
        if i == j:
            return dict.fromkeys(Return._fields, 0.0)
        seeds = range(self.shape[1])
        found = [self._return((i, s), (j, t)) for s in seeds for t in seeds]
        return {name: float(np.mean([getattr(one, name) for one in found])) for name in Return._fields}


def survey(studies: Mapping[str, Sequence[Study]], values: Residuals, at: Mapping[str, Onsets]) -> Survey:
    """Return the feature diff of every SAE of the adhd style; `values` are residuals at the onsets `at`.

    ValueError: fewer than three models, studies of other numbers of models or SAE seeds.
    """
    models = len(studies["adhd"])
    require(models >= 3, "studies", f"{models} models", "three or more: the model is a random factor")
    shapes = [tuple(len(one.seeds) for one in studies[style]) for style in OTHER]
    require(shapes[0] == shapes[1], "studies", shapes, "as many models and SAE seeds of both styles")
    readers, contrasts, foreign, senses, misfit = {}, {}, {}, {}, {}
    for i, study in enumerate(studies["adhd"]):
        for s in range(len(study.seeds)):
            sae, key = study.saes[s], (i, s)

            here, known = _read(sae, values["adhd", i, "adhd"])
            misfit[("own", *key)] = [known]

            def compared(
                style: str, j: int, here: Tensor = here, sae: SAEBatch = sae, i: int = i
            ) -> tuple[Contrast, float]:
                other = values[style, j, style] if i == j else on_axes_of(values, ("adhd", i), (style, j))
                there, unknown = _read(sae, other)
                return diff.contrast(here, at["adhd"].document, there, at[style].document), unknown

            contrasts[key], unknown = compared("standard", i)
            misfit[("pair", *key)] = [unknown]
            for style in OTHER:
                each = [compared(style, j) for j in range(models) if j != i]
                foreign[(style, *key)], misfit[(style, *key)] = [one for one, _ in each], [fvu for _, fvu in each]
            found = torch.from_numpy(contrasts[key].asymmetric())
            readers[key] = reader(sae, values, "adhd", i, found, contrasts[key].chosen)
            pair = studies["standard"][i]
            other = reader(pair.saes[s], values, "standard", i)
            senses[key] = diff.senses(readers[key], other, sae, pair.activations.held_out)
    return Survey(studies, at, readers, contrasts, foreign, senses, misfit)


def on_axes_of(
    values: Mapping[tuple[str, int, str], Tensor], target: tuple[str, int], source: tuple[str, int]
) -> Float[Tensor, "rows d_model"]:  # fmt: skip
    """Return what a source model makes of the onsets of its own style, mapped to the axes of a target model.

    Models that started from other weights share no axes, so an SAE of one reads nothing of another. The map is affine:
    least squares, with a small ridge, between what both make of the same tokens, the onsets of both styles.
    """
    x, y = (torch.cat([values[*model, corpus] for corpus in OTHER]).double() for model in (source, target))
    rows = x - x.mean(0)
    gram = rows.T @ rows
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.linalg.solve(gram + ridge, rows.T @ (y - y.mean(0)))
    return ((values[*source, source[0]].double() - x.mean(0)) @ weight + y.mean(0)).float()


def symmetric(table: Sequence[Sequence[Any]]) -> np.ndarray:
    """Return the mean of both directions, [..., n, n] with diagonals of 0."""
    values = np.array(table, float)
    values = (values + values.swapaxes(-1, -2)) / 2
    values[..., np.eye(values.shape[-1], dtype=bool)] = 0
    return values


def _read(sae: SAEBatch, x: Float[Tensor, "rows d_model"]) -> tuple[Bool[Tensor, "rows latents"], float]:
    """Return which latents fire on rows, and the FVU there, centred by the rows' own mean."""
    z = sae.encode(x)
    return z[0] != 0, float(metrics.fvu(x, sae.decode(z)[0], x.mean(0)))


def reader(
    sae: SAEBatch, values: Residuals, style: str, i: int, asymmetric: torch.Tensor | None = None, chosen: int = -1
) -> Reader:
    """Return one SAE's decoder and its latents on its own model, at the step onsets of both styles of texts."""
    codes = torch.cat([sae.encode(values[style, i, corpus])[0] for corpus in OTHER])
    none = torch.zeros(codes.shape[1], dtype=torch.bool)
    split = len(values[style, i, "adhd"])
    return Reader(sae.W_dec[0], codes, none if asymmetric is None else asymmetric, chosen, split)


COLUMNS = ("feature", "rate_adhd", "rate_standard", "fired_adhd", "fired_standard", "ratio", "q", "silent",
           "no_decoder_match", "no_functional_match", "before_regulation", "contexts")  # fmt: skip
NONE = {"feature": "none", "rate_adhd": "none", "rate_standard": "none", "fired_adhd": 0, "fired_standard": 0,
        "ratio": "none", "before_regulation": "none"}  # fmt: skip
"""What stands for the first feature where no latent is asymmetric."""


MARKS = {"<|task|>": "Task: ", "<|steps|>": " – ", "<|sep|>": ", ", "<|end|>": ".", "<|pad|>": ""}
"""How a reader sees the marks of a text."""


def shown(value: Any) -> str:
    """Return the text of a table's entry: contexts one after another in words, numbers as everywhere."""
    if not isinstance(value, list):
        return format_value(value)
    texts = "; ".join(f"“{text}”" for text in value)
    for mark, words in MARKS.items():
        texts = texts.replace(mark, words)
    return texts


def features(found: Survey, key: Key, tokenizer: Tokenizer, contexts: int = 3) -> list[dict[str, Any]]:
    """Return the asymmetric latents of one SAE as `feature_diff.json` lists them, the largest ratio first.

    Contexts are texts at the onsets of adhd texts where the latent is largest, no text twice; `before_regulation` is
    the share of the onsets where it fires that open a regulation action.
    """
    one, senses, where = found.contrasts[key], found.senses[key], found.at["adhd"]
    codes = found.readers[key].codes[: len(where.document)]
    rows = []
    for latent in sorted(np.flatnonzero(one.asymmetric()).tolist(), key=lambda j: (-one.ratio[j], j)):
        z = codes[:, latent]
        texts = [where.context(row, tokenizer.decode) for row in z.argsort(descending=True, stable=True)[:50].tolist()]
        rows.append({
            "feature": latent, "rate_adhd": one.here.estimate(latent), "rate_standard": one.there.estimate(latent),
            "fired_adhd": int(one.here.fired[latent]), "fired_standard": int(one.there.fired[latent]),
            "ratio": float(one.ratio[latent]), "q": float(one.q[latent]),
            "silent": bool(senses.silent[latent]), "no_decoder_match": bool(senses.no_decoder[latent]),
            "no_functional_match": bool(senses.no_function[latent]),
            "before_regulation": diff.share(where.regulation[z != 0]),
            "contexts": list(dict.fromkeys(texts))[:contexts],
        })  # fmt: skip
    return rows


def artifact(
    found: Survey, key: Key, model_seed: int, layer: int, rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any], profile: str,
) -> dict[str, Any]:  # fmt: skip
    """Return what `schemas.write("feature_diff", ...)` takes, of one SAE; the summary is of all."""
    study, one = found.studies["adhd"][key[0]], found.contrasts[key]
    sae = {"seed": study.seeds[key[1]], "d_sae": study.config.sae.d_sae, "k": study.config.sae.active}
    rule = {"false_discovery_rate": diff.ALPHA, "smoothing": 0.5, "least_ratio": diff.LEAST_RATIO}
    site = {"style": "adhd", "model_seed": model_seed, "hook": cells.hook(layer)}
    counts = {"adhd": one.here.rows, "standard": one.there.rows}
    return {"profile": profile, "site": site, "sae": sae, "onsets": counts, "latents_tested": len(one.q), "rule": rule,
            "features": list(rows), "summary": dict(summary)}  # fmt: skip
