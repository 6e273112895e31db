"""The notebooks that need a board run from their first cell to their last."""

import base64

import pytest

from skipstone_sim.notebook_runner import NOTEBOOKS, outputs, run_notebook

PICTURES = {
    "01_first_tokens": 0,
    "02_registers_and_counters": 1,
    "03_watching_routers_skip": 2,
}


@pytest.mark.rtl
@pytest.mark.parametrize("name", PICTURES)
def test_notebook(name):
    notebook = run_notebook(NOTEBOOKS / f"{name}.ipynb")
    assert "a simulated KV260" in "".join(outputs(notebook, "stdout"))
    pictures = [base64.b64decode(p) for p in outputs(notebook, "image/png")]
    assert len(pictures) == PICTURES[name]
    assert all(len(p) > 5_000 for p in pictures)


def test_no_notebook_is_forgotten():
    names = {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert names == {*PICTURES, "04_beside_torch"}  # tests/sim/test_notebooks.py
