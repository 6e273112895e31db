"""The notebook that needs torch runs from its first cell to its last."""

import re

import pytest

from skipstone_sim.notebook_runner import NOTEBOOKS, outputs, run_notebook


@pytest.mark.torch
def test_beside_torch():
    notebook = run_notebook(NOTEBOOKS / "04_beside_torch.ipynb")
    assert len(outputs(notebook, "image/png")) == 2
    said = "".join(outputs(notebook, "stdout"))
    same = re.search(r"the same routing decisions: ([\d.]+) %", said)
    assert float(same[1]) > 99
