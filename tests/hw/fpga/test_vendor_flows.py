# amaranth: UnusedElaboratable=no
"""The files for AMD's tools, held against the emitted Verilog's ports and the register table.

The Tcl runs: in a real interpreter, whose unknown commands, Vivado's, only note their arguments.
"""

import configparser
import re
import subprocess
from xml.etree import ElementTree

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring

from skipstone.board.design import kernel_arguments, used_registers
from skipstone.spec.boards import BOARDS, VLNV, Memory
from skipstone.spec.registers import BY_NAME, PORT_BASE
from skipstone_hw.core import Core
from skipstone_hw.emit import TOP, emit_component
from skipstone_hw.fpga.board import vendor_files
from skipstone_hw.fpga.interface import module_ports
from skipstone_hw.fpga.package import SOURCES
from skipstone_hw.fpga.vivado import MEMORY_PORTS
from skipstone_hw.fpga.wrapper import RESET_SOURCE, WRAPPER

ALVEO = [b for b in BOARDS.values() if b.memory is Memory.HBM]
ZYNQ = [b for b in BOARDS.values() if b.name in ("kv260", "zcu104")]
CORE = "skipstone_0"


class Hull(wiring.Component):
    """A core's ports without the core."""

    def __init__(self, config):
        super().__init__(Core(config=config).signature)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.interrupt.eq(1)  # for a clock and a reset
        return m


@pytest.fixture(scope="module")
def verilog():
    made = {}

    def emit(board):
        if board.name not in made:
            made[board.name] = emit_component(Hull(board.config), name=TOP)
        return made[board.name]

    return emit


@pytest.fixture(params=[*ALVEO, *ZYNQ], ids=lambda b: b.name)
def built(request, tmp_path, verilog):
    """(board, folder with its files, ports of its core)."""
    text = verilog(request.param)
    (tmp_path / f"{TOP}.v").write_text(text)
    for name, content in vendor_files(request.param, text).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return request.param, tmp_path, module_ports(text, TOP)


def run_tcl(path, given=()):
    """Run a script; every command that Tcl does not know, in order, each a tuple of words.

    `given`: what Vivado would answer, by the words a command begins with.
    """
    tkinter = pytest.importorskip("tkinter", reason="runs the scripts in its Tcl interpreter")
    tcl = tkinter.Tcl()
    calls = []
    handles = iter(range(10**6))

    def unknown(*words):
        calls.append(words)
        for start, answer in given:
            if words[: len(start)] == start:
                return answer
        return f"handle{next(handles)}"

    tcl.createcommand("unknown", unknown)
    tcl.eval("proc exec {args} {return 8}")
    # What a run leaves behind is not there to be copied.
    tcl.eval(
        "rename file tcl_file; proc file {what args} {"
        "if {$what eq {copy}} {unknown file copy {*}$args} else {tcl_file $what {*}$args}}"
    )
    tcl.eval(f"set argv0 {{}}; source {{{path}}}")
    return calls


ANSWERS = (
    (("get_property", "PROGRESS"), "100%"),
    (("get_property", "STATS.WNS"), "0.012"),
    (("ipx::get_memory_maps",), ""),
    (("ipx::get_address_blocks",), ""),
    (("ipx::get_address_spaces",), ""),
)


def packaging(board, folder):
    """Calls of the script that packages the IP."""
    name = "vitis/package.tcl" if board in ALVEO else "vivado/build.tcl"
    return run_tcl(folder / name, ANSWERS)


def buses(ports):
    """Memory ports, as bus interfaces would be inferred from the names."""
    return sorted({m[1] for p in ports if (m := re.match(r"(m_axi_\d\d)_", p.name))})


def test_the_wrapper_has_the_core_s_ports(built):
    _, folder, ports = built
    outer = module_ports((folder / f"{WRAPPER}.v").read_text(), WRAPPER)
    added = {"ap_clk", "ap_rst_n"}
    assert {p for p in outer if p.name not in added} == {
        p for p in ports if p.name not in ("clk", "rst")
    }
    assert added <= {p.name for p in outer}
    connected = set(re.findall(r"^        \.(\w+)\(", (folder / f"{WRAPPER}.v").read_text(), re.M))
    assert connected == {p.name for p in ports}


def test_packaging_names_sources_that_are_there(built):
    board, folder, _ = built
    calls = packaging(board, folder)
    (project,) = (c for c in calls if c[0] == "create_project" and "package" in c)
    assert project[-1] == board.part
    (added,) = (c for c in calls if c[0] == "add_files" and ".v" in c[-1])
    for name in SOURCES:
        assert f"/{name}" in added[-1]
        assert (folder / name).is_file()


def test_packaging_associates_every_bus(built):
    board, folder, ports = built
    calls = packaging(board, folder)
    associated = {c[2] for c in calls if c[0] == "ipx::associate_bus_interfaces"}
    assert associated == {"s_axi_control", *buses(ports)}
    spaces = [c for c in calls if c[0] == "ipx::add_address_space"]
    assert [c[1] for c in spaces] == buses(ports)
    names = {c[2] for c in calls if c[:2] == ("set_property", "name")}
    assert VLNV[2] in names


def test_packaging_has_the_register_table(built):
    board, folder, _ = built
    calls = packaging(board, folder)
    names = [c[1] for c in calls if c[0] == "ipx::add_register"]
    offsets = [int(c[2], 0) for c in calls if c[:2] == ("set_property", "address_offset")]
    found = dict(zip(names, offsets, strict=True))
    bases = {f"PORT_BASE_{p}": PORT_BASE + 8 * p for p in range(board.config.ports)}
    if board in ALVEO:
        assert {n: o for n, o in found.items() if n.startswith("PORT_BASE")} == bases
        busses = [c[2] for c in calls if c[:2] == ("set_property", "value")]
        assert [f"m_axi_{p:02d}" for p in range(board.config.ports)] == [
            b for b in busses if b.startswith("m_axi")
        ]
    expected = {r.name: r.offset for r in used_registers(board.config)}
    if board in ALVEO:
        expected = {n: o for n, o in expected.items() if not n.startswith("PORT_BASE")} | bases
    assert found == expected
    access = [c[2] for c in calls if c[:2] == ("set_property", "access")]
    table = ["read-write" if BY_NAME.get(n, BY_NAME["CTRL"]).access == "rw" else "read-only"
             for n in names]  # fmt: skip
    assert access == table


@pytest.mark.parametrize("board", ALVEO, ids=lambda b: b.name)
def test_kernel_description(board, verilog):
    text = verilog(board)
    ports = {p.name: p for p in module_ports(text, TOP)}
    root = ElementTree.fromstring(vendor_files(board, text)["vitis/kernel.xml"].encode())
    (kernel,) = root
    assert kernel.get("vlnv") == ":".join(VLNV)
    described = {p.get("name"): p for p in kernel.find("ports")}
    assert set(described) == {"s_axi_control", *buses(ports.values())}
    for name, port in described.items():
        assert int(port.get("dataWidth")) == ports[f"{name}_wdata"].width
        master = ports[f"{name}_awaddr"].direction == "output"
        assert port.get("mode") == ("master" if master else "slave")
    assert int(described["s_axi_control"].get("range"), 0) == (
        1 << ports["s_axi_control_awaddr"].width
    )
    arguments = list(kernel.find("args"))
    assert [int(a.get("id")) for a in arguments] == list(range(len(arguments)))
    for a, expected in zip(arguments, kernel_arguments(board.config), strict=True):
        offset, size = int(a.get("offset"), 0), int(a.get("size"), 0)
        assert (a.get("name"), offset, size) == (expected.name, expected.offset, expected.bytes)
        if a.get("addressQualifier") == "1":
            assert a.get("port") == f"m_axi_{expected.port:02d}"
            assert offset == BY_NAME[f"PORT_BASE_{expected.port}_LOW"].offset
        else:
            assert a.get("port") == "s_axi_control"
            assert BY_NAME[a.get("name")].offset == offset
    covered = {o + h for a in kernel_arguments(board.config)
               for o, h in ((a.offset, 0), (a.offset, a.bytes - 4))}  # fmt: skip
    rw = {r.offset for r in used_registers(board.config) if r.access == "rw" and r.offset >= 0x10}
    assert covered == rw


@pytest.mark.parametrize("board", ALVEO, ids=lambda b: b.name)
def test_each_port_has_banks_of_its_own(board, verilog):
    text = verilog(board)
    link = configparser.ConfigParser(strict=False)
    raw = vendor_files(board, text)["vitis/link.cfg"]
    assert f"platform={board.platform}\n" in raw
    pairs = re.findall(rf"^sp={CORE}\.(m_axi_\d\d):HBM\[(\d+)(?::(\d+))?\]$", raw, re.MULTILINE)
    assert sorted(name for name, _, _ in pairs) == buses(module_ports(text, TOP))
    taken = [n for _, a, b in pairs for n in range(int(a), int(b or a) + 1)]
    assert len(set(taken)) == len(taken)
    assert max(taken) < board.hbm_channels
    link.read_string("[top]\n" + raw)
    assert link["clock"]["freqHz"].startswith(str(round(board.clock_mhz * 1e6)))
    assert f"nk={VLNV[2]}:1:{CORE}" in raw


@pytest.mark.parametrize("board", ZYNQ, ids=lambda b: b.name)
def test_block_design_is_complete(board, tmp_path, verilog):
    text = verilog(board)
    for name, content in vendor_files(board, text).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    script = tmp_path / "vivado/build.tcl"
    pins = set(re.findall(r"get_bd_(?:intf_)?pins (\w+/\w+)", script.read_text()))
    named = [((get, p), p) for get in ("get_bd_pins", "get_bd_intf_pins") for p in pins]
    calls = run_tcl(script, (*ANSWERS, *named))
    cells = {c[-1]: c[-2] for c in calls if c[0] == "create_bd_cell"}
    assert cells[CORE] == ":".join(VLNV)
    wires = [c[1:] for c in calls if c[0] == "connect_bd_intf_net"]
    ends = [end for wire in wires for end in wire]
    assert len(set(ends)) == len(ends)
    core = [end for end in ends if end.startswith(f"{CORE}/")]
    names = {"s_axi_control", *buses(module_ports(text, TOP))}
    assert sorted(core) == sorted(f"{CORE}/{name}" for name in names)
    memory = [e for e in ends if e.split("/")[1] in MEMORY_PORTS]
    assert len(memory) == min(len(MEMORY_PORTS), board.config.ports)

    # Every cell has its clock and its reset, and every pin at most one driver.
    nets = [c[1:] for c in calls if c[0] == "connect_bd_net"]
    pins = [pin for net in nets for pin in net[1:]]
    assert len(set(pins)) == len(pins)
    clock = next(net for net in nets if net[0] == "clk_wiz_0/clk_out1")
    reset = next(net for net in nets if net[0] == "reset_0/peripheral_aresetn")
    for cell in cells:
        if cell not in ("clk_wiz_0", "zynq_ultra_ps_e_0"):
            assert any(pin.startswith(f"{cell}/") for pin in clock), cell
        if cell not in ("clk_wiz_0", "zynq_ultra_ps_e_0", "reset_0"):
            assert any(pin.startswith(f"{cell}/") for pin in reset), cell
    assert (f"{CORE}/interrupt", "axi_intc_0/intr") in nets
    assert ("axi_intc_0/irq", "zynq_ultra_ps_e_0/pl_ps_irq0") in nets

    ranges = sorted(
        (int(c[c.index("-offset") + 1], 0), int(c[c.index("-range") + 1], 0))
        for c in calls
        if c[0] == "assign_bd_address" and "-offset" in c
    )
    (first, size), (second, _) = ranges
    assert first + size <= second
    width = {p.name: p.width for p in module_ports(text, TOP)}["s_axi_control_awaddr"]
    assert size == 1 << width
    copied = [c[-1] for c in calls if c[:2] == ("file", "copy")]
    assert [str(tmp_path / "vivado" / f"{board.name}.{e}") for e in ("hwh", "bit")] == copied


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (((("get_property", "PROGRESS"), "0%"),), "implementation failed"),
        (((("get_property", "STATS.WNS"), "-0.1"),), "timing is not met at 225 MHz"),
        (((("get_board_parts",), ""),), "are not installed"),
    ],
)
def test_a_failed_flow_leaves_no_bitstream(tmp_path, verilog, given, error):
    board = BOARDS["kv260"]
    for name, content in vendor_files(board, verilog(board)).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    for ext in ("bit", "hwh"):
        (tmp_path / "vivado" / f"kv260.{ext}").write_text("of an earlier build")
    tkinter = pytest.importorskip("tkinter", reason="runs the scripts in its Tcl interpreter")
    with pytest.raises(tkinter.TclError, match=error):
        run_tcl(tmp_path / "vivado/build.tcl", (*given, *ANSWERS))
    assert not list((tmp_path / "vivado").glob("kv260.*"))


def test_scripts_name_the_missing_tool(built):
    board, folder, _ = built
    script = folder / ("vitis" if board in ALVEO else "vivado") / "build.sh"
    done = subprocess.run(
        ["/bin/bash", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "vivado was not found" in done.stderr


def test_floorplan_runs(tmp_path, verilog):
    board = BOARDS["u280"]
    path = tmp_path / "floorplan.tcl"
    path.write_text(vendor_files(board, verilog(board))["vitis/floorplan.tcl"])
    calls = run_tcl(path, [(("get_cells", "-hierarchical", "-filter", "PARENT"), "core/array")])
    assert any(c[0] == "add_cells_to_pblock" for c in calls)


def test_reset_source_is_in_rtl():
    assert RESET_SOURCE.parent.name == "rtl"
    assert "module skipstone_reset" in RESET_SOURCE.read_text()
