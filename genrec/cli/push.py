"""`genrec push`: a run, or what recommends of it, to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genrec.semtok import options as check


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


def push(config: PushConfig) -> str:
    """Where the run is then; raises InputError where it cannot be shared or the hub does not take it."""
    from genrec.evaluation.card import CardFacts
    from genrec.inference import sharing
    from genrec.run import Run

    run, facts = Run(config.run), CardFacts(config.repo, config.with_log, config.license)
    if config.out is None:
        return sharing.push(run, facts, private=config.private, token=None)
    sharing.save_shared(run, config.out, facts)
    return str(config.out)
