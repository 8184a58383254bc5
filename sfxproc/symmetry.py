"""Space groups: asymmetric unit, absences, multiplicities, constraints on the cell.

Conventions: a rotation R acts on a row of Miller indices, h' = h R; the asymmetric unit is CCP4's;
the orthogonal frame is the PDB's: a along x, b in the xy plane, hence c* along z.

Cell constraints come from the group itself, so every setting is covered: the metric tensor
G = (aᵢ·aⱼ) of a cell that obeys the group satisfies G = Rᵀ G R for each rotation R, and the mean
of Rᵀ G R over the group is the nearest such G.

Reindexing by a matrix R is h' = h R; then A' = A (R⁻¹)ᵀ, so that q = A h stays, and G' = Rᵀ G R.
The settings in which a crystal may have been indexed are the cosets R L of the Laue group L in the
symmetry of its lattice, found by Le Page's obliquity (J. Appl. Cryst. 15, 255, 1982).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfxproc.data import Floats, Ints, Mask, Reflections, packed_hkl
from sfxproc.errors import ConfigError
from sfxproc.kernels import hkl as kernels

CELL_LENGTH_TOLERANCE = 0.02
CELL_ANGLE_TOLERANCE_DEG = 2.0
CHUNK = 1 << 20
FRIEDEL_OF_CODE = np.array([0, 1, -1], dtype=np.int8)


@dataclass(frozen=True)
class SpaceGroup:
    """A space group in one setting. Groups are equal if their `hm` is.

    hm : Hermann–Mauguin symbol, with ':H', ':R', ':1' or ':2' where settings differ by origin
        or axes.  point_group : e.g. "422".  laue_class : e.g. "4/mmm".  centring : P A B C I F R H.
    rotations : (n, 3, 3) int8, proper and improper, of the point group (no Friedel's law).
    """

    hm: str
    number: int = field(compare=False)
    crystal_system: str = field(compare=False)
    laue_class: str = field(compare=False)
    point_group: str = field(compare=False)
    centring: str = field(compare=False)
    rotations: NDArray[np.int8] = field(compare=False, repr=False)


def space_group(name: str | int) -> SpaceGroup:
    """The space group of a number (standard setting) or a symbol ("P 43 21 2", "P43212").

    Raises ConfigError, with suggestions, for anything else.
    """
    text = str(name).strip()
    plain = text.replace("(", "").replace(")", "")  # P4(3)2(1)2; but P 21212(a) is a symbol
    tables = [gemmi.find_spacegroup_by_name(t) for t in (text, plain) if t]
    found = next((t for t in tables if t is not None), None)
    if found is None or isinstance(name, bool):
        raise ConfigError(f"space_group: there is no space group '{name}'. {_suggestion(text)}")
    operations = found.operations()
    rotations = np.array([op.rot for op in operations.sym_ops]) // gemmi.Op.DEN
    return SpaceGroup(
        hm=found.xhm(),
        number=found.number,
        crystal_system=found.crystal_system_str(),
        laue_class=found.laue_str(),
        point_group=found.point_group_hm(),
        centring=found.centring_type(),
        rotations=rotations.astype(np.int8),
    )


def tabulated_groups() -> tuple[SpaceGroup, ...]:
    """All space groups in all settings of the tables; of each number the usual one comes first."""
    return tuple(space_group(entry.xhm()) for entry in gemmi.spacegroup_table())


def _suggestion(text: str) -> str:
    known: dict[str, str] = {}
    for entry in gemmi.spacegroup_table():
        known.setdefault(entry.xhm().replace(" ", "").lower(), entry.xhm())
        known.setdefault(entry.short_name().lower(), entry.xhm())
    close = difflib.get_close_matches(text.replace(" ", "").lower(), known, n=6, cutoff=0.6)
    names = list(dict.fromkeys(known[c] for c in close))[:3]
    if not names:
        return 'Give a number from 1 to 230 or a Hermann–Mauguin symbol such as "P 43 21 2".'
    return "Did you mean " + " or ".join(f'"{n}"' for n in names) + "?"


def _gemmi(sg: SpaceGroup) -> gemmi.SpaceGroup:
    return gemmi.find_spacegroup_by_name(sg.hm)


def _int32(hkl: Ints) -> NDArray[np.int32]:
    """A fresh contiguous (n, 3) int32 copy, as gemmi wants it."""
    return np.array(hkl, dtype=np.int32, order="C").reshape(-1, 3)


# ---- cells ---------------------------------------------------------------------------------


def reciprocal_matrix(cell: ArrayLike) -> Floats:
    """B (3, 3) in Å⁻¹ with columns a*, b*, c*, in the PDB frame (a along x, c* along z).

    cell : (6,) Å and degrees. q = B h.
    """
    values = np.asarray(cell, dtype=np.float64)
    a, b, c = values[:3]
    cos_a, cos_b, cos_g = np.cos(np.radians(values[3:]))
    sin_g = np.sin(np.radians(values[5]))
    c_y = (cos_a - cos_b * cos_g) / sin_g
    c_z = np.sqrt(1.0 - cos_b**2 - c_y**2)
    real = np.array(
        [[a, b * cos_g, c * cos_b], [0.0, b * sin_g, c * c_y], [0.0, 0.0, c * c_z]]
    )  # columns a, b, c
    return np.asarray(np.linalg.inv(real).T)


def cells_from_A(A: Floats) -> Floats:
    """Cells (n, 6), Å and degrees, of matrices A (n, 3, 3) with columns a*, b*, c* in Å⁻¹.

    Rows of NaN give NaN.
    """
    real = np.linalg.inv(np.asarray(A, dtype=np.float64))  # rows a, b, c
    return cells_from_metric(real @ np.swapaxes(real, -1, -2))


def metric_tensors(cells: Floats) -> Floats:
    """Metric tensors (..., 3, 3) in Å² of cells (..., 6)."""
    lengths = cells[..., :3]
    cosines = np.cos(np.radians(cells[..., 3:]))
    unit = np.empty((*cells.shape[:-1], 3, 3))
    unit[..., [0, 1, 2], [0, 1, 2]] = 1.0
    for n, (i, j) in enumerate(((1, 2), (0, 2), (0, 1))):
        unit[..., i, j] = unit[..., j, i] = cosines[..., n]
    return np.asarray(unit * lengths[..., :, None] * lengths[..., None, :])


def cells_from_metric(metric: Floats) -> Floats:
    """Cells (..., 6), Å and degrees, of metric tensors (..., 3, 3) in Å²."""
    lengths = np.sqrt(np.einsum("...ii->...i", metric))
    a, b, c = np.moveaxis(lengths, -1, 0)
    cosines = np.stack(
        [metric[..., 1, 2] / (b * c), metric[..., 0, 2] / (a * c), metric[..., 0, 1] / (a * b)],
        axis=-1,
    )
    angles = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
    return np.asarray(np.concatenate([lengths, angles], axis=-1))


def symmetrised_cell(sg: SpaceGroup, cell: ArrayLike) -> Floats:
    """The nearest cell (6,) that obeys the group's constraints, rounded to 1e-9 Å and degrees."""
    rotations = sg.rotations.astype(np.float64)
    metric = metric_tensors(np.asarray(cell, dtype=np.float64))
    mean = np.einsum("mji,jk,mkl->il", rotations, metric, rotations) / len(rotations)
    return np.round(cells_from_metric(mean), 9)


def median_cell(sg: SpaceGroup, cells: Floats) -> Floats:
    """Median (6,) of cells (n, 6), made to obey the group's constraints; NaN rows are left out."""
    finite = cells[np.isfinite(cells).all(axis=1)]
    if len(finite) == 0:
        return np.full(6, np.nan)
    return symmetrised_cell(sg, np.median(finite.astype(np.float64), axis=0))


def cell_fits(
    cells: Floats, target: ArrayLike, length_tolerance_percent: float, angle_tolerance_deg: float
) -> Mask:
    """(n,) whether each cell (n, 6) lies within the tolerances of target (6,); NaN does not."""
    off = np.abs(cells - np.asarray(target, dtype=np.float64))
    lengths = off[:, :3] <= 0.01 * length_tolerance_percent * np.asarray(target)[:3]
    return np.asarray(lengths.all(axis=1) & (off[:, 3:] <= angle_tolerance_deg).all(axis=1))


def _broken_constraints(sg: SpaceGroup, cell: Floats) -> list[str]:
    """The constraints of the group that the cell breaks, in words such as 'a = b'.

    Which constraints there are shows in what becomes of a cell that obeys none.
    """
    probe = symmetrised_cell(sg, [7.0, 11.0, 13.0, 81.0, 97.0, 106.0])
    letters = ("a", "b", "c", "α", "β", "γ")
    broken = []
    for i, j in ((0, 1), (1, 2), (0, 2)):
        tied = np.isclose(probe[i], probe[j])
        if tied and abs(cell[i] - cell[j]) > CELL_LENGTH_TOLERANCE * cell[j]:
            broken.append(f"{letters[i]} = {letters[j]}")
    for i in (3, 4, 5):
        for fixed in (90.0, 120.0):
            off = abs(cell[i] - fixed) > CELL_ANGLE_TOLERANCE_DEG
            if np.isclose(probe[i], fixed) and off:
                broken.append(f"{letters[i]} = {fixed:.0f}°")
    if sg.hm.endswith(":R"):
        for i, j in ((3, 4), (4, 5), (3, 5)):
            if abs(cell[i] - cell[j]) > CELL_ANGLE_TOLERANCE_DEG:
                broken.append(f"{letters[i]} = {letters[j]}")
    return broken


def require_cell(sg: SpaceGroup, cell: ArrayLike) -> None:
    """Raise ConfigError, with a way out, if the cell (6,) contradicts the crystal system.

    Tolerances: 2 % between lengths that should be equal, 2° in angles.
    """
    values = np.asarray(cell, dtype=np.float64)
    text = " ".join(f"{v:.6g}" for v in values)
    if values.shape != (6,) or not np.isfinite(values).all() or not (values > 0).all():
        raise ConfigError(
            f"unit_cell: '{text}' is not a unit cell. Give six positive numbers: "
            "a b c in Å, then α β γ in degrees."
        )
    if np.linalg.det(metric_tensors(values)) <= 0:
        raise ConfigError(f"unit_cell: no cell has the angles of '{text}'. Correct them (degrees).")
    broken = _broken_constraints(sg, values)
    if not broken:
        return
    if sg.hm.endswith(":H") and not _broken_constraints(_sibling(sg, "R"), values):
        advice = f'The cell is a rhombohedral one: set space_group = "{_sibling(sg, "R").hm}".'
    elif sg.hm.endswith(":R") and not _broken_constraints(_sibling(sg, "H"), values):
        advice = f'The cell is a hexagonal one: set space_group = "{_sibling(sg, "H").hm}".'
    else:
        advice = "Correct space_group, or unit_cell if it was given"
        for order in list(permutations(range(3)))[1:]:
            axes = [*order, *(3 + i for i in order)]
            if not _broken_constraints(sg, values[axes]):
                names = ", ".join("abc"[i] for i in order)
                advice += (
                    f"; the cell would fit with its axes taken in the order {names}, so look for "
                    "a setting of the group with these axes or reindex the data"
                )
                break
        advice += "."
    raise ConfigError(
        f"The unit cell {text} does not fit space group {sg.hm} ({sg.crystal_system}), which "
        f"requires {', '.join(broken)}. {advice}"
    )


def _sibling(sg: SpaceGroup, axes: str) -> SpaceGroup:
    return space_group(f"{sg.hm[:-1]}{axes}")


# ---- reflections ---------------------------------------------------------------------------


def s_squared(hkl: Ints, cell: ArrayLike) -> Floats:
    """(sinθ/λ)² (n,) float64 in Å⁻² of hkl (n, 3) in the cell (6,)."""
    matrix = reciprocal_matrix(cell)
    out = np.empty(len(hkl))
    kernels.s_squared(hkl, matrix.T @ matrix, out)
    return out


def unique_keys(sg: SpaceGroup, hkl: Ints, anomalous: bool) -> NDArray[np.int64]:
    """Key (n,) of the unique reflection each hkl (n, 3) is an observation of.

    key = packed_hkl(hkl in the asymmetric unit) << 2 | code, where code is 0 for centric
    reflections and wherever Friedel mates are merged (`anomalous` false), 1 for I(+), 2 for I(−).
    Keys sort as h, k, l, code.
    """
    group = _gemmi(sg)
    keys = np.empty(len(hkl), dtype=np.int64)
    for start in range(0, len(hkl), CHUNK):
        part = slice(start, start + CHUNK)
        asu = _int32(hkl[part])
        group.switch_to_asu(asu)
        keys[part] = packed_hkl(asu) << 2
        if anomalous:
            code = np.empty(len(asu), dtype=np.int64)
            kernels.friedel_codes(hkl[part], asu, sg.rotations, code)
            keys[part] |= code
    return keys


def reflections(sg: SpaceGroup, cell: ArrayLike, keys: NDArray[np.int64]) -> Reflections:
    """The table of the unique reflections whose keys (n,) `unique_keys` gave.

    epsilon does not count the centring of the lattice.
    """
    packed = keys >> 2
    field_mask = (1 << 20) - 1
    columns: list[NDArray[Any]] = [
        ((packed >> shift) & field_mask) - (1 << 19) for shift in (40, 20, 0)
    ]
    hkl = np.stack(columns, axis=1)
    operations = _gemmi(sg).operations()
    wide = _int32(hkl)
    return Reflections(
        hkl=hkl.astype(np.int16),
        friedel=FRIEDEL_OF_CODE[keys & 3],
        s2=s_squared(wide, cell),
        centric=operations.centric_flag_array(wide),
        epsilon=operations.epsilon_factor_without_centering_array(wide).astype(np.int16),
    )


def possible(
    sg: SpaceGroup, cell: ArrayLike, d_min_A: float, d_max_A: float | None, anomalous: bool
) -> Reflections:
    """All unique reflections between the limits (Å) that the group does not extinguish."""
    unit_cell = gemmi.UnitCell(*(float(v) for v in np.asarray(cell)))
    hkl = gemmi.make_miller_array(unit_cell, _gemmi(sg), d_min_A, d_max_A or 0.0, True)
    keys = unique_keys(sg, hkl, anomalous)
    if anomalous:  # I(−) of every acentric reflection
        keys = np.concatenate([keys, keys[keys & 3 == 1] + 1])
    return reflections(sg, cell, np.sort(keys))


def absent(sg: SpaceGroup, hkl: Ints) -> Mask:
    """(n,) whether each hkl (n, 3) is systematically absent, by centring, screw axis or glide."""
    return np.asarray(_gemmi(sg).operations().systematic_absences(_int32(hkl)))


# ---- indexing ambiguities --------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reindexing:
    """An operator on Miller indices, h' = h R. triplet : such as "k,h,-l". matrix : (3, 3) float64
    R, a proper rotation; halves or thirds where the lattice is centred."""

    triplet: str
    matrix: NDArray[np.float64]


def twin_operators(
    sg: SpaceGroup, cell: ArrayLike, max_obliquity_deg: float
) -> tuple[Reindexing, ...]:
    """The inequivalent ways to reindex crystals of a group in the cell (6,), identity left out.

    One operator for each setting: of a coset the rotation of lowest order, shortest in writing.
    Two-fold axes of the lattice count within max_obliquity_deg (some 0.6° for each per cent between
    lengths that they exchange), so that merohedral and pseudo-merohedral operators are there.
    """
    unit_cell = gemmi.UnitCell(*(float(v) for v in np.asarray(cell)))
    laws = gemmi.find_twin_laws(unit_cell, _gemmi(sg), max(max_obliquity_deg, 1e-6), True)
    laue = _laue_rotations(sg)
    written = {op.as_hkl().triplet(): np.array(op.rot) / gemmi.Op.DEN for op in laws}
    found: list[Reindexing] = []
    for triplet in sorted(written, key=lambda t: _simplicity(t, written[t])):
        matrix = written[triplet]
        known = (laue, *(o.matrix @ laue for o in found))
        if not any(_holds(coset, matrix) for coset in known):
            found.append(Reindexing(triplet, matrix))
    return tuple(found)


def _laue_rotations(sg: SpaceGroup) -> NDArray[np.float64]:
    """(n, 3, 3) the proper rotations of the Laue group."""
    signs = np.round(np.linalg.det(sg.rotations.astype(np.float64)))
    return np.asarray(np.unique(sg.rotations * signs[:, None, None], axis=0))


def _holds(coset: NDArray[np.float64], matrix: NDArray[np.float64]) -> bool:
    return bool(np.isclose(coset, matrix, atol=1e-6).all(axis=(1, 2)).any())


def _simplicity(triplet: str, matrix: NDArray[np.float64]) -> tuple[float, int, list[str]]:
    """Rotations in the order of preference: two-fold first (trace −1, then 0, 1, 2)."""
    return round(float(np.trace(matrix))), len(triplet), triplet.split(",")[::-1]


def relative_settings(sg: SpaceGroup, operators: tuple[Reindexing, ...]) -> NDArray[np.int8]:
    """(k, k) with k = 1 + len(operators): at [s, t] the setting in which a crystal of setting s is
    if setting t is to be called 0, all others changed alike.

    Setting 0 is that of the identity. A column holds −1 if its operator turns the axes of the Laue
    group into others, so that its setting cannot be called 0.
    """
    laue = _laue_rotations(sg)
    matrices = [np.eye(3), *(o.matrix for o in operators)]
    cosets = [m @ laue for m in matrices]
    table = np.full((len(matrices), len(matrices)), -1, dtype=np.int8)
    for t, back in enumerate(np.linalg.inv(m) for m in matrices):
        if all(_holds(laue, np.linalg.inv(back) @ rotation @ back) for rotation in laue):
            for s, matrix in enumerate(matrices):
                table[s, t] = next(i for i, c in enumerate(cosets) if _holds(c, matrix @ back))
    return table


def reindexed_hkl(hkl: Ints, operator: Reindexing) -> Ints:
    """hkl (n, 3) in another setting, of the same type; they must obey the lattice's centring."""
    return np.asarray(np.rint(hkl @ operator.matrix).astype(hkl.dtype))


def reindexed_cells(A: Floats, cells: Floats, operator: Reindexing) -> tuple[Floats, Floats]:
    """A (n, 3, 3) and cells (n, 6) in another setting; rows of NaN stay such."""
    R = operator.matrix
    moved = np.asarray(A @ np.linalg.inv(R).T)
    return moved, cells_from_metric(R.T @ metric_tensors(np.asarray(cells, dtype=np.float64)) @ R)


def same_laue_group(a: SpaceGroup, b: SpaceGroup) -> bool:
    """Whether both groups make the same reflections equivalent, axes included (−31m ≠ −3m1)."""
    return len({frozenset(r.tobytes() for r in (*g.rotations, *-g.rotations)) for g in (a, b)}) == 1
