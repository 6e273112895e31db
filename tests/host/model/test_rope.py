"""Rotary tables against the formula written out, and against transformers."""

import math

import numpy as np
import pytest

from skipstone.model import ModelConfig, RopeScaling, rope_frequencies, rope_table

SHAPE = {
    "name": "t", "hidden": 64, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 32,
    "ffn": 64, "vocab": 8, "max_positions": 4096,
}  # fmt: skip
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_max_positions=1024)


def test_default_and_linear():
    plain = rope_frequencies(ModelConfig(**SHAPE))
    expected = [10000.0 ** (-2 * i / 32) for i in range(16)]
    np.testing.assert_allclose(plain, expected, rtol=1e-14)
    scaled = ModelConfig(**SHAPE, rope_scaling=RopeScaling(kind="linear", factor=4.0))
    np.testing.assert_allclose(rope_frequencies(scaled), plain / 4, rtol=1e-15)


def test_llama3_keeps_short_waves_and_divides_long_ones():
    plain = rope_frequencies(ModelConfig(**SHAPE))
    scaled = rope_frequencies(ModelConfig(**SHAPE, rope_scaling=LLAMA3))
    wavelength = 2 * math.pi / plain
    np.testing.assert_array_equal(scaled[wavelength < 256], plain[wavelength < 256])
    np.testing.assert_allclose(scaled[wavelength > 1024], plain[wavelength > 1024] / 8)
    between = (wavelength > 256) & (wavelength < 1024)
    assert between.any()
    assert ((scaled < plain) & (scaled > plain / 8))[between].all()


def test_table():
    cos, sin = rope_table(ModelConfig(**SHAPE), 7)
    assert cos.shape == sin.shape == (7, 16)
    assert cos.dtype == np.float64
    assert (cos[0] == 1).all()
    assert cos[5, 0] == math.cos(5)
    assert sin[5, 0] == math.sin(5)


def test_unknown_scaling():
    with pytest.raises(ValueError, match=r"must be default, linear or llama3, not 'yarn'"):
        rope_frequencies(ModelConfig(**SHAPE, rope_scaling=RopeScaling(kind="yarn")))


@pytest.mark.torch
@pytest.mark.parametrize("scaling", [RopeScaling(kind="linear", factor=2.0), LLAMA3])
def test_against_transformers(scaling):
    pytest.importorskip("transformers", reason="pip install -e '.[torch]'")
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = ModelConfig(**SHAPE, rope_scaling=scaling)
    theirs, _ = ROPE_INIT_FUNCTIONS[scaling.kind](LlamaConfig(**config.to_hf()), "cpu")
    np.testing.assert_allclose(rope_frequencies(config), theirs.numpy(), rtol=1e-6)
