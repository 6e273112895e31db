"""The control port: AXI4-Lite registers in the `ap_ctrl_hs` convention, and the interrupt.

References: AMD UG1399, Vitis High-Level Synthesis User Guide, "S_AXILITE Control Register Map";
UG1393, "Control Requirements for XRT-Managed Kernels".
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from skipstone.spec import registers
from skipstone.spec.config import CoreConfig

from .counters import CounterLayout
from .memory.axi import (
    ADDRESS_BITS,
    LITE_ADDRESS_BITS,
    LITE_DATA_BITS,
    AxiLiteSignature,
    Response,
)

__all__ = ["Control", "ParameterLayout", "StatusLayout"]

_PROTOCOL = ("CTRL", "GIER", "IP_IER", "IP_ISR")
_CONSTANT = ("VERSION", "CONFIG_HASH_LOW", "CONFIG_HASH_HIGH")


class ParameterLayout(data.StructLayout):
    """The run parameters: every plain register that the host writes, by its name in lower case."""

    def __init__(self) -> None:
        super().__init__(
            {
                r.name.lower(): LITE_DATA_BITS
                for r in registers.REGISTERS
                if r.access == "rw"
                and r.name not in _PROTOCOL
                and not r.name.startswith("PORT_BASE")
            }
        )


class StatusLayout(data.StructLayout):
    """What the core reports: every read-only register that is neither constant nor a counter."""

    def __init__(self) -> None:
        super().__init__(
            {
                r.name.lower(): LITE_DATA_BITS
                for r in registers.REGISTERS
                if r.access == "ro" and r.name not in _CONSTANT and r.offset < registers.PORT_BASE
            }
        )


class _Write:
    """A register write: `enable` for one cycle, byte address, data, mask of the strobed bits."""

    def __init__(self) -> None:
        self.enable = Signal(name="write_enable")
        self.address = Signal(LITE_ADDRESS_BITS, name="write_address")
        self.data = Signal(LITE_DATA_BITS, name="write_data")
        self.mask = Signal(LITE_DATA_BITS, name="write_mask")

    def hits(self, name: str) -> Any:
        """The register called `name` is being written."""
        return self.enable & _addressed(self.address, name)

    def sets(self, name: str, bit: int) -> Any:
        """A one is being written to the bit of mask `bit`."""
        return self.hits(name) & (self.data & self.mask & bit).any()

    def merged(self, value: Any) -> Any:
        """`value` after this write."""
        return (value & ~self.mask) | (self.data & self.mask)


def _addressed(address: Signal, name: str) -> Any:
    return address[2:] == registers.BY_NAME[name].offset >> 2


def _halves(name: str, value: Any) -> dict[str, Any]:
    """The two registers of a 64-bit value."""
    return {f"{name}_LOW": value[:LITE_DATA_BITS], f"{name}_HIGH": value[LITE_DATA_BITS:]}


def _index(bit: int) -> int:
    """Position of the one set bit."""
    return bit.bit_length() - 1


class Control(wiring.Component):
    """AXI4-Lite slave with the register map of `skipstone.spec.registers`.

    Writing START makes `start` pulse once the core is idle; the bit stays set until `done`, or,
    with AUTO_RESTART, until a run ends with an error code or the bit is cleared. `done` sets DONE
    and READY, which a read of CTRL clears, and the enabled bits of IP_ISR, which toggle where a
    one is written; `interrupt` is high while GIER and a bit of IP_ISR are set.

    `parameters` and `port_base` are copies taken when `start` pulses, valid in that cycle: what
    the host writes during a run is for the next one. Reads always give what was last written. The
    halves of a 64-bit register are read one by one, so a counter is only exact while the core is
    idle.

    Writing RESET ends the run without DONE and clears START and AUTO_RESTART; `soft_reset` is then
    high for at least `RESET_CYCLES` cycles and until `drained`, and so is the bit. Nothing else in
    the map is changed. START written meanwhile takes effect afterwards.

    Byte strobes are honoured. Holes in the map, ports beyond P and read-only registers ignore
    writes, holes read 0; every response is OKAY. Addresses are taken modulo 4. One access of each
    direction is served at a time, a read in 2 cycles.

    Parameters
    ----------
    config : CoreConfig
        P = `ports`.

    Members
    -------
    s_axi_control : In(AxiLiteSignature())
    interrupt : Out(1)
    start : Out(1)
        One cycle; the run begins.
    done : In(1)
        One cycle; the run ended, `status` tells how.
    soft_reset : Out(1)
        Everything but the memory ports is to be reset; reader and writer are to abort.
    drained : In(1)
        No transfer is outstanding on a memory port.
    parameters : Out(ParameterLayout())
    port_base : Out(64).array(P)
    status : In(StatusLayout())
    counters : In(CounterLayout())
    """

    RESET_CYCLES = 16

    s_axi_control: Any
    interrupt: Signal
    start: Signal
    done: Signal
    soft_reset: Signal
    drained: Signal
    parameters: data.View
    port_base: Any
    status: data.View
    counters: data.View

    def __init__(self, *, config: CoreConfig):
        self._config = config
        super().__init__(
            {
                "s_axi_control": In(AxiLiteSignature()),
                "interrupt": Out(1),
                "start": Out(1),
                "done": In(1),
                "soft_reset": Out(1),
                "drained": In(1),
                "parameters": Out(ParameterLayout()),
                "port_base": Out(ADDRESS_BITS).array(config.ports),
                "status": In(StatusLayout()),
                "counters": In(CounterLayout()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        write = self.build_write(m)
        ctrl_read = Signal()
        begin = Signal()
        ended = Signal()
        values = self.build_protocol(m, write=write, ctrl_read=ctrl_read, begin=begin, ended=ended)
        values |= self.build_interrupt(m, write=write, ended=ended)
        values |= self.build_parameters(m, write=write, begin=begin)
        values |= {name.upper(): self.status[name] for name, _ in StatusLayout()}
        values["VERSION"] = Const(registers.VERSION, LITE_DATA_BITS)
        values |= _halves("CONFIG_HASH", Const(self._config.hash64, 2 * LITE_DATA_BITS))
        for name in registers.COUNTERS:
            values |= _halves(name.upper(), self.counters[name])
        self.build_read(m, values=values, ctrl_read=ctrl_read)
        return m

    def build_write(self, m: Module) -> _Write:
        """AW, W and B channels; both halves of a write are latched, then it is carried out."""
        axi = self.s_axi_control
        write = _Write()
        address_valid, data_valid = Signal(), Signal()
        m.d.comb += [
            axi.awready.eq(~address_valid),
            axi.wready.eq(~data_valid),
            axi.bresp.eq(Response.OKAY),
            write.enable.eq(address_valid & data_valid & (~axi.bvalid | axi.bready)),
        ]
        with m.If(axi.awvalid & axi.awready):
            m.d.sync += [write.address.eq(axi.awaddr), address_valid.eq(1)]
        with m.If(axi.wvalid & axi.wready):
            m.d.sync += [
                write.data.eq(axi.wdata),
                write.mask.eq(Cat(bit.replicate(8) for bit in axi.wstrb)),
                data_valid.eq(1),
            ]
        with m.If(write.enable):
            m.d.sync += [address_valid.eq(0), data_valid.eq(0), axi.bvalid.eq(1)]
        with m.Elif(axi.bready):
            m.d.sync += axi.bvalid.eq(0)
        return write

    def build_read(self, m: Module, *, values: dict[str, Any], ctrl_read: Signal) -> None:
        """AR and R channels; `ctrl_read` pulses when CTRL is sampled for a read."""
        axi = self.s_axi_control
        address = Signal(LITE_ADDRESS_BITS)
        address_valid = Signal()
        sample = Signal()
        m.d.comb += [
            axi.arready.eq(~address_valid & ~axi.rvalid),
            axi.rresp.eq(Response.OKAY),
            sample.eq(address_valid & ~axi.rvalid),
            ctrl_read.eq(sample & _addressed(address, "CTRL")),
        ]
        with m.If(axi.arvalid & axi.arready):
            m.d.sync += [address.eq(axi.araddr), address_valid.eq(1)]
        with m.If(sample):
            m.d.sync += [address_valid.eq(0), axi.rvalid.eq(1), axi.rdata.eq(0)]
            with m.Switch(address[2:]):
                for name, value in values.items():
                    with m.Case(registers.BY_NAME[name].offset >> 2):
                        m.d.sync += axi.rdata.eq(value)
        with m.Elif(axi.rready):
            m.d.sync += axi.rvalid.eq(0)

    def build_protocol(
        self, m: Module, *, write: _Write, ctrl_read: Signal, begin: Signal, ended: Signal
    ) -> dict[str, Any]:
        """CTRL: start, done, reset. `begin` precedes `start` by a cycle, `ended` is at `done`."""
        bits = registers.Control
        starting, restarting, running = Signal(), Signal(), Signal()
        completed, accepted = Signal(), Signal()  # ap_done and ap_ready
        restart = restarting & (self.status.error_code == 0)
        m.d.comb += [
            ended.eq(self.done & running),
            begin.eq(starting & ~running & ~self.soft_reset),
        ]
        m.d.sync += [
            self.start.eq(begin),
            running.eq((running | begin) & ~ended),
            starting.eq(Mux(ended, restart, starting) | write.sets("CTRL", bits.START)),
            completed.eq((completed & ~ctrl_read) | ended),
            accepted.eq((accepted & ~ctrl_read) | ended),
        ]
        ctrl = Signal(_index(max(bits)) + 1)
        with m.If(write.hits("CTRL")):
            m.d.sync += restarting.eq(write.merged(ctrl)[_index(bits.AUTO_RESTART)])

        remaining = Signal(range(self.RESET_CYCLES))
        with m.If(remaining != 0):
            m.d.sync += remaining.eq(remaining - 1)
        with m.Elif(self.drained):
            m.d.sync += self.soft_reset.eq(0)
        with m.If(write.sets("CTRL", bits.RESET)):
            m.d.sync += [remaining.eq(self.RESET_CYCLES - 1), self.soft_reset.eq(1)]
            m.d.sync += [
                flag.eq(0)
                for flag in (self.start, running, starting, restarting, completed, accepted)
            ]

        for bit, flag in {
            bits.START: starting,
            bits.DONE: completed,
            bits.IDLE: ~running & ~starting & ~self.soft_reset,
            bits.READY: accepted,
            bits.AUTO_RESTART: restarting,
            bits.RESET: self.soft_reset,
        }.items():
            m.d.comb += ctrl[_index(bit)].eq(flag)
        return {"CTRL": ctrl}

    def build_interrupt(self, m: Module, *, write: _Write, ended: Signal) -> dict[str, Any]:
        """GIER, IP_IER and IP_ISR; the end of a run is both its done and its ready event."""
        global_enable, enable, pending = Signal(), Signal(2), Signal(2)
        with m.If(write.hits("GIER")):
            m.d.sync += global_enable.eq(write.merged(global_enable))
        with m.If(write.hits("IP_IER")):
            m.d.sync += enable.eq(write.merged(enable))
        toggled = Mux(write.hits("IP_ISR"), pending ^ (write.data & write.mask), pending)
        m.d.sync += pending.eq(toggled | Mux(ended, enable, 0))
        m.d.comb += self.interrupt.eq(global_enable & pending.any())
        return {"GIER": global_enable, "IP_IER": enable, "IP_ISR": pending}

    def build_parameters(self, m: Module, *, write: _Write, begin: Signal) -> dict[str, Any]:
        """Run parameters and port bases: what the host wrote, and the copy for the current run."""
        written = Signal(ParameterLayout())
        bases = [Signal(ADDRESS_BITS, name=f"base_{p}") for p in range(self._config.ports)]
        values = {name.upper(): written[name] for name, _ in ParameterLayout()}
        for p, base in enumerate(bases):
            values |= _halves(f"PORT_BASE_{p}", base)
        for name, value in values.items():
            with m.If(write.hits(name)):
                m.d.sync += value.eq(write.merged(value))
        with m.If(begin):
            m.d.sync += self.parameters.eq(written)
            m.d.sync += [self.port_base[p].eq(base) for p, base in enumerate(bases)]
        return values
