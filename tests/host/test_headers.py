"""The C++ headers: current, and the same numbers as the specification."""

import re
from pathlib import Path

import pytest

from skipstone.spec import formats, registers, tables
from skipstone.spec.config import CONFIGS
from skipstone.spec.headers import config_header, spec_header
from skipstone.spec.isa import Opcode
from skipstone.spec.legality import NEEDS

KEPT = Path(__file__).parents[2] / "hls" / "skipstone" / "spec.hpp"


def constants(text):
    return {n: int(v, 0) for n, v in re.findall(r"constexpr int (\w+) = (-?\w+);", text)}


def array(text, name):
    body = re.search(rf"{name}\[\d+\] = \{{(.*?)\}};", text, re.S)[1]
    return [int(v) for v in body.replace(",", " ").split()]


def test_the_kept_header_is_current():
    assert KEPT.read_text() == spec_header(), (
        "write it anew: python -c 'from skipstone.spec.headers import spec_header; "
        'print(spec_header(), end="")\' > hls/skipstone/spec.hpp'
    )


def test_it_has_the_specifications_numbers():
    text = spec_header()
    found = constants(text)
    assert found["VERSION"] == registers.VERSION
    assert found["ACTIVATION_BITS"] == formats.ACTIVATION_BITS
    assert found["REGISTER_ERROR_CODE"] == registers.BY_NAME["ERROR_CODE"].offset
    assert found["COUNTERS"] == len(registers.COUNTERS)
    for table in (tables.EXP2, tables.RECIPROCAL, tables.RSQRT):
        assert array(text, f"{table.name.upper()}_BASES") == table.bases.tolist()
        assert array(text, f"{table.name.upper()}_SLOPES") == table.slopes.tolist()
    needs = array(text, "NEEDS")
    for opcode in Opcode:
        assert needs[opcode] == sum(1 << n for n in NEEDS.get(opcode, ()))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_cores_header(name):
    config = CONFIGS[name]
    text = config_header(config)
    found = constants(text)
    assert found["ROWS"] == config.rows
    assert found["WORD_BYTES"] == config.word_bytes
    assert f"0x{config.hash64:016x}ull" in text
    assert f"Beat* port_{config.ports - 1}" in text
    assert f"Beat* port_{config.ports}" not in text
