"""Executes a notebook from its first cell to its last, as CI does."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

__all__ = ["NOTEBOOKS", "outputs", "run_notebook"]

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
_TIMEOUT_S = 300


def run_notebook(path: Path) -> Any:
    """The notebook with its outputs. Raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    # Sockets in a folder of their own: the kernel needs no network, and nobody else reaches it.
    with TemporaryDirectory() as folder:
        config = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        client = NotebookClient(notebook, timeout=_TIMEOUT_S, kernel_name="python3", config=config)
        # In a thread of its own: whoever calls may have an event loop to keep.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: asyncio.run(client.async_execute())).result()
    return notebook


def outputs(notebook: Any, kind: str) -> list[str]:
    """All outputs of a kind: a MIME type, or "stdout"."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == kind:
                found.append(output["text"])
            elif kind in output.get("data", {}):
                found.append(output["data"][kind])
    return found
