"""Random work for two devices: any model, chunks, steps, rewinds, skip maps, full KV stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from skipstone.compiler import compile_model
from skipstone.spec.config import CoreConfig
from skipstone.spec.errors import CoreErrorCode, DeviceError
from skipstone.spec.image import Image
from skipstone.spec.isa import Epilogue, decode_program, encode_program

from .lockstep import Lockstep, input_records
from .random_model import random_model, random_shape

__all__ = ["random_chunk", "random_image", "random_walk", "with_rooms"]


def random_image(config: CoreConfig, rng: np.random.Generator, *, largest: int = 4) -> Image:
    """A random model of a random shape that fits `config`; `largest` bounds it, in groups."""

    def up_to(most: int) -> int:
        return int(rng.integers(1, max(1, min(most, largest)) + 1))

    forms = [
        (head_dim, ratio, kv_heads)
        for head_dim in (32, 64, 128)
        for ratio in range(1, config.lanes + 1)
        for kv_heads in range(1, 2 * largest + 1)
        if head_dim <= config.word_bytes
        and head_dim * ratio * kv_heads <= min(config.max_query, 2 * largest * config.group)
        and head_dim * ratio * kv_heads % config.group == 0
    ]
    head_dim, ratio, kv_heads = forms[rng.integers(len(forms))]
    shape = random_shape(
        hidden=config.group * up_to(config.max_hidden // config.group),
        ffn=config.group * up_to(config.max_ffn // config.group),
        head_dim=head_dim,
        heads=kv_heads * ratio,
        kv_heads=kv_heads,
        layers=int(rng.integers(1, min(6, config.max_layers) + 1)),
        vocab=int(rng.integers(2, 600)),
        max_positions=128,
        kv_rule=str(rng.choice(["kv_reuse", "kv_recompute"])),
    )
    skip = None if rng.random() < 0.1 else float(rng.random())
    model = random_model(shape, group=config.group, skip=skip, seed=int(rng.integers(1 << 30)))
    return compile_model(model, config, kv_capacity=128)


def random_chunk(
    image: Image, rng: np.random.Generator, count: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.void]]:
    """Input records of `count` tokens, some of them with forced maps."""
    ids = rng.integers(0, image.model["vocabulary"], count)
    maps = rng.integers(0, 1 << image.model["layers"], (2, count))
    part = input_records(ids.tolist(), maps=(maps[0].tolist(), maps[1].tolist()))
    part["flags"] = rng.random(count) < rng.random()
    return part


def with_rooms(image: Image, rooms: Sequence[int]) -> Image:
    """The same image, as if its layers' KV stores had room for so many tokens and no more."""
    section = image.sections["program"]
    program = [
        replace(i, a=rooms[i.layer]) if i.epilogue is Epilogue.KEY else i
        for i in decode_program(np.asarray(section.data).tobytes())
    ]
    data = np.frombuffer(encode_program(program), np.uint8)
    sections = dict(image.sections) | {"program": replace(section, data=data)}
    return replace(image, model=image.model | {"kv_room": list(rooms)}, sections=sections)


def random_walk(both: Lockstep, image: Image, rng: np.random.Generator, runs: int) -> int:
    """Chunks, steps and rewinds at random, forced or not; after a full KV store, other tokens from
    the same position on. Returns how often a store was full. Raises Mismatch."""
    overflows = 0
    capacity = int(image.model["kv_capacity"])
    most = image.config.max_chunk
    position = 0
    for _ in range(runs):
        if rng.random() < 0.3 or position == capacity:
            position = int(rng.integers(0, position + 1))
        if position == capacity:
            continue
        n = int(rng.integers(1, min(most, capacity - position) + 1))
        part = random_chunk(image, rng, n)
        steps = int(rng.integers(0, min(3, capacity - position - n) + 1))
        try:
            result = both.kick(part, position=position, steps=steps, mode=int(rng.integers(0, 8)))
            position += result.tokens_done
        except DeviceError as error:
            if error.code is not CoreErrorCode.KV_OVERFLOW:
                raise
            both.compare_memory()
            overflows += 1
    return overflows
