"""What the documentation shows is true: job files, commands, paths, tables and examples."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

import sfxproc
from sfxproc.cli import app
from sfxproc.config import convert, load
from sfxproc.jobs import JOBS
from sfxproc.jobs.scale_config import ScaleConfig
from sfxproc.simulate import StillsSettings

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PLACEHOLDERS = {"my.toml", "other.mtz", "integrated.expt", "out/merged.mtz"}

Tree = dict[str, Any]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


def commands() -> list[str]:
    """Every command in README's shell blocks."""
    lines = [line for block in blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&")]


def leaves(tree: Tree, path: str = "") -> dict[str, Any]:
    """Values by dotted path."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        inner = leaves(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
        out |= inner
    return out


# ---- job files -------------------------------------------------------------------------------


def defaults() -> Tree:
    """Every setting of a scaling job with its default, the simulation's too."""
    config = ScaleConfig(
        job="scale",
        symmetry=convert({"space_group": "P 43 21 2"}, ScaleConfig.__annotations__ and _symmetry(), ""),
        simulate=StillsSettings(),
    )
    return leaves(msgspec.to_builtins(config))


def _symmetry() -> type[msgspec.Struct]:
    from sfxproc.jobs.settings import Symmetry

    return Symmetry
