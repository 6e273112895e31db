"""What is published: an sdist, and from it a wheel that generates text in a clean environment."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(*words, cwd):
    done = subprocess.run(
        [str(w) for w in words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_sdist_wheel_and_a_clean_environment(tmp_path):
    run(
        sys.executable, "-c",
        "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])",
        tmp_path, cwd=ROOT,
    )  # fmt: skip
    (sdist,) = tmp_path.glob("skipstone-*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (p for p in tmp_path.iterdir() if p.is_dir())
    run(
        sys.executable, "-c",
        "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])",
        tmp_path, cwd=source,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("skipstone-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "skipstone/models/nano/model.safetensors" in names
    assert "skipstone_sim/harness/harness.cpp" in names
    assert not [n for n in names if n.startswith(("tests/", "docs/"))]

    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    constraints = tmp_path / "constraints.txt"
    lock = (ROOT / "requirements" / "rtl.lock").read_text()
    constraints.write_text(lock)
    run(python, *PIP, "install", "--constraint", constraints, wheel, cwd=tmp_path)
    program = (
        "import skipstone, sys\n"
        "print(skipstone.LLM('nano').generate('Tom has', max_tokens=8))\n"
        "heavy = {'torch', 'amaranth', 'pynq', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'venv' in skipstone.__file__\n"
    )
    said = run(python, "-c", program, cwd=tmp_path)
    by_command = run(
        environment / "bin" / "skipstone", "generate", "Tom has", "--model", "nano",
        "--max-tokens", "8", cwd=tmp_path,
    )  # fmt: skip
    assert said == by_command
    assert said.startswith("Tom has")
    assert len(said) > 12
