"""Reader and writer on shared AXI4 ports under Verilator; AXI signatures."""

from pathlib import Path

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, flipped

from skipstone.spec.config import CONFIGS
from skipstone_hw.counters import Watchdog
from skipstone_hw.layouts import ErrorLayout, ReadCommandLayout, WordLayout, WriteLayout
from skipstone_hw.memory.axi import (
    AxiLiteSignature,
    AxiReadSignature,
    AxiSignature,
    AxiWriteSignature,
    forward,
)
from skipstone_hw.memory.reader import Reader
from skipstone_hw.memory.writer import Writer
from skipstone_sim.bench import run_bench

BENCH = Path(__file__).with_name("bench_memory.py")
WATCHDOG_CYCLES = 100


class MemorySide(wiring.Component):
    """Reader and writer on the same ports; a watchdog that counts words and writes as progress."""

    def __init__(self, *, config):
        self._config = config
        super().__init__(
            {
                "commands": In(stream.Signature(ReadCommandLayout())),
                "words": Out(stream.Signature(WordLayout(config))),
                "writes": In(stream.Signature(WriteLayout(config))),
                "port_base": In(64).array(config.ports),
                "memory_words": In(32),
                "abort": In(1),
                "watchdog_enable": In(1),
                "m_axi": Out(AxiSignature(data_bits=config.port_bits)).array(config.ports),
                "error": Out(ErrorLayout()),
                "idle": Out(1),
                "expired": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = Reader(config=self._config)
        m.submodules.writer = writer = Writer(config=self._config)
        m.submodules.watchdog = watchdog = Watchdog()
        wiring.connect(m, flipped(self.commands), reader.commands)
        wiring.connect(m, flipped(self.writes), writer.i)
        wiring.connect(m, reader.words, flipped(self.words))
        for part in (reader, writer):
            m.d.comb += [part.memory_words.eq(self.memory_words), part.abort.eq(self.abort)]
            for p in range(self._config.ports):
                m.d.comb += part.port_base[p].eq(self.port_base[p])
                forward(m, inner=part.m_axi[p], outer=self.m_axi[p])
        m.d.comb += [
            self.error.valid.eq(reader.error.valid | writer.error.valid),
            self.idle.eq(reader.idle & writer.idle),
            watchdog.enable.eq(self.watchdog_enable),
            watchdog.limit.eq(WATCHDOG_CYCLES),
            watchdog.progress.eq(
                (self.words.valid & self.words.ready) | (self.writes.valid & self.writes.ready)
            ),
            self.expired.eq(watchdog.expired),
        ]
        return m


@pytest.mark.cocotb
@pytest.mark.parametrize("name", ["sim-tiny", "sim-small"])
def test_memory_side(name):
    config = CONFIGS[name]
    run_bench(
        MemorySide(config=config),
        test_module=BENCH,
        config=config,
        parameters={"watchdog_cycles": WATCHDOG_CYCLES},
    )


def test_signatures_are_told_apart():
    read, write = AxiReadSignature(data_bits=64), AxiWriteSignature(data_bits=64)
    assert read == AxiReadSignature(data_bits=64)
    assert read != AxiReadSignature(data_bits=128)
    assert read != write
    assert AxiLiteSignature() == AxiLiteSignature()
    assert repr(read) == "AxiReadSignature(data_bits=64)"
    both = AxiSignature(data_bits=64)
    assert set(both.members) == set(read.members) | set(write.members)


def test_width_of_a_beat_is_checked():
    with pytest.raises(ValueError, match="power of two from 8 to 1024, not 96"):
        AxiSignature(data_bits=96)
