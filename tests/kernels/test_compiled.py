"""Kept machine code: that it is used again, never when stale, and wherever it can be kept.

Each process here compiles, or reads, two small functions of a package of its own: `twice` calls
`once` of another file.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

INNER = """
from sfxproc.kernels.compiled import compiled

@compiled
def once(x):
    return x + 1.0
"""
OUTER = """
from sfxproc.kernels.compiled import compiled
from package.inner import once

@compiled
def twice(x):
    return once(once(x))
"""
ASK = """
from package.outer import twice

print(twice(1.0), sum(twice.stats.cache_hits.values()), sum(twice.stats.cache_misses.values()))
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The folder that holds the package."""
    folder = tmp_path / "code" / "package"
    folder.mkdir(parents=True)
    for name, text in (("__init__", ""), ("inner", INNER), ("outer", OUTER)):
        (folder / f"{name}.py").write_text(text)
    return folder


def asked(package: Path, **environment: str) -> tuple[float, int, int, str]:
    """Value, hits and misses of the cache, and what was warned of, in a new process."""
    told = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    paths = [str(package.parent), *([told["PYTHONPATH"]] if "PYTHONPATH" in told else [])]
    told["PYTHONPATH"] = os.pathsep.join(paths)
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=told | environment, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    value, hits, misses = done.stdout.split()
    return float(value), int(hits), int(misses), done.stderr


def test_code_is_used_again(package: Path) -> None:
    assert asked(package) == (3.0, 0, 1, "")
    kept = {path: path.stat().st_mtime_ns for path in (package / "__pycache__").glob("*.nbc")}
    assert len(kept) == 2
    assert asked(package) == (3.0, 1, 0, "")
    assert {p: p.stat().st_mtime_ns for p in (package / "__pycache__").glob("*.nbc")} == kept


def test_a_function_that_calls_an_edited_one_is_compiled_anew(package: Path) -> None:
    assert asked(package)[0] == 3.0
    inner = package / "inner.py"
    inner.write_text(INNER.replace("1.0", "10.0"))
    assert asked(package) == (21.0, 0, 1, "")
    assert asked(package) == (21.0, 1, 0, "")
    assert len([*(package / "__pycache__").glob("*.nbc")]) == 2


def test_damaged_files_are_written_again(package: Path) -> None:
    asked(package)
    for path in (package / "__pycache__").glob("*.nbc"):
        path.write_bytes(path.read_bytes()[:-100])
    assert asked(package) == (3.0, 0, 1, "")
    assert asked(package) == (3.0, 1, 0, "")


def test_a_chosen_folder_comes_first(package: Path, tmp_path: Path) -> None:
    asked(package, NUMBA_CACHE_DIR=str(tmp_path / "chosen"))
    assert not [*(package / "__pycache__").glob("*.nbc")]
    assert len([*(tmp_path / "chosen").rglob("*.nbc")]) == 2


def test_an_install_that_cannot_be_written(package: Path, tmp_path: Path) -> None:
    """What stands where the folder would be keeps even a superuser from making it."""
    (package / "__pycache__").write_text("")
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    temporary.mkdir()
    places = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(temporary)}
    assert asked(package, **places) == (3.0, 0, 1, "")
    assert asked(package, **places) == (3.0, 1, 0, "")
    assert len([*home.rglob("once*.nbc"), *home.rglob("inner.once*.nbc")]) == 1
    assert not [*temporary.rglob("*.nbc")]


def test_no_home_either(package: Path, tmp_path: Path) -> None:
    (package / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(temporary)}
    places["XDG_CACHE_HOME"] = str(tmp_path / "home")
    assert asked(package, **places) == (3.0, 0, 1, "")
    assert asked(package, **places) == (3.0, 1, 0, "")
    own = temporary / f"sfxproc-{os.getuid()}"
    assert len([*own.rglob("*.nbc")]) == 2
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o777)  # others could put code there
    value, hits, _, warned = asked(package, **places)
    assert (value, hits) == (3.0, 0)
    assert warned.count("Compiled code cannot be kept") == 1
    assert "NUMBA_CACHE_DIR" in warned
