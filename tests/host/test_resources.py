"""Resources before synthesis: the named cores fit their boards, others are refused with numbers."""

from dataclasses import replace

import pytest

from skipstone.spec.boards import BOARDS, RESOURCES
from skipstone.spec.config import BOARD_CONFIGS, CONFIGS
from skipstone.spec.errors import ConfigError
from skipstone.spec.resources import Buffer, buffers, check_budget, multipliers, resources

SYNTHESIZED = {"lut": 34_699, "ff": 28_495, "dsp": 183}
"""sim-tiny with a multiplier to each product, by Yosys 0.70 for UltraScale+, unit by unit."""


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
    single = replace(CONFIGS["sim-tiny"], products_per_dsp=1)
    found = resources(single, BOARDS["kv260"].budget)
    for resource, measured in SYNTHESIZED.items():
        assert found[resource] == pytest.approx(measured, rel=0.05)


def test_too_large_a_core_is_refused_with_the_numbers():
    wide = replace(CONFIGS["u280"], lanes=8)
    message = (
        r"core 'u280' does not fit u280: lut 3,[\d,]+ of 1,196,080, ff 3,[\d,]+ of 2,607,360, "
        r"dsp 17,[\d,]+ of 9,024 \(within budget: bram "
    )
    with pytest.raises(ConfigError, match=message):
        check_budget(wide, "u280", BOARDS["u280"].budget)
    with pytest.raises(ConfigError, match="does not fit ulx3s: lut"):
        check_budget(CONFIGS["sim-large"], "ulx3s", BOARDS["ulx3s"].budget)
    with pytest.raises(ConfigError, match=r"does not fit pynq-z2: .*bram"):
        check_budget(replace(CONFIGS["pynq-z2"], max_chunk=64, max_context=8192),
                     "pynq-z2", BOARDS["pynq-z2"].budget)  # fmt: skip


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
