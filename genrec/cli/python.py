"""`genrec.fit` and `genrec.serve`: the commands of these names from Python, with data frames.

    recommender = genrec.fit(items, interactions, run="runs/shop", columns={"item_id": "book_id"}, lm={"epochs": 10})
    genrec.serve(recommender, port=8000)

Settings go through the parser of the command line, so both refuse the same, and one folder serves both.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.cli.main import quiet_libraries
from genrec.semtok.columns import MissingColumns
from genrec.semtok.errors import InputError

if TYPE_CHECKING:
    from genrec.cli.config import FitConfig
    from genrec.data.frames import Table
    from genrec.inference.recommender import Recommender

INPUT = "input"  # below the run: the data frames that it was fitted on


def fit(
    items: Table,
    interactions: Table,
    *,
    run: str | Path,
    columns: Mapping[str, str] | None = None,
    verbose: bool = True,
    **settings: Any,
) -> Recommender:
    """Fit a run and open it; interrupted, the same call goes on, and finished, it only opens.

    Args:
        items: item table: a polars, pandas or Arrow table, or the path of a CSV, JSONL or Parquet file; `item_id`,
            `title` and any attributes.
        interactions: log, likewise: `user_id`, `item_id`, `timestamp`.
        run: the folder that everything is written to; data frames are kept in it as Parquet.
        columns: what the tables call these columns, where they are called otherwise (see `Columns`).
        verbose: tell on standard error what is done.
        settings: the options of `genrec fit` by section (docs/reference/options.md): `lm={"epochs": 10}`,
            `text={"encoder": "minilm"}`, `data={"split": "by_time"}`, `seed=1`.

    Raises:
        InputError: one line on what is wrong with a table or a setting.
    """
    quiet_libraries()
    from genrec.cli.pipeline import fit as fit_run
    from genrec.data.frames import as_file, is_frame
    from genrec.data.stages import check_columns
    from genrec.evaluation.verdict import verdict
    from genrec.inference.recommender import Recommender

    told = _told() if verbose else contextlib.nullcontext()
    with told, as_file(items, "items") as items_file, as_file(interactions, "interactions") as log_file:
        files = {"items": items_file, "interactions": log_file}
        frames = [name for name, table in (("items", items), ("interactions", interactions)) if is_frame(table)]
        config = _config(files, run, columns, settings)  # all is checked before anything is written
        try:
            check_columns(config.data)
        except MissingColumns as error:
            said = error.told
            for name in frames:
                said = said.replace(str(files[name]), name)
            raise InputError(f"{said}. Say what it is called: columns={dict(error.names)}") from None
        kept = {name: _kept(path, Path(config.run)) if name in frames else path for name, path in files.items()}
        fitted = fit_run(_config(kept, run, columns, settings))
        logging.getLogger(__name__).info(verdict(fitted.metrics()).sentence)
    return Recommender.from_pretrained(fitted.path)


def serve(run: Recommender | str | Path, **options: Any) -> None:
    """Serve a run over HTTP until stopped, as `genrec serve` does.

    Args:
        run: an open run, or its folder.
        options: those of `genrec serve` (docs/reference/commands.md): `port=8000`, `host="0.0.0.0"`, `store=...`.
    """
    from genrec.inference.serve.config import ServeConfig
    from genrec.inference.serve.server import serve as serve_run

    folder = Path(run) if isinstance(run, str | Path) else run.run.path
    serve_run(ServeConfig(folder, **options))


def _config(
    files: Mapping[str, Path], run: str | Path, columns: Mapping[str, str] | None, settings: Mapping[str, Any]
) -> FitConfig:
    from genrec.cli.parsing import fit_config

    data = {name: str(path) for name, path in files.items()} | ({"columns": dict(columns)} if columns else {})
    given = settings.get("data", {})
    if not isinstance(given, Mapping) or data.keys() & given.keys():
        raise InputError("data: settings such as {'split': 'by_time'}; tables and columns are arguments of their own")
    return fit_config({**settings, "data": data | dict(given), "run": str(run)})


def _kept(file: Path, run: Path) -> Path:
    """A data frame's file below the run, where it replaces that of an earlier call and nobody else's."""
    import polars as pl

    from genrec.data.frames import MARK

    kept = run / INPUT / file.name
    if kept.exists() and MARK not in pl.read_parquet_metadata(kept):
        raise InputError(f"{kept}: is no data frame that genrec.fit has kept; give another run")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, kept.with_suffix(".tmp"))
    except OSError as error:
        raise InputError(f"{run}: cannot be the folder of a run ({error.strerror})") from None
    kept.with_suffix(".tmp").replace(kept)
    return kept


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What genrec logs goes to standard error, unless somebody listens already."""
    log = logging.getLogger("genrec")
    level, handler = log.level, None if log.hasHandlers() else logging.StreamHandler()
    if handler is not None:
        log.addHandler(handler)
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))
    try:
        yield
    finally:
        log.setLevel(level)
        if handler is not None:
            log.removeHandler(handler)
