"""A Llama of any shape in torch, as lean as it gets: what the fast device's speed is held against.

No module objects and no Python between the layers but these lines: matrix products, fused attention
over a KV cache that lies ready. Weights are random.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from skipstone.model import ModelConfig, rope_table

__all__ = ["TorchDecoder"]


class TorchDecoder:
    """One sequence.

    Parameters
    ----------
    shape
    dtype
        Of weights and activations.
    capacity
        Longest sequence.
    """

    def __init__(self, shape: ModelConfig, dtype: torch.dtype, capacity: int, *, seed: int = 0):
        torch.manual_seed(seed)
        s, d = shape, shape.hidden
        query, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim

        def matrix(outputs: int, inputs: int) -> torch.Tensor:
            return torch.empty(outputs, inputs, dtype=dtype).uniform_(-1, 1) * inputs**-0.5

        self.shape = shape
        self.embedding = torch.empty(s.vocab, d, dtype=dtype).uniform_(-1, 1)
        self.head = self.embedding  # tied
        self.norm = torch.ones(d, dtype=dtype)
        self.layers = [
            (matrix(query + 2 * kv, d), matrix(d, query), matrix(2 * s.ffn, d), matrix(d, s.ffn))
            for _ in range(s.layers)
        ]
        self.cache = torch.zeros(s.layers, 2, 1, s.kv_heads, capacity, s.head_dim, dtype=dtype)
        cos, sin = rope_table(s, capacity)
        self.cos, self.sin = (torch.from_numpy(t).to(dtype)[:, None] for t in (cos, sin))

    def _rotate(self, x: torch.Tensor, position: int) -> torch.Tensor:
        """Neighbouring pairs of `x` (n, heads, head_dim)."""
        c, s = (t[position : position + len(x)] for t in (self.cos, self.sin))
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * c - b * s, a * s + b * c], dim=-1).flatten(-2)

    @torch.inference_mode()
    def forward(self, tokens: list[int], position: int) -> int:
        """Pass `tokens`; the likeliest next one."""
        s, n = self.shape, len(tokens)
        end = position + n
        heads, kv, hd = s.heads, s.kv_heads, s.head_dim
        x = F.embedding(torch.tensor(tokens), self.embedding)
        mask = None
        if n > 1:
            mask = torch.ones(n, end, dtype=torch.bool).tril(position)
        for cache, (qkv, out, gate_up, down) in zip(self.cache, self.layers, strict=True):
            y = F.linear(F.rms_norm(x, (s.hidden,), self.norm, s.rms_eps), qkv).view(n, -1, hd)
            q, k, v = y.split((heads, kv, kv), dim=1)
            cache[0, 0, :, position:end] = self._rotate(k, position).transpose(0, 1)
            cache[1, 0, :, position:end] = v.transpose(0, 1)
            a = F.scaled_dot_product_attention(
                self._rotate(q, position).transpose(0, 1)[None],
                cache[0, :, :, :end],
                cache[1, :, :, :end],
                attn_mask=mask,
                enable_gqa=heads != kv,
            )
            x = x + F.linear(a[0].transpose(0, 1).reshape(n, -1), out)
            gate, up = F.linear(F.rms_norm(x, (s.hidden,), self.norm, s.rms_eps), gate_up).chunk(
                2, dim=-1
            )
            x = x + F.linear(F.silu(gate) * up, down)
        last = F.rms_norm(x[-1:], (s.hidden,), self.norm, s.rms_eps)
        return int(F.linear(last, self.head).argmax())
