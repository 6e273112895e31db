"""Where every number lies in memory words: packing and unpacking, once for all engines.

A matrix is streamed in exactly the order the array consumes it: for each block of C columns, for
each run of R/4 groups, one word of FP16 scales (group i of the run, column c at bit 16·(i·C + c))
and then G/R weight words per group, nibble c·R + r holding the weight of column c and row r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .config import CoreConfig

__all__ = [
    "KV_BLOCK_TOKENS",
    "KvLayout",
    "RouterRecord",
    "logits_row_words",
    "matrix_words",
    "pack_matrix",
    "pack_router",
    "router_words",
    "row_words",
    "unpack_matrix",
    "unpack_router",
]

Bytes = NDArray[np.uint8]
Words = TypeVar("Words", int, NDArray[np.int64])
"""One address or rank, or many."""

KV_BLOCK_TOKENS = 64
"""Tokens of a block of the KV store: at least one exponent word of every head size is whole."""


def row_words(config: CoreConfig, byte_count: int) -> int:
    """Words that hold `byte_count` bytes."""
    return -(-byte_count // config.word_bytes)


def _scale_words(config: CoreConfig, groups: int) -> int:
    return -(-groups // config.groups_per_scale_word)


def matrix_words(config: CoreConfig, groups: int, blocks: int) -> int:
    """Words of a matrix of groups · G inputs and blocks · C outputs."""
    return blocks * (groups * config.steps_per_group + _scale_words(config, groups))


def _word_order(config: CoreConfig, groups: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the scale words and of the weight words inside a block."""
    per_run = config.groups_per_scale_word
    steps = config.steps_per_group
    run = np.arange(_scale_words(config, groups))
    scale_at = run * (1 + per_run * steps)
    step = np.arange(groups * steps)
    weight_at = step + 1 + (step // steps) // per_run
    return scale_at, weight_at


def pack_matrix(
    weights: NDArray[np.integer], scales: NDArray[np.float16], config: CoreConfig
) -> Bytes:
    """Stream words of int4 `weights` (out, in) with FP16 `scales` (out, in / group).

    Outputs are padded with zero columns to a whole block. Returns (words, word_bytes).
    """
    c = config
    outputs, inputs = weights.shape
    groups, blocks = inputs // c.group, -(-outputs // c.columns)
    w = np.zeros((blocks * c.columns, inputs), np.uint8)
    w[:outputs] = weights.astype(np.int8).view(np.uint8) & 0xF
    s = np.zeros((blocks * c.columns, groups), np.uint16)
    s[:outputs] = np.ascontiguousarray(scales, np.float16).view(np.uint16)

    scale_at, weight_at = _word_order(c, groups)
    words = np.zeros((blocks, len(scale_at) + len(weight_at), c.word_bytes), np.uint8)
    # (block, column, step, row) -> (block, step, column, row)
    nibbles = w.reshape(blocks, c.columns, -1, c.rows).transpose(0, 2, 1, 3)
    nibbles = nibbles.reshape(blocks, -1, c.word_bytes, 2)
    words[:, weight_at] = nibbles[..., 0] | nibbles[..., 1] << 4
    padded = np.zeros((blocks, c.columns, len(scale_at) * c.groups_per_scale_word), np.uint16)
    padded[:, :, :groups] = s.reshape(blocks, c.columns, groups)
    runs = padded.reshape(blocks, c.columns, len(scale_at), -1).transpose(0, 2, 3, 1)
    words[:, scale_at] = (
        np.ascontiguousarray(runs).view(np.uint8).reshape(blocks, len(scale_at), c.word_bytes)
    )
    return words.reshape(-1, c.word_bytes)


def unpack_matrix(
    words: Bytes, groups: int, blocks: int, config: CoreConfig
) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Weights (out, in) and scales (out, groups) of stream words: the inverse of `pack_matrix`."""
    c = config
    words = words.reshape(blocks, -1, c.word_bytes)
    scale_at, weight_at = _word_order(c, groups)
    packed = words[:, weight_at]
    nibbles = np.stack([packed & 0xF, packed >> 4], axis=-1)
    nibbles = nibbles.reshape(blocks, -1, c.columns, c.rows).transpose(0, 2, 1, 3)
    weights = nibbles.reshape(blocks * c.columns, groups * c.group).astype(np.int8)
    weights = np.where(weights > 7, weights - 16, weights).astype(np.int8)
    runs = np.ascontiguousarray(words[:, scale_at]).view(np.uint16)
    runs = runs.reshape(blocks, len(scale_at) * c.groups_per_scale_word, c.columns)
    scales = runs[:, :groups].transpose(0, 2, 1).reshape(blocks * c.columns, groups)
    return weights, np.ascontiguousarray(scales).view(np.float16)


@dataclass(frozen=True)
class RouterRecord:
    """Both routers of a layer: row 0 attention, row 1 MLP.

    Attributes
    ----------
    mantissa : int array (2, hidden)
    exponent : int array (2, hidden / group)
    bias : float32 array (2,)
    """

    mantissa: NDArray[np.int64]
    exponent: NDArray[np.int64]
    bias: NDArray[np.float32]

    @classmethod
    def never_skip(cls, hidden: int, group: int) -> RouterRecord:
        """Routers that always execute: what a dense model runs with."""
        return cls(
            np.zeros((2, hidden), np.int64),
            np.full((2, hidden // group), -128, np.int64),
            np.zeros(2, np.float32),
        )


def router_words(config: CoreConfig, hidden: int) -> int:
    """Words of a router record."""
    return 1 + row_words(config, 2 * hidden // config.group) + row_words(config, 4 * hidden)


def pack_router(record: RouterRecord, config: CoreConfig) -> Bytes:
    """Stream words: header (biases, largest exponents), exponents, interleaved mantissas."""
    hidden = record.mantissa.shape[1]
    words = np.zeros((router_words(config, hidden), config.word_bytes), np.uint8)
    words[0, :8] = record.bias.astype("<f4").view(np.uint8)
    words[0, 8:10] = record.exponent.max(axis=1).astype(np.int8).view(np.uint8)
    flat = words.reshape(-1)
    exponents = np.ascontiguousarray(record.exponent.T.astype(np.int8)).view(np.uint8).reshape(-1)
    flat[config.word_bytes :][: exponents.size] = exponents
    mantissas = np.ascontiguousarray(record.mantissa.T.astype("<i2")).view(np.uint8).reshape(-1)
    start = config.word_bytes * (1 + row_words(config, exponents.size))
    flat[start:][: mantissas.size] = mantissas
    return words


def unpack_router(words: Bytes, hidden: int, config: CoreConfig) -> RouterRecord:
    """The inverse of `pack_router`."""
    flat = np.ascontiguousarray(words).reshape(-1)
    count = 2 * hidden // config.group
    exponents = flat[config.word_bytes :][:count].view(np.int8).reshape(-1, 2).T
    start = config.word_bytes * (1 + row_words(config, count))
    mantissas = flat[start:][: 4 * hidden].view("<i2").reshape(-1, 2).T
    return RouterRecord(
        mantissas.astype(np.int64), exponents.astype(np.int64), flat[:8].view("<f4").copy()
    )


def logits_row_words(config: CoreConfig, blocks: int) -> int:
    """Words of one token's logits (binary32, whole blocks of columns)."""
    return row_words(config, 4 * blocks * config.columns)


@dataclass(frozen=True)
class KvLayout:
    """Shape of the packed KV stores, one per layer.

    The KV heads that share a word form a head group. A store is a row of blocks, each with room for
    `KV_BLOCK_TOKENS` tokens by rank. A block holds, for each head group, that many K words, as many
    V words, then the exponents, head_dim/2 tokens to a word, 2 · heads bytes each: the K exponents
    of the group's heads, then their V exponents. So a place depends on how much room the store has
    in nothing but its first word.
    """

    head_dim: int
    kv_heads: int
    word_bytes: int

    @property
    def heads_per_word(self) -> int:
        """KV heads of a head group."""
        return self.word_bytes // self.head_dim

    @property
    def head_groups(self) -> int:
        """Head groups of a layer."""
        return -(-self.kv_heads // self.heads_per_word)

    @property
    def tokens_per_exponent_word(self) -> int:
        """Tokens whose exponents share a word."""
        return self.head_dim // 2

    @property
    def group_words(self) -> int:
        """Words of one head group in a block."""
        return 2 * KV_BLOCK_TOKENS + KV_BLOCK_TOKENS // self.tokens_per_exponent_word

    @property
    def block_words(self) -> int:
        """Words of a block."""
        return self.head_groups * self.group_words

    def words(self, tokens: int) -> int:
        """Words of a store with room for `tokens`."""
        return -(-tokens // KV_BLOCK_TOKENS) * self.block_words

    def stored_words(self, tokens: int) -> int:
        """Words that hold the K, V and exponents of a layer in which `tokens` stored them."""
        return self.head_groups * (2 * tokens + -(-tokens // self.tokens_per_exponent_word))

    def places(self, store: Words, rank: Words, head_group: int) -> tuple[Words, Words, Words]:
        """Words of K, V and exponents at `rank` of the store that begins at `store`; slot
        `rank` mod `tokens_per_exponent_word` of the last is the token's."""
        block, at = rank // KV_BLOCK_TOKENS, rank % KV_BLOCK_TOKENS
        first = store + block * self.block_words + head_group * self.group_words
        exponents = first + 2 * KV_BLOCK_TOKENS + at // self.tokens_per_exponent_word
        return first + at, first + KV_BLOCK_TOKENS + at, exponents
