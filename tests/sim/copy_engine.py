"""A stand-in for the core in tests of the harness: same ports, but it only copies words."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode
from skipstone_hw.control import Control
from skipstone_hw.layouts import piece_bytes
from skipstone_hw.memory.axi import AxiLiteSignature, AxiSignature, forward
from skipstone_hw.memory.reader import Reader
from skipstone_hw.memory.writer import Writer


class CopyEngine(wiring.Component):
    """Copies `program_length` words from word `program_address` to word `position`.

    An error of reader or writer ends the run with its code, as does the watchdog. TOKENS_DONE
    counts the words written.
    """

    s_axi_control: Any
    m_axi: Any
    interrupt: Signal

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "s_axi_control": In(AxiLiteSignature()),
                "m_axi": Out(AxiSignature(data_bits=config.port_bits)).array(config.ports),
                "interrupt": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.control = control = Control(config=config)
        m.submodules.reader = reader = Reader(config=config)
        m.submodules.writer = writer = Writer(config=config)
        wiring.connect(m, wiring.flipped(self.s_axi_control), control.s_axi_control)
        m.d.comb += self.interrupt.eq(control.interrupt)
        for p in range(config.ports):
            forward(m, inner=reader.m_axi[p], outer=self.m_axi[p])
            forward(m, inner=writer.m_axi[p], outer=self.m_axi[p])

        memory_words, limit = Signal(32), Signal(32)
        bases = [Signal(64, name=f"base_{p}") for p in range(config.ports)]
        source, target, words = Signal(32), Signal(32), Signal(32)
        left, idle_cycles, code = Signal(32), Signal(32), Signal(8)
        last_piece = config.word_bytes // piece_bytes(config) - 1
        piece = Signal(range(last_piece + 1))
        running, asked, aborting = Signal(), Signal(), Signal()
        stop = Signal()
        parameters = control.parameters
        for unit in (reader, writer):
            m.d.comb += [unit.memory_words.eq(memory_words), unit.abort.eq(stop)]
            m.d.comb += [unit.port_base[p].eq(bases[p]) for p in range(config.ports)]
        m.d.comb += [
            stop.eq(aborting | control.soft_reset),
            control.drained.eq(reader.idle & writer.idle),
            reader.commands.payload.address.eq(source),
            reader.commands.payload.words.eq(words),
            reader.commands.valid.eq(running & ~asked & ~stop),
            writer.i.payload.address.eq(target),
            writer.i.payload.piece.eq(piece),
            writer.i.payload.data.eq(
                reader.words.payload.data.word_select(piece, 8 * piece_bytes(config))
            ),
            writer.i.payload.strobe.eq(~0),
            writer.i.valid.eq(reader.words.valid),
            reader.words.ready.eq(writer.i.ready & (piece == last_piece)),
            control.status.error_code.eq(code),
        ]
        with m.If(reader.commands.valid & reader.commands.ready):
            m.d.sync += asked.eq(1)
        with m.If(writer.i.valid & writer.i.ready):
            m.d.sync += piece.eq(Mux(piece == last_piece, 0, piece + 1))
        with m.If(reader.words.valid & reader.words.ready & running):
            m.d.sync += [target.eq(target + 1), left.eq(left - 1), idle_cycles.eq(0)]
            m.d.sync += control.status.tokens_done.eq(control.status.tokens_done + 1)
        with m.Elif(running):
            m.d.sync += idle_cycles.eq(idle_cycles + 1)

        m.d.sync += control.done.eq(0)
        with m.If(control.start):
            m.d.sync += [
                memory_words.eq(parameters.memory_words),
                limit.eq(parameters.watchdog_cycles),
                source.eq(parameters.program_address),
                words.eq(parameters.program_length),
                left.eq(parameters.program_length),
                target.eq(parameters.position),
                *(bases[p].eq(control.port_base[p]) for p in range(config.ports)),
                running.eq(1),
                asked.eq(0),
                idle_cycles.eq(0),
                code.eq(0),
                control.status.tokens_done.eq(0),
            ]
        with m.Elif(control.soft_reset):
            m.d.sync += [running.eq(0), aborting.eq(0)]
        with m.Elif(running & ~aborting):
            for error in (reader.error, writer.error):
                with m.If(error.valid):
                    m.d.sync += [code.eq(error.code), aborting.eq(1)]
            with m.If((limit != 0) & (idle_cycles == limit)):
                m.d.sync += [code.eq(CoreErrorCode.WATCHDOG), running.eq(0), control.done.eq(1)]
            with m.Elif((left == 0) & asked & writer.idle & ~writer.i.valid):
                m.d.sync += [running.eq(0), control.done.eq(1)]
        with m.Elif(aborting & reader.idle & writer.idle):
            m.d.sync += [running.eq(0), aborting.eq(0), control.done.eq(1)]
        return m
