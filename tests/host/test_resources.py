"""Resources before synthesis: the named cores fit their boards, others are refused with numbers."""

from dataclasses import replace

import pytest

from skipstone.spec.boards import BOARDS, RESOURCES
from skipstone.spec.config import BOARD_CONFIGS, CONFIGS
from skipstone.spec.errors import ConfigError
from skipstone.spec.resources import (
    Buffer,
    buffers,
    check_budget,
    luts_and_ffs,
    multipliers,
    resources,
)

SYNTHESIZED = {"lut": 37_100, "ff": 30_100, "dsp": 119}
"""sim-tiny by Yosys 0.70 for UltraScale+, unit by unit; of Attend, 3,000 LUTs beside its leaves are
from before these were leaves."""


@pytest.mark.parametrize("name", BOARD_CONFIGS)
def test_every_core_fits_its_board(name):
    budget = BOARDS[name].budget
    taken = resources(BOARD_CONFIGS[name], budget)
    assert set(taken) == set(RESOURCES)
    assert all(0 <= taken[n] <= budget[n] for n in RESOURCES)
    check_budget(BOARD_CONFIGS[name], name, budget)


@pytest.mark.parametrize("name", BOARDS)
def test_boards_take_their_cores(name):
    assert BOARDS[name].config is BOARD_CONFIGS[name]


def test_the_estimate_is_that_of_synthesis_where_it_was_made():
    found = resources(CONFIGS["sim-tiny"], BOARDS["kv260"].budget)
    for resource, measured in SYNTHESIZED.items():
        assert found[resource] == pytest.approx(measured, rel=0.05)


def test_registers_between_regions_are_those_of_synthesis():
    """Both sides of the boundary of sim-tiny by Yosys 0.70."""
    both = [luts_and_ffs(replace(CONFIGS["sim-tiny"], region_registers=b)) for b in (True, False)]
    assert [a - b for a, b in zip(*both, strict=True)] == pytest.approx([602, 2158], rel=0.02)


def test_too_large_a_core_is_refused_with_the_numbers():
    wide = replace(CONFIGS["u280"], lanes=8)
    message = (
        r"core 'u280' does not fit u280: lut 2,[\d,]+ of 1,196,080, dsp 16,[\d,]+ of 9,024 "
        r"\(within budget: ff 2,[\d,]+ of 2,607,360, bram "
    )
    with pytest.raises(ConfigError, match=message):
        check_budget(wide, "u280", BOARDS["u280"].budget)
    with pytest.raises(ConfigError, match="does not fit ulx3s: lut"):
        check_budget(CONFIGS["sim-large"], "ulx3s", BOARDS["ulx3s"].budget)
    with pytest.raises(ConfigError, match=r"does not fit pynq-z2: .*bram"):
        check_budget(replace(CONFIGS["pynq-z2"], max_chunk=64, max_context=8192),
                     "pynq-z2", BOARDS["pynq-z2"].budget)  # fmt: skip


@pytest.mark.parametrize(
    ("core", "fields", "message"),
    [
        ("sim-large", {"min_head_dim": 48}, "must be 32, 64, 128, .* rows / 2 = 16, not 48"),
        ("u280", {"min_head_dim": 32}, "must be 32, 64, 128, .* rows / 2 = 64, not 32"),
        ("sim-tiny", {"min_head_dim": 64}, "must be at most a word's 32 bytes, not 64"),
    ],
)  # fmt: skip
def test_impossible_heads_are_refused(core, fields, message):
    with pytest.raises(ConfigError, match=message):
        replace(CONFIGS[core], **fields)


def test_longer_heads_take_fewer_luts():
    core = CONFIGS["u280"]
    assert luts_and_ffs(core) < luts_and_ffs(replace(core, min_head_dim=64))


def test_packing_saves_multipliers():
    core = CONFIGS["u280"]
    counts = [
        multipliers(replace(core, products_per_dsp=n))["array"] for n in (1, 2, 3)
    ]  # a group of two columns is left over by threes
    assert counts == [2 * 128 * 32, 2 * 128 * 16, 2 * 128 * 11]


def test_memory_blocks():
    shapes = {72: 512, 36: 1024}
    assert Buffer("wide", 144, 512).blocks(shapes) == 2
    assert Buffer("deep", 36, 1025).blocks(shapes) == 2
    assert Buffer("copied", 8, 100, 3).blocks(shapes) == 3
    # Deep memories go to UltraRAM while there is some; without it all are block RAM.
    core = CONFIGS["u280"]
    budget = dict(BOARDS["u280"].budget)
    without = resources(core, budget | {"uram": 0})
    assert resources(core, budget)["bram"] < without["bram"]
    assert without["uram"] == 0
    names = [b.name for b in buffers(core)]
    assert "weight tile" in names
    assert "weight tile" not in [b.name for b in buffers(replace(core, max_chunk=2))]
