"""Kept machine code: that it is used again, never when stale, and wherever it can be kept.

Each process here compiles, or reads, two small functions of a package of its own: `twice` calls
`once` of another file.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
import sys
from package.outer import twice

print("ready", flush=True)
sys.stdin.readline()
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


Answer = tuple[float, int, int, str]


def begun(package: Path, code: str = ASK, **environment: str) -> subprocess.Popen[str]:
    """A process that has imported the package and waits."""
    told = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    paths = [str(package.parent), *([told["PYTHONPATH"]] if "PYTHONPATH" in told else [])]
    told["PYTHONPATH"] = os.pathsep.join(paths)
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=told | environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def answer(process: subprocess.Popen[str]) -> Answer:
    """Value, hits and misses of the cache, and what was warned of."""
    out, warned = process.communicate("go\n", timeout=120)
    assert process.returncode == 0, warned
    value, hits, misses = out.split()
    return float(value), int(hits), int(misses), warned


def asked(package: Path, **environment: str) -> Answer:
    """What a new process answers."""
    return answer(begun(package, **environment))


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


def test_processes_that_begin_together_compile_once(package: Path) -> None:
    processes = [begun(package) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [answer(process) for process in processes]
    assert {value for value, *_ in answers} == {3.0}
    assert sorted((hits, misses) for _, hits, misses, _ in answers) == [(0, 1), *3 * [(1, 0)]]
    left = {path.suffix for path in (package / "__pycache__").iterdir()}
    assert left - {".pyc"} == {".nbc"}


@pytest.mark.parametrize(("longest", "expected"), [("0.3", (3.0, 0, 1, "")), ("60.0", None)])
def test_who_never_ends_to_compile_is_waited_for_a_while(
    package: Path, longest: str, expected: Answer | None
) -> None:
    asked(package)
    held: list[Any] = []
    for path in (package / "__pycache__").glob("*.nbc"):
        path.unlink()
        held.append(path.with_suffix(".lock").open("w"))
        fcntl.flock(held[-1], fcntl.LOCK_EX)
    code = f"import sfxproc.kernels.compiled as c\nc.LONGEST_WAIT_s = {longest}\n" + ASK
    process = begun(package, code)
    if expected is None:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate("go\n", timeout=3.0)
        for handle in held:  # it ends after all
            handle.close()
        out, _ = process.communicate(timeout=60)
        assert out.split() == ["3.0", "0", "1"]
    else:
        assert answer(process) == expected


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
