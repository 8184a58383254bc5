"""Dataclasses as named arrays, in which they travel and are kept, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
PLAIN = (bool, int, float, str)


def to_arrays(record: object) -> dict[str, NDArray[Any]]:
    """The fields of a dataclass by name, those of a dataclass in it as `field.name`; numbers and
    text as arrays of one, text as 'U', and nothing for what is None."""
    assert is_dataclass(record)
    arrays: dict[str, NDArray[Any]] = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if is_dataclass(value):
            arrays |= {f"{f.name}.{name}": array for name, array in to_arrays(value).items()}
        elif value is not None:
            array = np.atleast_1d(value)
            arrays[f.name] = array.astype(str) if array.dtype == object else array
    return arrays


def from_arrays(cls: type[T], arrays: Mapping[str, NDArray[Any]]) -> T:
    """A dataclass from what `to_arrays` made of it; arrays of text have objects (str) again."""
    values: dict[str, object] = {}
    for name, kind in get_type_hints(cls).items():
        if isinstance(kind, type) and is_dataclass(kind):
            prefix = f"{name}."
            inner = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
            values[name] = from_arrays(kind, inner)
        elif name in arrays:
            array = arrays[name]
            array = array.astype(object) if array.dtype.kind == "U" else array
            values[name] = kind(array[0]) if kind in PLAIN else array
    return cls(**values)
