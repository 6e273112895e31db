"""The high-level object, on golden."""

import numpy as np
import pytest

import skipstone
from skipstone.build import build_image
from skipstone.runtime import Engine, encode_prompt
from skipstone.spec.config import CONFIGS
from skipstone.spec.errors import ConfigError, RequestError
from skipstone_sim.golden import GoldenDevice


@pytest.fixture(scope="module")
def llm():
    with skipstone.LLM("nano", core="sim-tiny") as llm:
        yield llm


@pytest.fixture(scope="module")
def done(llm):
    return llm.generate("Tom has a", max_tokens=8)


def test_same_as_the_engine(llm, done):
    config = CONFIGS["sim-tiny"]
    engine = Engine(GoldenDevice(config), build_image("nano", config), llm.tokenizer)
    generation = engine.generate(encode_prompt(llm.tokenizer, "Tom has a"), 8)
    pieces = list(generation)
    assert done.tokens == generation.tokens
    assert done.text == generation.text == "".join(p.text for p in pieces)
    assert done.finish == generation.finish
    assert str(done) == "Tom has a" + done.text
    assert "".join(done.pieces) == done.text


def test_streaming(llm, done):
    assert "".join(llm.generate("Tom has a", 8, stream=True)) == done.text
    ids = encode_prompt(llm.tokenizer, "Tom has a")
    assert list(llm.generate(iter(ids), 8, stream=True)) == done.tokens
    assert llm.generate(ids, 8).tokens == done.tokens


def test_streams_as_it_runs(llm):
    stream = llm.generate("Tom has a", 8, stream=True)
    next(stream)
    assert 1 <= llm.stats.statistics.generated < 8


def test_executed(llm, done):
    """One row for each token that passed through the model; totals as counted."""
    again = llm.generate("Tom has a", 8)
    layers = llm.engine.layers
    assert again.executed.shape == (again.prompt_tokens + 7, layers, 2)
    total = 1 - again.executed.mean(axis=(0, 1))
    s = again.usage.statistics
    assert np.allclose(total, [s.attention_skipped, s.mlp_skipped])
    assert (again.executed == done.executed).all()


def test_shows_itself(llm, done):
    assert "<table>" in llm._repr_html_()
    assert "nano" in repr(llm)
    assert "prefill" in llm.stats._repr_html_()
    assert "attention skipped" in str(llm.stats)
    shown = done._repr_html_()
    assert shown.count("<span") == 1 + len(done.pieces)
    assert "Tom has a" in shown


def test_html_is_escaped(llm):
    assert "<script>" not in llm.generate("<script>", 2)._repr_html_()


def test_image_files(llm, tmp_path, done):
    path = tmp_path / "nano.image"
    llm.image.save(path)
    with skipstone.LLM(path, core="sim-tiny") as other:
        assert other.generate("Tom has a", 8).tokens == done.tokens


def test_bad_requests(llm):
    fresh = skipstone.LLM("nano", llm.device)
    with pytest.raises(RuntimeError, match="nothing was generated"):
        _ = fresh.stats
    for prompt, count in (("", 8), ([], 8), ([10**6], 8), ("a", 0)):
        with pytest.raises(RequestError):
            fresh.generate(prompt, count)
    with pytest.raises(ConfigError, match="unknown device 'toaster'"):
        skipstone.LLM("nano", "toaster")
    with pytest.raises(AttributeError, match="no attribute 'LLMs'"):
        _ = skipstone.LLMs


@pytest.mark.rtl
def test_on_the_gateware(done):
    with skipstone.LLM("nano", "rtl", core="sim-tiny") as llm:
        text = llm.generate("Tom has a", max_tokens=8)
    assert text.tokens == done.tokens
    assert (text.executed == done.executed).all()
    assert text.usage.statistics.decode.cycles > 0
