"""Declares settings once: a dataclass field annotated with an `Option` is also a command-line option.

```python
@dataclass(frozen=True, kw_only=True)
class Settings:
    store: Annotated[Literal["embed", "path"], Option("Where images are kept.", flags=("--images",))] = "embed"
```

The annotation gives the type; a `Literal` gives the choices. `vigc.cli.options` builds the command line from it, a
`--config` file has the same keys, and values are checked here without heavy imports.

This module imports nothing of vigc except its errors.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from difflib import get_close_matches
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import VigcError

# Cache of `settings_of`, by dataclass.
_KNOWN: dict[type, dict[str, Setting]] = {}
# Entries of a folder that are searched for a name similar to a missing path.
_MOST_NEIGHBOURS = 10_000


@dataclass(frozen=True, slots=True)
class Option:
    """Describes a setting, except for its type and default.

    Args:
        help: The help text, one or two sentences.
        group: The heading of the option in the help.
        common: Whether `--help` shows the option; `--help-all` shows all.
        flags: The flags, if not "--" and the field's name.
        default: Description of the default, shown instead of its value.
        metavar: Placeholder of the value in the help, if not the type's.
        min: The smallest allowed value.
        above: An exclusive lower bound.
        path: What must exist at the path, checked before anything is loaded: a "file", a "folder", or "any" of them.
        argument: Whether it is a positional argument.
        commas: Whether the command line takes a list as one comma-separated text.
        json: Whether the command line takes a JSON text.
        once: Whether it concerns only one run of a command. Such a setting is not recorded in the output.
    """

    help: str
    group: str | None = None
    common: bool = False
    flags: tuple[str, ...] = ()
    default: str | None = None
    metavar: str | None = None
    min: float | None = None
    above: float | None = None
    path: Literal["file", "folder", "any"] | None = None
    argument: bool = False
    commas: bool = False
    json: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A parsed field with an [`Option`].

    Args:
        name: Name of the field; the key in a `--config` file.
        option: The annotation.
        kind: Type of the value, or of the values of a list: `str`, `int`, `float`, `bool` or `Path`.
        choices: The values of a `Literal`.
        several: Whether the value is a list.
        optional: Whether the value may be None.
        default: The default, or `dataclasses.MISSING`.
    """

    name: str
    option: Option
    kind: type
    choices: tuple[Any, ...]
    several: bool
    optional: bool
    default: Any

    @property
    def flag(self) -> str:
        """The first flag, which messages use."""
        return self.option.flags[0] if self.option.flags else f"--{self.name.replace('_', '-')}"


def settings_of(declared: type) -> dict[str, Setting]:
    """The settings of a dataclass by name, in the order of its fields; fields without [`Option`] are ignored."""
    if declared not in _KNOWN:
        hints = get_type_hints(declared, include_extras=True)
        found = [_setting(item, hints[item.name]) for item in fields(declared)]
        _KNOWN[declared] = {setting.name: setting for setting in found if setting is not None}
    return _KNOWN[declared]


def _setting(item: Field[Any], hint: Any) -> Setting | None:
    option = next((extra for extra in get_args(hint)[1:] if isinstance(extra, Option)), None)
    if get_origin(hint) is not Annotated or option is None:
        return None
    parts, optional = _parts(get_args(hint)[0])
    several = any(get_origin(part) is Sequence for part in parts)
    if several:
        parts, _ = _parts(get_args(parts[0])[0])
    choices = get_args(parts[0]) if get_origin(parts[0]) is Literal else ()
    kind = type(choices[0]) if choices else _kind(parts)
    default = item.default_factory() if item.default_factory is not MISSING else item.default
    return Setting(item.name, option, kind, choices, several, optional, default)


def _parts(hint: Any) -> tuple[list[Any], bool]:
    """The members of a union without None, and whether None is a member."""
    parts = list(get_args(hint)) if get_origin(hint) in (Union, UnionType) else [hint]
    return [part for part in parts if part is not NoneType], NoneType in parts


def _kind(parts: Sequence[Any]) -> type:
    if any((isinstance(part, type) and issubclass(part, Path)) or get_origin(part) is os.PathLike for part in parts):
        return Path
    return parts[0] if parts[0] in (str, int, float, bool) else str


def check_values(settings: Any, error: type[VigcError]) -> None:
    """Checks the values of a settings dataclass against the choices, types and bounds of its options.

    Raises:
        VigcError: A value is invalid; the exception has the class `error`.
    """
    declared: type = type(settings)
    for name, setting in settings_of(declared).items():
        value = getattr(settings, name)
        if value is not None or not setting.optional:
            check_value(setting, value, error)


def check_value(setting: Setting, value: Any, error: type[VigcError]) -> None:
    """Like [`check_values`], for one value."""
    name, option = setting.name, setting.option
    if setting.choices and value not in setting.choices:
        raise error(unknown(name, value, setting.choices))
    if setting.kind is bool and not isinstance(value, bool):
        raise error(f"{name}={value!r} is not known: use True or False.")
    number = {int: Integral, float: Real}.get(setting.kind)
    if number is not None and (isinstance(value, bool) or not isinstance(value, number)):
        raise error(f"{name}={value!r} is not {'an integer' if setting.kind is int else 'a number'}.")
    if option.min is not None and value < option.min:
        raise error(f"{name}={value} is too small: give at least {option.min:g}.")
    if option.above is not None and not value > option.above:
        raise error(f"{name}={value} is too small: give a number above {option.above:g}.")


def unknown(what: str, value: Any, known: Sequence[Any]) -> str:
    """The message about an unknown value: lists the known ones and suggests the most similar."""
    return f"{what} {value!r} is not known: use one of {', '.join(map(str, known))}.{meant(value, known)}"


def meant(value: Any, known: Sequence[Any]) -> str:
    """A sentence for the end of a message that suggests the most similar name; empty if no name is similar."""
    close = get_close_matches(str(value), [str(name) for name in known], n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def check_paths(settings: Any, error: type[VigcError]) -> None:
    """Checks that the files and folders in the settings exist.

    Raises:
        VigcError: A path does not exist (the message suggests a similar one); the exception has the class `error`.
    """
    for setting, value in _given(settings):
        if setting.option.path is not None:
            check_path(setting, value, error)


def check_path(
    setting: Setting, value: str | os.PathLike[str], error: type[VigcError], what: str | None = None
) -> None:
    """Like [`check_paths`], for one path.

    Args:
        setting: The setting of the path.
        value: The path.
        error: Class of the exception.
        what: What must exist there: a "file", a "folder", or "any"; by default as the option declares.
    """
    path, what = Path(value), what or setting.option.path
    if path.is_dir() if what == "folder" else path.is_file() if what == "file" else path.exists():
        return
    named = "" if setting.option.argument else f"{setting.flag} "
    found = "neither a folder nor a file" if what == "any" else f"no {what}"
    wanted = "a folder or a file" if what == "any" else f"a {what}"
    raise error(f"{named}{str(path)!r} is {found}: give {wanted}.{_neighbour(path)}")


def _given(settings: Any) -> Iterator[tuple[Setting, Any]]:
    """The values that are not None; lists are flattened."""
    declared: type = type(settings)
    for name, setting in settings_of(declared).items():
        value = getattr(settings, name)
        values = value if setting.several and not isinstance(value, str) else (value,)
        yield from ((setting, one) for one in values or () if one is not None)


def _neighbour(path: Path) -> str:
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, _MOST_NEIGHBOURS)]
    except OSError:
        return ""
    close = get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(path.parent / close[0])!r}?" if close else ""


def recorded(values: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The values to record, as YAML types. Defaults, and settings of a single run (`once`), are omitted.

    Paths that exist are made absolute, so that they are valid in any working directory.
    """
    found = {}
    for name, setting in settings.items():
        value = values.get(name)
        if value is None or setting.option.once or value == setting.default:
            continue
        several = setting.several and not isinstance(value, str)
        found[name] = [_plain(setting, one) for one in value] if several else _plain(setting, value)
    return {name: value for name, value in found.items() if value != _plain_default(settings[name])}


def _plain_default(setting: Setting) -> Any:
    return list(setting.default) if isinstance(setting.default, (list, tuple)) else setting.default


def _plain(setting: Setting, value: Any) -> Any:
    """The value as a YAML type; a path that exists is made absolute."""
    if setting.kind is Path:
        return os.path.abspath(value) if os.path.lexists(value) else os.fspath(value)
    return value
