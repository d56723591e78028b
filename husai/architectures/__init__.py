"""Published SAE architectures, one short file each: what an input's pre-activations become, and what is penalised."""

from typing import Any

from husai.architectures import inference, relu, topk

ARCHITECTURES: dict[str, Any] = {
    "topk": topk,
    "relu": relu,
    "jump_relu": inference.Threshold,
    "batch_topk": inference.Threshold,
    "matryoshka": inference.Threshold,
    "gated": inference.Gated,
}
