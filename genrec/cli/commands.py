"""The commands of `genrec`: arguments in, a line or a table out. What they do is written elsewhere."""

from __future__ import annotations

import dataclasses
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from genrec.semtok.errors import InputError, OptionError, did_you_mean_file

if TYPE_CHECKING:
    from genrec.run import Run

Config = TypeVar("Config")


def fit(arguments: Sequence[str]) -> None:
    """`genrec fit CONFIG [overrides] [--before_lm]`."""
    from genrec.cli.parsing import fit_parser, load_config

    if set(arguments) & {"-h", "--help"}:
        from genrec.cli.helps import fit_help

        parser = fit_parser()
        sys.stdout.write(parser.format_help() if "all" in arguments else fit_help(parser))
        return
    file = _config_file(arguments, "fit")
    config = load_config(file, [argument for argument in arguments[1:] if argument != "--before_lm"])
    from genrec.cli.pipeline import fit as fit_run

    before_lm = "--before_lm" in arguments
    run = fit_run(config, before_lm=before_lm)
    if before_lm:
        sys.stdout.write(
            f"ready for: accelerate launch -m genrec.training.finetune --config {config.run}/config.yaml\n"
        )
    else:
        _print_report(run)
        sys.stdout.write(f"\nnext:\n{next_commands(run)}")


def compare(arguments: Sequence[str]) -> None:
    """`genrec compare CONFIG [overrides]`."""
    from genrec.cli.compare_config import compare_parser, load_compare_config

    if set(arguments) & {"-h", "--help"}:
        compare_parser().print_help()
        return
    config = load_compare_config(_config_file(arguments, "compare"), arguments[1:])
    from genrec.cli.compare import compare as compare_run

    run = compare_run(config)
    sys.stdout.write(run.table.read_text(encoding="utf-8"))
    sys.stdout.write(f"\ntable: {run.table}\nfigures and pictures: {run.report}\n")


def evaluate(arguments: Sequence[str]) -> None:
    """`genrec evaluate RUN [RUN ...]`: a finished run's report, made again where out of date; of several, one table."""
    runs = [_run([folder], "evaluate") for folder in arguments] or [_run(arguments, "evaluate")]
    from genrec.evaluation.report_stage import update_report
    from genrec.evaluation.seeds import check_runs, differences, table_over_seeds
    from genrec.inference.opening import open_ranker

    check_runs(runs)
    for run in runs:
        update_report(run, open_ranker)
    if len(runs) == 1:
        _print_report(runs[0])
        sys.stdout.write(f"\n{differences(runs)}")
    else:
        sys.stdout.write(table_over_seeds(runs))


def recommend(arguments: Sequence[str]) -> None:
    """`genrec recommend RUN …`."""
    from genrec.inference.batch.config import RecommendConfig

    config = _parsed(RecommendConfig, "recommend", arguments, {"run": "RUN"})
    from genrec.inference.batch.command import recommend_all

    counts = recommend_all(config)
    out = config.out or config.run / "topk"
    sys.stdout.write(f"{counts['users']:,} lists in {out}, {counts['short_lists']:,} of them short\n")


def show(arguments: Sequence[str]) -> None:
    """`genrec show RUN USER …`."""
    from genrec.cli.show import ShowConfig
    from genrec.cli.show import show as show_user

    sys.stdout.write(show_user(_parsed(ShowConfig, "show", arguments, {"run": "RUN", "user": "USER"})))


def push(arguments: Sequence[str]) -> None:
    """`genrec push RUN USER/NAME …`."""
    from genrec.cli.publish import PushConfig

    config = _parsed(PushConfig, "push", arguments, {"run": "RUN", "repo": "REPO"})
    from genrec.evaluation.card import CardFacts
    from genrec.inference import sharing
    from genrec.run import Run

    run, facts = Run(config.run), CardFacts(config.repo, config.with_log, config.license)
    if config.out is None:
        sys.stdout.write(f"{sharing.push(run, facts, private=config.private, token=None)}\n")
    else:
        sharing.save_shared(run, config.out, facts)
        sys.stdout.write(f"{config.out}\n")


def export(arguments: Sequence[str]) -> None:
    """`genrec export RUN FILE …`."""
    from genrec.cli.publish import ExportConfig

    config = _parsed(ExportConfig, "export", arguments, {"run": "RUN", "file": "FILE"})
    from genrec.inference.onnx_export import export as export_run
    from genrec.run import Run

    with Run.open(config.run, hashes=config.verify) as run:
        export_run(run, config.file, k=config.k, filter_viewed=config.filter_viewed)
    sys.stdout.write(f"{config.file}\n")


def serve(arguments: Sequence[str]) -> None:
    """`genrec serve RUN …`."""
    from genrec.inference.serve.config import ServeConfig

    config = _parsed(ServeConfig, "serve", arguments, {"run": "RUN"})
    from genrec.inference.serve.server import serve as serve_run

    serve_run(config)


def store(arguments: Sequence[str]) -> None:
    """`genrec store load|rollback|info STORE …`."""
    from genrec.inference.store.command import StoreConfig, run
    from genrec.semtok.folders import to_json

    info = run(_parsed(StoreConfig, "store", arguments, {"verb": "VERB", "store": "STORE", "batch": "BATCH"}))
    sys.stdout.write(to_json(None if info is None else asdict(info)))


def chat(arguments: Sequence[str]) -> None:
    """`genrec chat RUN …`: in the terminal, or as a web page."""
    from genrec.inference.chat.config import ChatConfig

    config = _parsed(ChatConfig, "chat", arguments, {"run": "RUN"})
    if config.web:
        from genrec.inference.chat.page import serve_page

        serve_page(config)
        return
    from genrec.inference.chat.terminal import chat as talk

    talk(config)


def import_(arguments: Sequence[str]) -> None:
    """`genrec import FORMAT …`."""
    from genrec.data.importers import ImportConfig, run_import

    config = _parsed(ImportConfig, "import", arguments, {"format": "FORMAT"})
    facts = asdict(run_import(config))
    sys.stdout.write(", ".join(f"{name} {value}" for name, value in facts.items()) + f" in {config.out}\n")


def inspect(arguments: Sequence[str]) -> None:
    """`genrec inspect RUN [ITEM...]`: quality of the IDs, or items with their neighbours under each prefix."""
    path = _run(arguments[:1], "inspect").path
    from genrec.evaluation.inspection import describe_item, describe_quality
    from genrec.run import Run

    with Run.open(path) as run:
        if not arguments[1:]:
            sys.stdout.write(describe_quality(run))
        for item_id in arguments[1:]:
            sys.stdout.write(describe_item(run, item_id))


def add_items(arguments: Sequence[str]) -> None:
    """`genrec add-items RUN FILE`."""
    run = _run(arguments[:1], "add-items")
    if len(arguments) != 2:
        raise InputError("genrec add-items RUN FILE takes the run and one file of new items")
    from genrec.add_items import add

    sys.stdout.write(f"{add(run, Path(arguments[1])):,} new items have semantic IDs and can be recommended\n")


def _config_file(arguments: Sequence[str], command: str) -> Path:
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"CONFIG is missing: genrec {command} my.yaml")
    return Path(arguments[0])


def _run(arguments: Sequence[str], command: str) -> Run:
    from genrec.run import Run

    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError(f"RUN is missing: genrec {command} runs/mine")
    path = Path(arguments[0])
    _check_run(path)
    return Run(path)


def _check_run(run: Path) -> None:
    if not run.is_dir():
        raise InputError(f"{run}: no such folder{did_you_mean_file(run)}")
    if not (run / "config.yaml").is_file():
        raise InputError(f"{run}: not a run folder (no config.yaml)")


def _parsed(kind: type[Config], command: str, arguments: Sequence[str], positional: dict[str, str]) -> Config:
    """Build a configuration from its flags; the first arguments fill the `positional` fields, in order."""
    from genrec.cli.parsing import MANY_DIGITS, build, explained

    metavar = next(iter(positional.values()))
    parser = ArgumentParser(prog=f"genrec {command}", exit_on_error=False, description=_about(kind), allow_abbrev=False)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in positional:
            options: dict[str, Any] = {} if field.default is dataclasses.MISSING else {"nargs": "?"}
            options |= {"type": get_type_hints(kind)[field.name], "metavar": positional[field.name]}
            parser.add_argument(field.name, help=_told_of(kind, field.name), **options)
    parser.add_class_arguments(kind, skip=set(positional))
    if set(arguments) & {"-h", "--help"}:
        parser.print_help()
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        raise InputError(f"{metavar} is missing: genrec {command} {metavar} ...")
    switches = {f"--{field.name}" for field in dataclasses.fields(kind) if field.type == "bool"}  # type: ignore[arg-type]
    following = [*arguments[1:], "--"]
    flags = []
    for flag, after in pairwise(following):
        if flag in switches and after.startswith("-"):
            flag += "=true"
        elif flag.startswith("--no-") and f"--{flag[5:]}" in switches:
            flag = f"--{flag[5:]}=false"
        flags.append(flag)
    try:
        parsed = parser.parse_args([arguments[0], *flags])
    except ArgumentError as error:
        raise explained(error, parser) from None
    except OverflowError:
        long = next((typed.partition("=")[0] for typed in arguments if len(typed) > MANY_DIGITS), command)
        raise InputError(f"{long}: a number of more than {MANY_DIGITS} digits") from None
    try:
        config = build(kind, parsed)
    except OptionError as error:
        raise error.as_flag() from None
    if metavar == "RUN":
        _check_run(config.run)  # type: ignore[attr-defined]  # before anything heavy is imported
    return config


def _about(kind: type[Any]) -> str:
    """What a configuration's docstring begins with; its options are told one by one."""
    return (kind.__doc__ or "").partition("\n\n")[0]


def _told_of(kind: type[Any], option: str) -> str:
    """What its docstring says of an option."""
    found = re.search(rf"^ +{option}: (.+(?:\n {{12}}.+)*)", kind.__doc__ or "", flags=re.MULTILINE)
    return "" if found is None else " ".join(found[1].split())


def next_commands(run: Run) -> str:
    """What to do with a run that has just been fitted."""
    import polars as pl

    user = shlex.quote(pl.read_parquet(run.users, columns=["user_id"], n_rows=1, glob=False)["user_id"][0])
    commands = {
        f"genrec show {shlex.quote(str(run))} {user}": "a user's history and list, with titles",
        f"genrec chat {shlex.quote(str(run))} --web": "ask it for something",
        f"genrec serve {shlex.quote(str(run))}": "lists, similar items and search over HTTP",
    }
    width = max(map(len, commands))
    return "".join(f"    {command:<{width}}  # {what}\n" for command, what in commands.items())


def _print_report(run: Run) -> None:
    from genrec.evaluation.tables import format_table
    from genrec.evaluation.verdict import verdict
    from genrec.semtok.folders import MANIFEST

    found = verdict(run.metrics())
    sys.stdout.write(f"{format_table(run.metrics())}\n{found.sentence}\n")
    sys.stdout.write(f"\nreport: {run.report / 'report.html'}\n")
    if (run.topk / MANIFEST).is_file():
        sys.stdout.write(f"lists:  {run.topk}\n")
