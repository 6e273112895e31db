"""Schedules: the host decides what tokens skip, in the routers' place.

A decision map is a bool array (tokens, layers, modules), true where a token executes; modules are
`MODULES`. It reaches the core in the tokens' input records and works through the same predicates as
a router's decision: what it skips is not fetched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..spec.errors import RequestError
from ..spec.records import MODULES

__all__ = ["DecisionMap", "First", "Given", "Schedule", "SkipDecode"]

DecisionMap = NDArray[np.bool_]


class Schedule(ABC):
    """A rule that decides by position, and may learn from what was executed before."""

    @abstractmethod
    def decide(self, positions: range) -> DecisionMap | None:
        """The map of the tokens at `positions`, before they run; None leaves it to the routers."""

    def observe(self, positions: range, executed: DecisionMap) -> None:  # noqa: B027, optional
        """The tokens at `positions` ran and executed this."""


class Given(Schedule):
    """A map that is known beforehand.

    Parameters
    ----------
    decisions : array of bool
        For all tokens alike: one value (execute everything, or nothing), or (layers, modules);
        or for each token its own: (tokens, layers, modules).
    layers : int
    positions : range
        The positions that will run; the first is that of the map's first token.

    Raises RequestError for any other shape or type, and for a map that ends before the positions.
    """

    def __init__(self, decisions: ArrayLike, layers: int, positions: range):
        values = np.asarray(decisions)
        allowed = {(), (layers, len(MODULES)), (len(positions), layers, len(MODULES))}
        if values.dtype != np.bool_ or values.shape not in allowed:
            raise RequestError(
                f"decisions must be bools of shape (), {(layers, len(MODULES))} or "
                f"{(len(positions), layers, len(MODULES))}, not {values.dtype} of {values.shape}"
            )
        self._map = np.broadcast_to(values, (len(positions), layers, len(MODULES)))
        self._first = positions.start

    def decide(self, positions: range) -> DecisionMap:
        return self._map[positions.start - self._first : positions.stop - self._first]


class SkipDecode(Schedule):
    """Fewer layers the later a token stands in the sequence (SkipDecode, arXiv 2307.02628).

    Up to position `begin` a token executes `most` layers, at `end` and beyond `least`, between
    them linearly fewer: so a token never needs keys and values of a layer that those before it
    left out. Of its layers, `warm_up` are the lowest, all others the highest.

    Raises RequestError unless warm_up ≤ least ≤ most ≤ layers and begin < end.
    """

    def __init__(
        self, layers: int, *, begin: int, end: int, least: int, most: int | None = None,
        warm_up: int = 1,
    ):  # fmt: skip
        most = layers if most is None else most
        if not 0 <= warm_up <= least <= most <= layers:
            raise RequestError(
                f"0 ≤ warm_up ≤ least ≤ most ≤ layers must hold, "
                f"not {warm_up}, {least}, {most}, {layers}"
            )
        if not 0 <= begin < end:
            raise RequestError(f"0 ≤ begin < end must hold, not {begin}, {end}")
        self._layers, self._warm_up = layers, warm_up
        self._range, self._positions = (most, least), (begin, end)

    def budget(self, position: int) -> int:
        """Layers that the token at `position` executes."""
        (most, least), (begin, end) = self._range, self._positions
        late = min(max(position, begin), end) - begin
        return most - late * (most - least) // (end - begin)

    def decide(self, positions: range) -> DecisionMap:
        layer = np.arange(self._layers)
        budget = np.array([self.budget(p) for p in positions])[:, None]
        execute = (layer < self._warm_up) | (layer >= self._layers - (budget - self._warm_up))
        return np.repeat(execute[..., None], len(MODULES), axis=2)


class First(Schedule):
    """Layers chosen at the prompt and kept for decoding (FiRST, arXiv 2410.12513).

    The routers decide on the prompt's tokens. From then on, every token executes the modules that
    at least the share `keep` of the prompt's tokens executed. A chunk that begins inside the
    prompt belongs to it.

    Raises RequestError for an empty prompt or a share outside 0 to 1.
    """

    def __init__(self, prompt_tokens: int, *, keep: float = 0.5):
        if prompt_tokens < 1:
            raise RequestError(f"the prompt must have at least one token, not {prompt_tokens}")
        if not 0 <= keep <= 1:
            raise RequestError(f"keep must be between 0 and 1, not {keep}")
        self._prompt, self._keep = range(prompt_tokens), keep
        self._seen: list[DecisionMap] = []

    @property
    def mask(self) -> DecisionMap:
        """(layers, modules): what decoding executes, by the prompt's tokens seen so far."""
        return np.concatenate(self._seen).mean(axis=0) >= self._keep

    def decide(self, positions: range) -> DecisionMap | None:
        if positions.start in self._prompt:
            return None
        if not self._seen:
            raise RequestError(f"position {positions.start} comes before the prompt has run")
        return np.broadcast_to(self.mask, (len(positions), *self.mask.shape))

    def observe(self, positions: range, executed: DecisionMap) -> None:
        if positions.start == 0:
            self._seen.clear()
        if positions.start in self._prompt:
            self._seen.append(executed)
