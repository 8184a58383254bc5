"""Job files: TOML in, a typed frozen struct out, and back to TOML.

Reading goes in three steps that can be used apart: `read_toml` (a file into a tree of dicts),
`apply_overrides` (`a.b=c` from the command line into the tree) and `convert` (the tree into a
struct, strictly). All mistakes `convert` finds are told in one ConfigError.
"""

from __future__ import annotations

import datetime
import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, inspect

from sfxproc.errors import ConfigError

Tree = dict[str, Any]
Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
FractionBelowOne = Annotated[float, Meta(ge=0, lt=1)]
Whole = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]
"""Numbers of settings, as annotations."""
StructT = TypeVar("StructT", bound=msgspec.Struct)


def load(text_or_path: str | Path, overrides: Sequence[str], config_type: type[StructT]) -> StructT:
    """The configuration in a file (a Path) or in TOML text (a str), with overrides on top.

    Raises ConfigError for a missing file, bad TOML, an unknown key or a bad value.
    """
    if isinstance(text_or_path, Path):
        source, tree = f"'{text_or_path}'", read_toml(text_or_path)
    else:
        source, tree = "the given text", parse_toml(text_or_path, "the given text")
    return convert(apply_overrides(tree, overrides), config_type, source_of(source, overrides))


def source_of(source: str, overrides: Sequence[str]) -> str:
    """How messages name a job file whose values were partly set on the command line."""
    settings = " ".join(f"--set {override}" for override in overrides)
    return f"{source} with {settings}" if settings else source


def read_toml(path: Path) -> Tree:
    """The tables of a TOML file. Raises ConfigError if it is missing, unreadable or not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(_missing_file(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"'{path}' is not UTF-8 text (byte {error.start}). Give the job file, a TOML text."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The job file '{path}' cannot be read: {error.strerror}. Give a readable TOML file."
        ) from error
    return parse_toml(text, f"'{path}'")


def parse_toml(text: str, source: str) -> Tree:
    """The tables of a TOML text. Raises ConfigError with the line and column of a mistake."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason, _, _ = str(error).partition(" (at ")
        match = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        lines = text.splitlines() or [""]
        row, column = (int(match[1]), int(match[2])) if match else (len(lines), len(lines[-1]) + 1)
        shown = lines[row - 1].strip() if row <= len(lines) else ""
        raise ConfigError(
            f"{source} is not valid TOML: line {row}, column {column}"
            + (f", in `{shown}`" if shown else "")
            + f": {_lower_first(reason)}. Mend that line; "
            'texts stand in "quotes", lists in [brackets].'
        ) from None


def _missing_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"The job file '{path}' does not exist, nor does its folder '{folder}'."
    files = sorted(p.name for p in folder.iterdir() if p.is_file())
    near = difflib.get_close_matches(path.name, files, n=3, cutoff=0.5)
    near = near or [name for name in files if name.endswith(".toml")][:5]
    hint = f" Nearest names in that folder: {_quoted(near)}." if near else ""
    return f"The job file '{path}' does not exist.{hint or ' Its folder holds no .toml file.'}"


# ---- overrides -------------------------------------------------------------------------------


def apply_overrides(tree: Tree, overrides: Sequence[str]) -> Tree:
    """A new tree with each `a.b=c` put in its place; later ones win.

    c is read as a TOML value (3, true, [1, 2], "text") and, where it is none, as a text.
    """
    for override in overrides:
        dotted, equals, value = override.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys):
            raise ConfigError(
                f"--set {override}: expected key=value with a dotted key, for example "
                "--set output.folder=out2."
            )
        tree = _with_value(tree, keys, _toml_value(value.strip(), override), override)
    return tree


def _with_value(tree: Tree, keys: Sequence[str], value: object, override: str) -> Tree:
    if len(keys) == 1:
        return {**tree, keys[0]: value}
    inner = tree.get(keys[0], {})
    if not isinstance(inner, dict):
        raise ConfigError(
            f"--set {override}: '{keys[0]}' is a value ({_shown(inner)}), not a table, so nothing "
            f"can be set inside it. Use --set {keys[0]}=value."
        )
    return {**tree, keys[0]: _with_value(inner, keys[1:], value, override)}


class _Bare(str):
    """A text given without quotes on the command line: one element will do for a list."""


def _toml_value(text: str, override: str) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        if text[:1] in ("[", "{", '"', "'"):
            raise ConfigError(
                f"--set {override}: '{text}' is not a TOML value. Quote texts inside lists, and "
                'the whole for the shell: --set \'input.paths=["a.stream", "b.stream"]\'.'
            ) from None
        return _Bare(text)
    value = parsed["value"]
    if len(parsed) > 1 or isinstance(value, datetime.date | datetime.time):
        return _Bare(text)
    return _Bare(value) if isinstance(value, str) else value


# ---- the tree into a struct ------------------------------------------------------------------


def convert(tree: Tree, config_type: type[StructT], source: str) -> StructT:
    """The tree as `config_type`. `source` names where it came from, for messages.

    Raises ConfigError telling every unknown key, missing key and bad value.
    """
    info = inspect.type_info(config_type)
    assert isinstance(info, inspect.StructType)
    tree = _fitted(tree, info)
    problems = list(_problems(tree, info, "", list(_leaf_paths(info, ""))))
    if not problems:
        try:
            return msgspec.convert(tree, config_type, strict=True)
        except msgspec.ValidationError as error:  # a struct's own __post_init__
            text, _, place = str(error).partition(" - at ")
            path = place.strip("`").removeprefix("$").lstrip(".")
            problems = [f"{path}: {_lower_first(text)}" if path else text]
    if len(problems) == 1:
        raise ConfigError(f"In {source}: {problems[0].rstrip('.')}.")
    listed = "".join(f"\n- {problem}" for problem in problems)
    raise ConfigError(f"{len(problems)} mistakes in {source}:{listed}")


def _fitted(value: Any, info: inspect.Type) -> Any:
    """The value with bare texts of the command line shaped to what their place wants."""
    if isinstance(value, dict):
        struct = _struct_of(info, value)
        known = {f.encode_name: f.type for f in struct.fields} if struct else {}
        return {k: _fitted(v, known.get(k, inspect.AnyType())) for k, v in value.items()}
    if isinstance(value, _Bare):
        members = _members(info)
        is_list = any(isinstance(m, inspect.ListType) for m in members)
        as_list = is_list and not any(isinstance(m, inspect.StrType) for m in members)
        return [str(value)] if as_list else str(value)
    return value


def _problems(
    tree: Tree, info: inspect.StructType, path: str, all_paths: Sequence[str]
) -> Iterator[str]:
    """One part of a sentence for each mistake in a table and the tables inside it."""
    fields = {f.encode_name: f for f in info.fields}
    annotations = {f.encode_name: f.type for f in msgspec.structs.fields(info.cls)}
    for key, value in tree.items():
        name = f"{path}{key}"
        if key == info.tag_field:
            if value != info.tag:
                yield f"{name} = {_shown(value)}: must be {_shown(info.tag)}"
        elif key not in fields:
            yield _unknown(key, path, list(fields), all_paths)
        elif (struct := _struct_of(fields[key].type, value)) is not None:
            yield from _problems(value, struct, f"{name}.", all_paths)
        elif not _is_valid(value, annotations[key]):
            yield f"{name} = {_shown(value)}: must be {allowed(fields[key].type)}"
    for key, field in fields.items():
        if not field.required or key in tree:
            continue
        if isinstance(field.type, inspect.StructType):
            yield from _problems({}, field.type, f"{path}{key}.", all_paths)
        else:
            table = f"under [{path[:-1]}]" if path else "at the top"
            yield f"{path}{key} is missing: add it {table}; it must be {allowed(field.type)}"


def _unknown(key: str, path: str, valid: Sequence[str], all_paths: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, valid, n=1)
    # a path can be known and yet wrong here: it belongs to a table with another tag
    elsewhere = [p for p in all_paths if p.rpartition(".")[2] == key and p != f"{path}{key}"]
    if near:
        hint = f"did you mean '{path}{near[0]}'?"
    elif elsewhere:
        hint = f"did you mean '{elsewhere[0]}'?"
    else:
        hint = f"{f'[{path[:-1]}]' if path else 'the top level'} knows {', '.join(valid)}"
    return f"unknown key '{path}{key}'; {hint}"


def _is_valid(value: object, annotation: Any) -> bool:
    try:
        msgspec.convert(value, annotation, strict=True)
    except msgspec.ValidationError:
        return False
    return not _has_nan(value)


def _has_nan(value: object) -> bool:
    if isinstance(value, list):
        return any(_has_nan(v) for v in value)
    return isinstance(value, float) and math.isnan(value)


def _members(info: inspect.Type) -> tuple[inspect.Type, ...]:
    if isinstance(info, inspect.Metadata):
        return _members(info.type)
    return info.types if isinstance(info, inspect.UnionType) else (info,)


def _struct_of(info: inspect.Type, value: object) -> inspect.StructType | None:
    """The struct a table is meant for; among several the one whose tag the table carries."""
    if not isinstance(value, dict):
        return None
    structs = [m for m in _members(info) if isinstance(m, inspect.StructType)]
    if len(structs) > 1:
        structs = [s for s in structs if value.get(s.tag_field) == s.tag]
    return structs[0] if structs else None


def _leaf_paths(info: inspect.StructType, path: str) -> Iterator[str]:
    for field in info.fields:
        structs = [m for m in _members(field.type) if isinstance(m, inspect.StructType)]
        for struct in structs:
            yield from _leaf_paths(struct, f"{path}{field.encode_name}.")
        if not structs:
            yield f"{path}{field.encode_name}"


def allowed(info: inspect.Type) -> str:
    """What a setting may be, in words."""
    match info:
        case inspect.Metadata():
            return allowed(info.type)
        case inspect.UnionType():
            members = [m for m in info.types if not isinstance(m, inspect.NoneType)]
            tags = [m for m in members if isinstance(m, inspect.StructType)]
            if len(tags) > 1:
                members = [m for m in members if m not in tags]
                names = ", ".join(_shown(m.tag) for m in tags)
                table = f"a table with {tags[0].tag_field} one of {names}"
                return " or ".join([table, *map(allowed, members)])
            return " or ".join(allowed(m) for m in members)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_limits(info)}"
        case inspect.FloatType():
            return f"a number{_limits(info)}"
        case inspect.StrType():
            return "a text" + (f" like {info.pattern}" if info.pattern else "")
        case inspect.LiteralType():
            return _one_of(info.values)
        case inspect.EnumType():
            return _one_of([member.value for member in info.cls])
        case inspect.ListType():
            low, high = info.min_length, info.max_length
            if high is None:
                count = "" if not low else "one or more " if low == 1 else f"{low} or more "
            else:
                count = f"{high} " if low == high else f"{low or 0} to {high} "
            return f"a list of {count}values, each {allowed(info.item_type)}"
        case inspect.TupleType():
            items = list(dict.fromkeys(allowed(t) for t in info.item_types))
            return f"a list of {len(info.item_types)} values, each {' or '.join(items)}"
        case inspect.StructType():
            return f"a table of {', '.join(f.encode_name for f in info.fields)}"
        case inspect.DictType():
            return f"a table whose every value is {allowed(info.value_type)}"
        case _:
            return f"of type {type(info).__name__.removesuffix('Type').lower()}"


def _limits(info: inspect.IntType | inspect.FloatType) -> str:
    bounds = (("above", info.gt), ("at least", info.ge), ("below", info.lt), ("at most", info.le))
    parts = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
    return " " + " and ".join(parts) if parts else ""


def _one_of(values: Sequence[object]) -> str:
    shown = [_shown(v) for v in values]
    return shown[0] if len(shown) == 1 else f"one of {', '.join(shown)}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    return _toml(value)


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


# ---- back to TOML ----------------------------------------------------------------------------


def resolved_toml(config: msgspec.Struct, header_comment: str = "") -> str:
    """The configuration as TOML text that reads back as an equal one; None is left out."""
    header = "".join(f"# {line}".rstrip() + "\n" for line in header_comment.splitlines())
    body = "\n".join(_table_lines(msgspec.to_builtins(config), ""))
    return f"{header}\n{body}\n" if header else f"{body}\n"


def _table_lines(table: Tree, path: str) -> Iterator[str]:
    # plain values first: what follows a [table] line would belong to that table
    for key, value in table.items():
        if value is not None and not isinstance(value, dict):
            yield f"{_toml_key(key)} = {_toml(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{path}{_toml_key(key)}"
            yield f"\n[{name}]"
            yield from _table_lines(value, f"{name}.")


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            # a JSON string is a TOML string, but for DEL, which TOML wants escaped
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(_toml(v) for v in value)}]"
        case dict():
            pairs = (f"{_toml_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None)
            return f"{{ {', '.join(pairs)} }}"
        case _:
            return str(value)  # int, float (with inf and nan), date
