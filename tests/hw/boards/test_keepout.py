"""Sites that stay empty: they exist, each once, and the netlist around them is untouched."""

import copy

from skipstone_hw.boards.keepout import add_keepouts, keepout_sites


def test_sites_are_logic_tiles_each_named_once():
    sites = keepout_sites()
    assert len(set(sites)) == len(sites)
    rows = {int(site.split("/")[1][1:]) for site in sites}
    assert not any(row % 12 == 10 for row in rows)  # block RAMs and multipliers
    middle = [site for site in sites if site.startswith("X60/Y51/")]
    assert sorted(middle) == [f"X60/Y51/SLICE{s}.K{k}" for s in "CD" for k in "01"]
    assert len([site for site in sites if site.startswith("X20/Y16/")]) == 2
    assert not [site for site in sites if site.startswith("X5/")]


def test_a_netlist_keeps_what_it_had():
    cell = {"type": "LUT4", "connections": {"A": [2], "Z": [7]}}
    top = {"cells": {"mine": cell}, "netnames": {"a": {"bits": [2]}, "z": {"bits": [7, "x"]}}}
    netlist = {"modules": {"top": top, "other": {"cells": {}, "netnames": {}}}}
    before = copy.deepcopy(netlist)
    add_keepouts(netlist, "top")
    added = top["cells"].keys() - before["modules"]["top"]["cells"].keys()
    assert len(added) == len(keepout_sites())
    assert top["cells"]["mine"] == cell
    assert netlist["modules"]["other"] == before["modules"]["other"]
    outputs = [top["cells"][name]["connections"]["Z"][0] for name in added]
    assert len(set(outputs)) == len(outputs)
    assert min(outputs) == 8
    assert {top["cells"][name]["attributes"]["BEL"] for name in added} == set(keepout_sites())
