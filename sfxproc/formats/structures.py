"""Crystal structures from CIF and from VASP's POSCAR (versions 4 and 5)."""

from __future__ import annotations

import re
from pathlib import Path

import gemmi
import numpy as np

from sfxproc.errors import InputError
from sfxproc.structure import UNKNOWN, Structure, is_element
from sfxproc.symmetry import cells_from_A, space_group

CIF_SUFFIXES = (".cif", ".mcif")


def read_structure(path: Path) -> Structure:
    """The structure in a CIF (by its suffix) or a POSCAR (any other name).

    A POSCAR has no symmetry: its space group is P 1. One of VASP 4 may not name its elements; they
    are then `structure.UNKNOWN`. Raises InputError for anything else.
    """
    return _read_cif(path) if path.suffix.lower() in CIF_SUFFIXES else _read_poscar(path)


def _read_cif(path: Path) -> Structure:
    try:
        small = gemmi.read_small_structure(str(path))
    except (OSError, ValueError, RuntimeError, IndexError) as error:
        raise InputError(
            f"'{path}' cannot be read as a CIF: {error}. Give a CIF of one structure."
        ) from error
    kept = [site for site in small.sites if is_element(site.element.name) and site.occ > 0]
    if not kept or not small.cell.is_crystal():
        raise InputError(
            f"'{path}' holds no crystal structure: it needs _cell_length_a and its kin and a loop "
            "of _atom_site_fract_x with known elements. Give another CIF."
        )
    if small.spacegroup is None:
        raise InputError(
            f"'{path}': the space group '{small.spacegroup_hm}' is not one of the tables. Correct "
            "_space_group_name_H-M_alt, or its symmetry operations."
        )
    return Structure(
        name=path.stem,
        space_group=space_group(small.spacegroup.xhm()),
        cell=np.array(small.cell.parameters),
        elements=tuple(site.element.name for site in kept),
        sites=np.array([site.fract.tolist() for site in kept]),
        occupancies=np.array([min(site.occ, 1.0) for site in kept]),
    )


def _read_poscar(path: Path) -> Structure:
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"'{path}' cannot be read: {error}. Give a CIF or a POSCAR.") from error
    at = 1
    try:
        scale = float(lines[1].split()[0])
        vectors = np.array([[float(v) for v in lines[n].split()[:3]] for n in (2, 3, 4)])
        at = 5
        named = not lines[at].split()[0].isdigit()
        names = lines[at].split() if named else []
        at += named
        counts = [int(v) for v in lines[at].split("!")[0].split()]
        at += 1
        at += lines[at].strip()[:1] in ("S", "s")  # selective dynamics
        cartesian = lines[at].strip()[:1] in ("C", "c", "K", "k")
        first = at + 1
        sites, comments = [], []
        for at in range(first, first + sum(counts)):
            sites.append([float(v) for v in lines[at].split()[:3]])
            comments.append(lines[at])
    except (IndexError, ValueError) as error:
        raise InputError(
            f"'{path}', line {at + 1}, is not what a POSCAR has there ({error}). A POSCAR holds a "
            "title, a scale, three lattice vectors, counts of atoms and their coordinates; CIFs "
            "are told by their suffix .cif."
        ) from error
    volume = abs(float(np.linalg.det(vectors)))
    if volume == 0 or not sites:
        raise InputError(f"'{path}': lattice vectors without volume, or no atoms. Correct it.")
    vectors *= scale if scale > 0 else (-scale / volume) ** (1 / 3)
    xyz = np.array(sites)
    if cartesian:
        xyz = (xyz * (scale if scale > 0 else 1.0)) @ np.linalg.inv(vectors)
    if vectors.shape != (3, 3) or xyz.shape[1] != 3:
        raise InputError(f"'{path}': a vector of the lattice or an atom has not 3 numbers.")
    return Structure(
        name=path.name,
        space_group=space_group("P 1"),
        cell=cells_from_A(np.linalg.inv(vectors)[None])[0],
        elements=_elements(names or lines[0].split(), counts, comments),
        sites=xyz,
        occupancies=np.ones(len(xyz)),
    )


def _elements(names: list[str], counts: list[int], comments: list[str]) -> tuple[str, ...]:
    """Of each atom: named in a line of their own or the title, or in the atom's comment."""
    plain = [re.split(r"[_/\d]", name)[0] for name in names]
    if len(plain) == len(counts) and all(is_element(name) for name in plain):
        return tuple(name for name, n in zip(plain, counts, strict=True) for _ in range(n))
    words = [re.findall(r"[A-Za-z]+", " ".join(text.split()[3:])) for text in comments]
    named = [[word for word in row if is_element(word)] for row in words]
    return tuple(row[-1] if row else UNKNOWN for row in named)
