"""The cache: one build an entry, nothing half-built, a place that can be chosen."""

import threading
from pathlib import Path

import pytest

from skipstone.cache import cache_root, cached, content_key


def test_place(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path / "a"))
    assert cache_root() == tmp_path / "a"
    monkeypatch.delenv("SKIPSTONE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_root() == tmp_path / "b" / "skipstone"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "skipstone"


def test_keys():
    assert content_key("a", b"b") == content_key(b"a", "b")
    assert len({content_key(*parts) for parts in (["ab"], ["a", "b"], ["", "ab"], [])}) == 4


def test_built_once_even_when_asked_twice_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path))
    builds = []

    def build(folder: Path):
        builds.append(folder)
        (folder / "f").write_text("x")

    threads = [threading.Thread(target=cached, args=("k", "1", build)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(builds) == 1
    assert (cached("k", "1", build) / "f").read_text() == "x"


def test_a_failed_build_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("SKIPSTONE_CACHE", str(tmp_path))

    def build(folder: Path):
        (folder / "f").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached("k", "1", build)
    assert not [p for p in (tmp_path / "k").iterdir() if p.is_dir()]
