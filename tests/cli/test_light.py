"""What answers at once: help, the version and the table of jobs load nothing that takes long."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from typer.main import get_command

from sfxproc.cli import app
from sfxproc.jobs import JOBS

HEAVY = ("numpy", "scipy", "numba", "h5py", "gemmi", "msgpack", "mpi4py", "plotly", "jinja2")
ASKED = """
import sys
import sfxproc.__main__ as entry
for words in {words}:
    sys.argv = ["sfxproc", *words]
    try:
        entry.main()
    except SystemExit as done:
        assert not done.code, words
    loaded = sorted(set({heavy}) & set(sys.modules))
    assert not loaded, f"{{' '.join(words)}} loads {{', '.join(loaded)}}"
"""


def commands(group: Any, *above: str) -> list[list[str]]:
    """The words of every command and group of commands below one."""
    found = [list(above)]
    for name, command in getattr(group, "commands", {}).items():
        found += commands(command, *above, name)
    return found


def done(code: str) -> str:
    """What a fresh interpreter complains of."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    ).stderr


def test_help_and_version_load_nothing_heavy() -> None:
    words = [[*command, "--help"] for command in commands(get_command(app))]
    assert ["simulate", "stills", "--help"] in words
    assert done(ASKED.format(words=[["--version"], *words], heavy=HEAVY)) == ""


def test_the_check_sees_what_is_loaded() -> None:
    code = ASKED.format(words=[["--version"]], heavy=HEAVY)
    assert "--version loads gemmi, h5py" in done(f"import gemmi, h5py\n{code}")


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_file_is_read_and_its_mistakes_told_without_what_does_the_job(kind: str) -> None:
    code = f"""
import sys
from sfxproc.config import convert
from sfxproc.errors import ConfigError
from sfxproc.jobs import JOBS
try:
    convert({{"job": "{kind}", "no_such": 1}}, JOBS["{kind}"].config, "a file")
except ConfigError as mistake:
    assert "no_such" in str(mistake)
else:
    raise AssertionError
assert not set({HEAVY}) & set(sys.modules), sys.modules
"""
    assert done(code) == ""


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_knows_its_name_and_has_a_recipe(kind: str) -> None:
    job = JOBS[kind]
    assert job.name == kind
    recipe = job.recipe()
    assert callable(recipe.run)
    assert callable(recipe.check)
