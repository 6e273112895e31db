"""``scripts/train_models``: rebuild the shipped models from their seeds."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from skipstone_sim.training.publish import replace_table, table, write_directory
from skipstone_sim.training.stories import stories
from skipstone_sim.training.tokenizer import train_tokenizer
from skipstone_sim.training.trainer import RECIPES, train_dense, train_routed

__all__: list[str] = []


def main() -> None:
    """Train each named model and write its directory, and its table in ``docs/models.md``.

    A finished stage in the work folder is not run again.
    """
    root = Path(__file__).parents[3]
    parser = argparse.ArgumentParser(prog="scripts/train_models", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="NAME",
                        help=f"which to train: {', '.join(RECIPES)} (all)")  # fmt: skip
    parser.add_argument("--out", type=Path, default=root / "host/skipstone/models")
    parser.add_argument("--work", type=Path, default=root / "build/models",
                        help="where finished stages are kept")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for name in arguments.models:
        if name not in RECIPES:
            parser.error(f"NAME must be one of {', '.join(RECIPES)}, not {name!r}")
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(story.text for story in stories("tokenizer", 6000))
    for name in arguments.models or RECIPES:
        recipe = RECIPES[name]
        dense_file = arguments.work / f"{name}.dense.pt"
        routed_file = arguments.work / f"{name}.routed.pt"
        if not dense_file.exists():
            begun = time.monotonic()
            weights = train_dense(recipe, tokenizer)
            seconds = time.monotonic() - begun
            torch.save(
                {"weights": weights, "seconds": seconds, "steps": recipe.dense_steps}, dense_file
            )
        dense = torch.load(dense_file, weights_only=True)
        if not routed_file.exists():
            begun = time.monotonic()
            weights, sets = train_routed(recipe, tokenizer, dense["weights"])
            seconds = time.monotonic() - begun
            torch.save(
                {
                    "weights": weights,
                    "routers": sets,
                    "seconds": seconds,
                    "steps": recipe.routed_steps,
                },
                routed_file,
            )
        routed = torch.load(routed_file, weights_only=True)
        rows = write_directory(
            arguments.out / name,
            recipe,
            tokenizer,
            routed["weights"],
            {f"{100 * t:.0f} %": r for t, r in zip(recipe.targets, routed["routers"], strict=True)},
            first=dense["weights"],
            steps=(
                dense.get("steps", recipe.dense_steps),
                routed.get("steps", recipe.routed_steps),
            ),
            minutes=(dense["seconds"] + routed["seconds"]) / 60,
        )
        if arguments.out == parser.get_default("out"):
            document = root / "docs/models.md"
            text = replace_table(document.read_text(encoding="utf-8"), name, rows)
            document.write_text(text, encoding="utf-8", newline="\n")
        print(f"{arguments.out / name}\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
