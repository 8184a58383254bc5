"""A small data set that every format must carry."""

from __future__ import annotations

import numpy as np
import pytest

from sfxproc.data import Crystals, Detector, Observations, Stills
from sfxproc.symmetry import cells_from_A, reciprocal_matrix


@pytest.fixture(scope="session")
def small_stills() -> Stills:
    """Three crystals of a triclinic cell, one of them without observations, on two panels."""
    rng = np.random.default_rng(7)
    rotations = np.linalg.qr(rng.normal(size=(3, 3, 3)))[0]
    rotations *= np.linalg.det(rotations)[:, None, None]
    A = rotations @ reciprocal_matrix([41.0, 52.0, 63.0, 81.0, 97.0, 106.0])
    hkl = rng.integers(-20, 21, size=(40, 3)).astype(np.int16)
    hkl[~hkl.any(axis=1)] = 1
    return Stills(
        crystals=Crystals(
            file=np.array(["run1/å.h5", "run1/å.h5", "run2/b.h5"], dtype=object),
            event=np.array(["//0", "//1", "//0"], dtype=object),
            A=A,
            cell=cells_from_A(A),
            beam=np.tile([0.0, 0.0, 1.0], (3, 1)),
            wavelength_A=np.array([1.3012, 1.2998, 1.305]),
            bandwidth=np.array([1e-3, 2e-3, np.nan]),
            profile_radius=np.array([np.nan, 1e-3, 2e-3]),
        ),
        observations=Observations(
            crystal=np.repeat(np.array([0, 2], dtype=np.int32), [25, 15]),
            hkl=hkl,
            intensity=rng.normal(300.0, 200.0, 40).astype(np.float32),
            variance=rng.uniform(50.0, 500.0, 40).astype(np.float32),
            partiality=rng.uniform(0.1, 1.0, 40).astype(np.float32),
            panel=rng.integers(0, 2, 40).astype(np.int16),
            x_px=rng.uniform(0.0, 100.0, 40).astype(np.float32),
            y_px=rng.uniform(0.0, 200.0, 40).astype(np.float32),
        ),
        n_images=3,
        detector=Detector(
            name=np.array(["p0", "p1"], dtype=object),
            fast=np.tile([1.0, 0.0, 0.0], (2, 1)),
            slow=np.tile([0.0, 1.0, 0.0], (2, 1)),
            origin_mm=np.array([[1.0, 1.0, 100.0], [-11.0, 1.0, 100.0]]),
            pixel_mm=np.full((2, 2), 0.1),
            size_px=np.array([[100, 200], [100, 200]]),
        ),
    )
