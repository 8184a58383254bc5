"""What strategy "blocks" merges and writes beside the merge of all crystals, as all together do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest

from sfxproc.simulate.stills import StillsSettings
from tests.jobs.partial_jobs import PARTIAL, run_job, written
from tests.jobs.test_ranks import require_same_bits

BLOCKS = ("parallel.strategy=blocks", "parallel.block_size=40", "parallel.overlap=20")
KINDS = {"scale": (), "postrefine": ("postrefine.partiality=xsphere",)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("merges")
    written(made / "a.h5", StillsSettings(**PARTIAL | {"wrong_indexed_fraction": 0.04}))
    return made


def rows_of(path: Path) -> dict[str, np.ndarray]:
    """The columns of an unmerged MTZ in an order that does not depend on values."""
    mtz = gemmi.read_mtz_file(str(path))
    columns = dict(zip(mtz.column_labels(), mtz.array.T.astype(np.float64), strict=True))
    order = np.lexsort([columns[n] for n in ("FRACTIONCALC", "BATCH", "M/ISYM", "L", "K", "H")])
    return {name: values[order] for name, values in columns.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_scaled_observations(kind: str, folder: Path) -> None:
    settings = (f"input.paths={folder}/a.h5", "output.unmerged=true", *KINDS[kind])
    together = run_job(kind, folder / f"{kind}-together", *settings)
    found = run_job(kind, folder / f"{kind}-blocks", *settings, *BLOCKS)
    again = run_job(kind, folder / f"{kind}-blocks-3", *settings, *BLOCKS, ranks=3)
    require_same_bits(again, found)
    bits = [(r.folder / "unmerged.mtz").read_bytes() for r in (again, found)]
    assert bits[0] == bits[1]
    assert found.statistics["crystals"]["status"]["left_out"] > 0
    ours, theirs = (rows_of(r.folder / "unmerged.mtz") for r in (found, together))
    if kind == "scale":  # in postrefinement, those at the least partiality may differ
        for name in ("H", "K", "L", "M/ISYM", "BATCH"):
            np.testing.assert_array_equal(ours[name], theirs[name])
        off = (ours["I"] - theirs["I"]) / theirs["SIGI"]
        assert np.sqrt(np.mean(off**2)) < 0.01
        np.testing.assert_allclose(ours["SCALEUSED"], theirs["SCALEUSED"], rtol=0.01)
    assert len(ours["I"]) == pytest.approx(len(theirs["I"]), rel=1e-3)
    assert set(ours["BATCH"]) == set(theirs["BATCH"])
    require_merges_to(found, ours)


def require_merges_to(found: Any, rows: dict[str, np.ndarray]) -> None:
    """The observations merge to the intensities of the job, but for those that are not written."""
    weight = rows["WEIGHT"] / rows["SIGI"] ** 2
    hkl, number = np.unique(np.stack([rows[k] for k in "HKL"], axis=1), axis=0, return_inverse=True)
    merged = np.bincount(number, weight * rows["I"]) / np.bincount(number, weight)
    row = {
        tuple(h): n for n, h in enumerate(np.stack([found.merged[k] for k in "HKL"], 1).tolist())
    }
    at = np.array([row[tuple(h)] for h in hkl.tolist()])
    off = (merged - found.merged["IMEAN"][at]) / found.merged["SIGIMEAN"][at]
    assert np.sqrt(np.nanmean(off**2)) < 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_pulls(kind: str, folder: Path) -> None:
    """The table of the report, in bins of intensity and of partiality."""
    settings = (f"input.paths={folder}/a.h5", *KINDS[kind])
    together = run_job(kind, folder / f"{kind}-pulls", *settings)
    found = run_job(kind, folder / f"{kind}-blocks-pulls", *settings, *BLOCKS)
    tables = ["bins", "partiality_bins"][: 1 + (kind == "postrefine")]
    ours, theirs = (r.statistics["error_model"] for r in (found, together))
    assert ("partiality_bins" in ours) == ("partiality_bins" in theirs) == (kind == "postrefine")
    for table in tables:
        assert len(ours[table]) == len(theirs[table])
        for one, other in zip(ours[table], theirs[table], strict=True):
            assert one["n"] == pytest.approx(other["n"], abs=5, rel=0.01)
            if other["n"] > 100 and other["intensity"] > 10.0:
                assert one["chi2"] == pytest.approx(other["chi2"], rel=0.05)
                assert one["intensity"] == pytest.approx(other["intensity"], rel=0.02)
