"""A language model on a device, in one object.

>>> llm = LLM("nano", device="golden")
>>> print(llm.generate("Tom has a", max_tokens=20))          # doctest: +SKIP
>>> for piece in llm.generate("Tom has a", stream=True):      # doctest: +SKIP
...     print(piece, end="", flush=True)

The same object works on the golden model, the simulated gateware and a board; its values show
themselves as tables and coloured text in a notebook.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from .build import build_image
from .compiler import ExpectedSkip
from .devices import Device, open_device
from .model import SHIPPED, KvRule, resolve_model
from .quant.quantize import Method
from .runtime import Engine, Generation, Sampler, encode_prompt, load_tokenizer
from .runtime.mailbox import Mailbox
from .runtime.statistics import Phase, Statistics
from .spec.config import CoreConfig, named_config
from .spec.errors import RequestError
from .spec.image import Image

__all__ = ["LLM", "Completion", "Usage"]


def _table(rows: Iterable[tuple[str, ...]], header: tuple[str, ...] = ()) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)

    head = f"<tr>{row(header, 'th')}</tr>" if header else ""
    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return f"<table>{head}{body}</table>"


@dataclass(frozen=True)
class Usage:
    """What a generation cost.

    Attributes
    ----------
    statistics : Statistics
        Every count.
    device : str
    clock_mhz : float
        What the core's cycles are counted at.
    """

    statistics: Statistics
    device: str
    clock_mhz: float

    def _phase(self, phase: Phase) -> tuple[str, ...]:
        core_s = phase.cycles / (self.clock_mhz * 1e6)
        speed = f"{phase.tokens / core_s:,.0f}" if core_s else "–"
        return f"{phase.tokens}", f"{phase.cycles:,}" if phase.cycles else "–", speed, (
            f"{phase.wall_s:.2f} s"
        )  # fmt: skip

    def rows(self) -> list[tuple[str, ...]]:
        """Name, prefill, decode."""
        s = self.statistics
        names = ("tokens", "cycles", f"tokens/s at {self.clock_mhz:g} MHz", "wall time")
        pairs = zip(names, self._phase(s.prefill), self._phase(s.decode), strict=True)
        return [
            *pairs,
            ("attention skipped", "", f"{100 * s.attention_skipped:.1f} %"),
            ("MLP skipped", "", f"{100 * s.mlp_skipped:.1f} %"),
        ]

    def __str__(self) -> str:
        header = (self.device, "prefill", "decode")
        return "\n".join(f"{a:28}{b:>14}{c:>14}" for a, b, c in (header, *self.rows()))

    def _repr_html_(self) -> str:
        return _table(self.rows(), (self.device, "prefill", "decode"))


@dataclass(frozen=True)
class Completion:
    """A generated text.

    Attributes
    ----------
    prompt, text : str
        Empty prompt if it was given as tokens.
    tokens : list of int
        Generated, without the one that ended the text.
    pieces : list of str
        The text that each token completed.
    finish : str
        "eos", "max_tokens", "context" or "interrupted".
    executed : bool array (tokens, layers, 2)
        Of every token that passed through the model, prompt first: whether each layer's attention
        [..., 0] and MLP [..., 1] was executed.
    prompt_tokens : int
    usage : Usage
    """

    prompt: str
    text: str
    tokens: list[int]
    pieces: list[str]
    finish: str
    executed: NDArray[np.bool_] = field(repr=False)
    prompt_tokens: int
    usage: Usage = field(repr=False)

    def __str__(self) -> str:
        return self.prompt + self.text

    def _repr_html_(self) -> str:
        """The text; the paler a token's background, the more of the model it skipped."""
        spans = []
        for index, piece in enumerate(self.pieces):
            at = self.prompt_tokens + index
            share = float(self.executed[at].mean()) if at < len(self.executed) else None
            shown = html.escape(piece).replace("\n", "<br>")
            if share is None:  # the last token was not fed back
                spans.append(f"<span>{shown}</span>")
                continue
            style = f"background:rgba(70,130,180,{0.1 + 0.6 * share * share:.2f})"
            spans.append(
                f'<span style="{style}" title="executed {100 * share:.0f} %">{shown}</span>'
            )
        before = html.escape(self.prompt).replace("\n", "<br>")
        return f'<span style="opacity:.6">{before}</span>{"".join(spans)}'


class LLM:
    """A model on a device.

    Parameters
    ----------
    model
        Name of a shipped model, a Hugging Face directory, or an image file.
    device
        Name of a device (see `skipstone.devices.device_names`), or an open one.
    core
        Core configuration, or its name; by default the board's own, or ``sim-small`` where it can
        be chosen.
    routers, kv_rule, quantizer, kv_expected_skip
        See `skipstone.build.build_image`; not for an image file.
    progress
        Receives a line for each step.
    options
        For the device.

    Raises RequestError, ConfigError, ImageError and the device's own errors.
    """

    def __init__(
        self,
        model: str | Path = "stories",
        device: str | Device = "golden",
        *,
        core: str | CoreConfig | None = None,
        routers: str | None = None,
        kv_rule: KvRule | None = None,
        quantizer: Method = "rtn",
        kv_expected_skip: ExpectedSkip = 0.0,
        progress: Callable[[str], None] | None = None,
        **options: Any,
    ):
        config = named_config(core) if isinstance(core, str) else core
        self._owned = isinstance(device, str)
        if isinstance(device, str):
            self.device = open_device(device, config, progress=progress, **options)
        else:
            self.device = device
        try:
            if Path(model).is_file():
                self.image = Image.load(model)
                source = str(self.image.model.get("name", ""))
            else:
                source = str(model)
                self.image = build_image(
                    source,
                    self.device.config,
                    routers=routers,
                    kv_rule=kv_rule,
                    method=quantizer,
                    kv_expected_skip=kv_expected_skip,
                    progress=None if progress is None else _lines(progress),
                )
            if Path(model).is_file() and source not in SHIPPED:
                raise RequestError(
                    f"the image's model must be a shipped one, not {source!r}: give its directory"
                )
            self.tokenizer = load_tokenizer(resolve_model(source) / "tokenizer.json")
            self.engine = Engine(self.device, self.image, self.tokenizer)
        except BaseException:
            self.close()
            raise
        self._last: Generation | None = None

    # -- generating --------------------------------------------------------------------------------

    @overload
    def generate(
        self, prompt: str | Iterable[int], max_tokens: int = ..., *, stream: Literal[False] = ...,
        temperature: float = ..., top_k: int = ..., top_p: float = ..., seed: int | None = ...,
        steps_per_run: int = ...,
    ) -> Completion: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str, max_tokens: int = ..., *, stream: Literal[True],
        temperature: float = ..., top_k: int = ..., top_p: float = ..., seed: int | None = ...,
        steps_per_run: int = ...,
    ) -> Iterator[str]: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: Iterable[int], max_tokens: int = ..., *, stream: Literal[True],
        temperature: float = ..., top_k: int = ..., top_p: float = ..., seed: int | None = ...,
        steps_per_run: int = ...,
    ) -> Iterator[int]: ...  # fmt: skip

    def generate(
        self,
        prompt: str | Iterable[int],
        max_tokens: int = 128,
        *,
        stream: bool = False,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        steps_per_run: int = 1,
    ) -> Completion | Iterator[str] | Iterator[int]:
        """Continue a prompt: a text, or token ids.

        With `stream`, an iterator of what is generated as it comes: pieces of text for a text,
        token ids for ids. Sampling as in `Sampler`; `steps_per_run` greedy tokens are taken by the
        device between two looks of the host.

        Raises RequestError if the request cannot be served, before anything runs.
        """
        text = isinstance(prompt, str)
        ids = encode_prompt(self.tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
        sampler = Sampler(temperature, top_k, top_p, seed)
        generation = self.engine.generate(ids, max_tokens, sampler, steps_per_run=steps_per_run)
        self._last = generation
        if stream:
            return _texts(generation) if text else _tokens(generation)
        pieces: list[str] = []
        for piece in generation:
            if piece.token is None:
                pieces[-1:] = [pieces[-1] + piece.text] if pieces else [piece.text]
            else:
                pieces.append(piece.text)
        return Completion(
            prompt=prompt if isinstance(prompt, str) else "",
            text=generation.text,
            tokens=list(generation.tokens),
            pieces=pieces,
            finish=str(generation.finish),
            executed=self.executed,
            prompt_tokens=len(ids),
            usage=self._usage(generation),
        )

    def _usage(self, generation: Generation) -> Usage:
        core = self.device.config
        name = f"{self.device.name}, {core.name}"
        return Usage(generation.statistics, name, core.clock_mhz)

    @property
    def stats(self) -> Usage:
        """What the last generation cost, so far. Raises RuntimeError before the first."""
        if self._last is None:
            raise RuntimeError("nothing was generated yet")
        return self._usage(self._last)

    @property
    def executed(self) -> NDArray[np.bool_]:
        """Decisions for the sequence on the device: (tokens, layers, 2), attention and MLP."""
        records = Mailbox(self.device, self.image).read_records(0, self.engine.length)
        layers = np.arange(self.engine.layers, dtype=np.uint64)
        maps = [records[name][:, None] >> layers & np.uint64(1) for name in ("attention", "mlp")]
        return np.stack(maps, axis=-1).astype(np.bool_)

    # -- the rest ----------------------------------------------------------------------------------

    def close(self) -> None:
        """Release the device, if it was opened here."""
        if self._owned:
            self.device.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _facts(self) -> list[tuple[str, str]]:
        m, core = self.image.model, self.device.config
        return [
            ("model", f"{m['name']}: {m['layers']} layers, hidden {m['hidden']}"),
            ("routers", str(m["kv_rule"]) if m.get("routed") else "none"),
            ("context", f"{self.engine.context} tokens"),
            ("device", self.device.name),
            ("core", f"{core.name}: {core.rows} × {core.columns}, {core.clock_mhz:g} MHz"),
            ("KV store", f"{self.image.sections['kv'].words * core.word_bytes / 1e6:.1f} MB"),
            ("memory", f"{self.image.words * core.word_bytes / 1e6:.1f} MB"),
        ]

    def __repr__(self) -> str:
        return f"LLM({', '.join(f'{name}: {value}' for name, value in self._facts())})"

    def _repr_html_(self) -> str:
        return _table(self._facts())


def _texts(generation: Generation) -> Iterator[str]:
    return (piece.text for piece in generation if piece.text)


def _tokens(generation: Generation) -> Iterator[int]:
    return (piece.token for piece in generation if piece.token is not None)


def _lines(progress: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """Steps as lines, each once."""
    last = ""

    def step(name: str, done: int, total: int) -> None:
        nonlocal last
        if name != last:
            progress(name)
        last = name

    return step
