"""The LM stage of a run folder: what it reads, what it writes, the same under `genrec fit` and `accelerate launch`.

accelerate launch -m genrec.training.finetune --config runs/mine/config.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from genrec.data.cases import Split
from genrec.ranking.config import RankingConfig
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError, OptionError
from genrec.semtok.folders import new_folder, read_json
from genrec.semtok.quantizers import load_quantizer
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import ItemVectors
from genrec.sequential.frozen import load_frozen
from genrec.tasks.weights import TaskWeights
from genrec.training.lm.build import LmInputs
from genrec.training.lm.config import LmConfig, PreferenceStageConfig
from genrec.training.lm.fit import fit_lm
from genrec.training.lm.preference_stage import preference_finetune
from genrec.training.lm.save import load_lm, save_lm
from genrec.training.lm.validation import Validation
from genrec.training.loop.checkpoint import remove_work
from genrec.training.loop.epochs import FitContext, Log
from genrec.training.refit import chosen_epochs, chosen_weights, with_weights
from genrec.training.run_folder import (
    check_stage_folder,
    files_hash,
    has_added_items,
    is_current,
    locked,
    read_settings,
)

NEEDS = ("catalog", "split", "vectors/collaborative", "vectors/item", "semtok")


class LmStage(NamedTuple):
    """The stage's settings.

    Attributes:
        run: the run's folder.
        lm: seeds included.
        ranking: of a refit, with the shares that were chosen before.
        stop_after: epochs of a refit; None: the epoch is chosen on validation.
    """

    run: Path
    lm: LmConfig
    ranking: RankingConfig
    stop_after: int | None = None

    def inputs(self) -> dict[str, Any]:
        """What decides the stage's bytes: configuration, and the files of the stages before it."""
        needs = {name: files_hash(self.run / name) for name in NEEDS}
        config: dict[str, Any] = {"lm": asdict(self.lm), "ranking": asdict(self.ranking)}
        if self.stop_after is not None:
            config["stop_after"] = self.stop_after
        return {"stage": "lm", "config": config, "needs": needs}

    def before_preference(self) -> LmStage | None:
        """The same without the preference stage, whose model this one begins with; None where this has none."""
        if self.lm.preference.method == "none":
            return None
        return self._replace(lm=replace(self.lm, preference=PreferenceStageConfig()))


def load_inputs(run: Path) -> LmInputs:
    """Read the stages before this one."""
    ids = SemanticIds.load(run / "semtok")
    return LmInputs(
        catalog=Catalog.load(run / "catalog"),
        semantic_ids=ids,
        codebooks=load_quantizer(run / "semtok").codebooks,
        item_vectors=ItemVectors.load(run / "vectors/item/item.safetensors"),
        split=Split.load(run / "split"),
        identity=ItemVectors.load(run / "vectors/collaborative/collaborative.safetensors").values,
        exclude_seen=read_json(run / "split/data.json")["exclude_seen"],
        sequential=load_frozen(run / "vectors/item"),
    )


def run_lm_stage(
    stage: LmStage, log: Log, progress: Callable[[int, int], None], *, finetuned: Path | None = None
) -> None:
    """Fine-tune and write `RUN/lm`; an interrupted attempt goes on from its last epoch.

    Args:
        finetuned: the finished folder of `stage.before_preference()`, so that only the preference stage is left to do.
    """
    main_process = _main_process()
    run, lm, ranking, stop_after = stage
    inputs = load_inputs(run)
    target = run / "lm"
    with contextlib.ExitStack() as stack:
        scratch = target.with_name(".lm.new")
        if main_process:
            scratch = stack.enter_context(new_folder(target, stage.inputs(), resume=True))
            (scratch / "work").mkdir(exist_ok=True)
        PartialState().wait_for_everyone()
        ranking = replace(ranking, max_items=lm.max_items)
        validation = Validation(inputs, ranking, lm.valid_cases, lm.seed)
        if finetuned is None:
            context = FitContext(scratch / "work", log, progress, stop_after)
            built = fit_lm(inputs, lm, validation, context)
        else:
            built = load_lm(finetuned, inputs, lm)
            shutil.copyfile(finetuned / "training.json", scratch / "work/training.json")
        if built is None:
            return
        if lm.preference.method != "none":
            context = FitContext(scratch / "work/preference", log, progress)
            preference_finetune(built, inputs, lm, ranking, context)
            (scratch / "work/preference/preference.json").rename(scratch / "preference.json")
        if None in (ranking.dense_weight, ranking.cooccurrence_weight, ranking.sequential_weight):
            ranking = with_weights(ranking, validation.choose(built))
        (scratch / "work/training.json").rename(scratch / "training.json")
        save_lm(built, scratch, {"score_space": lm.score_space, "ranking": asdict(ranking)})
        validation.cooccurrence.save(scratch / "heads/cooccurrence.safetensors")
        remove_work(scratch / "work")


def main() -> None:
    """`accelerate launch -m genrec.training.finetune --config RUN/config.yaml`."""
    parser = argparse.ArgumentParser(
        prog="genrec.training.finetune", description="Fine-tune the language model of a run."
    )
    parser.add_argument("--config", type=Path, required=True, help="config.yaml of a run that `genrec fit` began")
    path: Path = parser.parse_args().config
    main_process = _main_process()
    try:
        # A run may have been copied or renamed: it is the folder that its configuration lies in.
        stage = from_config(read_settings(path))._replace(run=path.parent)
        with contextlib.ExitStack() as held:
            if _begin(stage, held):
                run_lm_stage(stage, partial(_note, stage.run / "log.jsonl"), lambda done, total: None)
            elif main_process:
                sys.stderr.write(f"genrec.training.finetune: {stage.run / 'lm'} is up to date\n")
            PartialState().wait_for_everyone()  # the main process still chooses and saves when the others are done
        status = 0
    except InputError as error:
        status = 1
        if main_process:
            sys.stderr.write(f"genrec.training.finetune: {error}\n")
    if PartialState().num_processes > 1:
        sys.stderr.flush()
        os._exit(status)  # gloo's threads can keep an interpreter from ending; everything is written
    sys.exit(status)


def _begin(stage: LmStage, held: contextlib.ExitStack) -> bool:
    """Whether there is something to train; if so the main process holds the run's lock, and all processes agree.

    Raises:
        InputError: in every process, where the main process may not work on the run.
    """
    todo, refusal = False, None
    if _main_process():
        try:
            held.enter_context(locked(stage.run))
            todo = not is_current(stage.run / "lm", stage.inputs())
            if todo and has_added_items(stage.run):
                raise InputError(f"{stage.run}: lm is out of date, and items were added since; fit another run")
            check_stage_folder(stage.run, "lm")
        except InputError as error:
            refusal = str(error)
    todo, refusal = broadcast_object_list([todo, refusal])
    if refusal is not None:
        raise InputError(refusal)
    return bool(todo)


def _main_process() -> bool:
    # Unlike `Accelerator`, `PartialState` does not read by itself that the launcher asked for CPUs.
    return bool(PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process)


def _note(file: Path, row: Mapping[str, Any]) -> None:
    with open(file, "a", encoding="utf-8") as out:
        out.write(json.dumps(dict(row)) + "\n")


def from_config(value: Mapping[str, Any]) -> LmStage:
    """The stage's settings from the resolved configuration of a run."""
    try:
        parts = {"tasks": TaskWeights, "preference": PreferenceStageConfig}
        lm = LmConfig(**{**value["lm"], **{name: kind(**value["lm"][name]) for name, kind in parts.items()}})
        lm, ranking = replace(lm, seed=lm.seed + value["seed"]), RankingConfig(**value["ranking"])
        if value.get("refit") is None:
            return LmStage(Path(value["run"]), lm, ranking)
        if lm.preference.method != "none":
            raise OptionError(
                "refit", "goes without lm.preference, which chooses on validation, of which a refit has none"
            )
        ranking = with_weights(ranking, chosen_weights(Path(value["refit"])))
        return LmStage(Path(value["run"]), lm, ranking, chosen_epochs(Path(value["refit"]) / "lm"))
    except (KeyError, TypeError) as error:
        raise InputError(f"not the resolved configuration of a run ({error})") from None
