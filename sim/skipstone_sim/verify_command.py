"""``skipstone verify``: do all devices compute the same bits?"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Annotated, Any

import typer

from skipstone.build import calibration_text
from skipstone.cli.console import Narrator, make_table, output
from skipstone.cli.options import (
    CoreOption,
    KvRuleChoice,
    KvRuleOption,
    MethodChoice,
    MethodOption,
    ModelOption,
    RoutersOption,
    make_image,
)
from skipstone.devices import Device, open_device
from skipstone.model import load_checkpoint, resolve_model
from skipstone.quant import QuantizedModel, quantize_model
from skipstone.runtime import encode_prompt, load_tokenizer
from skipstone.spec.errors import RequestError
from skipstone.spec.image import Image

from .golden import GoldenDevice
from .judge import Accuracy, judge
from .verify import Difference, Report, verify

__all__ = ["verify_command"]

_JUDGE = "torch"
"""Not a device: it judges accuracy, and never counts as a difference of bits."""
_PROMPT = "Once upon a time, there was a boy named Oscar."


def _device_names(text: str) -> tuple[list[str], bool]:
    """The devices to hold against golden, and whether to ask torch."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if "golden" not in names:
        raise RequestError(f"--device must name golden, which defines the bits, not {text!r}")
    names.remove("golden")
    asked = _JUDGE in names
    return [name for name in names if name != _JUDGE], asked


def _options(name: str, stall: float, seed: int) -> dict[str, Any]:
    if name != "rtl":
        return {}
    from .verilated import MemoryModel

    return {"memory": MemoryModel(stall=stall), "seed": seed} if stall else {"seed": seed}


def _quantized(
    model: str, image: Image, routers: str | None, kv_rule: KvRuleChoice | None, method: str
) -> QuantizedModel:
    """The quantized weights that the image was compiled from."""
    checkpoint = load_checkpoint(
        resolve_model(model), routers=routers, kv_rule=None if kv_rule is None else kv_rule.value
    )
    if method == MethodChoice.gptq:
        text = calibration_text(checkpoint)
        return quantize_model(checkpoint, "gptq", image.config.group, calibration_text=text)
    return quantize_model(checkpoint, "rtn", image.config.group)


def _show_difference(d: Difference) -> None:
    table = make_table("first difference", "")
    table.add_row("device", d.device)
    if d.step is not None:
        table.add_row("run", f"{d.step}, position {d.position}, {len(d.tokens or [])} tokens")
    if d.instruction is not None:
        table.add_row("instruction", str(d.disassembly))
    if d.tensor is not None:
        table.add_row("tensor", d.tensor if d.layer is None else f"{d.tensor}, layer {d.layer}")
    for name in ("token", "element"):
        if getattr(d, name) is not None:
            table.add_row(name, str(getattr(d, name)))
    if d.memory is not None:
        table.add_row("memory", str(d.memory))
    for name in ("golden", "actual"):
        value = getattr(d, name)
        if value is not None:
            table.add_row(
                "golden" if name == "golden" else d.device, f"{value['hex']} = {value['value']}"
            )
    if d.note:
        table.add_row("note", d.note)
    output().print(table, markup=False)


def _show(report: Report, accuracy: Accuracy | None) -> None:
    console = output()
    table = make_table("device", "bits", "runs that differ", "cycles", "text", right=(2, 3))
    for number, device in enumerate(report.devices):
        verdict = "the judge" if number == 0 else "identical" if device.identical else "DIFFERENT"
        table.add_row(
            device.name,
            verdict,
            str(device.runs_different) if number else "",
            f"{device.cycles:,}" if device.cycles else "–",
            repr(device.text),
        )
    console.print(table, markup=False)
    console.print(
        f"{len(report.passed)} tokens, {report.words_compared:,} memory words compared",
        markup=False,
    )
    if report.difference is not None:
        _show_difference(report.difference)
    if accuracy is not None:
        table = make_table("golden against torch", "", right=(1,))
        table.add_row("largest error of a logit", f"{accuracy.logits_max_abs_error:.4g}")
        table.add_row("KL divergence, nats per token", f"{accuracy.kl:.4g}")
        table.add_row("same likeliest token", f"{100 * accuracy.top1_agreement:.2f} %")
        table.add_row("same router decisions", f"{100 * accuracy.skip_agreement:.2f} %")
        console.print(table)


def verify_command(
    model: ModelOption = "stories",
    device: Annotated[
        str,
        typer.Option(
            "--device",
            "-d",
            metavar="NAMES",
            help="golden and devices to hold against it, separated by commas; "
            "torch adds figures of accuracy.",
        ),
    ] = "golden,rtl",
    prompt: Annotated[str, typer.Option(help="Text that the sequence begins with.")] = _PROMPT,
    tokens: Annotated[int, typer.Option(help="Greedy tokens after the prompt.")] = 64,
    core: CoreOption = "sim-small",
    routers: RoutersOption = None,
    kv_rule: KvRuleOption = None,
    quantizer: MethodOption = MethodChoice.rtn,
    stall: Annotated[
        float,
        typer.Option(help="Chance per cycle that a channel of the rtl device's memory pauses."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of these pauses.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare devices bit by bit; if they differ, name the first instruction, and exit with 1."""
    names, asked = _device_names(device)
    if not 0 <= stall < 1:
        raise RequestError(f"--stall must be at least 0 and below 1, not {stall}")
    with Narrator() as narrator, ExitStack() as stack:
        image = make_image(narrator, None, model, core, routers, kv_rule, quantizer)
        tokenizer = load_tokenizer(resolve_model(model) / "tokenizer.json")
        ids = encode_prompt(tokenizer, prompt)
        others: list[Device] = []
        for name in names:
            options = _options(name, stall, seed)
            opened = open_device(name, image.config, progress=narrator.line, **options)
            stack.callback(opened.close)
            others.append(opened)
        report = verify(
            image,
            GoldenDevice(image.config),
            others,
            ids,
            tokens=tokens,
            tokenizer=tokenizer,
            progress=lambda done, total: narrator.step("run", done, total),
        )
        accuracy = None
        if asked:
            narrator.line("torch")
            quantized = _quantized(model, image, routers, kv_rule, quantizer)
            accuracy = judge(quantized, report.passed, report.logits, report.records)
    if as_json:
        result = {"model": model, "core": core, "kv_rule": image.model["kv_rule"], "prompt": prompt}
        result |= report.to_json()
        if accuracy is not None:
            result["accuracy"] = {_JUDGE: accuracy.to_json()}
        typer.echo(json.dumps(result, indent=2))
    else:
        _show(report, accuracy)
    if not report.identical:
        raise typer.Exit(1)
