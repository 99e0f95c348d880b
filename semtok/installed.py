"""What is installed beside genrec: versions outside the tested ranges, and extras that are missing.

    for line in outside_tested_ranges():
        logger.warning(line)

A module that is missing: `lacks_extra(module, extra_of(module, command))`. Ranges and extras are those of the installed
distribution, which has them from pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from genrec.semtok.errors import InputError

_DISTRIBUTION = "genrec"
_NOT_RUN = "dev"  # tools of those who work on genrec: nothing of a command's depends on them


def outside_tested_ranges() -> list[str]:
    """A line for each installed package whose version genrec was not tested with."""
    lines = {}
    for requirement, extra in _requirements():
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            continue
        if extra != _NOT_RUN and not requirement.specifier.contains(found, prereleases=True):
            tested = ",".join(sorted(map(str, requirement.specifier), reverse=True))
            lines[requirement.name] = f"{requirement.name} {found} is installed; genrec is tested with {tested}"
    return list(lines.values())


def extra_of(module: str, command: str) -> str | None:
    """The extra that brings a module (`prometheus_client.core`: serve), None where no extra does.

    Of several, the one that is called like the command which misses the module, or like the module.
    """
    wanted = canonicalize_name(module.partition(".")[0])
    extras = {extra for one, extra in _requirements() if extra and canonicalize_name(one.name) == wanted} - {_NOT_RUN}
    return next((name for name in (command, wanted) if name in extras), min(extras, default=None))


def lacks_extra(what: str, extra: str) -> InputError:
    """The error where `what` cannot be had without an extra."""
    return InputError(
        f"{what} is not installed; it comes with the extra {extra}: pip install '.[{extra}]' in the checkout, "
        f"'WHEEL[{extra}]' with genrec's wheel"
    )


def _requirements() -> Iterator[tuple[Requirement, str | None]]:
    """The distribution's requirements, each with the extra that it belongs to; none where genrec is not installed."""
    try:
        lines = requires(_DISTRIBUTION) or []
    except PackageNotFoundError:
        return
    for line in lines:
        requirement = Requirement(line)
        _, _, extra = str(requirement.marker or "").partition("extra == ")
        yield requirement, extra.strip("\"'") or None
