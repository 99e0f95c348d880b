"""`genrec export`: a run's aligned recommender as an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genrec.semtok import options as check


@dataclass(frozen=True)
class ExportConfig:
    """Write a run's aligned recommender, which ranks without a language model, as one ONNX file.

    Attributes:
        run: the run.
        file: the ONNX file.
        k: items of a list.
        filter_viewed: leave the items of the history out; null: as in the run's evaluation.
        verify: compare the run's files with their hashes; --no-verify compares sizes alone, and says so.
    """

    run: Path
    file: Path
    k: int = 20
    filter_viewed: bool | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        check.path(self, "run", "file")
        check.at_least_one(self, "k")


def export(config: ExportConfig) -> None:
    """Write the file; raises InputError where the run has no such recommender or the extra is not installed."""
    from genrec.inference.onnx_export import export as export_run
    from genrec.run import Run

    with Run.open(config.run, hashes=config.verify) as run:
        export_run(run, config.file, k=config.k, filter_viewed=config.filter_viewed)
