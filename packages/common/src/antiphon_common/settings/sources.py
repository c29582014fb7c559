"""Settings from the command line, the environment and a TOML file, in that order of precedence."""

import argparse
import os
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_type_hints

import msgspec

from antiphon_common.errors import AntiphonError
from antiphon_common.settings.groups import (
    ADMIN_PORTS,
    FrontSettings,
    Option,
    RelaySettings,
    SharedSettings,
    TransceiverSettings,
)
from antiphon_common.settings.values import Address

Group = type[msgspec.Struct]

ALL_GROUPS: tuple[Group, ...] = (FrontSettings, RelaySettings, TransceiverSettings, SharedSettings)
SWITCH = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class SettingsError(AntiphonError, ValueError):
    """Settings that cannot be used. `parse` prints the message: one line with the remedy."""


def backend_urls(settings: TransceiverSettings) -> dict[str, str]:
    """Return the URL of each backend.

    Raises:
        SettingsError: a backend has no URL, because only `python -m antiphon` starts shipped ones.
    """
    for name, url in settings.backend:
        if url is None:
            raise SettingsError(
                f"--backend {name}: only `python -m antiphon` starts shipped backends; "
                f"here run `python -m antiphon_backend.{name}` and write {name}=ws://HOST:PORT"
            )
    return {name: url for name, url in settings.backend if url is not None}


class _Setting(NamedTuple):
    field: str
    option: Option
    default: Any

    @property
    def name(self) -> str:
        return self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"ANTIPHON_{self.field.upper()}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def parse(
    prog: str,
    description: str,
    groups: Sequence[Group],
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[Any, ...]:
    """Return one instance for each of `groups`, from flags, then `ANTIPHON_…` variables, then the file of --config.

    Raises:
        SystemExit: with 0 after --help, with 2 and one line on standard error if settings cannot be used.
    """
    try:
        return _parse(prog, description, groups, argv, os.environ if environ is None else environ)
    except SettingsError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _parse(
    prog: str, description: str, groups: Sequence[Group], argv: Sequence[str] | None, environ: Mapping[str, str]
) -> tuple[Any, ...]:
    flags = vars(_make_parser(prog, description, groups).parse_args(argv))
    file = flags.pop("config") or environ.get("ANTIPHON_CONFIG")
    table = _read_file(file) if file else {}
    made = []
    for group in groups:
        values = {}
        for setting in _settings_of(group, groups):
            given = _first_given(setting, flags, environ, table, file)
            values[setting.field] = setting.default if given is None else _read(setting, *given)
        made.append(group(**values))
    _check_together(made)
    return tuple(made)


def _settings_of(group: Group, groups: Sequence[Group]) -> Iterator[_Setting]:
    hints = get_type_hints(group, include_extras=True)
    for field in msgspec.structs.fields(group):
        default = field.default
        if field.name == "admin":
            default = next((Address("127.0.0.1", port) for owner, port in ADMIN_PORTS if owner in groups), None)
        yield _Setting(field.name, hints[field.name].__metadata__[0], default)


def _make_parser(prog: str, description: str, groups: Sequence[Group]) -> _Parser:
    parser = _Parser(
        prog=prog,
        description=description,
        epilog="Each setting can also be set in the environment (--http as ANTIPHON_HTTP, repeated values separated by "
        'spaces) or in the TOML file (http = "…", repeated values as a list). Flags override the environment, which '
        "overrides the file.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(
            prog, max_help_position=30, width=min(110, shutil.get_terminal_size((110, 25)).columns)
        ),
        usage="%(prog)s [--SETTING VALUE]…",
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings; all services can share one")
    for group in groups:
        section = parser.add_argument_group((group.__doc__ or "").rstrip("."))
        for setting in _settings_of(group, groups):
            _add_argument(section, setting)
    return parser


def _add_argument(section: argparse._ArgumentGroup, setting: _Setting) -> None:
    option = setting.option
    flag, dest = f"--{setting.name}", setting.field
    if option.read is None:
        section.add_argument(flag, dest=dest, action="store_const", const=["true"], help=option.help)
        return
    text = option.help + ("; repeatable" if option.repeatable else "") + _explain_default(setting.default)
    section.add_argument(flag, dest=dest, action="append", metavar=option.metavar, help=text.replace("%", "%%"))


def _explain_default(default: Any) -> str:
    if default is None or default == ():
        return ""
    values = default if type(default) is tuple else (default,)
    return f" (default: {' '.join(str(value) for value in values)})"


def _first_given(
    setting: _Setting,
    flags: Mapping[str, list[str] | None],
    environ: Mapping[str, str],
    table: Mapping[str, list[str]],
    file: str | None,
) -> tuple[list[str], str] | None:
    """Return the texts of a setting and the name of the place they come from."""
    if (texts := flags[setting.field]) is not None:
        return texts, f"--{setting.name}"
    if text := environ.get(setting.variable):
        return text.split() if setting.option.repeatable else [text], setting.variable
    if setting.name in table:
        return table[setting.name], f"{setting.name} in {file}"
    return None


def _read(setting: _Setting, texts: list[str], place: str) -> Any:
    read: Callable[[str], Any] = setting.option.read or _read_switch
    values = []
    for text in texts:
        try:
            values.append(read(text))
        except ValueError as error:
            shown = "this" if setting.option.secret else repr(text)
            raise SettingsError(f"{place}: cannot use {shown}: {error}") from None
    if setting.option.repeatable:
        return tuple(values)
    if len(values) != 1:
        raise SettingsError(f"{place}: give it once")
    return values[0]


def _read_switch(text: str) -> bool:
    try:
        return SWITCH[text.lower()]
    except KeyError:
        raise ValueError("write true or false") from None


def _read_file(file: str) -> dict[str, list[str]]:
    try:
        table = tomllib.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"--config: cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config: {file} is not TOML: {error}") from None
    known = [setting.name for group in ALL_GROUPS for setting in _settings_of(group, ALL_GROUPS)]
    for name in table:
        if name not in known:
            near = get_close_matches(name.replace("_", "-"), known, 1)
            raise SettingsError(f"{file}: there is no setting {name!r}" + (f"; is it {near[0]!r}?" if near else ""))
    return {name: _texts(value) for name, value in table.items()}


def _texts(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [str(value)]


def _check_together(made: Sequence[msgspec.Struct]) -> None:
    for group in made:
        if isinstance(group, FrontSettings):
            if (group.tls_cert is None) != (group.tls_key is None):
                raise SettingsError("--tls-cert and --tls-key go together: give both")
            if group.tls and group.tls_cert:
                raise SettingsError("--tls self-signed makes its own certificate: leave out --tls-cert and --tls-key")
            if group.no_auth and group.api_key_file:
                raise SettingsError("--no-auth and --api-key-file contradict each other: leave one out")
