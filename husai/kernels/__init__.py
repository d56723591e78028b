"""What numba compiles: the fused CPU step of the TopK family; passes over tiles of cosines (`tiles`)."""

import hashlib
import os
import tempfile
from pathlib import Path

import numba

# Compiled code is kept between processes under the hash of all files here: numba itself looks only at the file of the
# function that is called, and would go on running an old version of what that function calls in another file.
_HERE = Path(__file__).parent
_SOURCE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(_HERE.glob("*.py")))).hexdigest()[:12]
_WRITABLE = _HERE / "__pycache__" if os.access(_HERE, os.W_OK) else Path(tempfile.gettempdir()) / "husai_kernels"
_before = numba.config.CACHE_DIR  # type: ignore[attr-defined]
numba.config.CACHE_DIR = str(_WRITABLE / _SOURCE)  # type: ignore[attr-defined]

from husai.kernels.rows import BETA1, BETA2, EPSILON  # noqa: E402
from husai.kernels.step import Recipe, topk_steps  # noqa: E402

numba.config.CACHE_DIR = _before  # type: ignore[attr-defined]

__all__ = ["BETA1", "BETA2", "EPSILON", "Recipe", "topk_steps"]
