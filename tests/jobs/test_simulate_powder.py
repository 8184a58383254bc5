"""Simulated lists of powder lines and their truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sfxproc.commands.simulate_powder import pattern_settings, simulate
from sfxproc.errors import ConfigError, InputError, OutputError
from sfxproc.formats.peak_lists import read_peak_list
from sfxproc.intake.simulated_powder import truth_path
from sfxproc.simulate.powder import simulate_pattern


def test_simulated_lists_and_their_truth(tmp_path: Path) -> None:
    settings = pattern_settings({"lattice": "oP", "number": 2}, ["n_contaminants=2"])
    out = tmp_path / "made.txt"
    said = simulate(out, settings, None, overwrite=False)
    assert "their truth" in said
    truth = json.loads(truth_path(out).read_text())
    lines = read_peak_list(out)
    pattern = simulate_pattern(settings, "oP", 2)
    np.testing.assert_allclose(lines.q2, truth["lines"]["q2"], rtol=1e-8)
    np.testing.assert_allclose(truth["cell"], pattern.structure.cell)
    assert truth["lines"]["true_q2"].count(None) == 2
    hkl = np.array(truth["lines"]["hkl"])
    q2 = (hkl**2 / np.array(truth["cell"][:3]) ** 2).sum(axis=1)
    true = [0.0 if v is None else v for v in truth["lines"]["true_q2"]]
    np.testing.assert_allclose(q2, true, rtol=1e-9)
    with pytest.raises(OutputError, match=r"made\.txt' exists"):
        simulate(out, settings, None, overwrite=False)
    simulate(out, settings, None, overwrite=True)
    with pytest.raises(ConfigError, match="lattice"):
        pattern_settings({"lattice": "xP"}, [])


def test_the_pattern_of_a_structure_in_a_file(tmp_path: Path) -> None:
    structure = tmp_path / "salt.vasp"
    structure.write_text(
        "NaCl\n1.0\n5.64 0 0\n0 5.64 0\n0 0 5.64\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
    )
    out = tmp_path / "salt.txt"
    simulate(out, pattern_settings({}, ["min_lines=4"]), structure, overwrite=False)
    assert json.loads(truth_path(out).read_text())["cell"][:3] == pytest.approx([5.64] * 3)
    with pytest.raises(InputError, match="fewer than min_lines = 50"):
        simulate(out, pattern_settings({}, ["min_lines=50"]), structure, overwrite=True)
