"""The rounding in the training loop: what it computes, and that gradients pass."""

import pytest

torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")

from skipstone_sim.reference import Reference  # noqa: E402
from skipstone_sim.training.fake_quant import fake_quantize, round_int4  # noqa: E402
from skipstone_sim.training.trainer import Recipe, init_routers, init_weights  # noqa: E402

pytestmark = pytest.mark.torch

RECIPE = Recipe(name="test", hidden=32, layers=2, heads=2, kv_heads=1, intermediate=64,
                dense_steps=1, routed_steps=1)  # fmt: skip


def test_groups_take_at_most_16_values_of_an_fp16_scale():
    weight = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    rounded = round_int4(weight)
    for row, original in zip(rounded.view(-1, 32), weight.view(-1, 32), strict=True):
        scale = (original.abs().max() / 7).half().float()
        levels = row / scale
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        assert levels.abs().max() <= 8
        assert (row - original).abs().max() <= 0.51 * scale


def test_zeros_stay_zero():
    assert (round_int4(torch.zeros(2, 32)) == 0).all()


def test_rounding_is_close_and_lets_gradients_through():
    weights = init_weights(RECIPE, torch.Generator().manual_seed(1))
    weights["model.norm.weight"] = (weights["model.norm.weight"].detach() * 1.7).requires_grad_()
    config, rounded = fake_quantize(RECIPE.config, weights)
    tokens = torch.arange(20)[None]
    exact = Reference(RECIPE.config, weights).forward(tokens).logits
    close = Reference(config, rounded).forward(tokens).logits
    assert 0 < (close - exact).norm() / exact.norm() < 0.2
    close.square().mean().backward()
    assert all(w.grad is not None and w.grad.abs().max() > 0 for w in weights.values())


def test_fresh_routers_execute_everything():
    weights = init_weights(RECIPE, torch.Generator().manual_seed(1))
    out = Reference(RECIPE.config, weights, init_routers(RECIPE)).forward(torch.arange(9)[None])
    assert not out.skips.any()
