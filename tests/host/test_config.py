"""The identity of a core configuration."""

import dataclasses

import pytest

from skipstone.spec.config import CONFIGS, CoreConfig, named_config


def test_every_configuration_has_its_own_identity():
    assert len({config.hash64 for config in CONFIGS.values()}) == len(CONFIGS)


@pytest.mark.parametrize("field", ["max_layers", "history_words", "clock_mhz", "name"])
def test_every_field_counts(field):
    config = named_config("sim-tiny")
    value = getattr(config, field)
    other = dataclasses.replace(config, **{field: value * 2})
    assert other.hash64 != config.hash64


def test_a_field_that_is_added_leaves_the_identity():
    config = named_config("sim-tiny")
    wider = dataclasses.make_dataclass(
        "Wider", [("turbo", bool, False)], bases=(CoreConfig,), frozen=True, kw_only=True
    )
    fields = dataclasses.asdict(config)
    assert wider(**fields).hash64 == config.hash64
    assert wider(**fields, turbo=True).hash64 != config.hash64
