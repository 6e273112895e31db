"""What the notebooks share: a board, real or simulated, and pictures of what was skipped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipstone.spec.config import named_config

from .overlay_files import LogicKind, write_overlay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["bitstream", "plot_decisions", "plot_logits"]

_EXECUTED, _SKIPPED = "#4682b4", "#f0f0f0"
_folders: list[tempfile.TemporaryDirectory[str]] = []
"""Of overlays; removed at the end of the process."""


def bitstream(core: str = "sim-tiny", logic: LogicKind = "rtl") -> Path:
    """The bitstream to load: ``$SKIPSTONE_BITSTREAM`` on a board; elsewhere one for a simulated
    board, which is plugged in. Says which.
    """
    from . import pynq_board

    if pynq_board.has_board():
        path = Path(os.environ["SKIPSTONE_BITSTREAM"])
        print(f"a real board; bitstream {path}")
        return path
    pynq_board.plug_in()
    _folders.append(tempfile.TemporaryDirectory(prefix="skipstone-"))
    path = write_overlay(_folders[-1].name, named_config(core), logic=logic)
    what = "the gateware, cycle by cycle" if logic == "rtl" else "the golden model"
    print(f"no FPGA here: a simulated KV260 in whose place runs {what}; core {core}")
    return path


def _label(piece: str) -> str:
    """Without what nobody would see: blanks, and tokens that have no text."""
    return piece.replace("\n", "⏎").strip() or "␣"


def plot_decisions(executed: NDArray[np.bool_], labels: Sequence[str]) -> Figure:
    """Which layers each token executed: one panel for attention, one for the MLP.

    `executed` is (tokens, layers, 2); `labels` the tokens' texts.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    tokens, layers, _ = executed.shape
    colours = ListedColormap([_SKIPPED, _EXECUTED])
    figure, axes = plt.subplots(2, 1, figsize=(max(6, 0.24 * tokens), 0.5 * layers + 1.6),
                                sharex=True, layout="constrained")  # fmt: skip
    for module, (axis, name) in enumerate(zip(axes, ("attention", "MLP"), strict=True)):
        grid = executed[:, :, module].T
        axis.pcolormesh(
            np.arange(tokens + 1), np.arange(layers + 1), grid, cmap=colours, vmin=0, vmax=1,
            edgecolors="white", linewidth=0.8,
        )  # fmt: skip
        axis.set_yticks(np.arange(layers) + 0.5, [str(n) for n in range(layers)])
        axis.set_ylabel("layer")
        axis.set_title(f"{name}: {100 * (1 - grid.mean()):.0f} % skipped", loc="left", fontsize=10)
        axis.tick_params(length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    meaning = {"executed": _EXECUTED, "skipped": _SKIPPED}
    axes[0].legend(
        handles=[Patch(color=colour, label=name) for name, colour in meaning.items()], ncols=2,
        loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0, fontsize=9, frameon=False,
    )  # fmt: skip
    axes[1].set_xticks(
        np.arange(tokens) + 0.5, [_label(t) for t in labels[:tokens]], rotation=90, fontsize=8
    )
    return figure


def plot_logits(expected: NDArray[np.floating[Any]], actual: NDArray[np.floating[Any]]) -> Figure:
    """Logits of two engines against each other, and how the differences are distributed."""
    import matplotlib.pyplot as plt

    figure, (scatter, histogram) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    x, y = expected.reshape(-1), actual.reshape(-1)
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    scatter.plot([low, high], [low, high], color="0.7", linewidth=1)
    scatter.plot(x, y, ".", markersize=1.5, alpha=0.4, color=_EXECUTED, rasterized=True)
    scatter.set(xlabel="torch, float32", ylabel="Skipstone", title="logits", aspect="equal")
    histogram.hist(y - x, bins=80, color=_EXECUTED)
    histogram.set(xlabel="Skipstone − torch", ylabel="how many", title="differences", yscale="log")
    return figure
