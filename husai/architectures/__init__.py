"""Published SAE architectures, one short file each: what an input's pre-activations become, and what is penalised."""

from husai.architectures.base import Architecture
from husai.architectures.batch_topk import BatchTopK
from husai.architectures.gated import Gated
from husai.architectures.hierarchical_topk import HierarchicalTopK
from husai.architectures.jump_relu import JumpReLU
from husai.architectures.matryoshka import Matryoshka
from husai.architectures.relu import ReLU
from husai.architectures.route import Route
from husai.architectures.switch import Switch
from husai.architectures.topk import TopK

ARCHITECTURES: dict[str, Architecture] = {
    "topk": TopK(),
    "relu": ReLU(),
    "batch_topk": BatchTopK(),
    "jump_relu": JumpReLU(),
    "gated": Gated(),
    "matryoshka": Matryoshka(),
    "hierarchical_topk": HierarchicalTopK(),
    "route": Route(),
    "switch": Switch(),
}
