from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gemmi
import numpy as np
import pytest

from sfxproc.data import Merged, Stills
from sfxproc.errors import InputError
from sfxproc.formats.base import Request
from sfxproc.formats.mtz import read_unmerged, write_unmerged
from sfxproc.formats.mtz_merged import inverse_variance_mean, write_half, write_merged
from sfxproc.symmetry import possible, space_group

CELL = np.array([79.0, 79.0, 38.0, 90.0, 90.0, 90.0])
GROUP = "P 43 21 2"


# --- unmerged


def test_everything_an_mtz_can_hold_returns(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "a.mtz"
    write_unmerged(path, small_stills)
    again = read_unmerged(path, Request("run/a.mtz", frozenset({"partiality", "x_px", "y_px"})))
    assert again.crystals.identity == [f"run/a.mtz//{n}" for n in (1, 2, 3)]
    np.testing.assert_allclose(again.crystals.cell, small_stills.crystals.cell, rtol=1e-6)
    np.testing.assert_allclose(again.crystals.beam, small_stills.crystals.beam, atol=1e-7)
    for name in ("partiality", "x_px", "y_px"):
        old = getattr(small_stills.observations, name)
        np.testing.assert_array_equal(getattr(again.observations, name), old)
    assert again.notes == ()
    mtz = gemmi.read_mtz_file(str(path))
    asu = gemmi.ReciprocalAsu(mtz.spacegroup)
    assert all(asu.is_in(h) for h in mtz.make_miller_array().tolist())
    assert set(mtz.column_with_label("M/ISYM").array.tolist()) == {1, 2}
    unasked = read_unmerged(path, Request("a")).observations
    assert (unasked.partiality, unasked.x_px, unasked.panel) == (None, None, None)


def test_beam_and_orientation_share_a_frame(small_stills: Stills, tmp_path: Path) -> None:
    beam = np.array([[0.6, 0.0, 0.8], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    crystals = replace(small_stills.crystals, beam=beam)
    write_unmerged(tmp_path / "a.mtz", replace(small_stills, crystals=crystals))
    again = read_unmerged(tmp_path / "a.mtz", Request("a")).crystals
    np.testing.assert_allclose(again.beam, beam, atol=1e-7)
    np.testing.assert_allclose(again.A, crystals.A, atol=1e-8)


def test_crystals_without_orientation_keep_their_cell(small_stills: Stills, tmp_path: Path) -> None:
    A = small_stills.crystals.A.copy()
    A[1] = np.nan
    crystals = replace(small_stills.crystals, A=A)
    write_unmerged(tmp_path / "a.mtz", replace(small_stills, crystals=crystals))
    again = read_unmerged(tmp_path / "a.mtz", Request("a"))
    assert np.isnan(again.crystals.A).all(axis=(1, 2)).tolist() == [False, True, False]
    np.testing.assert_allclose(again.crystals.cell[1], crystals.cell[1], rtol=1e-6)
    assert again.notes == ("1 of 3 batches give no orientation.",)


def unmerged(
    path: Path, columns: str = "M/ISYM:Y BATCH:B I:J SIGI:Q", **header: float
) -> gemmi.Mtz:
    """A tetragonal file of another program: (1 2 3) by its symmetry-equal (-2 1 3) and its mate."""
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 4")
    mtz.set_cell_for_all(gemmi.UnitCell(*CELL))
    mtz.add_dataset("x").wavelength = 1.25
    names = [c.split(":") for c in columns.split()]
    for label, kind in names:
        mtz.add_column(label, kind)
    values = {"M/ISYM": 1, "SIGI": 2}
    rows = [
        [h, k, l, *(values.get(n, 7) for n, _ in names)] for h, k, l in ((-2, 1, 3), (-1, -2, -3))
    ]
    mtz.set_data(np.array(rows, dtype=np.float32))
    if "M/ISYM" in mtz.column_labels():
        # gemmi knows the operators only of a file that it has read, and asks for a batch
        mtz.batches.append(gemmi.Mtz.Batch())
        mtz.write_to_file(str(path))
        mtz = gemmi.read_mtz_file(str(path))
        assert mtz.switch_to_original_hkl()
        assert mtz.switch_to_asu_hkl()
        mtz.batches.clear()
        assert mtz.make_miller_array().tolist() == [[1, 2, 3], [1, 2, 3]]
    if header:
        batch = gemmi.Mtz.Batch()
        batch.number = 7
        batch.cell = gemmi.UnitCell(50, 60, 70, 90, 110, 90)
        for word, value in header.items():
            batch.floats[int(word[1:])] = value
        mtz.batches.append(batch)
    mtz.write_to_file(str(path))
    return mtz


U_IS_ONE = {"w6": 1.0, "w10": 1.0, "w14": 1.0}
BEAM_ALONG_X = {"w80": -1.0}


def test_original_indices_without_batch_headers(tmp_path: Path) -> None:
    unmerged(tmp_path / "a.mtz")
    stills = read_unmerged(tmp_path / "a.mtz", Request("a"))
    assert stills.observations.hkl.tolist() == [[-2, 1, 3], [-1, -2, -3]]
    assert stills.observations.variance.tolist() == [4.0, 4.0]
    assert stills.crystals.identity == ["a//7"]
    assert stills.crystals.wavelength_A.tolist() == [1.25]
    np.testing.assert_allclose(stills.crystals.cell, [CELL])
    assert np.isnan(stills.crystals.A).all()


def test_a_negative_sigma_stays_unusable(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "a.mtz"
    variance = small_stills.observations.variance.copy()
    variance[2] = 0.0
    observations = replace(small_stills.observations, variance=variance)
    write_unmerged(path, replace(small_stills, observations=observations))
    mtz = gemmi.read_mtz_file(str(path))
    data = np.array(mtz.array)
    data[5, mtz.column_labels().index("SIGI")] *= -1
    mtz.set_data(data)
    mtz.write_to_file(str(path))
    again = read_unmerged(path, Request("a")).observations.variance
    assert np.flatnonzero(~(again > 0)).tolist() == [2, 5]
    assert again[5] == pytest.approx(-variance[5])


def test_batch_header_of_another_program(tmp_path: Path) -> None:
    unmerged(tmp_path / "a.mtz", **U_IS_ONE, **BEAM_ALONG_X)
    crystals = read_unmerged(tmp_path / "a.mtz", Request("a")).crystals
    # Busing & Levy: a* along x, b* in the xy plane, c along z
    beta = np.radians(110.0)
    expected = [
        [1 / (50 * np.sin(beta)), 0, -np.cos(beta) / (70 * np.sin(beta))],
        [0, 1 / 60, 0],
        [0, 0, 1 / 70],
    ]
    np.testing.assert_allclose(crystals.A[0], expected, atol=1e-9)
    np.testing.assert_array_equal(crystals.beam, [[1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("header", "note"),
    [
        (U_IS_ONE, "give no orientation"),  # no beam to go with it
        (BEAM_ALONG_X, "give no orientation"),
        (U_IS_ONE | BEAM_ALONG_X | {"w36": 10.0, "w37": 10.5}, "rotation images, not stills"),
    ],
)
def test_orientation_that_cannot_be_used(
    tmp_path: Path, header: dict[str, float], note: str
) -> None:
    unmerged(tmp_path / "a.mtz", **header)
    stills = read_unmerged(tmp_path / "a.mtz", Request("a"))
    assert np.isnan(stills.crystals.A).all()
    assert stills.crystals.cell[0].tolist() == [50, 60, 70, 90, 110, 90]
    assert note in stills.notes[0]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("IMEAN:J SIGIMEAN:Q", "is a merged MTZ .* name it as reference.path"),
        ("BATCH:B I:J SIGI:Q", r"no usable M/ISYM .* BATCH \(B\), I \(J\)"),
        ("M/ISYM:Y BATCH:B F:F SIGF:Q", r"no intensity \(type J\) .* F \(F\), SIGF \(Q\)"),
        ("M/ISYM:Y BATCH:B I:J XDET:R", "no intensity"),
    ],
)
def test_columns_that_are_missing(tmp_path: Path, columns: str, message: str) -> None:
    unmerged(tmp_path / "a.mtz", columns)
    with pytest.raises(InputError, match=message):
        read_unmerged(tmp_path / "a.mtz", Request("a"))


@pytest.mark.parametrize("content", [b"", b"no reflections here " * 50])
def test_not_an_mtz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mtz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mtz' cannot be read as MTZ"):
        read_unmerged(tmp_path / "a.mtz", Request("a"))


def test_truncated(small_stills: Stills, tmp_path: Path) -> None:
    path = tmp_path / "a.mtz"
    write_unmerged(path, small_stills)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read as MTZ"):
        read_unmerged(path, Request("a"))


def test_merged_real_data_is_no_input(shared_data: Path) -> None:
    path = shared_data / "reference" / "lysozyme_XFEL_merge118.mtz"
    with pytest.raises(InputError, match="is a merged MTZ"):
        read_unmerged(path, Request("a"))


# --- merged


def merged_set(anomalous: bool) -> Merged:
    """Made-up values for all reflections to 6 Å; every seventh was never measured."""
    table = possible(space_group(GROUP), CELL, 6.0, None, anomalous)
    rng = np.random.default_rng(1)
    n = len(table)
    gone = np.arange(n) % 7 == 0
    values = np.where(gone, np.nan, rng.normal(100.0, 30.0, (3, n)))
    sigmas = np.where(gone, np.nan, rng.uniform(1.0, 5.0, (3, n)))
    counts = np.where(gone, 0, rng.integers(1, 9, (3, n))).astype(np.int32)
    table = replace(table, intensity=values[0], sigma=sigmas[0], n_observations=counts[0])
    zero = np.zeros(n)
    return Merged(table, values[1:], sigmas[1:], counts[1:], zero, zero)


def test_merged_without_friedel_mates_apart(tmp_path: Path) -> None:
    merged = merged_set(anomalous=False)
    table = merged.reflections
    write_merged(tmp_path / "m.mtz", merged, GROUP, CELL, 1.3, ["x" * 100, "é"])
    mtz = gemmi.read_mtz_file(str(tmp_path / "m.mtz"))
    assert [(c.label, c.type) for c in mtz.columns] == [
        *(("H", "H"), ("K", "H"), ("L", "H"), ("IMEAN", "J"), ("SIGIMEAN", "Q"), ("N", "I")),
        *(("IHALF1", "R"), ("SIGIHALF1", "R"), ("IHALF2", "R"), ("SIGIHALF2", "R")),
        *(("NHALF1", "I"), ("NHALF2", "I")),
    ]
    assert mtz.spacegroup.xhm() == GROUP
    np.testing.assert_allclose(mtz.cell.parameters, CELL)
    assert [d.wavelength for d in mtz.datasets] == pytest.approx([1.3, 1.3])
    assert mtz.history[:3] == ["x" * 80, "x" * 20, "?"]
    hkl = mtz.make_miller_array()
    asu = gemmi.ReciprocalAsu(mtz.spacegroup)
    assert all(asu.is_in(h) for h in hkl.tolist())
    assert hkl.tolist() == sorted(hkl.tolist()) == table.hkl.tolist()
    expected = {
        "IMEAN": table.intensity,
        "SIGIMEAN": table.sigma,
        "N": table.n_observations,
        "IHALF2": merged.half_intensity[1],
        "SIGIHALF1": merged.half_sigma[0],
        "NHALF2": merged.half_n[1],
    }
    for label, values in expected.items():
        np.testing.assert_allclose(mtz.column_with_label(label).array, values, rtol=1e-6)


def test_friedel_mates_apart(tmp_path: Path) -> None:
    merged = merged_set(anomalous=True)
    table = merged.reflections
    assert table.intensity is not None
    assert table.sigma is not None
    write_merged(tmp_path / "m.mtz", merged, GROUP, CELL, 1.3)
    mtz = gemmi.read_mtz_file(str(tmp_path / "m.mtz"))
    types = {c.label: c.type for c in mtz.columns}
    assert [types[f"{n}({s})"] for s in "+-" for n in ("I", "SIGI", "N")] == list("KMIKMI")
    row = {tuple(h): i for i, h in enumerate(mtz.make_miller_array().tolist())}
    assert len(row) == int(np.sum(table.friedel >= 0))

    def column(label: str) -> np.ndarray:
        return mtz.column_with_label(label).array

    of = np.array([row[tuple(h)] for h in table.hkl.tolist()])
    for sign, rows in (("+", table.friedel >= 0), ("-", table.friedel < 0)):
        np.testing.assert_allclose(column(f"I({sign})")[of[rows]], table.intensity[rows], rtol=1e-6)
        np.testing.assert_allclose(column(f"SIGI({sign})")[of[rows]], table.sigma[rows], rtol=1e-6)
    assert np.isnan(column("I(-)")[of[table.centric]]).all()
    # one acentric pair by hand
    plus, minus = next(
        (i, i + 1)
        for i in range(len(table))
        if table.friedel[i] == 1 and np.isfinite(table.intensity[i : i + 2]).all()
    )
    w = 1 / table.sigma[[plus, minus]] ** 2
    mean = np.sum(w * table.intensity[[plus, minus]]) / w.sum()
    assert column("IMEAN")[of[plus]] == pytest.approx(mean, rel=1e-6)
    assert column("SIGIMEAN")[of[plus]] == pytest.approx(w.sum() ** -0.5, rel=1e-6)
    assert column("N")[of[plus]] == column("N(+)")[of[plus]] + column("N(-)")[of[plus]]


@pytest.mark.parametrize("anomalous", [False, True])
def test_what_other_programs_take_for_the_data(anomalous: bool, tmp_path: Path) -> None:
    """One mean intensity, and no half set among what is deposited."""
    path = tmp_path / "m.mtz"
    write_merged(path, merged_set(anomalous), GROUP, CELL, 1.3)
    mtz = gemmi.read_mtz_file(str(path))
    assert [c.label for c in mtz.columns_with_type("J")] == ["IMEAN"]
    text = gemmi.MtzToCif().write_cif_to_string(mtz)
    block = gemmi.as_refln_blocks(gemmi.cif.read_string(text))[0]
    tags = ["pdbx_I_plus", "pdbx_I_minus"] if anomalous else []
    assert {"intensity_meas", *tags} <= set(block.column_labels())
    assert not any("HALF" in label for label in block.column_labels())


@pytest.mark.skipif(find_spec("iotbx") is None, reason="cctbx-base is not installed")
@pytest.mark.parametrize("anomalous", [False, True])
def test_what_cctbx_takes_for_the_data(anomalous: bool, tmp_path: Path) -> None:
    """It stops at several equally suitable arrays of one kind."""
    path = tmp_path / "m.mtz"
    write_merged(path, merged_set(anomalous), GROUP, CELL, 1.3)
    code = (
        "import sys; from iotbx.reflection_file_reader import any_reflection_file as read\n"
        "for a in read(sys.argv[1]).as_miller_arrays():\n"
        "    if a.is_xray_data_array(): print(a.info().label_string())"
    )
    run = [sys.executable, "-c", code, str(path)]
    labels = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    assert labels == ["IMEAN,SIGIMEAN", *["I(+),SIGI(+),I(-),SIGI(-)"] * anomalous]


@pytest.mark.parametrize("half", [1, 2])
def test_half_sets(tmp_path: Path, half: int) -> None:
    merged = merged_set(anomalous=False)
    write_half(tmp_path / "half.mtz", merged, GROUP, CELL, 1.3, half=half)
    mtz = gemmi.read_mtz_file(str(tmp_path / "half.mtz"))
    assert mtz.column_labels() == ["H", "K", "L", "IMEAN", "SIGIMEAN", "N"]
    np.testing.assert_allclose(mtz.array[:, 3], merged.half_intensity[half - 1], rtol=1e-6)
    np.testing.assert_array_equal(mtz.array[:, 5], merged.half_n[half - 1])


def test_inverse_variance_mean_ignores_what_was_not_measured() -> None:
    group = np.array([0, 0, 0, 1, 2, 2])
    intensity = np.array([10.0, 20.0, np.nan, 5.0, 7.0, 9.0])
    sigma = np.array([1.0, 2.0, 1.0, np.nan, 0.0, 3.0])
    mean, error = inverse_variance_mean(group, 4, intensity, sigma)
    np.testing.assert_allclose(mean, [(10 + 20 / 4) / 1.25, np.nan, 9.0, np.nan])
    np.testing.assert_allclose(error, [1.25**-0.5, np.nan, 3.0, np.nan])
