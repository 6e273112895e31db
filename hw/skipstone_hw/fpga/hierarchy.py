"""Cuts emitted Verilog into units that are synthesized one by one.

The top level's children are units, and so is every module that is placed more than once; what
remains is the glue between them. Amaranth numbers its names over the whole design (``word$571``),
so a change anywhere renames nets everywhere; within a unit the numbers are therefore given anew, in
order of appearance, and a unit's text changes only when the unit does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from skipstone.cache import content_key

__all__ = ["Unit", "cut"]

_MODULE = re.compile(r"^module (\\\S+|\w+) ?\((.*?)\);\n.*?^endmodule\n", re.MULTILINE | re.DOTALL)
_ATTRIBUTES = re.compile(r"\(\*[^\n]*\*\)\n")
_INSTANCE = re.compile(
    r"^  (\\\S+|[A-Za-z_]\w*) +(?:#\(\n(?:    [^\n]*\n)*?  \) +)?(\\\S+|[A-Za-z_]\w*) +\(\n",
    re.MULTILINE,
)
_PORT = re.compile(r"^  (?:input|output|inout) [^\n]*;\n", re.MULTILINE)
_NUMBER = re.compile(r"\$(\d+)")


def _plain(name: str) -> str:
    """A Verilog identifier without the backslash and the blank of an escaped one."""
    return name.strip().removeprefix("\\")


def _unnumbered(name: str) -> str:
    """An Amaranth name without the number that told it from others."""
    return re.sub(r"\$\d+$", "", name)


@dataclass(frozen=True)
class _Module:
    """A module of the source: its name, its ports in order, its text, and what it places."""

    name: str
    ports: tuple[str, ...]
    text: str

    @cached_property
    def instances(self) -> tuple[tuple[str, str], ...]:
        """(module, instance name) of everything placed in it."""
        return tuple((_plain(m[1]), _plain(m[2])) for m in _INSTANCE.finditer(self.text))

    @property
    def black_box(self) -> str:
        """The module without its contents."""
        head = self.text[: self.text.index(");\n") + 3]
        return f"(* blackbox *)\n{head}{''.join(_PORT.findall(self.text))}endmodule\n"


@dataclass(frozen=True)
class Unit:
    """A piece of the design that is synthesized by itself.

    Attributes
    ----------
    name
        Instance name in the top level, the module's name if it is placed more than once, or "glue".
    text
        Verilog: the module, those inside it, and black boxes for the units it places.
    top
        Name of the module in `text`.
    ports
        Its ports in `text`, in order.
    children
        For each black box in `text`: the unit, and the ports in the black box' order.
    instances
        Names of the children's instances in `text`, with their names in the design.
    """

    name: str
    text: str
    top: str
    ports: tuple[str, ...]
    children: Mapping[str, tuple[Unit, tuple[str, ...]]] = field(default_factory=dict)
    instances: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Hash of the text, those of the children included."""
        return content_key(self.text, *(unit.key for unit, _ in self.children.values()))

    def walk(self) -> Iterator[Unit]:
        """Every unit once, children first."""
        seen: set[str] = set()

        def visit(unit: Unit) -> Iterator[Unit]:
            for child, _ in unit.children.values():
                yield from visit(child)
            if unit.key not in seen:
                seen.add(unit.key)
                yield unit

        return visit(self)


class _Renumbering:
    """Numbers in names, given anew in order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        return _NUMBER.sub(self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        return self._numbers.setdefault(match[1], f"~{len(self._numbers) + 1}")


def cut(text: str, top: str) -> Unit:
    """The units of a Verilog text, as a tree under its module `top`.

    Raises ValueError if there is no such module.
    """
    modules = {}
    for m in _MODULE.finditer(text):
        ports = tuple(_plain(p) for p in re.split(r",\s*", m[2].strip()) if p.strip())
        modules[_plain(m[1])] = _Module(_plain(m[1]), ports, m[0])
    if top not in modules:
        raise ValueError(f"top must be one of the text's modules, not {top!r}")
    uses = Counter(kind for m in modules.values() for kind, _ in m.instances if kind in modules)
    shared = {name for name, count in uses.items() if count > 1}
    names = {kind: _unnumbered(name) for kind, name in modules[top].instances if kind in modules}
    made: dict[str, Unit] = {}

    def inside(name: str, boxes: dict[str, None], found: dict[str, None]) -> None:
        """Modules that belong to a unit, and those that it holds as black boxes."""
        found[name] = None
        for kind, _ in modules[name].instances:
            if kind not in modules or kind in found:
                continue
            if kind in shared or kind in names:
                boxes[kind] = None
            else:
                inside(kind, boxes, found)

    def build(name: str, title: str) -> Unit:
        if name in made:
            return made[name]
        boxes: dict[str, None] = {}
        found: dict[str, None] = {}
        inside(name, boxes, found)
        renumber = _Renumbering()
        pieces = [modules[n].text for n in found] + [modules[n].black_box for n in boxes]
        renumbered = renumber("\n".join(pieces))
        unit = Unit(
            name=title,
            text=renumbered,
            top=renumber(name),
            ports=tuple(renumber(p) for p in modules[name].ports),
            children={
                renumber(kind): (
                    build(kind, names.get(kind, kind) if kind not in shared else kind),
                    tuple(renumber(p) for p in modules[kind].ports),
                )
                for kind in boxes
            },
            instances={
                renumber(instance): _unnumbered(instance)
                for n in found
                for kind, instance in modules[n].instances
                if kind in boxes
            },
        )
        made[name] = unit
        return unit

    return build(top, "glue")
