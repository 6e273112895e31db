"""ULX3S with an LFE5U-85F: the core, its memory in block RAM, and a serial line to the host.

Pins and constraints follow the board's reference file: emard/ulx3s, ``doc/constraints/
ulx3s_v20.lpf``.
"""

from amaranth.hdl import Cat, ClockDomain, ClockSignal, Module, ResetInserter, ResetSignal, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out, connect

from skipstone.spec.config import CoreConfig, named_config

from ..core import Core
from .block_memory import BlockMemory
from .bridge import SerialBridge
from .uart import UartReceiver, UartTransmitter

__all__ = [
    "BAUD",
    "CONFIG",
    "CONSTRAINTS",
    "DIVISOR",
    "IMAGE_CONTEXT",
    "IMAGE_MODEL",
    "MEMORY_WORDS",
    "Ulx3s",
]

CONFIG = named_config("ulx3s")
CLOCK_HZ = 25_000_000
BAUD = 1_000_000
DIVISOR = CLOCK_HZ // BAUD
"""Clock cycles per bit of the serial line."""
IMAGE_MODEL, IMAGE_CONTEXT = "nano", 128
"""The model in the bitstream, and its longest sequence in tokens."""
MEMORY_WORDS = 8192
"""Words of memory. The nano model needs 7,971 for 128 tokens; block RAMs hold a power of two."""

_PINS = {
    "clk_25mhz": "G2",
    "ftdi_txd": "M1",
    "ftdi_rxd": "L4",
    "btn_pwr_n": "D6",
    "wifi_gpio0": "L2",
    **{f"led[{n}]": p for n, p in enumerate(["B2", "C2", "C1", "D2", "D1", "E2", "E1", "H3"])},
}


def _constraints() -> str:
    lines = [
        "BLOCK RESETPATHS;",
        "BLOCK ASYNCPATHS;",
        'FREQUENCY PORT "clk_25mhz" 25 MHZ;',
        "SYSCONFIG CONFIG_IOVOLTAGE=3.3 COMPRESS_CONFIG=ON MCCLK_FREQ=62 "
        "SLAVE_SPI_PORT=DISABLE MASTER_SPI_PORT=ENABLE SLAVE_PARALLEL_PORT=DISABLE;",
    ]
    for name, pin in _PINS.items():
        pull = "UP" if name in ("ftdi_txd", "btn_pwr_n", "wifi_gpio0") else "NONE"
        lines.append(f'LOCATE COMP "{name}" SITE "{pin}";')
        lines.append(f'IOBUF PORT "{name}" IO_TYPE=LVCMOS33 PULLMODE={pull};')
    return "\n".join(lines) + "\n"


CONSTRAINTS = _constraints()
"""Text of the constraints file (LPF) for nextpnr."""


class Ulx3s(wiring.Component):
    """The whole design.

    The clock is the board's oscillator. Reset is the power button, and the first cycles after
    configuration. LEDs: running, interrupt, reset, receiving, sending, and a heartbeat.

    Parameters
    ----------
    config : CoreConfig
        With one port; `CONFIG` for the board.
    divisor : int
        Clock cycles per bit of the serial line.
    memory_words : int
    image : bytes
        What memory holds after configuration, from word 0.
    core : wiring.Component or None
        With the ports of `Core`, which it replaces.

    Members
    -------
    clk_25mhz : In(1)
    ftdi_txd : In(1)
        From the USB bridge.
    ftdi_rxd : Out(1)
        To it.
    btn_pwr_n : In(1)
        Low while the button is pressed.
    led : Out(8)
    wifi_gpio0 : Out(1)
        High, or the other processor takes the board away.
    """

    clk_25mhz: Signal
    ftdi_txd: Signal
    ftdi_rxd: Signal
    btn_pwr_n: Signal
    led: Signal
    wifi_gpio0: Signal

    def __init__(
        self,
        *,
        config: CoreConfig = CONFIG,
        divisor: int = DIVISOR,
        memory_words: int = MEMORY_WORDS,
        image: bytes = b"",
        core: wiring.Component | None = None,
    ):
        if config.ports != 1:
            raise ValueError(f"config must have one port, not {config.ports}")
        self._config, self._divisor = config, divisor
        self._memory_words, self._image, self._core = memory_words, image, core
        super().__init__(
            {
                "clk_25mhz": In(1),
                "ftdi_txd": In(1),
                "ftdi_rxd": Out(1),
                "btn_pwr_n": In(1),
                "led": Out(8),
                "wifi_gpio0": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        c = self._config
        self.build_clock(m)
        m.submodules.receiver = receiver = UartReceiver(divisor=self._divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self._divisor)
        m.submodules.bridge = bridge = SerialBridge(memory_bytes=self._memory_words * c.word_bytes)
        block = BlockMemory(data_bits=c.port_bits, words=self._memory_words, init=self._image)
        m.submodules.block = ResetInserter(bridge.reset)(block)
        core = self._core or Core(config=c)
        m.submodules.core = ResetInserter(bridge.reset)(core)
        connect(m, bridge.m_axi_control, core.s_axi_control)
        connect(m, core.m_axi[0], block.s_axi)
        connect(m, bridge.access, block.access)
        connect(m, bridge.tx, transmitter.i)
        beat = Signal(24)
        m.d.sync += beat.eq(beat + 1)
        m.d.comb += [
            bridge.answer.eq(block.answer),
            bridge.answer_valid.eq(block.answer_valid),
            receiver.rx.eq(self.ftdi_txd),
            bridge.rx_data.eq(receiver.data),
            bridge.rx_valid.eq(receiver.valid),
            self.ftdi_rxd.eq(transmitter.tx),
            self.wifi_gpio0.eq(1),
            self.led.eq(
                Cat(beat[-1], ~self.ftdi_txd, ~transmitter.tx, core.interrupt, bridge.reset)
            ),
        ]
        return m

    def build_clock(self, m: Module) -> None:
        """The clock, and its reset: 255 cycles after configuration or the button."""
        m.domains.sync = ClockDomain()
        m.domains.start = ClockDomain(reset_less=True, local=True)
        pressed = Signal()
        m.submodules.button = FFSynchronizer(~self.btn_pwr_n, pressed, o_domain="start")
        left = Signal(8, init=255)
        with m.If(pressed):
            m.d.start += left.eq(255)
        with m.Elif(left != 0):
            m.d.start += left.eq(left - 1)
        m.d.comb += [
            ClockSignal("sync").eq(self.clk_25mhz),
            ClockSignal("start").eq(self.clk_25mhz),
            ResetSignal("sync").eq(left != 0),
        ]
