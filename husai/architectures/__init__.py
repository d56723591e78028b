"""Published SAE architectures, one short file each: what an input's pre-activations become, and what is penalised."""

from husai.architectures import relu, topk

ARCHITECTURES = {"topk": topk, "relu": relu}
