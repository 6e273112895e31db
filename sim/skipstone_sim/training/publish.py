"""Measures a trained model and writes it as a Hugging Face directory with its model card."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from skipstone_sim.accuracy import Item, perplexity, skip_agreement, skip_rates
from skipstone_sim.reference import KvRule, Reference
from skipstone_sim.training.fake_quant import fake_quantize
from skipstone_sim.training.stories import stories
from skipstone_sim.training.trainer import Recipe, encode_story

__all__ = [
    "calibration_texts",
    "held_out_questions",
    "held_out_texts",
    "measure",
    "replace_table",
    "table",
    "write_directory",
]

Rows = list[dict[str, Any]]
_KINDS = ("who_has", "where_person", "where_thing", "who_gave", "colour", "feels")


def held_out_questions(tokenizer: Tokenizer, count: int = 240, longest: int = 256) -> list[Item]:
    """``count`` questions of unseen stories, the kinds taking turns, prompts of bounded length."""
    kinds: dict[str, list[Item]] = {kind: [] for kind in _KINDS}
    rng = random.Random("questions")
    for story in stories("held-out questions", 40 * count):
        index = rng.randrange(len(story.questions))
        question, prompt = story.questions[index], story.prompt(index)
        room = len(kinds[question.kind]) * len(_KINDS) < count
        if room and len(tokenizer.encode(prompt).ids) <= longest:
            item = Item(prompt=prompt, answer=question.answer, kind=question.kind)
            kinds[question.kind].append(item)
    turns = itertools.chain.from_iterable(zip(*kinds.values(), strict=False))
    return list(turns)[:count]


def held_out_texts(count: int = 64) -> list[str]:
    """Unseen stories for perplexity."""
    return [story.text for story in stories("held-out text", count)]


def calibration_texts(count: int = 16) -> list[str]:
    """Stories for GPTQ to calibrate on: neither trained on nor measured on."""
    return [story.text for story in stories("calibration", count)]


@torch.no_grad()
def _row(model: Reference, tokenizer: Tokenizer, items: list[Item], texts: list[str]) -> dict:
    skips: list[Tensor] = []

    def logits_fn(tokens: Any) -> Any:
        output = model.forward(torch.tensor([tokens]))
        skips.append(output.skips[0])  # (T, L, 2)
        return output.logits[0].numpy()

    def answered(item: Item) -> bool:
        """Whether greedy decoding gives the answer: checked in one pass over prompt and answer."""
        given = tokenizer.encode(item.prompt).ids
        wanted = tokenizer.encode(f" {item.answer}\n", add_special_tokens=False).ids
        logits = model.forward(torch.tensor([given + wanted[:-1]])).logits[0]  # (T, V)
        return logits[len(given) - 1 :].argmax(dim=-1).tolist() == wanted

    row: dict[str, Any] = {
        "perplexity": perplexity(logits_fn, [encode_story(tokenizer, text) for text in texts]),
        "answers_correct": sum(map(answered, items)) / len(items),
    }
    decisions = torch.cat(skips).numpy()  # (tokens, L, 2)
    row["attention_skipped"], row["mlp_skipped"] = skip_rates(decisions)
    row["skipped_by_layer"] = decisions.mean(axis=0).round(3).tolist()  # (L, 2)
    row["decisions"] = decisions
    return row


def measure(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    routers: Mapping[str, Mapping[str, Tensor]],
    tokenizer: Tokenizer,
    items: list[Item],
    texts: list[str],
) -> Rows:
    """One row per routing and KV rule: figures in float32 and with int4-rounded weights (torch)."""
    rounded_config, rounded = fake_quantize(config, weights)
    modes: list[tuple[str | None, KvRule]] = [(None, "kv_reuse")]
    for name in routers:
        modes += [(name, "kv_recompute"), (name, "kv_reuse")]
    rows = []
    for routing, rule in modes:
        chosen = routers[routing] if routing else None
        exact = _row(Reference(config, weights, chosen, kv_rule=rule), tokenizer, items, texts)
        int4 = _row(Reference(rounded_config, rounded, chosen, kv_rule=rule),
                    tokenizer, items, texts)  # fmt: skip
        agreement = skip_agreement(exact.pop("decisions"), int4.pop("decisions"))
        rows.append(
            {
                "routing": routing or "dense",
                "kv_rule": rule if routing else None,
                **exact,
                "perplexity_int4": int4["perplexity"],
                "answers_correct_int4": int4["answers_correct"],
                "skip_agreement_int4": agreement,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    return rows


def table(rows: Rows) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| routing | KV rule | attention skipped | MLP skipped | perplexity | answers "
        "| perplexity, int4 weights | answers, int4 weights | equal decisions, float32 / int4 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        dense = r["kv_rule"] is None
        lines.append(
            f"| {r['routing']} | {'–' if dense else '`' + r['kv_rule'] + '`'} "
            f"| {100 * r['attention_skipped']:.1f} % | {100 * r['mlp_skipped']:.1f} % "
            f"| {r['perplexity']:.4f} | {100 * r['answers_correct']:.1f} % "
            f"| {r['perplexity_int4']:.4f} | {100 * r['answers_correct_int4']:.1f} % "
            f"| {'–' if dense else format(100 * r['skip_agreement_int4'], '.2f') + ' %'} |"
        )
    return "\n".join(lines)


def replace_table(document: str, name: str, rows: Rows) -> str:
    """``document`` with the rows between its marks ``<!-- name -->`` and ``<!-- /name -->``."""
    before, begin, rest = document.partition(f"<!-- {name} -->")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not (begin and end):
        raise ValueError(f"the document must hold <!-- {name} --> and <!-- /{name} -->")
    return f"{before}{begin}\n\n{table(rows)}\n\n{end}{after}"


_CARD = """# {name}

A Llama of {parameters:,} parameters with SkipGPT routers that tells tiny stories about people,
things and places, and answers questions about them. Made by `scripts/train_models {name}` from
seed {seed}, on text of this project's own grammar; no other data went in.

Hidden size {hidden_size}, {num_hidden_layers} layers, {num_attention_heads} query heads on
{num_key_value_heads} key/value heads of {head_dim}, intermediate size {intermediate_size},
{vocab_size} byte-level BPE tokens, context {max_position_embeddings}, tied head, float32.

{table}

Perplexity per token over the {texts} stories of `eval.json`; answers: share of the {items}
questions of `questions.json` answered exactly, greedily. All in torch. *dense* is the shipped
weights without routers, *first stage* what they were before routers and int4 rounding were trained
in. *int4 weights* rounds every matrix to the nearest int4 in groups of 32 with FP16 scales, as
every other round of the second training stage did; activations stay float32 here.
Trained for {dense_steps} dense and {routed_steps} routed steps in {minutes:.0f} minutes on one
(shared) core.

| file | |
|---|---|
| `config.json`, `model.safetensors`, `tokenizer.json` | an ordinary Hugging Face Llama |
| `routers.safetensors`, `routers-40.safetensors` | routers that skip about 25 % and 40 % |
| `eval.json` | unseen stories (a list of texts) |
| `questions.json` | unseen questions (`prompt`, `answer`, `kind`) |
| `calibration.txt` | stories for GPTQ, each followed by an empty line |
| `results.json` | the table above, with skip rates by layer as (attention, MLP) pairs |

The model knows nothing but its grammar: sixteen names, sixteen things, fourteen places.
"""


def write_directory(
    path: Path,
    recipe: Recipe,
    tokenizer: Tokenizer,
    weights: Mapping[str, Tensor],
    routers: Mapping[str, Mapping[str, Tensor]],
    *,
    first: Mapping[str, Tensor],
    steps: tuple[int, int],
    minutes: float,
) -> Rows:
    """Measure the model and write its whole directory.

    ``routers`` are keyed ``25 %``, ``40 %``; ``first`` are the weights after the dense stage, which
    are measured for comparison and not written. ``steps`` and ``minutes`` say how it was trained.
    """
    items, texts = held_out_questions(tokenizer), held_out_texts()
    (before,) = measure(recipe.config, first, {}, tokenizer, items, texts)
    rows = [{**before, "routing": "dense, first stage's weights"}]
    rows += measure(recipe.config, weights, routers, tokenizer, items, texts)
    path.mkdir(parents=True, exist_ok=True)

    def text(name: str, content: str) -> None:
        (path / name).write_text(content, encoding="utf-8", newline="\n")

    def as_json(name: str, content: object) -> None:
        text(name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    save_file(
        {n: t.contiguous() for n, t in weights.items()},
        path / "model.safetensors",
        metadata={"format": "pt"},
    )
    for chosen, file in zip(routers.values(), ("routers", "routers-40"), strict=True):
        save_file(dict(chosen), path / f"{file}.safetensors", metadata={"kv_rule": "kv_reuse"})
    for written in path.glob("*.safetensors"):
        written.chmod(0o644)  # the writer makes private files
    tokenizer.save(str(path / "tokenizer.json"))
    as_json(
        "tokenizer_config.json",
        {
            "bos_token": "<|bos|>",
            "eos_token": "<|eos|>",
            "model_max_length": recipe.config["max_position_embeddings"],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    as_json("config.json", recipe.config)
    as_json("questions.json", [vars(item) for item in items])
    as_json("eval.json", texts)
    as_json("results.json", {"rows": rows, "steps": steps, "training_minutes": round(minutes, 1)})
    text("calibration.txt", "".join(story + "\n" for story in calibration_texts()))
    card = _CARD.format(
        name=recipe.name,
        seed=recipe.seed,
        parameters=sum(t.numel() for t in weights.values()),
        table=table(rows),
        texts=len(texts),
        items=len(items),
        minutes=minutes,
        dense_steps=steps[0],
        routed_steps=steps[1],
        **recipe.config,
    )
    text("README.md", card)
    return rows
