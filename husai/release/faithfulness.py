"""What a language model's output keeps when an SAE stands in for its activation: measured on the sentence embedding."""

import torch
from jaxtyping import Float
from torch import Tensor

from husai.config import require
from husai.formats import require_width
from husai.language.collect import TextActivations
from husai.language.pretrained import LanguageModel, Tokens
from husai.language.site import Site
from husai.language.splice import spliced
from husai.saes import SAEBatch
from husai.tasks import generator


def held_out_documents(site: Site, n: int, context: int = 64) -> Tokens:
    """Return tokens of n random documents that SAEs were not trained on, all if there are fewer."""
    require(n >= 1, "n", n, "at least one document")
    text: TextActivations = site.text
    documents = text.document[~text.acts.training].unique()
    order = torch.randperm(len(documents), generator=generator(0, "release/documents"))[:n]
    return site.model.tokenize([site.corpus.documents[i] for i in documents[order].sort().values.tolist()], context)


def embedding_recovered(
    model: LanguageModel, hook: str, saes: SAEBatch, tokens: Tokens, mean: Float[Tensor, " d_model"]
) -> list[float]:
    """Return, per seed, 1 - sum |e_sae - e|^2 / sum |e_mean - e|^2 over documents: 1 as the model, 0 as mean-ablation.

    e is the model's sentence embedding, e_sae that with the reconstructions of the text's tokens at the hook, e_mean
    that with the mean activation there; special tokens stay. ValueError: SAEs of another width, a hook whose removal
    changes nothing.
    """
    require_width(saes, model.d_model, model.name)
    model.require_hook(hook)

    def ablate(name: str, value: Tensor) -> Tensor | None:
        return torch.where(tokens.kept[..., None], mean.to(value), value) if name == hook else None

    clean = model.embed(tokens)
    worst = float((model.embed(tokens, ablate) - clean).square().sum())
    require(worst > 1e-9, "hook", f"{hook}, where mean-ablation changes nothing", "a place that the output depends on")
    changes = [model.embed(tokens, spliced(model, hook, saes[i], tokens)) - clean for i in range(len(saes))]
    return [1 - float(change.square().sum()) / worst for change in changes]
