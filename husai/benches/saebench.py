"""SAEBench and sae-probes on our SAEs, beside untrained dictionaries of the same shape; `not run` without them.

Every function hands over, has `environment.answers` ask, and gives back an empty dictionary where there is no
environment.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from husai import artifacts
from husai.activations import Activations
from husai.benches.environment import NOT_RUN, answers, hand_saes, names
from husai.benches.questions import Task, checked, residues
from husai.config import SAEConfig, require
from husai.evidence import Estimate
from husai.language.pretrained import LanguageModel
from husai.models import Models
from husai.saes import SAEBatch
from husai.shards import in_memory
from husai.stats import mean
from husai.tasks import sequences

CORE = (
    "ce_loss_score",
    "kl_div_score",
    "ce_loss_with_sae",
    "ce_loss_without_sae",
    "l0",
    "cossim",
    "explained_variance",
)
"""What is read of `core`."""
NAME = "modular-addition"


def constant(centre: Float[Tensor, " d_model"], d_sae: int = 4) -> SAEBatch:
    """Return an SAE that answers one vector to everything: no latent ever fires, and its FVU is 1."""
    rows = torch.zeros(1, d_sae, len(centre))
    rows[..., 0] = 1.0
    closed = torch.full((1, d_sae), -1.0)
    config = SAEConfig("relu", d_sae, d_sae)
    return SAEBatch(config, (0,), torch.zeros(1, len(centre), d_sae), closed, rows, centre[None].clone())


class Hooked(NamedTuple):
    """A transformer of ours as TransformerLens describes and loads it."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    tokens: Int[Tensor, "rows positions"]
    """[BOS, a, +, b, =, answer]: with the answer, so that a loss exists at `=`."""
    logits: Float[Tensor, "rows vocabulary"]
    """What our model answers at the read-out."""
    position: int
    read: list[int]
    """The token at the read-out: only it counts."""


def hooked(models: Models, rows: Int[Tensor, " rows"], shift: Float[Tensor, " d_model"] | None = None) -> Hooked:
    """Return one seed of a clean task in the terms of TransformerLens.

    One position is added behind the read-out; attention is causal, so nothing before it changes. `shift` is added to
    the last residual stream through the bias of the last MLP. ValueError: several seeds, or a leaked task.
    """
    c, data = models.config, sequences(models.task)
    require(len(models.seeds) == 1, "models", f"{len(models.seeds)} seeds", "one: models.select(0)")
    require(data.position == data.tokens.shape[1] - 1, "models.task", models.task.format, "a clean one, read last")
    heads, width = c.n_heads, c.d_model // c.n_heads
    weights = {name: value[0] for name, value in models.parameters.items()}
    tokens = torch.cat([data.tokens, data.answers[:, None]], 1)[rows]
    last = f"blocks.{c.n_layers - 1}.mlp.b_out"
    weights[last] = weights[last] + (0 if shift is None else shift)
    moved = models._replace(parameters={name: value[None] for name, value in weights.items()})
    logits = moved.logits(data.tokens[rows])[0]
    place = weights["pos_embed.W_pos"]
    weights["pos_embed.W_pos"] = torch.cat([place, place.new_zeros(1, c.d_model)])
    weights["unembed.b_U"] = torch.zeros(data.vocabulary)
    for layer in range(c.n_layers):
        part = f"blocks.{layer}.attn."
        for name in "QKV":
            weights[f"{part}W_{name}"] = weights[f"{part}W_{name}"].unflatten(1, (heads, width)).transpose(0, 1)
            weights[f"{part}b_{name}"] = torch.zeros(heads, width)
        weights[f"{part}W_O"] = weights[f"{part}W_O"].unflatten(0, (heads, width))
        weights[f"{part}b_O"] = torch.zeros(c.d_model)
    config = {
        "n_layers": c.n_layers, "d_model": c.d_model, "n_heads": heads, "d_head": width, "d_mlp": c.d_mlp,
        "n_ctx": tokens.shape[1], "d_vocab": data.vocabulary, "act_fn": "relu", "normalization_type": None,
    }  # fmt: skip
    return Hooked(config, weights, tokens, logits, data.position, sorted(set(tokens[:, data.position].tolist())))


def core(
    models: Models, hook: str, acts: Activations, saes: Mapping[str, SAEBatch], shift: float, environment: str
) -> dict[str, dict[str, float]]:
    """Return SAEBench's `core` of SAEs, on the held-out inputs at the read-out: {NAME_SEED: metrics}.

    Beside the given ones: "constant_0", which answers the mean of these activations, and "shifted_0", which does so
    when `shift` times their standard deviation is added to every coordinate of every one of them, which no variance
    depends on. ValueError: the model in TransformerLens has other logits than ours.
    """
    rows = (~acts.training).nonzero()[:, 0]
    x = in_memory(acts.values)[rows]
    moved = torch.full((x.shape[1],), shift * (x - x.mean(0)).square().mean().sqrt().item())
    plain = (hooked(models, rows), {**saes, "constant": constant(x.mean(0))})
    shifted = (hooked(models, rows, moved), {"shifted": constant(x.mean(0) + moved)})
    jobs = [
        {"job": "core", "name": NAME, "folder": folder, "saes": names(some), "config": one.config,
         "position": one.position, "read": one.read}
        for folder, (one, some) in {"plain": plain, "shifted": shifted}.items()
    ]  # fmt: skip

    def hand(folder: Path) -> None:
        for job, (one, some) in zip(jobs, (plain, shifted), strict=True):
            at = folder / str(job["folder"])
            artifacts.write_tensors(at / "model.safetensors", one.weights)
            artifacts.write_tensors(at / "data.safetensors", {"tokens": one.tokens, "logits": one.logits})
            hand_saes(at, some, NAME, hook)

    found = answers(environment, jobs, hand)
    return {} if found is None else found[0]["saes"] | found[1]["saes"]


def sparse_probing(
    acts: Activations,
    right: Int[Tensor, " n"],
    classes: Sequence[int],
    hook: str,
    saes: Mapping[str, SAEBatch],
    sizes: Sequence[int],
    environment: str,
) -> dict[str, Float[np.ndarray, "sizes classes seeds"]]:
    """Return the accuracy of SAEBench's `sparse_probing`: is `right`, the answer, this residue? One-half is chance.

    By SAE, and "neurons" and "dense" of its own (one size), on the training and test items of `residues`.
    """
    values = in_memory(acts.values)
    rows = {f"{part}/{c}": values[at] for part, by in residues(right, classes).items() for c, at in by.items()}
    job = {"job": "sparse_probing", "name": NAME, "folder": "probing", "saes": names(saes), "sizes": list(sizes)}

    def hand(folder: Path) -> None:
        artifacts.write_tensors(folder / "probing" / "data.safetensors", rows)
        hand_saes(folder / "probing", saes, NAME, hook)

    found = answers(environment, [job], hand)
    if found is None:
        return {}
    own, by_sae = found[0]["model"], found[0]["saes"]

    def table(rows: Mapping[str, Mapping[str, float]], prefix: str) -> list[list[float]]:
        return [[rows[f"{prefix}_top_{k}_test_accuracy"][str(c)] for c in classes] for k in sizes]

    result = {n: np.stack([table(by_sae[f"{n}_{s}"], "sae") for s in b.seeds], -1) for n, b in saes.items()}
    dense = np.array([[own["llm_test_accuracy"][str(c)] for c in classes]])
    return result | {"neurons": np.array(table(own, "llm"))[..., None], "dense": dense[..., None]}


class Texts(NamedTuple):
    """A data set of sae-probes: texts, answers, and the split that sae-probes makes of them."""

    texts: list[str]
    labels: list[int]
    train: list[int]
    test: list[int]


def texts(datasets: Sequence[str], number: int, environment: str) -> dict[str, Texts]:
    """Return balanced slices of data sets inside sae-probes (all of them for an empty list), `number` texts each.

    ValueError: an unknown data set, or fewer than 112 texts, of which sae-probes keeps 100 apart.
    """
    require(number >= 112, "number", number, "at least 112 texts: sae-probes keeps 100 apart")
    job = {"job": "texts", "datasets": list(datasets), "texts": number}
    found = answers(environment, [job], lambda folder: None)
    if found is None:
        return {}
    names = datasets or sorted(found[0], key=lambda name: int(name.split("_")[0]))
    return {name: Texts(**found[0][name]) for name in names}


def last_tokens(
    model: LanguageModel, documents: Sequence[str], hook: str, context: int
) -> Float[Tensor, "documents d_model"]:
    """Return the activations of the last token of the text among the first `context`, one row a document.

    It is what sae-probes takes of a model, less the special token at the end, which SAEs were not trained on; an
    artifact. ValueError: a hook that does not exist, a document without tokens.
    """
    model.require_hook(hook)

    def build(folder: Path) -> None:
        parts = []
        for tokens in model.tokenize(documents, context).split(64):
            require(bool(tokens.kept.any(1).all()), "documents", "one without tokens", "texts")
            last = (tokens.kept * torch.arange(1, tokens.kept.shape[1] + 1)).argmax(1)
            parts.append(model.at(tokens, hook)[torch.arange(len(last)), last])
        artifacts.write_tensors(folder / "rows.safetensors", {"rows": torch.cat(parts)})

    config = {"documents": list(documents), "hook": hook, "context": context}
    modules = ("language.pretrained", "benches.saebench")
    folder = artifacts.stored("last_tokens", config, build, modules=modules, inputs=[model.digest])
    return artifacts.read_tensors(folder / "rows.safetensors")[0]["rows"]


def text_tasks(found: Mapping[str, Texts], rows: Mapping[str, Float[Tensor, "texts d_model"]]) -> list[Task]:
    """Return the data sets as tasks with the split of sae-probes, training items first, in its order."""
    tasks = []
    for name, item in found.items():
        order = torch.tensor([*item.train, *item.test])
        fits = torch.arange(len(order)) < len(item.train)
        answers = torch.tensor(item.labels)[order] == 1
        tasks.append(checked(Task(name, rows[name][order], torch.arange(len(order)), answers, fits)))
    return tasks


def sae_probes(
    found: Mapping[str, Texts],
    rows: Mapping[str, Float[Tensor, "texts d_model"]],
    hook: str,
    saes: Mapping[str, SAEBatch],
    sizes: Sequence[int],
    environment: str,
) -> dict[str, Float[np.ndarray, "datasets seeds"]]:
    """Return the test AUC of sae-probes by SAE, k chosen by its own validation AUC, and "dense", its baseline.

    ValueError: sae-probes read other rows, answers or splits than `text_tasks` has.
    """
    if not found:
        return {}
    most = max(len(item.labels) for item in found.values())
    jobs: list[dict[str, Any]] = [
        {"job": "texts", "datasets": list(found), "texts": most},
        {"job": "sae_probes", "name": "language-model", "hook": hook, "saes": names(saes), "sizes": list(sizes)},
    ]

    def hand(folder: Path) -> None:
        artifacts.write_tensors(folder / "data.safetensors", dict(rows))
        hand_saes(folder, saes, "language-model", hook)

    asked = answers(environment, jobs, hand)
    if asked is None:
        return {}
    ours = {task.name: task.slice for task in text_tasks(found, rows)}
    require(asked[1]["slices"] == ours, "slices of sae-probes", asked[1]["slices"], f"ours: {ours}")
    by_name = asked[1]["scores"]

    def auc(name: str) -> list[float]:
        return [max(by_name[name][data], key=lambda row: row["val_auc"])["test_auc"] for data in found]

    scores = {n: np.array([auc(f"{n}_{seed}") for seed in batch.seeds]).T for n, batch in saes.items()}
    return scores | {"dense": np.array([auc("baseline")]).T}


def over_seeds(
    found: Mapping[str, Mapping[str, float | None]], name: str, keys: Sequence[str] = CORE
) -> dict[str, Estimate | float | str]:
    """Return metrics of NAME_SEED over seeds, a plain number of one seed; `not run` each where nothing was found.

    What SAEBench gives no finite number for, of any seed, is `not defined`.
    """
    rows = [row for at, row in found.items() if at.rsplit("_", 1)[0] == name]

    def one(key: str) -> Estimate | float | str:
        values = [row[key] for row in rows]
        finite = [value for value in values if value is not None]
        if len(finite) < len(values):
            return "not defined"
        return finite[0] if len(finite) == 1 else mean(finite)

    return {key: one(key) if rows else NOT_RUN for key in keys}


def deltas(
    chosen: Mapping[str, Float[np.ndarray, "tasks seeds"]],
    codes: Sequence[str],
    over: Callable[[np.ndarray], Estimate],
    prefix: str,
) -> dict[str, Estimate | str]:
    """Return the score of every code, and of the first one less that of every other; `not run` without scores.

    Keys: PREFIX_CODE and PREFIX_minus_CODE. What has one seed is compared with every seed.
    """
    keys = [f"{prefix}_{code}" for code in codes] + [f"{prefix}_minus_{code}" for code in codes[1:]]
    if not chosen:
        return dict.fromkeys(keys, NOT_RUN)
    whole = {code: np.broadcast_to(chosen[code], chosen[codes[0]].shape) for code in codes}
    scores = [over(whole[code]) for code in codes] + [over(whole[codes[0]] - whole[code]) for code in codes[1:]]
    return dict(zip(keys, scores, strict=True))
