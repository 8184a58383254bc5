"""The list of what a job wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfxproc.errors import OutputError
from sfxproc.runs.manifest import Facts, Manifest, Stamp, read_manifest, write_manifest
from sfxproc.runs.names import MANIFEST


def test_names_that_are_no_text_come_back(tmp_path: Path) -> None:
    """Of files in another encoding, as Linux allows them."""
    inputs = {"/data/l\udce4uf.stream": Stamp(5, "2026-01-01")}
    facts = Facts(sfxproc="1", settings={"output.folder": "r\udcff"}, inputs=inputs)
    written = Manifest(facts, files=("merged.mtz",))
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written


@pytest.mark.parametrize("text", ["[]", "{}", "[" * 100_000, "nonsense"])
def test_what_is_no_manifest_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(OutputError, match="cannot be read as the list"):
        read_manifest(tmp_path)
