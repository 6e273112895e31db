"""Trains the shipped models: first the dense Llama, then its routers together with all weights.

Stage 1 (dense) is ordinary next-token training on stories, answers weighing more than the rest.

Stage 2 (routed) adds two router sets over the *same* weights. Steps alternate between the dense
model, the first router set under ``kv_reuse`` and under ``kv_recompute``, and the second set under
``kv_reuse``, so that one checkpoint serves all of them; in every other round of these modes the
weights pass through the int4 rounding of :mod:`.fake_quant`, so that it serves rounded and as it
is. A module executes where ``margin + noise ≤ 0``: the noise is the
difference of two Gumbel variables (so the decision is a sample of the routers' softmax; Jang et
al., arXiv 1611.01144), its scale and the temperature of the straight-through gradient fall to
nothing and to a small value, and a loss pulls the mean skip rate to its target (SkipGPT,
arXiv 2506.04179, §3). A hinge keeps margins away from zero, where rounding could turn a decision.

Matrices inside the layers are stepped by Muon (Jordan et al., 2024), everything else by AdamW.
All of it is a function of the recipe's seed, up to the order of floating-point sums.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from skipstone_sim.reference import KvRule, Output, Reference
from skipstone_sim.training.fake_quant import fake_quantize
from skipstone_sim.training.stories import stories
from skipstone_sim.training.tokenizer import BOS, EOS, VOCAB

__all__ = ["RECIPES", "Batch", "Recipe", "batches", "encode_story", "train_dense", "train_routed"]

ANSWER_WEIGHT = 4.0  # how much more an answer's tokens count than any other
MAX_POSITIONS = 512


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a shipped model, besides this package's code."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    dense_steps: int
    routed_steps: int
    head_dim: int = 32
    batch_tokens: int = 3072
    learning_rate: float = 5e-3
    routed_learning_rate: float = 1.5e-3
    targets: tuple[float, float] = (0.25, 0.40)
    seed: int = 1

    @property
    def config(self) -> dict[str, Any]:
        """The model's Hugging Face ``config.json``."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": MAX_POSITIONS,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "torch_dtype": "float32",
            "use_cache": True,
            "vocab_size": VOCAB,
        }


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="stories", hidden=128, layers=6, heads=4, kv_heads=2, intermediate=384,
               dense_steps=3000, routed_steps=1500),
        Recipe(name="nano", hidden=64, layers=3, heads=2, kv_heads=1, intermediate=160,
               dense_steps=6000, routed_steps=2000),
    )
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Padded stories: ``tokens`` (B, T) and each one's loss ``weight`` (B, T), 0 in padding."""

    tokens: Tensor
    weight: Tensor


def encode_story(tokenizer: Tokenizer, text: str) -> list[int]:
    """``<|bos|>`` story ``<|eos|>``."""
    return [*tokenizer.encode(text).ids, EOS]


def _weights_of(ids: list[int], answer: int | None, newline: int) -> list[float]:
    """Loss weight of each token: more between ``Answer:`` and the end of its line."""
    weights, inside = [], False
    for index, token in enumerate(ids):
        if inside and token == newline:
            inside = False
        weights.append(ANSWER_WEIGHT if inside else 1.0)
        if index and ids[index - 1] == answer:
            inside = True
    weights[0] = 0.0  # <|bos|> is given
    return weights


def batches(tokenizer: Tokenizer, seed: str, tokens: int, *, easy: bool = False) -> Iterator[Batch]:
    """Endless batches of at most ``tokens`` tokens; stories beyond the context are left out."""
    answer = tokenizer.token_to_id("Answer")
    newline = tokenizer.encode("\n", add_special_tokens=False).ids[0]
    for pool in range(1_000_000):
        encoded = [
            encode_story(tokenizer, s.text) for s in stories(f"{seed}/{pool}", 768, easy=easy)
        ]
        encoded = sorted((ids for ids in encoded if len(ids) <= MAX_POSITIONS), key=len)
        chunks: list[list[list[int]]] = [[]]
        for ids in encoded:
            if (len(chunks[-1]) + 1) * len(ids) > tokens:
                chunks.append([])
            chunks[-1].append(ids)
        random.Random(f"{seed}/{pool}").shuffle(chunks)
        for chunk in chunks:
            width = max(map(len, chunk))
            yield Batch(
                tokens=torch.tensor([ids + [EOS] * (width - len(ids)) for ids in chunk]),
                weight=torch.tensor(
                    [
                        _weights_of(ids, answer, newline) + [0.0] * (width - len(ids))
                        for ids in chunk
                    ]
                ),
            )


def _loss(output: Output, batch: Batch) -> Tensor:
    """Weighted mean cross-entropy of the next token, in nats."""
    logits = output.logits[:, :-1].flatten(0, 1)  # (B·(T−1), V)
    weight = batch.weight[:, 1:].flatten()  # (B·(T−1),)
    losses = F.cross_entropy(logits, batch.tokens[:, 1:].flatten(), reduction="none")
    return (losses * weight).sum() / weight.sum()


def init_weights(recipe: Recipe, generator: torch.Generator) -> dict[str, Tensor]:
    """Random weights under their Hugging Face names, leaves that take gradients."""

    def normal(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * (gain * 0.6 / math.sqrt(columns))

    d, f = recipe.hidden, recipe.intermediate
    q, kv = recipe.heads * recipe.head_dim, recipe.kv_heads * recipe.head_dim
    out = 1 / math.sqrt(2 * recipe.layers)
    weights = {"model.embed_tokens.weight": normal(VOCAB, d), "model.norm.weight": torch.ones(d)}
    for n in range(recipe.layers):
        layer = f"model.layers.{n}."
        weights |= {
            layer + "input_layernorm.weight": torch.ones(d),
            layer + "self_attn.q_proj.weight": normal(q, d),
            layer + "self_attn.k_proj.weight": normal(kv, d),
            layer + "self_attn.v_proj.weight": normal(kv, d),
            layer + "self_attn.o_proj.weight": normal(d, q, out),
            layer + "post_attention_layernorm.weight": torch.ones(d),
            layer + "mlp.gate_proj.weight": normal(f, d),
            layer + "mlp.up_proj.weight": normal(f, d),
            layer + "mlp.down_proj.weight": normal(d, f, out),
        }
    return {name: tensor.requires_grad_() for name, tensor in weights.items()}


def init_routers(recipe: Recipe) -> dict[str, Tensor]:
    """Routers that execute everything, by a margin of 2, whatever their input."""
    routers = {}
    for n in range(recipe.layers):
        for module in ("attention", "mlp"):
            name = f"model.layers.{n}.router_{module}.weight_predictor."
            routers[name + "weight"] = torch.zeros(2, recipe.hidden)
            routers[name + "bias"] = torch.tensor([1.0, -1.0])
    return {name: tensor.requires_grad_() for name, tensor in routers.items()}


class _Steps:
    """The two optimizers, their common schedule (warm-up, then cosine), clipping, and the log."""

    def __init__(
        self, weights: Mapping[str, Tensor], routers: list[Tensor], *, rate: float, steps: int
    ) -> None:
        inner = [w for n, w in weights.items() if w.ndim == 2 and n.startswith("model.layers.")]
        chosen = {id(w) for w in inner}
        others = [w for w in weights.values() if id(w) not in chosen]
        self._all = [*inner, *others, *routers]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(inner, lr=rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(
                [
                    {"params": others, "lr": rate, "weight_decay": 0.01},
                    {"params": routers, "lr": 2 * rate, "weight_decay": 0.01},
                ],
                betas=(0.9, 0.98),
            ),
        ]
        self._peaks = [[g["lr"] for g in o.param_groups] for o in self._optimizers]
        self._steps, self._begun = steps, time.monotonic()

    def take(self, loss: Tensor, step: int) -> None:
        """One step of the schedule on ``loss``."""
        done = step / self._steps
        factor = min(1.0, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimizer, peaks in zip(self._optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._all, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()

    def log(self, stage: str, step: int, **values: float) -> None:
        """One line on standard output."""
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        seconds = time.monotonic() - self._begun
        print(f"{stage} {step:5d}/{self._steps}  {shown}  {seconds:.0f} s", flush=True)


def train_dense(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Stage 1: the dense model. Easy stories first, then all."""
    generator = torch.Generator().manual_seed(recipe.seed)
    weights = init_weights(recipe, generator)
    steps = _Steps(weights, [], rate=recipe.learning_rate, steps=recipe.dense_steps)
    model = Reference(recipe.config, weights, dense=True)
    early = batches(tokenizer, f"{recipe.seed}/easy", recipe.batch_tokens, easy=True)
    late = batches(tokenizer, f"{recipe.seed}/dense", recipe.batch_tokens)
    mean = 0.0
    for step in range(recipe.dense_steps):
        batch = next(early if step < recipe.dense_steps // 3 else late)
        loss = _loss(model.forward(batch.tokens), batch)
        steps.take(loss, step)
        mean += loss.item()
        if step % 50 == 49:
            steps.log(f"{recipe.name} dense", step + 1, loss=mean / 50)
            mean = 0.0
    return {name: tensor.detach() for name, tensor in weights.items()}


@dataclass(frozen=True, kw_only=True)
class _Gate:
    """A straight-through gate: hard decisions on noisy margins, the gradient of a sigmoid."""

    noise: float
    temperature: float
    generator: torch.Generator

    def __call__(self, margin: Tensor) -> Tensor:
        u = torch.rand(margin.shape, generator=self.generator).clamp(1e-6, 1 - 1e-6)
        noisy = margin + self.noise * (u.log() - (1 - u).log())  # difference of two Gumbels
        soft = torch.sigmoid(-noisy / self.temperature)
        hard = (noisy <= 0).to(margin.dtype)
        return hard + soft - soft.detach()


def _router_loss(
    margins: Tensor, mask: Tensor, *, target: float, temperature: float, margin: float
) -> tuple[Tensor, float, float]:
    """Pull to the target rate, and away from zero; also the attention and MLP skip rates.

    ``margins`` (B, T, L, 2), ``mask`` (B, T). The rate counts hard decisions and takes the gradient
    of soft ones. The mean must meet the target; attention and MLP may differ a little; a layer
    that almost always skips pays.
    """
    soft = torch.sigmoid(margins / temperature)  # (B, T, L, 2)
    skip = (margins > 0).to(soft.dtype) + soft - soft.detach()  # (B, T, L, 2)
    share = mask[:, :, None, None] / mask.sum()  # (B, T, 1, 1)
    rates = (skip * share).sum(dim=(0, 1))  # (L, 2)
    module = rates.mean(dim=0)  # (2,)
    loss = 60 * (module.mean() - target).square() + 10 * (module - target).square().mean()
    loss = loss + 2 * F.relu(rates - 0.85).square().mean()
    hinge = (F.relu(1 - margins.abs() / 3) * share).sum(dim=(0, 1)).mean()
    return loss + margin * hinge, module[0].item(), module[1].item()


def train_routed(
    recipe: Recipe, tokenizer: Tokenizer, dense: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Stage 2: both router sets and all weights, half of it with int4 rounding."""
    generator = torch.Generator().manual_seed(recipe.seed + 1)
    weights = {name: tensor.clone().requires_grad_() for name, tensor in dense.items()}
    sets = (init_routers(recipe), init_routers(recipe))
    flat = [tensor for routers in sets for tensor in routers.values()]
    steps = _Steps(weights, flat, rate=recipe.routed_learning_rate, steps=recipe.routed_steps)
    data = batches(tokenizer, f"{recipe.seed}/routed", recipe.batch_tokens)
    reuse: KvRule = "kv_reuse"
    recompute: KvRule = "kv_recompute"
    modes = [(0, reuse), (1, reuse), (0, recompute), (0, reuse), (None, reuse)]
    shown: dict[str, float] = {}
    for step in range(recipe.routed_steps):
        done = step / recipe.routed_steps
        which, rule = modes[step % len(modes)]
        batch = next(data)
        config, used = recipe.config, weights
        if step // len(modes) % 2:
            config, used = fake_quantize(recipe.config, weights)
        if which is None:
            loss = _loss(Reference(config, used, dense=True).forward(batch.tokens), batch)
            shown["dense"] = loss.item()
        else:
            temperature = max(0.3, 1.0 - 1.2 * done)
            gate = _Gate(noise=max(0.0, 1 - done / 0.6), temperature=temperature,
                         generator=generator)  # fmt: skip
            model = Reference(config, used, sets[which], kv_rule=rule)
            output = model.forward(batch.tokens, gate=gate)
            loss = _loss(output, batch)
            mask = (batch.weight > 0).to(loss.dtype)
            pull, attention, mlp = _router_loss(
                output.margins,
                mask,
                target=recipe.targets[which] * min(1.0, done / 0.25),
                temperature=temperature,
                margin=0.2 * done,
            )
            percent = f"{100 * recipe.targets[which]:.0f}"
            shown[f"{percent}%{'' if rule == reuse else ' recompute'}"] = loss.item()
            shown |= {f"attn{percent}": attention, f"mlp{percent}": mlp}
            loss = loss + pull
        steps.take(loss, step)
        if step % 60 == 59:
            steps.log(f"{recipe.name} routed", step + 1, **shown)
    first, second = ({n: t.detach() for n, t in routers.items()} for routers in sets)
    return {name: tensor.detach() for name, tensor in weights.items()}, (first, second)
