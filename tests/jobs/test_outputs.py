"""What is derived from merged intensities, as it lies in merged.mtz."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest

from sfxproc.data import Floats, Merged
from sfxproc.formats.mtz_merged import write_merged
from sfxproc.merging.derived import derive
from sfxproc.merging.free_flags import free_flags
from sfxproc.simulate.intensities import anomalous_factor, wilson
from sfxproc.symmetry import possible, space_group

GROUP = space_group("P 43 21 2")
CELL = np.array([79.1, 79.1, 38.2, 90.0, 90.0, 90.0])


def simulated(anomalous: bool, gone: float = 0.1) -> tuple[Merged, Floats]:
    """Noisy intensities, some not measured, and their true ones."""
    table = possible(GROUP, CELL, 2.8, 30.0, anomalous)
    true = 100.0 * wilson(table, 15.0, 3) * anomalous_factor(table, 0.1, 3)
    rng = np.random.default_rng(4)
    n = len(table)
    missing = rng.random(n) < gone
    sigma = np.where(missing, np.nan, 10.0 * np.exp(rng.normal(0, 0.7, n)))
    counts = np.where(missing, 0, 4).astype(np.int32)
    table = replace(
        table, intensity=true + sigma * rng.normal(size=n), sigma=sigma, n_observations=counts
    )
    halves = np.tile(table.intensity, (2, 1)), np.tile(sigma, (2, 1)), np.tile(counts, (2, 1))
    return Merged(table, *halves, np.zeros(n), np.zeros(n)), true


@pytest.mark.parametrize("anomalous", [False, True])
def test_amplitudes_and_flags_in_the_mtz(tmp_path: Path, anomalous: bool) -> None:
    merged, true = simulated(anomalous)
    path = tmp_path / "m.mtz"
    write_merged(path, merged, GROUP.hm, CELL, 1.3, derived=derive(merged, GROUP))
    mtz = gemmi.read_mtz_file(str(path))
    types = {c.label: c.type for c in mtz.columns}
    sides = {"F(+)": "G", "SIGF(+)": "L", "F(-)": "G", "SIGF(-)": "L", "DANO": "D", "SIGDANO": "Q"}
    wanted = {"F": "F", "SIGF": "Q", **(sides if anomalous else {}), "FreeR_flag": "I"}
    assert [(k, v) for k, v in types.items() if k in wanted] == list(wanted.items())
    data = dict(zip(mtz.column_labels(), mtz.array.T.astype(float), strict=True))
    hkl = mtz.make_miller_array()
    np.testing.assert_array_equal(data["FreeR_flag"], free_flags(hkl, GROUP))
    np.testing.assert_array_equal(np.isfinite(data["F"]), np.isfinite(data["IMEAN"]))

    table = merged.reflections
    row = {tuple(h): i for i, h in enumerate(hkl.tolist())}
    of = np.array([row[tuple(h)] for h in table.hkl.tolist()])
    for label, rows in (("F(+)", table.friedel >= 0), ("F(-)", table.friedel < 0)):
        if anomalous:
            off = (data[label][of[rows]] - np.sqrt(true[rows])) / data[f"SIG{label}"][of[rows]]
            np.testing.assert_array_equal(np.isnan(off), np.isnan(table.sigma)[rows])  # type: ignore[arg-type]
            off = off[np.isfinite(off)]
            assert np.mean(off**2) == pytest.approx(1.0, abs=0.15)
            assert abs(np.mean(off)) < 5 / np.sqrt(len(off))
    if anomalous:
        np.testing.assert_allclose(data["DANO"], data["F(+)"] - data["F(-)"], atol=1e-4)
        np.testing.assert_allclose(
            data["SIGDANO"], np.hypot(data["SIGF(+)"], data["SIGF(-)"]), rtol=1e-5
        )
        assert np.isnan(data["DANO"][of[table.centric]]).all()
        both = np.isfinite(data["DANO"])
        assert np.mean(both[of[~table.centric]]) == pytest.approx(0.81, abs=0.05)
    else:
        off = (data["F"] - np.sqrt(true)) / data["SIGF"]
        assert np.nanmean(off**2) == pytest.approx(1.0, abs=0.15)


def test_nothing_measured_has_flags_but_no_amplitudes() -> None:
    merged, _ = simulated(True, gone=1.1)
    derived = derive(merged, GROUP)
    assert np.isnan(derived.mean).all()
    assert derived.plus is not None
    assert np.isnan(derived.plus).all()
    assert set(derived.free_flag) == set(range(20))
