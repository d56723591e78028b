"""A pytest plugin: nbmake skips whatever lies under a folder named _build, which is where our copies lie."""

from nbmake.pytest_items import NotebookFile


def pytest_collect_file(file_path, parent):
    """Collect notebooks under _build, and only those: nbmake itself collects the others."""
    if file_path.suffix == ".ipynb" and "_build" in file_path.parts:
        return NotebookFile.from_parent(parent, path=file_path)
