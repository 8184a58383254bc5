"""Damaged files: refused with their name and place, or counted and left out."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from sfxproc.formats.crystfel import FORMAT as STREAM
from sfxproc.formats.dials import FORMAT as DIALS
from sfxproc.formats.hdf5 import write as write_h5
from sfxproc.simulate.stills import Simulated


def unpacked(path: Path) -> Any:
    return msgpack.unpackb(path.read_bytes(), strict_map_key=False)


@pytest.fixture
def pair(job: Path, small: Simulated, some: Any) -> Path:
    """A pair of DIALS files of 10 crystals that may be changed."""
    path = job.parent / "mine.expt"
    assert DIALS.write is not None
    DIALS.write(path, some(small.stills, slice(0, 10)))
    return path


@pytest.fixture
def stream(job: Path, small: Simulated, some: Any) -> Path:
    """A stream of 10 crystals that may be changed."""
    path = job.parent / "mine.stream"
    assert STREAM.write is not None
    STREAM.write(path, some(small.stills, slice(0, 10)))
    return path


def test_expt_without_refl(pair: Path, refused: Any) -> None:
    pair.with_suffix(".refl").unlink()
    message = refused(f"input.paths={pair.name}")
    assert "mine.refl' is missing" in message
    assert "input.exclude" in message


def test_rows_without_an_experiment(
    pair: Path, refused: Any, command: Any, job: Path, sets: Any, results: Any
) -> None:
    """Three rows are left out, with a count; where strictness is asked for they are refused."""
    refl = pair.with_suffix(".refl")
    table = unpacked(refl)
    data = table[2]["data"]["id"]
    ids = np.frombuffer(data[1][1], dtype="<i4").copy()
    ids[-3:] = 77
    data[1][1] = ids.tobytes()
    refl.write_bytes(msgpack.packb(table))
    message = refused(f"input.paths={pair.name}", "input.strict=true")
    assert "rows of id 77 that belong to no experiment of the 10" in message
    assert "mine.refl" in message
    done = command("run", job, *sets(f"input.paths={pair.name}", "output.folder=kept"))
    assert (done.status, done.err) == (0, "")
    assert "rows that belong to no experiment were left out: 3" in done.out
    told = results(job.parent / "kept").statistics["observations"]
    assert told["left_out"]["no experiment"] == 3


def test_missing_intensities(pair: Path, refused: Any) -> None:
    refl = pair.with_suffix(".refl")
    table = unpacked(refl)
    del table[2]["data"]["intensity.sum.value"]
    refl.write_bytes(msgpack.packb(table))
    message = refused(f"input.paths={pair.name}")
    assert "mine.refl' has no column intensity.sum.value or intensity.prf.value" in message
    for name in ("flags", "id", "intensity.sum.variance", "miller_index", "panel"):
        assert name in message


def test_text_columns_are_skipped_and_said(pair: Path, command: Any, job: Path, sets: Any) -> None:
    refl = pair.with_suffix(".refl")
    table = unpacked(refl)
    table[2]["data"]["names"] = ["std::string", [table[2]["nrows"], b"\xff\x00"]]
    refl.write_bytes(msgpack.packb(table))
    done = command("run", job, *sets(f"input.paths={pair.name}"))
    assert done.status == 0
    assert "mine.expt: columns that cannot be read were skipped: names (std::string)" in done.out


@pytest.mark.parametrize("suffix", [".refl", ".expt", ".mtz", ".h5"])
def test_files_cut_short(suffix: str, job: Path, pair: Path, refused: Any) -> None:
    path = pair.with_suffix(suffix)
    if suffix in (".mtz", ".h5"):
        path.write_bytes((job.parent / f"small{suffix}").read_bytes())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert path.name in refused(f"input.paths={path.name}")


def test_damage_in_a_stream_is_counted_and_the_rest_used(
    stream: Path, command: Any, job: Path, sets: Any, results: Any
) -> None:
    text = stream.read_text()
    tables = [m.end() for m in re.finditer("fs/px.*panel\n", text)]
    assert len(tables) == 10
    garbage = "  1  2  three  oh dear\n"
    text = text[: tables[2]] + garbage + text[tables[2] : tables[9] + 500]  # the end is missing
    stream.write_text(text)
    first = text[: tables[2]].count("\n") + 1
    done = command("run", job, *sets(f"input.paths={stream.name}"))
    assert done.status == 0
    unreadable = (
        f"a reflection line cannot be read and was skipped (times: 1, first at line {first})"
    )
    assert f"mine.stream: {unreadable}" in done.out
    assert "mine.stream: a chunk is cut short and was skipped (times: 1" in done.out
    assert results(job.parent / "out").statistics["crystals"]["n_crystals"] == 9

    done = command(
        "run", job, "--overwrite", *sets(f"input.paths={stream.name}", "input.strict=true")
    )
    assert done.status == 2
    assert f"mine.stream', line {first}: a reflection line cannot be read" in done.err
    assert "input.strict" in done.err


def test_a_stream_without_crystals(stream: Path, refused: Any) -> None:
    text = stream.read_text()
    text = re.sub("--- Begin crystal.*?--- End crystal\n", "", text, flags=re.S)
    stream.write_text(text)
    message = refused(f"input.paths={stream.name}")
    assert "The inputs hold no crystals" in message
    assert "sfxproc show" in message


def test_a_stream_without_crystals_among_others(
    stream: Path, command: Any, job: Path, sets: Any, results: Any
) -> None:
    text = re.sub("--- Begin crystal.*?--- End crystal\n", "", stream.read_text(), flags=re.S)
    stream.write_text(text)
    done = command("run", job, *sets('input.paths=["mine.stream", "small.h5"]'))
    assert done.status == 0
    told = results(job.parent / "out").statistics["crystals"]
    assert (told["n_images"], told["n_crystals"]) == (70, 60)


def test_crystals_without_cell_or_orientation(small: Simulated, job: Path, refused: Any) -> None:
    unknown = replace(
        small.stills.crystals, cell=np.full((60, 6), np.nan), A=np.full((60, 3, 3), np.nan)
    )
    write_h5(job.parent / "blind.h5", replace(small.stills, crystals=unknown))
    for given in ((), ("symmetry.unit_cell=[79.1,79.1,38.2,90,90,90]",)):
        message = refused("input.paths=blind.h5", *given)
        assert "None of the 60 crystals has a unit cell" in message


def test_no_overlapping_reflections(small: Simulated, job: Path, refused: Any) -> None:
    """Every reflection is measured on one crystal only."""
    obs = small.stills.observations
    _, unique = np.unique(np.sort(np.abs(obs.hkl), axis=1), axis=0, return_inverse=True)
    lonely = obs.take(np.asarray(unique.ravel() % 60 == obs.crystal))
    write_h5(job.parent / "lonely.h5", replace(small.stills, observations=lonely))
    message = refused("input.paths=lonely.h5")
    assert "No crystal has enough reflections in common with the others" in message
    assert "the best has 0" in message
