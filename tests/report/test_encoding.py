"""Output on terminals that are not UTF-8."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfxproc.report.encoding import plain, tolerate


@pytest.mark.parametrize(
    ("character", "expected"),
    [
        *(("σ", "sigma"), ("Δ", "Delta"), ("ς", "sigma"), ("½", "1/2"), ("Å", "A"), ("²", "2")),
        *(("⁻", "-"), ("ü", "u"), ("–", "-"), ("≥", ">="), ("\udcff", r"\xff"), ("晶", "?")),
    ],
)
def test_plain_letters(character: str, expected: str) -> None:
    assert plain(character) == expected


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "cp1252", "utf-8"])
def test_any_stream_takes_any_text(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    tolerate(stream)
    stream.write("CC½ 0.99, σ 1.2 Å², 晶\udcff\n")
    stream.flush()
    text = raw.getvalue().decode(encoding)
    assert text.startswith("CC½" if encoding in ("latin-1", "cp1252", "utf-8") else "CC1/2")
    assert r"\xff" in text


@pytest.mark.parametrize(
    "surroundings",
    [
        {"PYTHONIOENCODING": "gbk"},
        {"PYTHONIOENCODING": "iso-8859-1"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_job_ends_whatever_the_terminal(surroundings: dict[str, str], tmp_path: Path) -> None:
    """σ, ½ and Å are in the tables and in the closing sentence."""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))
    }
    settings = ["simulate.n_crystals=30", "simulate.d_min_A=5"]
    job = tmp_path / "job.toml"
    job.write_text('\ufeffjob = "scale"\n[symmetry]\nspace_group = "P 43 21 2"\n', encoding="utf-8")
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    sets = [x for s in (*settings, f"output.folder={tmp_path / 'ö'}") for x in ("--set", s)]
    done = subprocess.run(
        [sys.executable, "-m", "sfxproc", "run", str(job), *sets],
        env=environment | surroundings,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ö" / "DONE").exists()
    assert "σ" in (tmp_path / "ö" / "log.txt").read_text(encoding="utf-8")
