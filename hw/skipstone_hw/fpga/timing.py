"""Logic levels between registers, on the netlist.

A unit is reduced to a `Timing`: levels from its inputs to the nearest registers, from registers to
its outputs, and straight through. A netlist that places units uses their `Timing`, as it uses the
primitives', so paths across units are followed without ever having the whole design in memory.

Levels (`primitives`) say how much logic stands between two registers. They are no delays: there is
no open timing model of UltraScale+, and routing is half of a path there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .primitives import Primitive, primitive

__all__ = ["Path", "Timing", "analyze"]

Bit = tuple[str, int]
_CLOCKS = frozenset({"clk", "ap_clk"})


@dataclass(frozen=True)
class Path:
    """Logic between two registers, or between a register and a port.

    Attributes
    ----------
    levels
    start, end
        Names of the registers.
    through
        Named nets on the way.
    """

    levels: int
    start: str
    end: str
    through: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.levels} levels: {self.start} → {self.end}"


@dataclass(frozen=True)
class Timing:
    """What a netlist's surroundings need to know of it.

    Attributes
    ----------
    inner
        The longest path between two registers inside, units placed there included; None if there
        is none.
    capture, launch
        The longest path from an input to a register, and from a register to an output.
    arcs
        Levels from an input straight to an output.
    entering
        For each unit placed in it, the longest path that ends there and began outside; under ""
        the longest that ends in a register of the netlist's own.
    """

    inner: Path | None = None
    capture: Mapping[Bit, Path] = field(default_factory=dict)
    launch: Mapping[Bit, Path] = field(default_factory=dict)
    arcs: Mapping[tuple[Bit, Bit], int] = field(default_factory=dict)
    entering: Mapping[str, Path] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return {
            "inner": self.inner and asdict(self.inner),
            "capture": [[*bit, asdict(p)] for bit, p in self.capture.items()],
            "launch": [[*bit, asdict(p)] for bit, p in self.launch.items()],
            "arcs": [[*a, *b, levels] for (a, b), levels in self.arcs.items()],
            "entering": {name: asdict(p) for name, p in self.entering.items()},
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Timing:
        """What `to_json` gave."""
        return cls(
            inner=raw["inner"] and _path(raw["inner"]),
            capture={(port, i): _path(p) for port, i, p in raw["capture"]},
            launch={(port, i): _path(p) for port, i, p in raw["launch"]},
            arcs={((a, i), (b, o)): levels for a, i, b, o, levels in raw["arcs"]},
            entering={name: _path(p) for name, p in raw["entering"].items()},
        )


def _path(raw: Mapping[str, Any]) -> Path:
    return Path(raw["levels"], raw["start"], raw["end"], tuple(raw["through"]))


class _Graph:
    """Bits of a netlist as nodes, logic as weighted edges."""

    def __init__(self) -> None:
        self.edges: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.starts: dict[int, tuple[int, str, str]] = {}  # levels, register, placed unit
        self.ends: list[tuple[int, int, str, str]] = []  # bit, levels, register, placed unit

    def start(self, bit: int, levels: int, name: str, owner: str = "") -> None:
        """A register's output reaches `bit` after `levels`."""
        if bit not in self.starts or self.starts[bit][0] < levels:
            self.starts[bit] = (levels, name, owner)

    def order(self, label: Mapping[int, str]) -> list[int]:
        """Topological. Raises ValueError if logic drives itself."""
        waiting: dict[int, int] = defaultdict(int)
        nodes = set(self.edges)
        for targets in self.edges.values():
            for target, _ in targets:
                waiting[target] += 1
                nodes.add(target)
        ready = [n for n in nodes if not waiting[n]]
        done = []
        while ready:
            node = ready.pop()
            done.append(node)
            for target, _ in self.edges.get(node, ()):
                waiting[target] -= 1
                if not waiting[target]:
                    ready.append(target)
        if len(done) < len(nodes):
            stuck = sorted(label[n] for n in nodes if waiting[n] and n in label)[:8]
            raise ValueError(f"logic must not drive itself: {', '.join(stuck) or 'unnamed nets'}")
        return done


def _inputs_outputs(
    cell: Mapping[str, Any],
) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    inputs: dict[str, list[Any]] = {}
    outputs: dict[str, list[Any]] = {}
    for port, bits in cell["connections"].items():
        (outputs if cell["port_directions"].get(port) == "output" else inputs)[port] = bits
    return inputs, outputs


def _bits(ports: Mapping[str, list[Any]]) -> Iterator[tuple[Bit, int]]:
    for port, bits in ports.items():
        if port not in _CLOCKS:
            for i, bit in enumerate(bits):
                if isinstance(bit, int):
                    yield (port, i), bit


def _names(module: Mapping[str, Any]) -> dict[int, str]:
    """The best name of each bit: given by a person rather than a tool, short."""
    best: dict[int, tuple[tuple[bool, int, str], str]] = {}
    for name, net in module["netnames"].items():
        made_up = bool(net.get("hide_name")) or "$" in name
        width = len(net["bits"])
        for i, bit in enumerate(net["bits"]):
            if isinstance(bit, int):
                label = name if width == 1 else f"{name}[{i}]"
                rank = (made_up, len(name), name)
                if bit not in best or rank < best[bit][0]:
                    best[bit] = (rank, label)
    return {bit: label for bit, (_, label) in best.items()}


def analyze(
    module: Mapping[str, Any],
    units: Mapping[str, Timing] | None = None,
    titles: Mapping[str, str] | None = None,
) -> Timing:
    """The timing of a module of Yosys' JSON.

    Parameters
    ----------
    module
        Flat, of primitives and `units`.
    units
        By module name, with the port names that this module uses.
    titles
        By name of a unit's instance, what to call it.

    Raises ValueError of an unknown primitive, or if logic drives itself.
    """
    units, titles = units or {}, titles or {}
    names = _names(module)
    graph = _Graph()
    placed: list[Path] = []
    for cell_name, cell in module["cells"].items():
        if cell["type"] in units:
            title, unit = titles.get(cell_name, cell_name), units[cell["type"]]
            _add_unit(graph, title, cell, unit)
            if (p := unit.inner) is not None:
                placed.append(Path(p.levels, f"{title}.{p.start}", f"{title}.{p.end}", p.through))
        else:
            kind = primitive(cell["type"], cell["parameters"])
            _add_primitive(graph, cell_name, cell, kind, names)
    return _Analysis(module, graph, names).timing(titles.values(), placed)


def _add_primitive(
    graph: _Graph,
    cell_name: str,
    cell: Mapping[str, Any],
    kind: Primitive,
    names: Mapping[int, str],
) -> None:
    inputs, outputs = _inputs_outputs(cell)
    drives = [bit for _, bit in _bits(outputs)]
    given = [names[b] for b in drives if "$" not in names.get(b, "$")]
    # What no person named is called after its kind, and the memory it was made from.
    made_from = cell_name.partition("$")[0] or cell_name.rpartition(".")[0].rpartition("$")[2]
    name = min(given, key=len, default=f"{cell['type']} {made_from}".strip())
    if kind.arcs is not None:
        for (port, i), (out, o), levels in kind.arcs(inputs, outputs):
            source, target = inputs[port][i], outputs[out][o]
            if isinstance(source, int):
                graph.edges[source].append((target, levels))
    if kind.launch is not None:
        for bit in drives:
            label = names.get(bit, "$")
            graph.start(bit, kind.launch, name if "$" in label else label)
    if kind.capture is not None:
        for (port, _), bit in _bits(inputs):
            if port not in ("C", "CLK", "WCLK", "CLKARDCLK", "CLKBWRCLK"):
                graph.ends.append((bit, kind.capture, name, ""))


def _add_unit(graph: _Graph, title: str, cell: Mapping[str, Any], unit: Timing) -> None:
    inputs, outputs = _inputs_outputs(cell)
    for bit, source in _bits(inputs):
        if (path := unit.capture.get(bit)) is not None:
            graph.ends.append((source, path.levels, f"{title}.{path.end}", title))
    for bit, target in _bits(outputs):
        if (path := unit.launch.get(bit)) is not None:
            graph.start(target, path.levels, f"{title}.{path.start}", title)
    for (a, b), levels in unit.arcs.items():
        sources, targets = inputs.get(a[0], []), outputs.get(b[0], [])
        if a[1] < len(sources) and b[1] < len(targets) and isinstance(sources[a[1]], int):
            graph.edges[sources[a[1]]].append((targets[b[1]], levels))


class _Analysis:
    """Longest paths of a graph."""

    def __init__(self, module: Mapping[str, Any], graph: _Graph, names: Mapping[int, str]):
        self._graph, self._names = graph, names
        ports = module["ports"].items()
        self._in = {
            (name, i): bit
            for name, port in ports
            if port["direction"] == "input" and name not in _CLOCKS
            for i, bit in enumerate(port["bits"])
        }
        self._out = {
            (name, i): bit
            for name, port in ports
            if port["direction"] == "output"
            for i, bit in enumerate(port["bits"])
            if isinstance(bit, int)
        }
        self._order = graph.order(names)
        self._arrive()
        self._depart()

    def _arrive(self) -> None:
        """Levels from the farthest register, and where that path came from."""
        self._arrival = {bit: s[0] for bit, s in self._graph.starts.items()}
        self._before: dict[int, int] = {}
        for node in self._order:
            at = self._arrival.get(node)
            if at is None:
                continue
            for target, levels in self._graph.edges.get(node, ()):
                if at + levels > self._arrival.get(target, -1):
                    self._arrival[target] = at + levels
                    self._before[target] = node

    def _depart(self) -> None:
        """Levels to the farthest register, and its name."""
        self._departure: dict[int, tuple[int, str]] = {}
        for bit, levels, name, _ in self._graph.ends:
            if bit not in self._departure or self._departure[bit][0] < levels:
                self._departure[bit] = (levels, name)
        for node in reversed(self._order):
            for target, levels in self._graph.edges.get(node, ()):
                onward = self._departure.get(target)
                if onward and onward[0] + levels > self._departure.get(node, (-1, ""))[0]:
                    self._departure[node] = (onward[0] + levels, onward[1])

    def _back(self, bit: int) -> tuple[int, tuple[str, ...]]:
        """Where the longest path to `bit` starts, and the named nets on it."""
        nodes = [bit]
        while nodes[-1] in self._before:
            nodes.append(self._before[nodes[-1]])
        named: list[str] = []
        for node in reversed(nodes[:-1]):
            label = self._names.get(node, "$")
            if "$" not in label and label not in named:
                named.append(label)
        return nodes[-1], tuple(named)

    def _worst(self, ends: Iterable[tuple[int, int, str, str]], foreign: bool) -> Path | None:
        """The longest path to one of `ends`; `foreign`: only if it began in another unit."""
        best: Path | None = None
        for bit, levels, name, owner in ends:
            at = self._arrival.get(bit)
            if at is None or (best and at + levels <= best.levels):
                continue
            start, through = self._back(bit)
            _, start_name, start_owner = self._graph.starts[start]
            if not foreign or start_owner != owner:
                best = Path(at + levels, start_name, name, through)
        return best

    def timing(self, titles: Iterable[str], placed: Iterable[Path]) -> Timing:
        """The whole of it; `placed` are the longest paths inside the units."""
        own = self._worst(self._graph.ends, foreign=False)
        launch = {}
        for bit, node in self._out.items():
            if node in self._arrival:
                start, _ = self._back(node)
                launch[bit] = Path(
                    self._arrival[node], self._graph.starts[start][1], f"{bit[0]}[{bit[1]}]"
                )
        by_owner: dict[str, list[tuple[int, int, str, str]]] = defaultdict(list)
        for end in self._graph.ends:
            by_owner[end[3]].append(end)
        entering = {
            title: path
            for title in ("", *titles)
            if (path := self._worst(by_owner[title], foreign=bool(title))) is not None
        }
        return Timing(
            inner=max((p for p in (own, *placed) if p), key=lambda p: p.levels, default=None),
            capture={
                bit: Path(self._departure[node][0], f"{bit[0]}[{bit[1]}]", self._departure[node][1])
                for bit, node in self._in.items()
                if node in self._departure
            },
            launch=launch,
            arcs=self._arcs(),
            entering=entering,
        )

    def _arcs(self) -> dict[tuple[Bit, Bit], int]:
        """Inputs that reach outputs through logic only."""
        reaches: set[int] = set(self._out.values())
        for node in reversed(self._order):
            if any(target in reaches for target, _ in self._graph.edges.get(node, ())):
                reaches.add(node)
        found: dict[int, dict[Bit, int]] = {
            bit: {name: 0} for name, bit in self._in.items() if bit in reaches
        }
        for node in self._order:
            sources = found.get(node)
            if not sources:
                continue
            for target, levels in self._graph.edges.get(node, ()):
                if target in reaches:
                    there = found.setdefault(target, {})
                    for name, at in sources.items():
                        if at + levels > there.get(name, -1):
                            there[name] = at + levels
        return {
            (name, out): levels
            for out, node in self._out.items()
            for name, levels in found.get(node, {}).items()
        }
