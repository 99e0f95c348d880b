"""The LM stage of a run folder: what it reads, what it writes, the same under `genrec fit` and `accelerate launch`.

accelerate launch -m genrec.training.finetune --config runs/mine/config.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from genrec.ranking.config import FusionWeights, RankingConfig
from genrec.run import Run
from genrec.run_folder import read_settings
from genrec.semtok.errors import InputError
from genrec.stages import Stage, check_stage_folder, is_made_of, make_stage, progress_bar
from genrec.tasks.weights import TaskWeights
from genrec.training.lm.build import LmInputs
from genrec.training.lm.config import LmConfig
from genrec.training.lm.fit import fit_lm
from genrec.training.lm.save import load_lm, save_lm
from genrec.training.lm.validation import Validation
from genrec.training.loop.checkpoint import work_folder
from genrec.training.loop.epochs import FitContext
from genrec.training.loop.weights import main_process

NEEDS = ("catalog", "split", "vectors/item", "semtok")


class LmSettings(NamedTuple):
    """The stage's settings.

    Attributes:
        lm: seeds included.
        ranking: of a refit, with the fusion weights that were chosen before.
        stop_after: epochs of a refit; None: the epoch is chosen on validation.
    """

    lm: LmConfig
    ranking: RankingConfig
    stop_after: int | None = None

    def stage(self, finetuned_in: Iterable[Run] = ()) -> Stage:
        """Fine-tunes and writes a model folder.

        Args:
            finetuned_in: runs whose finished model may only lack the choice of the lists for which it is asked, which
                then is all that is done.
        """
        # What watches the training changes none of its bytes.
        config: dict[str, Any] = {"lm": asdict(replace(self.lm, tracker=None)), "ranking": asdict(self.ranking)}
        if self.ranking.language_model_share == 1:  # so that runs from before this option are up to date
            for name in ("language_model_share", "language_model_entropy", "certain_cooccurrence_weight"):
                del config["ranking"][name]
        if self.stop_after is not None:
            config["stop_after"] = self.stop_after
        return Stage("lm", config, NEEDS, partial(_fine_tune, self, tuple(finetuned_in)))

    def finetuned(self, run: Run, others: Iterable[Run]) -> Path | None:
        """The folder of a finished model, in one of the other runs, that lacks only what comes after fine-tuning."""
        ranking = replace(
            self.ranking, language_model_share=1.0, language_model_entropy=None, certain_cooccurrence_weight=None
        )
        whole = self._replace(ranking=ranking)
        if whole == self:
            return None
        made_of = whole.stage().inputs(run)
        return next((other.lm for other in others if is_made_of(other.lm, made_of)), None)


def lm_inputs(run: Run) -> LmInputs:
    """Read the stages before this one."""
    return LmInputs(
        catalog=run.catalog(),
        semantic_ids=run.semantic_ids(),
        codebooks=run.quantizer().codebooks,
        item_vectors=run.item_vectors(),
        split=run.split(),
        exclude_seen=run.exclude_seen,
        sequential=run.sequential(),
    )


def _fine_tune(settings: LmSettings, others: tuple[Run, ...], run: Run, folder: Path) -> None:
    """Every process calls this; the main one writes."""
    lm, stop_after = settings.lm, settings.stop_after
    inputs, ranking = lm_inputs(run), replace(settings.ranking, max_items=lm.max_items)
    validation = Validation(inputs, ranking, lm.valid_cases, lm.seed)
    finetuned = settings.finetuned(run, others)
    work_of = work_folder(folder) if main_process() else contextlib.nullcontext(folder / "work")
    with work_of as work, progress_bar("language model", "step") as progress:
        PartialState().wait_for_everyone()  # the main process has made the folder
        if finetuned is None:
            built = fit_lm(inputs, lm, validation, FitContext(work, run.note, progress, stop_after))
        else:
            built = load_lm(finetuned, inputs, lm)
            shutil.copyfile(finetuned / "training.json", work / "training.json")
        if built is None:
            return
        if None in (ranking.dense_weight, ranking.cooccurrence_weight, ranking.sequential_weight):
            ranking = with_weights(ranking, validation.choose(built))
        if ranking.language_model_share < 1:
            ranking = validation.allocate(built, ranking)
        save_lm(built, folder, {"score_space": lm.score_space, "ranking": asdict(ranking)})
        validation.cooccurrence.save(folder / "heads/cooccurrence.safetensors")


def main() -> None:
    """`accelerate launch -m genrec.training.finetune --config RUN/config.yaml`."""
    parser = argparse.ArgumentParser(
        prog="genrec.training.finetune", description="Fine-tune the language model of a run."
    )
    parser.add_argument("--config", type=Path, required=True, help="config.yaml of a run that `genrec fit` began")
    path: Path = parser.parse_args().config
    main_process()  # before anything asks for the process's device
    try:
        # A run may have been copied or renamed: it is the folder that its configuration lies in.
        run, stage = Run(path.parent), lm_settings(read_settings(path)).stage()
        with contextlib.ExitStack() as held:
            if _begin(run, stage, held):
                make_stage(run, stage, main_process=main_process())
            elif main_process():
                sys.stderr.write(f"genrec.training.finetune: {run.lm} is up to date\n")
            PartialState().wait_for_everyone()  # the main process still chooses and saves when the others are done
        status = 0
    except InputError as error:
        status = 2
        if main_process():
            sys.stderr.write(f"genrec.training.finetune: {error}\n")
    if PartialState().num_processes > 1:
        sys.stderr.flush()
        os._exit(status)  # gloo's threads can keep an interpreter from ending; everything is written
    sys.exit(status)


def _begin(run: Run, stage: Stage, held: contextlib.ExitStack) -> bool:
    """Whether there is something to train; if so the main process holds the run's lock, and all processes agree.

    Raises:
        InputError: in every process, where the main process may not work on the run.
    """
    todo, refusal = False, None
    if main_process():
        try:
            held.enter_context(run.locked())
            todo = not stage.is_current(run)
            if todo and run.has_added_items:
                raise InputError(f"{run}: lm is out of date, and items were added since; fit another run")
            check_stage_folder(run, stage.folder)
        except InputError as error:
            refusal = str(error)
    todo, refusal = broadcast_object_list([todo, refusal])
    if refusal is not None:
        raise InputError(refusal)
    return bool(todo)


def lm_settings(value: Mapping[str, Any]) -> LmSettings:
    """The stage's settings from the resolved configuration of a run."""
    try:
        lm = LmConfig(**{**value["lm"], "tasks": TaskWeights(**value["lm"]["tasks"])})
        lm, ranking = replace(lm, seed=lm.seed + value["seed"]), RankingConfig(**value["ranking"])
        if not (lm.epochs and lm.max_items and lm.batch_tokens):
            raise InputError(
                "lm.epochs, lm.max_items or lm.batch_tokens is 0: give the config.yaml that genrec fit has written"
            )
        if value.get("refit") is None:
            return LmSettings(lm, ranking)
        selection_run = Run(value["refit"])
        chosen = selection_run.chosen_ranking()
        ranking = replace(
            with_weights(ranking, chosen.fusion_weights),
            language_model_entropy=chosen.language_model_entropy,
            certain_cooccurrence_weight=chosen.certain_cooccurrence_weight,
        )
        return LmSettings(lm, ranking, selection_run.chosen_epochs("lm"))
    except (KeyError, TypeError) as error:
        raise InputError(f"not the resolved configuration of a run ({error})") from None


def with_weights(ranking: RankingConfig, weights: FusionWeights) -> RankingConfig:
    """The same ranking with chosen fusion weights."""
    dense, cooccurrence, sequential = weights
    return replace(ranking, dense_weight=dense, cooccurrence_weight=cooccurrence, sequential_weight=sequential)
