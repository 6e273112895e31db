# amaranth: UnusedElaboratable=no
"""What every component promises: its docstring names its ports, its parameters are keywords."""

import importlib
import inspect
import pkgutil
import re

import pytest
from amaranth.lib import wiring

import skipstone_hw
from skipstone.spec.config import CONFIGS
from skipstone.spec.tables import EXP2

PARAMETERS = {
    "sources": 3,
    "shape": 8,
    "fraction_bits": 16,
    "limit": 99,
    "table": EXP2,
    "divisor": 4,
    "data_bits": 64,
    "words": 512,
    "memory_bytes": 128,
    "lanes": 2,
    "columns": 2,
    "rows": 8,
    "packing": CONFIGS["sim-tiny"].packing,
    "region": 0,
    "takers": 3,
}
"""Arguments of components that need more than a configuration; switches are all on."""


def components() -> list[type[wiring.Component]]:
    """Every public component, where it is defined."""
    found = {}
    for info in pkgutil.walk_packages(skipstone_hw.__path__, "skipstone_hw."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if (
                inspect.isclass(value)
                and issubclass(value, wiring.Component)
                and value.__module__ == info.name
                and not name.startswith("_")
            ):
                found[f"{info.name}.{name}"] = value
    return [found[name] for name in sorted(found)]


COMPONENTS = components()
IDS = [c.__name__ for c in COMPONENTS]


def build(component):
    """An instance with the smallest configuration."""
    arguments = {}
    for name, parameter in inspect.signature(component).parameters.items():
        if name == "config":
            arguments[name] = CONFIGS["sim-tiny"]
        elif parameter.default is inspect.Parameter.empty:
            arguments[name] = PARAMETERS[name]
        elif parameter.default is False:
            arguments[name] = True
    return component(**arguments)


def documented(component, section: str) -> list[str]:
    """The names that a section of a numpy-style docstring lists, in order."""
    lines = inspect.cleandoc(component.__doc__ or "").splitlines()
    heads = [n for n in range(len(lines) - 1) if lines[n] == section and set(lines[n + 1]) == {"-"}]
    if not heads:
        return []
    names = []
    for n, line in enumerate(lines[heads[0] + 2 :], heads[0] + 2):
        if n + 1 < len(lines) and line and set(lines[n + 1]) == {"-"}:
            break  # the next section's title
        entry = re.match(r"([\w, ]+?)(?: : .*)?$", line)
        if line and not line.startswith(" "):
            assert entry, f"{component.__name__}: a name, not {line!r}, stands in {section}"
            names += [name.strip() for name in entry[1].split(",")]
    return names


def test_components_are_found():
    assert len(COMPONENTS) > 30


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_members_are_documented(component):
    names = documented(component, "Members")
    assert sorted(names) == sorted(build(component).signature.members)


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_parameters_are_keywords_and_documented(component):
    parameters = inspect.signature(component).parameters
    kinds = {name: p.kind for name, p in parameters.items()}
    assert set(kinds.values()) <= {inspect.Parameter.KEYWORD_ONLY}
    assert sorted(documented(component, "Parameters")) == sorted(parameters)


@pytest.mark.parametrize("component", COMPONENTS, ids=IDS)
def test_the_docstring_begins_with_a_noun_phrase(component):
    first = component.__doc__.splitlines()[0]
    assert first
    assert not re.match(r"(Implements?|Computes?|This|Provides?)\b", first)
