"""Dataclasses as named arrays and back: what tasks find, as it is kept and as it travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray


class Record(Protocol):
    """A dataclass whose fields are arrays, numbers or such dataclasses; None, if a field of arrays
    may be, is none there."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=Record)


def to_arrays(record: Record) -> dict[str, NDArray[Any]]:
    """The fields of a record by name, those of a record in it as `field.name`; objects (str) as
    'U'. Those that are None are left out."""
    arrays: dict[str, NDArray[Any]] = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if is_dataclass(value) and not isinstance(value, type):
            arrays |= {f"{f.name}.{name}": array for name, array in to_arrays(value).items()}
        elif value is not None:
            array = np.asarray(value)
            arrays[f.name] = array.astype(str) if array.dtype == object else array
    return arrays


def from_arrays(cls: type[R], arrays: Mapping[str, NDArray[Any]]) -> R:
    """The record of the given class that `to_arrays` made these of; other arrays are ignored.

    Raises KeyError for a field that is not there and has no None as its default.
    """
    values: dict[str, Any] = {}
    for f in fields(cls):
        kind, prefix = hints_of(cls)[f.name], f"{f.name}."
        if isinstance(kind, type) and is_dataclass(kind):
            inner = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            values[f.name] = from_arrays(kind, inner)
        elif f.name in arrays or f.default is not None:
            array = arrays[f.name]
            array = array.astype(object) if array.dtype.kind == "U" else array
            values[f.name] = array.item() if kind in (float, int, bool) else array
    return cls(**values)


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a class's fields, without what `Annotated` adds."""
    return get_type_hints(cls)
