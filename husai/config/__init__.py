"""What a run is made of: frozen configurations, their fingerprints, and independent random streams."""

from husai.config.autoencoders import NAMES, SAEConfig, TrainConfig
from husai.config.base import canonical, fingerprint, log_grid, require, require_types, stream_seed
from husai.config.objective import OBJECTIVES, Objective
from husai.config.substrates import OPERATIONS, ModelConfig, TaskConfig

__all__ = [
    "NAMES", "OBJECTIVES", "OPERATIONS", "ModelConfig", "Objective", "SAEConfig", "TaskConfig", "TrainConfig",
    "canonical", "fingerprint", "log_grid", "require", "require_types", "stream_seed",
]  # fmt: skip
