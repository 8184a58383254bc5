"""Peak lists in every form, and what is told of bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfxproc.errors import ConfigError, InputError
from sfxproc.formats.peak_lists import read_peak_list

D = np.array([12.1, 8.3, 6.05, 5.2, 4.4, 3.9, 3.3, 3.1, 2.8, 2.5, 2.2, 2.0])
Q2 = D**-2.0
WAVELENGTH = 1.5418
TWO_THETA = np.degrees(2 * np.arcsin(WAVELENGTH / (2 * D)))


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Write text under a name and read it as a list."""

    def run(text: str, *settings: Any, name: str = "lines.txt") -> Any:
        path = tmp_path / name
        path.write_text(text)
        return read_peak_list(path, *settings)

    return run


def column(values: Any) -> str:
    return "\n".join(f"{float(v)!r}" for v in values)


def test_one_column_of_each_kind(read: Any) -> None:
    for kind, values in (("q2", Q2), ("d", D), ("two_theta", TWO_THETA)):
        found = read(column(values), kind, WAVELENGTH)
        np.testing.assert_allclose(found.q2, Q2, rtol=1e-12)
        assert found.notes == ()
        assert found.sigma is None


def test_named_columns_with_sigma(read: Any) -> None:
    rows = [f"{t!r}, 0.02, {100 + n}" for n, t in enumerate(TWO_THETA.tolist())]
    text = "\n".join(["# wavelength: 1.5418 Å", "2Theta,esd,Intensity", *rows])
    found = read(text, name="lines.csv")
    np.testing.assert_allclose(found.q2, Q2)
    np.testing.assert_allclose(found.intensity, 100 + np.arange(len(Q2)))
    moved = (2 * np.sin(np.radians(TWO_THETA + 1e-4) / 2) / WAVELENGTH) ** 2
    np.testing.assert_allclose(found.sigma, 0.02 * (moved - Q2) / 1e-4, rtol=1e-3)


def test_sigma_of_d_and_of_q2(read: Any) -> None:
    found = read("d sigma\n" + "\n".join(f"{d!r} 0.01" for d in D.tolist()))
    np.testing.assert_allclose(found.sigma, 0.02 / D**3)
    found = read("q2 sigma\n" + "\n".join(f"{q!r} 0.001" for q in Q2.tolist()))
    np.testing.assert_allclose(found.sigma, 0.001)


def test_json_and_npy(read: Any, tmp_path: Path) -> None:
    tree = {"two_theta": TWO_THETA.tolist(), "wavelength_A": WAVELENGTH, "title": "a sample"}
    np.testing.assert_allclose(read(json.dumps(tree), name="a.json").q2, Q2)
    np.testing.assert_allclose(read(json.dumps(D.tolist()), "d", name="a.json").q2, Q2)
    np.save(tmp_path / "a.npy", np.column_stack([Q2, 0.01 * Q2]))
    found = read_peak_list(tmp_path / "a.npy", "q2")
    np.testing.assert_allclose(found.sigma, 0.01 * Q2)


def test_gsas(read: Any) -> None:
    rows = [
        f"[{t!r}, True, {50.0 + t!r}, True, 9.1, False, 0.0, False]" for t in TWO_THETA.tolist()
    ]
    text = "\n".join(["#GSAS-II PWDR peaks list file; do not add/delete items!", *rows])
    found = read(text, None, WAVELENGTH, name="a.pkslst")
    np.testing.assert_allclose(found.q2, Q2)
    np.testing.assert_allclose(found.intensity, 50.0 + TWO_THETA)
    with pytest.raises(InputError, match=r"line 2: .* is no peak of GSAS-II"):
        read(text.replace("[", "(", 1), None, WAVELENGTH, name="a.pkslst")


def test_sorting_merging_and_lengths_are_noted(read: Any) -> None:
    shuffled = [*Q2[[3, 1, 2, 0, *range(4, 12)]], Q2[5]]
    found = read(column(shuffled), "q2")
    np.testing.assert_allclose(found.q2, Q2)
    assert "sorted" in found.notes[0]
    assert "1 lines were given twice" in found.notes[1]
    assert "small and symmetric" in read(column(Q2[:8]), "q2").notes[0]
    long = read(column(np.linspace(0.01, 1.0, 80)), "q2")
    assert len(long.q2) == 60
    assert "first 60" in long.notes[0]


@pytest.mark.parametrize(
    ("text", "settings", "told"),
    [
        (column(Q2[:7]), ("q2",), "holds 7 lines"),
        (column([*Q2[:7], Q2[6]]), ("q2",), "7 different lines"),
        (column([*Q2, -0.1]), ("q2",), r"line 13: q2 is -0\.1"),
        (column([*Q2, np.nan]), ("q2",), "line 13: q2 is nan"),
        (column(TWO_THETA), ("d",), "as 2θ does: set peaks.kind = two_theta"),
        (column(D), ("q2",), "as d does: set peaks.kind = d"),
        (column(Q2), ("d",), "as q² does: set peaks.kind = q2"),
        (column(0.1 * D), ("d",), "another unit"),
        (column([*TWO_THETA, 181.0]), ("two_theta", 1.54), "not below 180"),
        (column(Q2) + "\nhalf", ("q2",), "line 13: 'half' are not numbers"),
        (column(Q2) + "\n1 2 3", ("q2",), "line 13: 3 numbers where 1"),
        ("d q2\n1 2", (), "it has q2 and d"),
        ("d colour\n1 2", (), "names its columns 'd colour'"),
        ("", ("d",), "it has none"),
    ],
)
def test_bad_lists(read: Any, text: str, settings: Any, told: str) -> None:
    with pytest.raises(InputError, match=told) as raised:
        read(text, *settings)
    assert "lines.txt" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bad_settings(read: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"peaks\.wavelength_A"):
        read(column(TWO_THETA), "two_theta")
    with pytest.raises(ConfigError, match="is no wavelength"):
        read(column(TWO_THETA), "two_theta", -1.0)
    with pytest.raises(ConfigError, match="does not say what its numbers are"):
        read(column(TWO_THETA))
    with pytest.raises(ConfigError, match="'q' is none of"):
        read(column(TWO_THETA), "q")
    with pytest.raises(InputError, match="cannot be read"):
        read_peak_list(tmp_path / "none.txt", "d")
    with pytest.raises(InputError, match=r"line 1, is not JSON"):
        read("{", name="a.json")
    with pytest.raises(InputError, match="no number"):
        read('{"d": [1, "two"]}', name="a.json")
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"is no \.npy file"):
        read_peak_list(tmp_path / "a.npy", "d")


def test_measured_lists(shared_data: Path, read: Any) -> None:
    records = (shared_data / "powder" / "experimental_lists.jsonl").read_text().splitlines()
    for record in records:
        tree = json.loads(record)
        found = read(
            json.dumps({key: tree[key] for key in ("q2", "height") if key in tree}), name="a.json"
        )
        assert len(found.q2) == min(len(tree["q2"]), 60)
        assert (np.diff(found.q2) > 0).all()


# ---- other countries, other programs ---------------------------------------------------------


def comma(text: str) -> str:
    return text.replace(".", ",")


TWO_COLUMNS = [f"{t:.4f} {100 + n / 2:.1f}" for n, t in enumerate(TWO_THETA.tolist())]


@pytest.mark.parametrize(
    "text",
    [
        "# Wavelength 1,5418\ntwo_theta intensity\n" + "\n".join(TWO_COLUMNS),
        "# Wavelength 1,5418\ntwo_theta intensity\n" + comma("\n".join(TWO_COLUMNS)),
        "# λ = 0,15418 nm\ntwo_theta;intensity\n" + comma("\n".join(TWO_COLUMNS)).replace(" ", ";"),
        "# lambda: 154.18 pm\ntwo_theta\tintensity\n" + "\n".join(TWO_COLUMNS).replace(" ", "\t"),
        "# Cu K-Alpha1: 1.5418, 40 kV, 30 mA\ntwo_theta,intensity\n"
        + "\n".join(TWO_COLUMNS).replace(" ", ","),
        "# wavelength 1.5418\ntwo_theta\n" + comma("\n".join(x.split()[0] for x in TWO_COLUMNS)),
    ],
)
@pytest.mark.parametrize("form", ["utf-8", "utf-8-sig", "utf-16", "crlf"])
def test_commas_marks_and_line_ends(text: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    data = text.replace("\n", "\r\n").encode() if form == "crlf" else text.encode(form)
    path.write_bytes(data)
    found = read_peak_list(path)
    np.testing.assert_allclose(found.q2, Q2, rtol=2e-5)
    assert found.intensity is None or found.intensity[1] == 100.5


def test_latin_1_comments(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(
        "# Länge in Å, wavelength 1.5418\n".encode("latin-1") + column(TWO_THETA).encode()
    )
    np.testing.assert_allclose(read_peak_list(path, "two_theta").q2, Q2, rtol=1e-12)


@pytest.mark.parametrize(
    "comment",
    [
        "# wavelength 1.54056 1.54439",
        "# Wavelengths: 1,54056; 1,54439 (Ka1, Ka2)",
        "# K-Alpha1 wavelength: 1.54056\n# K-Alpha2 wavelength: 1.54439",
        "# Kα1 1.54056 Kα2 1.54439",
    ],
)
def test_several_wavelengths_are_a_question(comment: str, read: Any) -> None:
    text = f"{comment}\n{column(TWO_THETA)}"
    with pytest.raises(ConfigError, match=r"1\.54056, 1\.54439 Å.*Which one.*wavelength_A"):
        read(text, "two_theta")
    found = read(text, "two_theta", WAVELENGTH)
    np.testing.assert_allclose(found.q2, Q2, rtol=1e-12)
    assert len(read(f"{comment}\n{column(Q2)}", "q2").q2) == len(Q2)  # where none is needed


def test_several_wavelengths_of_json(read: Any) -> None:
    tree = {"two_theta": TWO_THETA.tolist(), "wavelength": [1.54056, 1.54439]}
    with pytest.raises(ConfigError, match="several wavelengths"):
        read(json.dumps(tree), name="a.json")


def test_a_tube_is_no_wavelength(read: Any) -> None:
    with pytest.raises(ConfigError, match="without the wavelength"):
        read("# Cu Kα, 40 kV, 30 mA\n" + column(TWO_THETA), "two_theta")


def test_commas_that_cannot_be_told_are_a_question(read: Any) -> None:
    text = comma("\n".join(x.split()[0] for x in TWO_COLUMNS))
    with pytest.raises(InputError, match=r"cannot be told whether .* decimal comma or several"):
        read(text, "two_theta", WAVELENGTH)
