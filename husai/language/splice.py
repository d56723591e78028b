"""SAEs put into a language model: the hooks that replace a site's activations by their reconstruction."""

import torch
from torch import Tensor

from husai.config import require
from husai.language.pretrained import Hooks, LanguageModel, Tokens
from husai.saes import SAEBatch


def require_fits(sae: SAEBatch, model: LanguageModel) -> None:
    """Refuse SAEs of another width than the model's."""
    d_model = sae.W_dec.shape[-1]
    require(d_model == model.d_model, "sae", f"one for d_model = {d_model}", f"one for {model.name}: {model.d_model}")


def spliced(model: LanguageModel, hook: str, sae: SAEBatch, tokens: Tokens, silence: Tensor | None = None) -> Hooks:
    """Return hooks under which text tokens carry their reconstruction at one hook; special ones stay as they are.

    `silence` names latents [m] whose contribution to the reconstruction is taken off. ValueError: a hook that does not
    exist, several SAEs, an SAE of another d_model.
    """
    model.require_hook(hook)
    require(len(sae) == 1, "sae", f"{len(sae)} of them", "one SAE: sae[i] picks it")
    require_fits(sae, model)

    def replace(name: str, value: Tensor) -> Tensor | None:
        if name != hook:
            return None
        rows = value[tokens.kept]
        new = sae.reconstruct(rows)[0]
        if silence is not None:
            new = new - sae.encode(rows)[0][:, silence] @ sae.W_dec[0, silence]
        value = torch.clone(value)
        value[tokens.kept] = new
        return value

    return replace
