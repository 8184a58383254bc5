"""What of a crystal can be refined: one table, a line for each parameter or family of them.

Layouts and priors of the models, columns of frames.h5 and how an earlier job's are read back, the
groups of the schemes in turn, titles and histograms of the report all follow from it. The order is
that of the columns of local parameters, which kernels.postrefine goes by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sfxproc.kernels.changes import Change
from sfxproc.models.settings import ParameterSettings

F8 = NDArray[np.float64]

SCALE_PRIOR = 3.0  # σ of ln G, for a crystal that turns away from all it was seen to show


@dataclass(frozen=True)
class Unit:
    """How local values are shown: column = shown(value), value = read(column); slope = d column/
    d value, for σ."""

    shown: Callable[[F8], F8]
    read: Callable[[F8], F8]
    slope: Callable[[F8], F8]


AS_IS = Unit(lambda v: v, lambda v: v, np.ones_like)
MILLI = Unit(lambda v: 1e3 * v, lambda v: 1e-3 * v, lambda v: np.full_like(v, 1e3))
EXPONENTIAL = Unit(np.exp, np.log, np.exp)

Group = Literal["scale", "orientation", "size", "cell"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of every crystal, or a family whose names hold {} for 1, 2 …

    name : in layouts. column : in frames.h5, where sigma_… has its standard uncertainty. title :
    of that column. group : schemes in turn refine a group at a time. free : whether it is refined.
    prior_sigma : of a Gaussian that holds it, in its own unit. These two of scales are what scaling
    has made them, and a prior_sigma of None is, too. unit : of the column. optional : there only if
    it is refined. number : of a family; None for one of each strain of a cell. change : of the
    numbers that a partiality model takes, by all of the family (kernels.changes). histogram : its
    title, if there is one; parameters that share it are drawn together, as length of a vector.
    """

    name: str
    column: str
    title: str
    group: Group
    free: Callable[[ParameterSettings], bool]
    prior_sigma: Callable[[ParameterSettings], float] | None
    unit: Unit = AS_IS
    optional: bool = True
    number: int | None = 1
    change: Change | None = None
    histogram: str = ""

    def numbered(self, n: int) -> Parameter:
        """Number n of a family."""
        texts = {key: getattr(self, key).format(n) for key in ("name", "column", "title")}
        return replace(self, **texts, histogram=self.histogram.format(n))


STRAIN = "strain_{}"
WAVE = "ln_wavenumber"
TABLE = (
    Parameter(
        "ln_G",
        "ln_G",
        "ln G",
        "scale",
        lambda s: True,
        lambda s: SCALE_PRIOR,
        optional=False,
        histogram="Scale",
    ),
    Parameter(
        "B_A2",
        "B_A2",
        "B / Å²",
        "scale",
        lambda s: True,
        None,
        optional=False,
        histogram="Relative B factor",
    ),
    *(
        Parameter(
            f"theta_{n}",
            f"theta_{n}_mrad",
            f"θ{digit} / mrad",
            "orientation",
            lambda s: s.orientation,
            lambda s: 1e-3 * s.theta_prior_mrad,
            unit=MILLI,
            optional=False,
            histogram="Change of orientation",
        )
        for n, digit in enumerate("₁₂", 1)
    ),
    Parameter(
        "ln_size",
        "size",
        "size / Å⁻¹",
        "size",
        lambda s: s.refine_size,
        lambda s: s.size_prior,
        unit=EXPONENTIAL,
        optional=False,
        histogram="Size of reciprocal-lattice points",
    ),
    # in one group with the wavelength, which is nearly the same thing as a change of all lengths
    Parameter(
        STRAIN,
        STRAIN,
        "strain {}",
        "cell",
        lambda s: s.cell,
        lambda s: 0.01 * s.cell_prior_percent,
        number=None,
    ),
    Parameter(
        WAVE,
        WAVE,
        "ln k/k₀",
        "cell",
        lambda s: s.wavelength,
        lambda s: 0.01 * s.wavelength_prior_percent,
        histogram="Change of wavenumber",
    ),
)


@cache
def parameters_of(settings: ParameterSettings, n_strains: int = 0) -> tuple[Parameter, ...]:
    """The parameters of a crystal, in the order of their columns. n_strains : if cells are
    refined, how many a cell has."""
    out = []
    for line in TABLE:
        number = n_strains if line.number is None else line.number
        if not line.optional or line.free(settings):
            out += [line.numbered(n + 1) for n in range(number)]
    return tuple(out)


def names_of(parameters: Iterable[Parameter]) -> tuple[str, ...]:
    """Their names, as layouts have them."""
    return tuple(parameter.name for parameter in parameters)


SCALES = names_of(p for p in TABLE if p.group == "scale")


def named(names: Iterable[str]) -> tuple[Parameter, ...]:
    """The parameters of these names. Raises KeyError for one that is not in the table."""
    found = [_line(name, "name") for name in names]
    if None in found:
        raise KeyError(f"not in the table of parameters: one of {', '.join(names)}")
    return tuple(p for p in found if p is not None)


def among(columns: Iterable[str]) -> tuple[Parameter, ...]:
    """The parameters that columns of frames.h5 hold, in their order."""
    found = [_line(column, "column") for column in columns]
    return tuple(p for p in found if p is not None)


def _line(text: str, key: Literal["name", "column"]) -> Parameter | None:
    """The parameter whose name or column it is."""
    for line in TABLE:
        match = re.fullmatch(getattr(line, key).replace("{}", r"(\d+)"), text)
        if match:
            return line.numbered(int(match[1])) if match.groups() else line
    return None


def groups_of(names: Iterable[str]) -> list[list[int]]:
    """Columns of each group, which schemes in turn refine together."""
    groups: dict[str, list[int]] = {}
    for column, parameter in enumerate(named(names)):
        groups.setdefault(parameter.group, []).append(column)
    return list(groups.values())


def columns_of(names: Sequence[str], local: F8, sigma: F8) -> dict[str, F8]:
    """Columns of frames.h5 from values and σ (n, p) of the parameters of these names."""
    out = {}
    for parameter, value, off in zip(named(names), local.T, sigma.T, strict=True):
        out[parameter.column] = parameter.unit.shown(value)
        out[f"sigma_{parameter.column}"] = parameter.unit.slope(value) * off
    return out


def changes_of(parameters: Iterable[Parameter]) -> tuple[tuple[Change, ...], tuple[int, ...]]:
    """Changes of the numbers that a partiality model takes, and how many parameters each has."""
    numbers: dict[Change, int] = {}
    for parameter in parameters:
        if parameter.change is not None:
            numbers[parameter.change] = numbers.get(parameter.change, 0) + 1
    return tuple(numbers), tuple(numbers.values())
