"""The rules of `skipstone.spec.legality` in gateware."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from skipstone.spec.config import CoreConfig
from skipstone.spec.isa import Opcode, Source
from skipstone.spec.legality import NEEDS

from .program import InstructionLayout

__all__ = ["Legality"]


class Legality(wiring.Component):
    """Judge of instructions.

    `legal` tells, `PIPELINE_CYCLES` after the inputs settled, whether the core can execute
    `instruction` at this place of the run. Tested through whole programs.

    Parameters
    ----------
    config : CoreConfig

    Members
    -------
    clear : In(1)
        Pulse: a run begins.
    retired : In(1)
        Pulse: `instruction` was executed.
    instruction : In(InstructionLayout())
    hidden_groups : In(16)
        Groups of the residual vector, from the last GEOMETRY.
    head_dim_log2 : In(3)
        From the last GEOMETRY.
    program_length : In(32)
    legal : Out(1)
    """

    PIPELINE_CYCLES = 2

    clear: Signal
    retired: Signal
    instruction: data.View
    hidden_groups: Signal
    head_dim_log2: Signal
    program_length: Signal
    legal: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "clear": In(1),
                "retired": In(1),
                "instruction": In(InstructionLayout()),
                "hidden_groups": In(16),
                "head_dim_log2": In(3),
                "program_length": In(32),
                "legal": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c, i = self._config, self.instruction

        # Out of order.
        met = Signal(max(Opcode) + 1)
        with m.If(self.clear):
            m.d.sync += met.eq(0)
        with m.Elif(self.retired):
            for opcode in Opcode:
                with m.If(i.opcode == opcode):
                    m.d.sync += met[opcode].eq(1)
        missing = Signal()
        with m.Switch(i.opcode):
            for opcode, needs in NEEDS.items():
                with m.Case(opcode):
                    m.d.comb += missing.eq(Cat(~met[need] for need in needs).any())

        # Out of bounds.
        word_log2, group_log2 = exact_log2(c.word_bytes), exact_log2(c.group)
        heads, most_heads, ragged = Signal(21), Signal(21), Signal()
        m.d.sync += heads.eq(i.a[:16] * i.source[:5])
        with m.Switch(i.exponent):
            for log2 in c.head_dim_log2:
                with m.Case(log2):
                    m.d.comb += [
                        most_heads.eq(c.max_query >> log2),
                        ragged.eq(heads[: max(0, group_log2 - log2)].any()),  # not whole groups
                    ]

        def words(byte_count):
            return (byte_count + c.word_bytes - 1) >> word_log2

        embedding_words, angle_words = Signal.like(i.groups), Signal.like(i.blocks)
        m.d.sync += [  # of the GEOMETRY before
            embedding_words.eq(words(self.hidden_groups << (group_log2 + 1))),
            angle_words.eq(words(4 << self.head_dim_log2)),
        ]

        bad = Signal()
        with m.Switch(i.opcode):
            with m.Case(Opcode.GEOMETRY):
                m.d.comb += bad.eq(
                    (i.exponent < c.head_dim_log2[0])
                    | (i.exponent > c.head_dim_log2[-1])
                    | (i.source == 0)
                    | (i.source > c.lanes)
                    | (heads == 0)
                    | (heads > most_heads)
                    | ragged
                    | (i.groups == 0)
                    | (i.groups > c.max_hidden // c.group)
                    | (i.blocks == 0)
                    | (i.blocks > c.max_layers)
                )
            with m.Case(Opcode.TABLES):
                m.d.comb += bad.eq((i.groups != embedding_words) | (i.blocks != angle_words))
            with m.Case(Opcode.LINEAR):
                most = Mux(
                    i.source == Source.RESIDUAL, self.hidden_groups, c.max_activation // c.group
                )
                m.d.comb += bad.eq(
                    (i.source > max(Source)) | (i.groups == 0) | (i.groups > most) | (i.blocks == 0)
                )
            with m.Case(Opcode.NEXT):
                m.d.comb += bad.eq(i.a >= self.program_length)
        m.d.sync += self.legal.eq(~(missing | bad | (i.layer >= c.max_layers)))
        return m
