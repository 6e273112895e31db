"""What Vitis HLS needs to build the core: the kernel's top level, and a project, per board.

Files for ``vitis-run`` (hls_config.cfg) and for the older ``vitis_hls`` (Tcl): C simulation,
synthesis, co-simulation and export. Run ``python -m skipstone_sim.hls.project BOARD FOLDER``.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from skipstone.devices import Run
from skipstone.spec.boards import BOARDS, Board, Family, Memory
from skipstone.spec.config import CoreConfig, named_config
from skipstone.spec.headers import config_header
from skipstone.spec.registers import VERSION, Mode
from skipstone.spec.resources import TILE_BUFFER, memory_blocks

from ..golden import GoldenDevice
from ..walks import random_chunk, random_image
from .build import sources
from .device import register_values
from .kernel import TOP, kernel_source

__all__ = ["HLS_BOARDS", "project_files", "vectors", "write_project"]


HLS_BOARDS = {name: b for name, b in BOARDS.items() if b.family is not Family.ECP5}
"""Boards whose devices Vitis HLS knows."""


def project_files(config: CoreConfig, board: Board, sources: Path) -> dict[str, str]:
    """Files of the project, by name; `sources` is the repository's ``hls`` folder.

    An Alveo card, which is a board with HBM, takes a kernel (.xo); the others an IP.
    """
    flow = "vitis" if board.memory is Memory.HBM else "vivado"
    period_ns = 1000 / board.clock_mhz
    flags = f"-I{sources} -I. -std=c++17 -DSKIPSTONE_AP_INT"
    package = "xo" if flow == "vitis" else "ip_catalog"
    cfg = [
        f"part={board.part}",
        "",
        "[hls]",
        f"flow_target={flow}",
        f"clock={period_ns:.4f}ns",
        "clock_uncertainty=12%",
        f"syn.top={TOP}",
        "syn.file=kernel.cpp",
        f"syn.cflags={flags}",
        f"tb.file={sources / 'csim.cpp'}",
        f"tb.file={sources / 'testbench.cpp'}",
        "tb.file=vectors.bin",
        f"tb.cflags={flags}",
        f"package.output.format={package}",
        f"package.output.file={TOP}.{'xo' if package == 'xo' else 'zip'}",
        "syn.interface.m_axi_addr64=true",
        "",
    ]
    tcl = [
        "# The same project for Vitis HLS before hls_config.cfg: vitis_hls -f run_hls.tcl",
        f"open_project -reset {TOP}_{config.name}",
        f"set_top {TOP}",
        f'add_files kernel.cpp -cflags "{flags}"',
        f'add_files -tb {sources / "csim.cpp"} -cflags "{flags}"',
        f'add_files -tb {sources / "testbench.cpp"} -cflags "{flags}"',
        "add_files -tb vectors.bin",
        f"open_solution -reset -flow_target {flow} {board.name}",
        f"set_part {board.part}",
        f"create_clock -period {period_ns:.4f}ns",
        "set_clock_uncertainty 12%",
        "csim_design -argv vectors.bin",
        "csynth_design",
        "cosim_design -argv vectors.bin",
        f"export_design -format {package} -output {TOP}.{'xo' if package == 'xo' else 'zip'}",
        "exit",
        "",
    ]
    storage, _ = memory_blocks(config, board.budget).get(TILE_BUFFER, ("auto", 0))
    return {
        "config.hpp": config_header(config, tile_storage=storage),
        "kernel.cpp": kernel_source(config),
        "hls_config.cfg": "\n".join(cfg),
        "run_hls.tcl": "\n".join(tcl),
    }


def vectors(config: CoreConfig, *, seed: int = 0) -> bytes:
    """What the test bench reads: a small random model, a run, and what golden makes of it.

    u64 words · eight u32 scalars · seven u32 of status · memory before · memory after.
    """
    rng = np.random.default_rng(seed)
    image = random_image(config, rng, largest=1)
    device = GoldenDevice(config)
    device.load(image)
    part = random_chunk(image, rng, min(3, config.max_chunk))
    device.write(image.sections["input"].address, part.view(np.uint8).reshape(-1))
    run = Run(
        program_address=image.sections["program"].address,
        program_length=int(image.model["program_length"]),
        position=0,
        chunk_tokens=len(part),
        steps=1,
        mode=int(Mode.LOGITS),
    )
    size = image.words * config.word_bytes
    before = device.read(0, size)
    device.start(run)
    result = device.wait()
    status = [0, image.model["program_length"] - 1, result.tokens_done, result.next_token]
    status += [VERSION, config.hash64 & 0xFFFFFFFF, config.hash64 >> 32]
    head = struct.pack("<Q", image.words) + register_values(run, image.words).tobytes()
    head += np.array(status, np.uint32).tobytes()
    return head + before.tobytes() + device.read(0, size).tobytes()


def write_project(folder: Path, config: CoreConfig, board: Board, sources: Path) -> None:
    """Write the project's files into `folder`, which is created, with their test vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in project_files(config, board, sources).items():
        (folder / name).write_text(text)
    (folder / "vectors.bin").write_bytes(vectors(config))


def _command(
    board: Annotated[str, typer.Argument(help=f"One of {', '.join(HLS_BOARDS)}.")],
    folder: Annotated[Path, typer.Argument(help="Where the project goes.")],
    core: Annotated[str | None, typer.Option(help="Configuration; by default the board's.")] = None,
) -> None:
    """Write a Vitis HLS project of the core for a board."""
    if board not in HLS_BOARDS:
        raise typer.BadParameter(f"board must be one of {', '.join(HLS_BOARDS)}, not {board!r}")
    chosen = HLS_BOARDS[board]
    write_project(folder, named_config(core or chosen.name), chosen, sources())
    typer.echo(f"cd {folder} && vitis_hls -f run_hls.tcl")


if __name__ == "__main__":
    typer.run(_command)
