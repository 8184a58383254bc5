"""Dataclasses as named arrays and back: what tasks find, as it is kept and as it travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray


class Record(Protocol):
    """A dataclass whose fields are arrays or numbers; None, if a field may be, is none there."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


R = TypeVar("R", bound=Record)


def to_arrays(record: Record) -> dict[str, NDArray[Any]]:
    """The fields of a record by name; those that are None are left out."""
    values = ((f.name, getattr(record, f.name)) for f in fields(record))
    return {name: np.asarray(value) for name, value in values if value is not None}


def from_arrays(cls: type[R], arrays: Mapping[str, NDArray[Any]]) -> R:
    """The record of the given class that `to_arrays` made these of; other arrays are ignored.

    Raises KeyError for a field that is not there and has no None as its default.
    """
    values = {}
    for f in fields(cls):
        if f.name not in arrays and f.default is None:
            continue
        array = arrays[f.name]
        values[f.name] = array.item() if hints_of(cls)[f.name] in (float, int) else array
    return cls(**values)


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """The types of a class's fields, without what `Annotated` adds."""
    return get_type_hints(cls)
