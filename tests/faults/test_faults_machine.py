"""A machine that is full, closed or of another date: the run that follows ends as if it had been none of these."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import miniature
import pytest

DAY = 86400
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return an empty file system of 64 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"mounting is not permitted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill(place: Path, leave: int) -> Path:
    """Fill a file system but for `leave` bytes with one file; return it."""
    ballast = place / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
    return ballast


@pytest.mark.fault("a full disk")
@pytest.mark.parametrize("leave", [20_000, 150_000, 250_000, 500_000, 2_000_000] if miniature.LEVEL else [150_000])
def test_a_full_disk(small_disk, repeat, leave):
    root = miniature.write(small_disk / "repository")
    ballast = fill(small_disk, leave)
    code, out = miniature.make(root)
    assert code != 0, out
    ballast.unlink()
    repeat(root)


@pytest.mark.fault("files that cannot grow")
@pytest.mark.parametrize("limit", [0, 500, 2_000, 8_000, 30_000] if miniature.LEVEL else [2_000])
def test_a_disk_on_which_no_file_can_grow(fresh, repeat, limit):
    code, out = miniature.make(fresh, limit=limit)
    assert code != 0, out
    repeat(fresh)


FOLDERS = {
    "XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config", "XDG_DATA_HOME": ".local/share", "IPYTHONDIR": ".ipython",
    "JUPYTER_CONFIG_DIR": ".jupyter", "JUPYTER_DATA_DIR": ".jupyter/data", "JUPYTER_RUNTIME_DIR": ".jupyter/runtime",
    "MPLCONFIGDIR": ".config/matplotlib", "HF_HOME": ".cache/huggingface",
    "NUMBA_CACHE_DIR": ".cache/numba",
}  # fmt: skip
"""What else points into a home."""


@pytest.mark.fault("a home that cannot be written")
@pytest.mark.parametrize("named", [True, False] if miniature.LEVEL else [True])
def test_a_home_on_which_nothing_can_be_written(fresh, repeat, tmp_path, named):
    home = tmp_path / "home"
    home.mkdir()
    options = ["-t", "tmpfs", "-o", "ro,size=1m", "tmpfs"]
    mounted = subprocess.run(["mount", *options, home], capture_output=True).returncode == 0
    if not mounted:  # below a file no folder can be made, by root neither
        home.rmdir()
        home.write_text("")
    try:
        folders = {name: str(home / folder) for name, folder in FOLDERS.items()} if named else {}
        repeat(fresh, HOME=str(home), **folders)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", home], check=True)


def date(root: Path, when: float) -> None:
    """Date every file of the repository and of the store."""
    for path in root.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (when, when))


@pytest.mark.fault("a clock that jumps")
@pytest.mark.parametrize("when", [0.0, 400 * DAY], ids=["to 1970", "by a year"])
def test_files_of_another_date(finished, reference, repeat, when):
    date(finished, when and time.time() + when)
    assert "Nothing to be done" in repeat(finished)
    miniature.write_notebook(finished, "93_numbers", miniature.NUMBERS.replace("0.4", "0.5"))
    code, out = miniature.make(finished)  # the edit is older than what was made before it, or the other way round
    assert code == 0 and miniature.results(finished) != reference.results["paper"], out
    miniature.write_notebook(finished, "93_numbers", miniature.NUMBERS)
    repeat(finished)


@pytest.mark.fault("a clock that jumps")
@pytest.mark.skipif(not miniature.LEVEL, reason="make faults runs it")
@pytest.mark.skipif(not Path(FAKETIME).exists(), reason="libfaketime is not installed")
@pytest.mark.parametrize("jump", ["+400d", "-400d"])
def test_a_clock_that_jumps_between_a_killed_run_and_the_next(fresh, reference, repeat, jump):
    process = miniature.Make(fresh, LD_PRELOAD=FAKETIME, FAKETIME=jump)
    time.sleep(reference.seconds / 2)
    os.killpg(process.pid, 9)
    process.wait()
    repeat(fresh)
