"""The README keeps its word: its commands run, its paths exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands() -> list[list[str]]:
    """Every command of the README's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line) for line in lines]


def test_paths_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    code = re.findall(r"`((?:host|hw|sim|tests|scripts|docs|hls|rtl|bitstreams)/[^`* ]*)`", README)
    missing = [path for path in links + code if not (ROOT / path).exists()]
    assert not missing


def test_commands_are_the_scripts():
    assert [command[0] for command in commands()] == ["./scripts/demo", "./scripts/test"]


@pytest.mark.rtl
def test_demo_answers():
    (demo,) = (command for command in commands() if command[0] == "./scripts/demo")
    done = subprocess.run(
        [*demo, "--max-tokens", "3"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(demo[1])
    assert "simulated cycles" in done.stdout + done.stderr
