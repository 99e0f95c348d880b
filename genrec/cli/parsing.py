"""From a YAML file and flags to a configuration's dataclasses; one line names what is wrong, as it was typed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace  # type: ignore[attr-defined]

from genrec.cli.config import FitConfig, fit_class
from genrec.semtok.errors import InputError, OptionError, did_you_mean, did_you_mean_file
from genrec.training.loop.options import wrong_type

Config = TypeVar("Config")
MANY_DIGITS = 300  # beyond these a whole number is no float
_OF_THE_FILE = (
    "Problems parsing config: ",
    "Spaces not allowed in keys",
    "Unexpected config",
)  # the parser's words, which name no file


def config_parser(prog: str, kind: type[Any], about: str) -> ArgumentParser:
    """A parser of a YAML file and of a flag for each option of a configuration, written out in full."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, description=about, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help="the YAML file (given first, without the flag)")
    parser.add_class_arguments(kind)
    return parser


def fit_parser() -> ArgumentParser:
    """The parser of `genrec fit`."""
    about = "Every stage that is out of date; with --before_lm, those before the language model (docs/how-to/gpu.md)."
    return config_parser("genrec fit", fit_class(), about)


def load_config(path: Path, overrides: Sequence[str] = ()) -> FitConfig:
    """Read a YAML file and overrides such as `--lm.epochs 10`; raises InputError that names the file or the flag."""
    return read_config(fit_parser(), fit_class(), path, overrides)


def fit_config(settings: Mapping[str, Any]) -> FitConfig:
    """The same from settings as Python has them, `{"run": "runs/mine", "lm": {"epochs": 10}}`; InputError names one."""
    parser = fit_parser()
    _check_names(settings, parser.get_defaults(), flags_of(parser))
    try:
        parsed = parser.parse_object(dict(settings))
        _check_sections(parsed, parser.get_defaults())
        return build(fit_class(), parsed)
    except ArgumentError as error:
        raise explained(error, parser) from None
    except OverflowError:
        raise InputError(f"a setting is a number of more than {MANY_DIGITS} digits") from None


def _check_names(settings: Mapping[str, Any], known: Namespace, flags: Sequence[str], above: str = "") -> None:
    """Raise InputError about a setting that does not exist, with those like it."""
    for name, value in settings.items():
        path = f"{above}{name}"
        if not hasattr(known, str(name)):
            raise InputError(f"no setting {path}{_suggested(f'--{path}', flags)}".replace("--", ""))
        section = getattr(known, name)
        if isinstance(section, Namespace) and isinstance(value, Mapping):
            _check_names(value, section, flags, f"{path}.")


def read_config(parser: ArgumentParser, kind: type[Config], path: Path, overrides: Sequence[str]) -> Config:
    """A configuration from a file and overrides; raises InputError that names the flag, or file and option."""
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file{did_you_mean_file(path)}")
    _refuse_repeated_keys(path)
    try:
        parsed = parser.parse_args(["--config", str(path), *overrides])
        _check_sections(parsed, parser.get_defaults())
        return build(kind, parsed)
    except RecursionError:
        raise InputError(f"{path}: nested without end") from None
    except OverflowError:
        long = [typed.partition("=")[0] for typed in overrides if len(typed) > MANY_DIGITS]
        raise InputError(f"{' or '.join([*long, str(path)])}: a number of more than {MANY_DIGITS} digits") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OptionError as error:
        raise _as_typed(error, path, overrides) from None
    except ArgumentError as error:
        wrong = explained(error, parser)
        if isinstance(wrong, OptionError):
            raise _as_typed(wrong, path, overrides) from None
        told = str(wrong).replace(' in "<unicode string>",', "")
        of_the_file = told.startswith(_OF_THE_FILE)
        raise InputError(f"{path}: {told.removeprefix(_OF_THE_FILE[0])}" if of_the_file else told) from None


def _refuse_repeated_keys(path: Path) -> None:
    """Raise InputError where a section of a YAML file has a key twice, of which the parser would take the last."""
    try:
        nodes = [yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)]
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None
    except (UnicodeDecodeError, yaml.YAMLError):
        return  # the parser says what is wrong with it
    done = set()  # an anchor's node is met as often as it is named
    while nodes:
        node = nodes.pop()
        if id(node) in done:
            continue
        done.add(id(node))
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, _ in node.value:
                line = key.start_mark.line + 1
                if lines.setdefault(str(key.value), line) != line:
                    raise InputError(f"{path}: {key.value} is duplicated, in lines {lines[key.value]} and {line}")
            nodes += [value for _, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value


def build(kind: type[Config], values: Namespace) -> Config:
    """A dataclass of parsed values, its sections first; raises OptionError whose path begins at `kind`."""
    hints, options = get_type_hints(kind), {}
    for field in fields(kind):  # type: ignore[arg-type]
        value = values[field.name]
        if is_dataclass(hints[field.name]):
            try:
                value = build(hints[field.name], value)
            except OptionError as error:
                raise error.within(field.name) from None
        options[field.name] = value
    return kind(**options)


def flags_of(parser: ArgumentParser) -> list[str]:
    """Every flag of a parser, such as `--lm.epochs`."""
    return [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]


def explained(error: ArgumentError, parser: ArgumentParser) -> InputError:
    """The parser's complaint in our words: an unknown flag with those like it, or an option's wrong type."""
    told = " ".join(str(error).split())
    if found := re.search(r"unrecognized arguments: (--\S+)", told):
        flag = found[1].partition("=")[0]
        return InputError(f"no option {flag}{_suggested(flag, flags_of(parser))}")
    return wrong_type(told) or InputError(told)


def _suggested(flag: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown flag: those of the same last name or a like one, or nothing."""
    leaf = flag.removeprefix("--").rpartition(".")[2]
    same = [option for option in known if option.removeprefix("--").rpartition(".")[2] == leaf]
    if same and flag.count(".") == 0:
        return f"; did you mean {' or '.join(same[:3])}?"
    return did_you_mean(flag, known).replace("'", "")


def _as_typed(error: OptionError, path: Path, overrides: Sequence[str]) -> InputError:
    """An option's error as a flag where a flag said it, else as a place in the file."""
    typed = {flag.partition("=")[0] for flag in overrides}
    if f"--{error.field}" in typed:
        return error.as_flag()
    parts = error.field.split(".")
    above = next((flag for i in range(len(parts)) if (flag := f"--{'.'.join(parts[:i])}") in typed), path)
    return InputError(f"{above}: {error}")


def _check_sections(values: Namespace, defaults: Namespace, above: str = "") -> None:
    """Refuse one value where a section of settings belongs, and none where there must be one: the parser does not."""
    for name, default in vars(defaults).items():
        value = getattr(values, name)
        if value is None and default is not None:
            raise OptionError(f"{above}{name}", "has no value")
        if isinstance(default, Namespace):
            if not isinstance(value, Namespace):
                raise OptionError(f"{above}{name}", f"{value!r}: a section of settings belongs here")
            _check_sections(value, default, f"{above}{name}.")
