"""Damaged DIALS files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import pytest

from sfxproc.data import Reason
from sfxproc.errors import InputError
from sfxproc.formats import dials
from sfxproc.formats.base import Request
from sfxproc.formats.dials_refl import read_table
from tests.formats.test_dials import CELL_A, Edit, columns, experiments, write_pair


@pytest.mark.parametrize("suffix", [".expt", ".refl"])
def test_a_missing_sibling_is_named(tmp_path: Path, suffix: str) -> None:
    pair = write_pair(tmp_path)
    pair.with_suffix(suffix).unlink()
    other = {".expt": ".refl", ".refl": ".expt"}[suffix]
    with pytest.raises(InputError, match=rf"pair\{suffix}' is missing"):
        dials.read(pair.with_suffix(other), Request("pair"))


def test_malformed_json(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    pair.write_text(pair.read_text()[:-40])
    with pytest.raises(InputError, match=r"pair\.expt' is not valid JSON .*line 1 column"):
        dials.read(pair, Request("pair"))


def _set(*path: Any, to: Any) -> Edit:
    def edit(top: Any) -> Any:
        at = top
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to
        return top

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda _: [], "no list named 'experiment'"),
        (_set("experiment", to={}), "no list named 'experiment'"),
        (_set("experiment", 2, "crystal", to=5), "experiment 2: list index out of range"),
        (_set("experiment", 2, "crystal", to=-1), "experiment 2: crystal index -1"),
        (_set("crystal", 0, to={}), "experiment 0: no entry 'real_space_a'"),
        (_set("crystal", 0, "real_space_c", to=CELL_A[0]), "experiment 0: a cell without volume"),
        (_set("crystal", 0, "real_space_a", to=[1.0]), "real_space_a is not a vector"),
        (_set("beam", 0, to={"direction": [0, 0, 1]}), "no entry 'wavelength'"),
        (_set("beam", 0, "direction", to=[0, 0, 0]), "beam without direction"),
        (_set("detector", 0, "hierarchy", "children", to=[{"panel": 0}]), r"panels \[1\] are not"),
        (_set("detector", 0, "panels", 0, "origin", to=None), "the detector model: origin is not"),
    ],
)
def test_incomplete_experiment_lists(tmp_path: Path, edit: Edit, message: str) -> None:
    top = edit(json.loads(json.dumps(experiments())))
    with pytest.raises(InputError, match=message) as caught:
        dials.read(write_pair(tmp_path, top), Request("pair"))
    assert "pair.expt" in str(caught.value)


def _rewritten(refl: Path, edit: Edit) -> None:
    top = msgpack.unpackb(refl.read_bytes(), strict_map_key=False)
    refl.write_bytes(msgpack.packb(edit(top)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set(0, to="something else"), "does not begin with 'dials::af::reflection_table'"),
        (_set(1, to=3), "its version is 3"),
        (lambda top: {"a": 1}, "cannot|can be read"),
        (_set(2, to={"data": {}}), "no entry 'nrows'"),
        (_set(2, "data", "id", 1, 1, to=b"123"), "column 'id' holds 6 rows in 3 bytes"),
        (_set(2, "nrows", to=5), "column 'id' holds 6 rows in 24 bytes where 5 rows"),
    ],
)
def test_wrong_msgpack(tmp_path: Path, edit: Edit, message: str) -> None:
    pair = write_pair(tmp_path)
    _rewritten(pair.with_suffix(".refl"), edit)
    with pytest.raises(InputError, match=message) as caught:
        dials.read(pair, Request("pair"))
    assert "pair.refl" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x02cdials\n", b"\x93\x01", b"\x81\x91\x01\x02"])
def test_not_msgpack_or_cut_short(tmp_path: Path, content: bytes) -> None:
    refl = write_pair(tmp_path).with_suffix(".refl")
    refl.write_bytes(content)
    with pytest.raises(InputError, match=r"pair\.refl' is cut short or is not"):
        read_table(refl)


def test_a_truncated_table(tmp_path: Path) -> None:
    pair = write_pair(tmp_path)
    refl = pair.with_suffix(".refl")
    refl.write_bytes(refl.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"pair\.refl' is cut short"):
        dials.read(pair, Request("pair"))


def test_ids_without_an_experiment_are_counted(tmp_path: Path) -> None:
    table = columns() | {"id": ("int", [2, 0, -1, 7, 0, 9])}
    pair = write_pair(tmp_path, table=table)
    stills = dials.read(pair, Request("pair"))
    assert stills.counts[Reason.NO_EXPERIMENT] == 2
    assert stills.observations.hkl.tolist() == [[-1, 0, 4], [1, 2, 3]]
    with pytest.raises(InputError, match=r"rows of id 7, 9 that belong to no experiment"):
        dials.read(pair, Request("pair", strict=True))
    pair = write_pair(tmp_path, identifiers=("x", "two", "y"))
    with pytest.raises(InputError, match=r"rows of id 0, 2 that belong to no experiment of the 3"):
        dials.read(pair, Request("pair"))


def test_missing_columns_list_the_ones_there_are(tmp_path: Path) -> None:
    table = columns()
    del table["intensity.sum.value"]
    with pytest.raises(InputError, match=r"no column intensity\.sum\.value or .*prf.*flags, id"):
        dials.read(write_pair(tmp_path, table=table), Request("pair"))
    table = columns()
    del table["miller_index"]
    with pytest.raises(InputError, match="no column 'miller_index', only flags, id, intensity"):
        dials.read(write_pair(tmp_path, table=table), Request("pair"))


def test_indices_out_of_range_do_not_wrap_around(tmp_path: Path) -> None:
    table = columns()
    table["miller_index"] = ("cctbx::miller::index<>", [[1, 2, 3], [65536 + 1, 0, 4]] * 3)
    hkl = dials.read(write_pair(tmp_path, table=table), Request("pair")).observations.hkl
    assert hkl.tolist() == [[0, 0, 0], [1, 2, 3], [0, 0, 0]]
