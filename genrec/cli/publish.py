"""What `genrec export` and `genrec push` are asked to do: a run for other programs, and for other people."""

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


@dataclass(frozen=True)
class PushConfig:
    """Upload a run to the Hugging Face hub without its log, with a model card written from its figures.

    Attributes:
        run: the run.
        repo: the repository, USER/NAME; what is in it is replaced.
        out: write the folder here and upload nothing.
        private: of a repository that is new; --no-private makes it public.
        with_log: also users and their histories, which are personal data.
        license: as the hub calls it (apache-2.0); null: the card says that it is to be said.
    """

    run: Path
    repo: str
    out: Path | None = None
    private: bool = True
    with_log: bool = False
    license: str | None = None

    def __post_init__(self) -> None:
        check.path(self, "run", "out")
