"""The command line: what it prints, where, and with which exit code."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest

import skipstone
from skipstone.build import build_image
from skipstone.cli import app, doctor, generate, main
from skipstone.model import resolve_model
from skipstone.spec.config import named_config
from skipstone.spec.image import Image

pytestmark = pytest.mark.skipif(
    not (resolve_model("nano") / "model.safetensors").exists(),
    reason="run scripts/train_models nano",
)
START = "Once upon a time"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def wide_terminal_and_own_cache(monkeypatch, cache):
    monkeypatch.setenv("SKIPSTONE_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def run(capsys):
    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def image_file(tmp_path_factory, cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPSTONE_CACHE", str(cache))
        image = build_image("nano", named_config("sim-small"))
    path = tmp_path_factory.mktemp("image") / "nano.skipstone"
    image.save(path)
    return path


def nano(*more):
    return ("generate", "-m", "nano", "--max-tokens", 6, *more, START)


def test_generate(run):
    code, out, err = run(*nano())
    assert code == 0
    assert out.startswith(START)
    assert len(out) > len(START) + 6
    for words in (
        "golden, core sim-small at 200 MHz", "simulated cycles", "simulated time",
        "wall time of this computer", "attention executions skipped", "MLP executions skipped",
        "KV stored", "KV reserved",
    ):  # fmt: skip
        assert words in err
    again = run(*nano("--steps-per-run", 4))
    assert again[1] == out


@pytest.mark.parametrize(
    ("decisions", "skipped"),
    [("all", "0.0 %"), ("none", "100.0 %"), ("skipdecode", None), ("first", None)],
)
def test_decisions_of_the_host(run, decisions, skipped):
    code, out, err = run(*nano("--decisions", decisions))
    assert code == 0
    assert out.startswith(START)
    shares = [line.split()[-2] + " %" for line in err.splitlines() if "skipped" in line]
    assert skipped is None or shares == [skipped] * 2


def test_seeds_decide_what_is_drawn(run):
    texts = [run(*nano("--temperature", 2.0, "--seed", s))[1] for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert run(*nano("--temperature", 2.0, "--top-k", 1))[1] == run(*nano())[1]


def test_generate_from_an_image(run, image_file):
    code, out, _ = run("generate", "--image", image_file, "--max-tokens", 6, START)
    assert (code, out) == (0, run(*nano())[1])
    by_model = run("generate", "-m", "nano", "--image", image_file, "--max-tokens", 6, START)
    assert by_model[1] == out


def test_an_image_of_an_unknown_model(run, image_file, tmp_path):
    image = Image.load(image_file)
    renamed = Image(image.config, image.model | {"name": "mine"}, image.sections)
    renamed.save(tmp_path / "mine.skipstone")
    code, _, err = run("generate", "--image", tmp_path / "mine.skipstone", START)
    assert (code, err) == (
        1, "error: the image's model is 'mine': give its directory with --model\n",
    )  # fmt: skip


def test_ctrl_c_keeps_the_text(run, monkeypatch):
    whole = run(*nano())[1]
    pieces = []

    def interrupting(generation, prompt, stream=generate._stream):
        original = type(generation)._tokens

        def tokens(self):
            for token in original(self):
                if len(pieces) == 3:
                    raise KeyboardInterrupt
                pieces.append(token)
                yield token

        monkeypatch.setattr(type(generation), "_tokens", tokens)
        return stream(generation, prompt)

    monkeypatch.setattr(generate, "_stream", interrupting)
    code, out, err = run(*nano())
    assert code == 130
    assert len(START) < len(out.rstrip("\n")) < len(whole)
    assert whole.startswith(out.rstrip("\n"))
    assert "attention executions skipped" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-m", "nowhere", START), "no model 'nowhere'"),
        (("-m", "nano", "-d", "fpga", START), "unknown device 'fpga'; known: fast, golden"),
        (("-m", "nano", "--core", "huge", START), "unknown core configuration 'huge'; known: "),
        (("-m", "nano", ""), "the prompt is empty"),
        (("-m", "nano", "word " * 600), "tokens, the context holds 512"),
        (("-m", "nano", "--max-tokens", 0, START), "max_tokens must be at least 1, not 0"),
        (
            ("-m", "nano", "--decisions", "all", "--steps-per-run", 2, START),
            "steps_per_run must be 1 where the host decides what is skipped, not 2",
        ),
        (("-m", "nano", "--temperature", -1, START), "temperature must be 0 or more, not -1.0"),
        (("-m", "nano", "--top-p", 2, START), "top_p must be above 0 and at most 1, not 2.0"),
        (("-m", "nano", "--routers", "99", START), "no routers '99'"),
        (("-m", "nano", "--wave", "w.fst", START), "--wave records the rtl device; 'golden' has"),
        (("--image", "nowhere.skipstone", START), "nowhere.skipstone: No such file"),
    ],
)
def test_errors_are_one_line(run, arguments, message):
    code, out, err = run("generate", *arguments)
    assert code == 1
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [("generate",), ("paint",), ("generate", "--max-tokens", "many", START)]
)
def test_wrong_usage(run, arguments):
    code, _, err = run(*arguments)
    assert code == 2
    assert "Usage: skipstone" in err


def test_a_corrupted_image(run, image_file, tmp_path):
    raw = bytearray(image_file.read_bytes())
    raw[-5] ^= 4
    (tmp_path / "bad").write_bytes(raw)
    for command in (("inspect",), ("disasm",)):
        code, _, err = run(*command, tmp_path / "bad")
        assert code == 1
        assert "section 'rope' is corrupted (SHA-256 differs)" in err


def test_compile(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("compile", "-m", "nano", "--core", "sim-tiny")
    assert code == 0
    assert "nano-sim-tiny.skipstone: " in out
    image = Image.load(tmp_path / "nano-sim-tiny.skipstone")
    assert image.config == named_config("sim-tiny")
    code, _, err = run("compile", "-m", "nano", "-o", tmp_path / "no" / "file")
    assert code == 1
    assert "No such file or directory" in err
    assert [p.name for p in tmp_path.iterdir()] == ["nano-sim-tiny.skipstone"]


def test_inspect(run, image_file):
    code, out, _ = run("inspect", image_file)
    assert code == 0
    for words in ("core sim-small (", "model nano", "kv_rule kv_reuse", "program", "bytes in mem"):
        assert words in out


def test_disasm(run, image_file):
    code, out, _ = run("disasm", image_file)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:2] == ["0", "geometry"]
    assert lines[-1].split()[:2] == [str(len(lines) - 1), "halt"]
    assert run("disasm", "-m", "nano")[1] == out


def test_a_program_cut_short(run, image_file, tmp_path):
    image = Image.load(image_file)
    longer = Image(image.config, image.model | {"program_length": 999}, image.sections)
    longer.save(tmp_path / "i")
    assert "the program needs 31968 bytes, its section has" in run("disasm", tmp_path / "i")[2]


def test_devices(run):
    code, out, _ = run("devices")
    assert code == 0
    assert "golden" in out
    assert "sim-large" in out


def test_doctor(run, monkeypatch):
    code, out, _ = run("doctor")
    assert code == 0
    assert np.__version__ in out
    before = out.count("missing")  # what this environment has no need of
    monkeypatch.setenv("CXX", "/nowhere/g++")
    monkeypatch.setenv("VERILATOR_ROOT", "/nowhere")
    code, out, _ = run("doctor")
    assert code == 0
    assert out.count("missing") == before + 2
    assert "apt-get install g++" in out
    assert "set VERILATOR_ROOT" in out
    monkeypatch.setattr(doctor, "_distribution", lambda name: None)
    monkeypatch.setattr(doctor, "_cache", lambda: None)
    code, out, _ = run("doctor")
    assert code == 1
    assert "pip install numpy" in out
    assert "set SKIPSTONE_CACHE" in out


class Entry:
    """An entry point of another package."""

    def __init__(self, name, function):
        self.name, self.function = name, function

    def load(self):
        if isinstance(self.function, Exception):
            raise self.function
        return self.function


def test_commands_of_other_packages(run, monkeypatch):
    def echo(word: str) -> None:
        """Say it."""
        print(f"<{word}>")

    lacking = ModuleNotFoundError("no torch", name="torch")
    monkeypatch.setattr(
        app, "entry_points", lambda group: [Entry("echo", echo), Entry("judge", lacking)]
    )
    monkeypatch.setattr(app, "sorted", lambda entries: entries, raising=False)
    assert run("echo", "hello")[:2] == (0, "<hello>\n")
    code, _, err = run("judge", "--anything", "x")
    assert code == 1
    assert "the command 'judge' needs the module 'torch': pip install" in err
    assert "not available" in run("--help")[1]


def test_version(run):
    assert run("--version")[1] == f"skipstone {skipstone.__version__}\n"
    assert skipstone.__version__ == importlib.metadata.version("skipstone")


def test_importing_the_package_loads_nothing_else():
    program = (
        "import sys, skipstone; print([m for m in ('numpy', 'typer', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
