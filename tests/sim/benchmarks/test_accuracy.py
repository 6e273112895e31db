"""The accuracy figures on a few hundred tokens of nano, and the table in the documentation."""

import pytest

from skipstone.model import resolve_model
from skipstone.spec.errors import RequestError
from skipstone_sim.benchmarks.accuracy import Accuracy, QuantizedRow, quantized_row, rows
from skipstone_sim.benchmarks.data import load_texts, question_sequences, text_sequences
from skipstone_sim.benchmarks.engines import Engines
from skipstone_sim.benchmarks.model_table import DOCUMENT, replace_block, table

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def accuracy():
    with Engines() as engines:
        yield Accuracy("nano", engines, tokens=300, questions=4)


def test_figures_of_nano(accuracy):
    measured = {r.figure: r for r in rows(accuracy)}
    value = {name: r.value for name, r in measured.items()}
    assert {r.kind for r in measured.values()} == {"emulated"}
    assert {r.subject for r in measured.values()} == {"nano, 300 tokens, 4 questions"}
    assert 0.97 < value["perplexity_ratio"] < 1.03
    assert value["perplexity_ratio"] == pytest.approx(
        value["perplexity_golden_rtn"] / value["perplexity_torch_kv_reuse"]
    )
    assert value["skip_agreement"] > 99.5
    assert value["skip_agreement_original_weights"] > 97
    # Golden against torch on the same weights: only activations and the KV cache are rounded.
    assert value["perplexity_golden_rtn"] == pytest.approx(
        value["perplexity_torch_same_weights"], rel=2e-3
    )
    assert 10 < value["attention_skipped"] < 45
    assert 0 < value["kl_divergence"] < 0.1
    assert value["answers_correct_golden"] in (0, 25, 50, 75, 100)


def test_dense_skips_nothing(accuracy):
    measured = quantized_row(accuracy, "dense")
    assert measured.skip_rate == 0
    assert 1.2 < measured.perplexity < 2.5
    assert [r.value for r in measured.rows()][:2] == [0, measured.perplexity]


def test_processes_give_the_same_answers(accuracy):
    variant = accuracy.variant("golden", "kv_reuse")
    with Engines(jobs=2) as engines:
        (beside,) = engines.ask(variant, [accuracy.texts[0][:20]], [3])
    alone = accuracy.read(variant)[0]
    assert (beside.logits == alone.logits[17:20]).all()
    assert (beside.skips == alone.skips[:20]).all()


def test_texts_are_cut_at_the_limit():
    sequences = text_sequences(resolve_model("nano"), 700, eos=[1])
    assert sum(map(len, sequences)) == 700
    assert all(s[-1] == 1 for s in sequences[:-1])


def test_a_question_ends_before_its_answers_last_token():
    question = question_sequences(resolve_model("nano"), 1)[0]
    assert question.sequence[1 - len(question.answer) :] == question.answer[:-1]


def test_a_model_without_texts_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"eval\.json is not there"):
        load_texts(tmp_path)
    (tmp_path / "eval.json").write_text('{"a": 1}')
    with pytest.raises(RequestError, match="must be a list of texts"):
        load_texts(tmp_path)


def test_the_table_of_the_documentation():
    content = table(
        [
            QuantizedRow("nano", "dense", 0.0, 1.54821, 0.5),
            QuantizedRow("nano", "kv_reuse", 0.2512, 1.6, 0.625),
        ]
    )
    assert content.splitlines()[2:] == [
        "| `nano` | dense | – | 1.5482 | 50.0 % |",
        "| `nano` | 25.1 % | `kv_reuse` | 1.6000 | 62.5 % |",
    ]
    document = DOCUMENT.read_text(encoding="utf-8")
    replaced = replace_block(document, content)
    assert content in replaced
    assert replace_block(replaced, content) == replaced
    with pytest.raises(RequestError, match="must hold"):
        replace_block("no marks", content)
