"""The super logic regions of a large card: which unit lies where, and all that crosses.

HBM and its switch are at the edge of region 0, so what speaks to memory lies there, and the
multipliers with what feeds them in region 1. With `region_registers`, each region has a `Boundary`:
what its units have to say to those of the other passes through the two, and nothing passes by.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import bits_for

from skipstone.spec.config import CoreConfig

from .attention import AttendCommand
from .crossing import LinkSignature, Receiver, Sender, crossing_register
from .kv_index import KvGeometry, MissLayout, WalkLayout
from .layouts import MantissaPairLayout, PairLayout, token_shape
from .linear import LinearCommand
from .replay import ItemLayout

__all__ = [
    "REGION_1",
    "ArrayWordLayout",
    "Boundary",
    "EventLayout",
    "FarSignature",
    "NearSignature",
    "crossing_signals",
    "crossing_streams",
]

REGION_1 = ("array", "linear", "attend", "activations", "boundary_1")
"""Units of region 1; all others are in region 0. Logic between units belongs to those it serves."""

_Crossings = dict[str, tuple[int, Any]]


class ArrayWordLayout(data.StructLayout):
    """A memory word for LINEAR (`weights`) or ATTEND."""

    def __init__(self, config: CoreConfig):
        super().__init__({"data": config.word_bits, "weights": 1})


class EventLayout(data.StructLayout):
    """What the counters hear of region 1."""

    def __init__(self) -> None:
        super().__init__(
            dict.fromkeys(("array_busy", "stall_memory", "stall_epilogue", "history_hits"), 1)
        )


def crossing_streams(config: CoreConfig) -> _Crossings:
    """Name → (region it goes to, payload)."""
    c = config
    return {
        "linear_command": (1, LinearCommand(c)),
        "attend_command": (1, AttendCommand(c)),
        "words": (1, ArrayWordLayout(c)),  # weights of issued matrices, keys and values
        "misses": (1, ItemLayout(MissLayout(c))),
        "hits": (1, ItemLayout(range(c.max_context))),
        "mantissas": (1, MantissaPairLayout(c)),  # to the activation buffer
        "walk": (0, WalkLayout(c)),
        "pairs": (0, PairLayout(c)),  # of LINEAR and ATTEND
    }


def crossing_signals(config: CoreConfig) -> _Crossings:
    """Name → (region it goes to, shape). What they say is true `CROSSING_CYCLES` later."""
    c = config
    return {
        "reset": (1, unsigned(1)),
        # Of the program, and of the chunk.
        "geometry": (1, KvGeometry()),
        "query_heads": (1, unsigned(bits_for(c.lanes))),
        "position": (1, unsigned(bits_for(c.max_context))),
        # 1 / rms of a token, asked for by the planner of passes.
        "norm_token": (0, token_shape(c)),
        "norm": (1, unsigned(32)),
        "idle": (0, unsigned(1)),  # all of region 1
        "reading": (0, unsigned(1)),  # ATTEND has walks to hand over
        "events": (0, EventLayout()),
    }


def _flow(to: int, region: int) -> Any:
    """Direction of a boundary's port on its own region's side."""
    return Out if to == region else In


class NearSignature(wiring.Signature):
    """What a region's units see of the other region.

    Parameters
    ----------
    config : CoreConfig
    region : int
        0 or 1.

    Members
    -------
    (each of `crossing_streams`) : In or Out(stream.Signature(payload))
    (each of `crossing_signals`) : In or Out(shape)
        Out where they come from the other region.
    (each stream that leaves)_pending : Out(1)
        `Sender.pending`.
    """

    def __init__(self, config: CoreConfig, region: int):
        members = {}
        for name, (to, shape) in crossing_streams(config).items():
            members[name] = _flow(to, region)(stream.Signature(shape))
            if to != region:
                members[f"{name}_pending"] = Out(1)
        for name, (to, shape) in crossing_signals(config).items():
            members[name] = _flow(to, region)(shape)
        super().__init__(members)


class FarSignature(wiring.Signature):
    """The wires between the regions, seen from region 0: from a register to a register, each.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    (each of `crossing_streams`) : Out or In(LinkSignature(payload))
    (each of `crossing_signals`) : Out or In(shape)
        Out where they go to region 1.
    """

    def __init__(self, config: CoreConfig):
        members = {
            name: (Out if to == 1 else In)(LinkSignature(shape))
            for name, (to, shape) in crossing_streams(config).items()
        }
        members |= {
            name: (Out if to == 1 else In)(shape)
            for name, (to, shape) in crossing_signals(config).items()
        }
        super().__init__(members)


class Boundary(wiring.Component):
    """The registers of one region at its boundary with the other.

    A stream takes `Receiver.STREAM_CYCLES` to the other region and carries a payload per cycle; a
    signal takes `CROSSING_CYCLES`. Since region 1 hears of a reset later, it must last at least
    `RESET_CYCLES` for nothing of before to come over after it.

    Parameters
    ----------
    config : CoreConfig
    region : int
        0 or 1.

    Members
    -------
    near : Out(NearSignature(config, region))
        To this region's units.
    far : Out(FarSignature(config))
        To the other region's boundary; seen from there in region 1.
    settled : Out(1)
        No stream that leaves has anything pending.
    """

    RESET_CYCLES = 4

    near: Any
    far: Any
    settled: Signal

    def __init__(self, *, config: CoreConfig, region: int):
        if region not in (0, 1):
            raise ValueError(f"region must be 0 or 1, not {region!r}")
        self._config, self._region = config, region
        far = FarSignature(config)
        super().__init__(
            {
                "near": Out(NearSignature(config, region)),
                "far": Out(far) if region == 0 else In(far),
                "settled": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        pending = []
        for name, (to, shape) in crossing_streams(self._config).items():
            near, far = getattr(self.near, name), getattr(self.far, name)
            if to == self._region:
                m.submodules[name] = receiver = Receiver(shape=shape)
                connect(m, flipped(far), receiver.link)
                connect(m, receiver.o, flipped(near))
            else:
                m.submodules[name] = sender = Sender(shape=shape)
                connect(m, flipped(near), sender.i)
                connect(m, sender.link, flipped(far))
                m.d.comb += getattr(self.near, f"{name}_pending").eq(sender.pending)
                pending.append(sender.pending)
        for name, (to, _) in crossing_signals(self._config).items():
            ends = [getattr(side, name) for side in (self.near, self.far)]
            target, source = ends if to == self._region else reversed(ends)
            m.d.comb += target.eq(crossing_register(m, source, name=name))
        m.d.comb += self.settled.eq(~Cat(pending).any())
        return m
