"""A reference set fixes the scale and B of a merge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from sfxproc.formats.reference import read_reference
from sfxproc.simulate.stills import Simulated

Scale = Callable[..., Any]


def test_the_scale_follows_a_reference(base: Any, job: Path, scale: Scale) -> None:
    """A merge times 3 exp(−2·10·s²) moves mean ln G by −ln 3 and mean B by −10 Å²."""
    mtz = gemmi.read_mtz_file(str(base.folder / "merged.mtz"))
    data = mtz.array.copy()
    s2 = 0.25 * mtz.make_1_d2_array()
    for label in ("IMEAN", "SIGIMEAN"):
        data[:, mtz.column_with_label(label).idx] *= 3.0 * np.exp(-2.0 * 10.0 * s2)
    mtz.set_data(data)
    mtz.write_to_file(str(job.parent / "other.mtz"))
    found = scale("out", "reference.path=other.mtz")
    assert np.mean(found.frames["ln_G"]) == pytest.approx(-np.log(3), abs=1e-4)
    assert np.mean(found.frames["B_A2"]) == pytest.approx(-10, abs=1e-3)
    other = data[:, mtz.column_with_label("IMEAN").idx]
    np.testing.assert_allclose(found.merged["IMEAN"], other, rtol=1e-4, atol=0.05)
    assert found.statistics["overall"]["cc_reference"] > 0.9999
    assert found.statistics["reference_k"] == pytest.approx(1.0, abs=1e-4)
    assert "CCref" in (found.folder / "log.txt").read_text()


@pytest.mark.parametrize("with_sigma", [True, False])
def test_the_truth_as_reference(
    with_sigma: bool, small: Simulated, job: Path, scale: Scale
) -> None:
    write_reference(job.parent / "truth.mtz", small, with_sigma)
    assert np.isfinite(read_reference(job.parent / "truth.mtz").reflections.intensity).all()
    found = scale("out", "reference.path=truth.mtz")
    for name, truth in (("ln_G", small.truth.ln_G), ("B_A2", small.truth.B_A2)):
        off = found.frames[name] - truth
        assert abs(np.mean(off)) < 0.5 * np.mean(found.frames[f"sigma_{name}"])


def test_a_reference_in_another_setting_of_its_laue_group(
    small: Simulated, job: Path, scale: Scale
) -> None:
    """P 4/mmm makes the same reflections equivalent as P 43 21 2."""
    write_reference(job.parent / "truth.mtz", small, True, "P 4/m m m")
    found = scale("out", "reference.path=truth.mtz")
    assert found.statistics["overall"]["cc_reference"] > 0.99


def write_reference(
    path: Path, simulated: Simulated, with_sigma: bool, group: str = "P 43 21 2"
) -> None:
    table = simulated.truth.reflections
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup(group)
    mtz.set_cell_for_all(gemmi.UnitCell(79.1, 79.1, 38.2, 90, 90, 90))
    mtz.add_dataset("truth")
    mtz.add_column("IMEAN", "J")
    data = [*table.hkl.T, table.intensity]
    if with_sigma:
        mtz.add_column("SIGIMEAN", "Q")
        data.append(np.maximum(0.01 * table.intensity, 0.1))
    mtz.set_data(np.column_stack(data).astype(np.float32))
    mtz.write_to_file(str(path))


# ---- references that do not do ---------------------------------------------------------------


def reference(
    path: Path,
    group: str = "P 43 21 2",
    cell: tuple[float, ...] = (79.1, 79.1, 38.2, 90, 90, 90),
    d_A: tuple[float, float] = (4.0, 20.0),
) -> None:
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup(group)
    mtz.set_cell_for_all(gemmi.UnitCell(*cell))
    mtz.add_dataset("a")
    mtz.add_column("IMEAN", "J")
    mtz.add_column("SIGIMEAN", "Q")
    hkl = gemmi.make_miller_array(mtz.cell, mtz.spacegroup, *d_A, True)
    intensity = np.random.default_rng(3).exponential(100.0, len(hkl))
    mtz.set_data(np.column_stack([hkl, intensity, 0.1 * intensity + 1]).astype(np.float32))
    mtz.write_to_file(str(path))


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"group": "P 21 21 21"}, ("P 21 21 21", "mmm", "4/mmm", "cannot be matched")),
        ({"group": "P 4"}, ("P 4 ", "4/m", "4/mmm")),
        (
            {"cell": (95.0, 95.0, 38.2, 90.0, 90.0, 90.0)},
            ("95.00 95.00 38.20", "79.10 79.10 38.20", "another crystal form"),
        ),
        (
            {"d_A": (2.0, 2.9)},
            ("0 reflections in common", "from 2.90 to 2.00 Å", "to 3.00 Å", "reference.path"),
        ),
    ],
)
def test_references_that_do_not_fit(
    settings: dict[str, Any], parts: tuple[str, ...], job: Path, refused: Any
) -> None:
    reference(job.parent / "ref.mtz", **settings)
    message = refused("reference.path=ref.mtz")
    assert "'ref.mtz'" in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("reff.mtz", "reference.path: 'reff.mtz': there is no 'reff.mtz'"),
        ("small.h5", "'small.h5' has no suffix of a merged set"),
        ("small.mtz", "'small.mtz' is an unmerged MTZ"),
        (".", "reference.path"),
    ],
)
def test_references_that_are_none(path: str, part: str, refused: Any) -> None:
    assert part in refused(f"reference.path={path}")
