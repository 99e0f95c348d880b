"""The LM stage of a run folder: what it reads, what it writes, the same under `genrec fit` and `accelerate launch`.

accelerate launch -m training.finetune --config runs/mine/config.yaml
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
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from genrec.cases import Split
from genrec.ranking import RankingConfig
from genrec.sequential.frozen import load_frozen
from genrec.tasks import TaskWeights
from semtok.catalog import Catalog
from semtok.errors import InputError
from semtok.folders import finish_rename, new_folder, read_json
from semtok.quantizers import load_quantizer
from semtok.semantic_ids import SemanticIds
from semtok.vectors import ItemVectors
from training.finetune import LmInputs, Log, fit_lm, load_lm, save_lm
from training.lm_config import LmConfig
from training.preference import PreferenceStageConfig
from training.preference_stage import prefer
from training.refit import chosen_epochs, chosen_shares, with_shares
from training.run_folder import files_hash
from training.validation import Validation

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
        sequence=load_frozen(run / "vectors/item"),
    )


def run_lm_stage(
    stage: LmStage, log: Log, progress: Callable[[int, int], None], *, finetuned: Path | None = None
) -> None:
    """Fine-tune and write `RUN/lm`; an interrupted attempt goes on from its last epoch.

    Args:
        finetuned: the finished folder of `stage.before_preference()`, so that only the preference stage is left to do.
    """
    # Unlike `Accelerator`, `PartialState` does not read by itself that the launcher asked for CPUs.
    main_process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process
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
            built = fit_lm(inputs, lm, scratch / "work", log, validation, progress=progress, stop_after=stop_after)
        else:
            built = load_lm(finetuned, inputs, lm)
            shutil.copyfile(finetuned / "training.json", scratch / "work/training.json")
        if built is None:
            return
        if lm.preference.method != "none":
            prefer(built, inputs, lm, ranking, scratch / "work/preference", log, progress=progress)
            (scratch / "work/preference/preference.json").rename(scratch / "preference.json")
        if None in (ranking.dense_share, ranking.near_share, ranking.sequence_share):
            ranking = with_shares(ranking, validation.choose(built))
        (scratch / "work/training.json").rename(scratch / "training.json")
        save_lm(built, scratch, {"score_space": lm.score_space, "ranking": asdict(ranking)})
        validation.neighbours.save(scratch / "heads/neighbours.safetensors")
        shutil.rmtree(scratch / "work")


def main() -> None:
    """`accelerate launch -m training.finetune --config RUN/config.yaml`."""
    parser = argparse.ArgumentParser(prog="training.finetune", description="Fine-tune the language model of a run.")
    parser.add_argument("--config", type=Path, required=True, help="config.yaml of a run that `genrec fit` began")
    path: Path = parser.parse_args().config
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        value: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        stage = from_config(value)
        finish_rename(stage.run / "lm")
        log_file = stage.run / "log.jsonl"

        def log(row: Mapping[str, Any]) -> None:
            with open(log_file, "a", encoding="utf-8") as out:
                out.write(json.dumps(dict(row)) + "\n")

        run_lm_stage(stage, log, lambda done, total: None)
        PartialState().wait_for_everyone()  # the main process still chooses and saves when the others are done
        if PartialState().num_processes > 1:
            os._exit(0)  # gloo's threads can keep an interpreter from ending; everything is written
    except InputError as error:
        sys.exit(f"training.finetune: {error}")


def from_config(value: Mapping[str, Any]) -> LmStage:
    """The stage's settings from the resolved configuration of a run."""
    try:
        parts = {"tasks": TaskWeights, "preference": PreferenceStageConfig}
        lm = LmConfig(**{**value["lm"], **{name: kind(**value["lm"][name]) for name, kind in parts.items()}})
        lm, ranking = replace(lm, seed=lm.seed + value["seed"]), RankingConfig(**value["ranking"])
        if value.get("refit") is None:
            return LmStage(Path(value["run"]), lm, ranking)
        if lm.preference.method != "none":
            raise InputError("--refit: the preference stage chooses on validation, of which a refit has none")
        ranking = with_shares(ranking, chosen_shares(Path(value["refit"])))
        return LmStage(Path(value["run"]), lm, ranking, chosen_epochs(Path(value["refit"]) / "lm"))
    except (KeyError, TypeError) as error:
        raise InputError(f"not the resolved configuration of a run ({error})") from None
