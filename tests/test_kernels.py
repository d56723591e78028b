"""Compiled kernels are kept under the hash of their whole source."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numba

from husai import kernels

HERE = Path(kernels.__file__).parent


def test_the_cache_of_compiled_code_is_named_by_all_files_and_is_only_of_the_kernels():
    sources = b"".join(path.read_bytes() for path in sorted(HERE.glob("*.py")))
    assert hashlib.sha256(sources).hexdigest()[:12] in kernels.topk_steps._cache.cache_path
    assert kernels._SOURCE not in numba.config.CACHE_DIR


def test_an_edited_selection_is_what_the_step_runs(tmp_path):
    """A compiled `collect` calls `threshold` of another file: editing that one must reach the caller."""
    copy = tmp_path / "husai" / "kernels"
    copy.mkdir(parents=True)
    (copy.parent / "__init__.py").write_text("")
    (copy / "step.py").write_text(
        "from husai.kernels.selection import level, compiled\nRecipe = 0\n\n"
        "@compiled\ndef topk_steps():\n    return level()\n"
    )
    for name in ("__init__.py", "rows.py"):
        shutil.copy(HERE / name, copy)
    found = []
    for value in (1, 22):  # of another length, which Python's own cache goes by
        (copy / "selection.py").write_text(
            f"import numba\ncompiled = numba.njit(cache=True)\n\n@compiled\ndef level():\n    return {value}\n"
        )
        run = [sys.executable, "-c", "from husai.kernels import topk_steps; print(topk_steps())"]
        found.append(int(subprocess.check_output(run, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})))
    assert found == [1, 22]
