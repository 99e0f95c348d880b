"""`genrec fit`: the stages of a run in order, each into its own sealed folder, skipped where nothing it reads changed.

    catalog ─┬─ vectors/text ┬─ vectors/item ─ semtok ─ lm ─┬─ report
             └─ split ───────┘                              └─ topk

Where something reads it, or `--baseline sasrec` asks for it, vectors/collaborative is made beside vectors/text.

A stage's manifest holds a hash of its configuration and of the files it read. An interrupted stage goes on from its
checkpoint, or starts again; everything before it stands.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Container
from dataclasses import asdict

import polars as pl
import yaml

from genrec.cli.by_data import DataSize, settled
from genrec.cli.config import FUSION, FitConfig
from genrec.cli.estimate import opening_line
from genrec.data.stages import catalog_stage, split_stage
from genrec.evaluation.report_stage import report_stage
from genrec.evaluation.verdict import verdict
from genrec.inference.batch.command import write_lists
from genrec.inference.batch.job import files_of_a_job
from genrec.inference.opening import open_ranker
from genrec.run import Run
from genrec.run_folder import STAGES
from genrec.semtok.aligners import ALIGNERS
from genrec.semtok.errors import InputError
from genrec.semtok.folders import MANIFEST
from genrec.stages import Stage, bring_up_to_date, check_stage_folder
from genrec.training.aligner.stage import TrainedAligner, fusion_stage
from genrec.training.encoder.stage import text_stage, users_stage
from genrec.training.lm.stage import lm_settings
from genrec.training.quantizer.stage import semtok_stage
from genrec.training.sequential.stage import collaborative_stage

_log = logging.getLogger(__name__)


def fit(config: FitConfig, *, before_lm: bool = False) -> Run:
    """Run every stage that is out of date.

    Args:
        before_lm: end before the language model, which `genrec.training.finetune` then trains on many processes.

    Raises:
        InputError: bad input, another process works on the run, or something in its folder would be lost.
    """
    run, reuse = Run(config.run), None if config.reuse is None else Run(config.reuse)
    if config.refit is not None:
        config = _settled_as(Run(config.refit), config)
    with run.locked():
        for name in STAGES:
            check_stage_folder(run, name)
        if config.topk.k and not before_lm:
            files_of_a_job(run.topk)  # a folder of somebody's own is refused now, and not after the training
        data = data_stages(config)
        _keep_added_items(run, data)
        for stage in data:
            bring_up_to_date(run, stage, reuse)
        config = settled(config, size := data_size(run))
        lm = lm_settings(asdict(config)).stage((run,) if reuse is None else (run, reuse))
        stages = vector_stages(config)
        _keep_added_items(run, [*stages, lm])
        _drop_stale(run, {stage.folder for stage in stages})
        run.write_settings(config.to_yaml())
        planned = [*(stage.folder for stage in stages), lm.folder, "report"]
        missing = [name for name in planned if not (run.path / name / MANIFEST).is_file()]
        _log.info(opening_line(config, size, missing))
        for stage in stages if before_lm else [*stages, lm]:
            bring_up_to_date(run, stage, reuse)
        if not before_lm:
            bring_up_to_date(run, report_stage(run, open_ranker), reuse)
            if (found := verdict(run.metrics())).loses:
                _log.warning("a baseline is better than the lists of this run: %s", found.sentence)
            if config.topk.k:
                write_lists(run, k=config.topk.k, shard_size=config.topk.shard_size)
    return run


def data_size(run: Run) -> DataSize:
    """How much data a run has whose catalogue and split are made."""
    histories = pl.read_parquet(run.users, columns=["history"], glob=False)["history"].list.len()
    return DataSize(len(histories), len(run.catalog()), int(histories.sum()))


def _settled_as(selection_run: Run, config: FitConfig) -> FitConfig:
    """The configuration of a refit, settled by the data of the run whose choices it takes; raises InputError where that
    run is not finished, or its settings are others.
    """
    if selection_run.users.is_file():
        config = settled(config, data_size(selection_run))
    selection_run.check_same_settings(yaml.safe_load(config.to_yaml()))
    return config


def data_stages(config: FitConfig) -> list[Stage]:
    """Catalogue and split."""
    return [catalog_stage(config.data), split_stage(config.data, config.seed, refit=config.refit is not None)]


def vector_stages(config: FitConfig) -> list[Stage]:
    """Text vectors to semantic IDs, of a configuration that is settled."""
    c, selection_run = config, None if config.refit is None else Run(config.refit)
    stages = [text_stage(c.text.encoder)]
    if c.reads_collaborative or c.baseline is not None:
        stop_after = None if selection_run is None else selection_run.chosen_epochs("vectors/collaborative")
        stages.append(collaborative_stage(c.sasrec, c.collaborative, c.seed, stop_after=stop_after))
    if c.aligner.name in ALIGNERS and ALIGNERS[c.aligner.name].reads_users:
        stages.append(users_stage(c.aligner.options.writer))
    return [*stages, _item_stage(c, selection_run), semtok_stage(asdict(c.semtok), c.semtok.options, c.seed)]


def _item_stage(config: FitConfig, selection_run: Run | None) -> Stage:
    aligner = config.aligner
    if aligner.name == FUSION:
        return fusion_stage(config.fusion)
    shape = config.shape(aligner.backbone)
    stop_after = None if selection_run is None else selection_run.chosen_epochs("vectors/item")
    return TrainedAligner(
        aligner.name, aligner.options, aligner.backbone, shape, aligner.training, config.seed, stop_after
    ).stage()


def _drop_stale(run: Run, planned: Container[str]) -> None:
    """Remove vectors that nobody asks for any more and that were made of other data: the run could not be opened."""
    for name in ("vectors/collaborative", "vectors/users"):
        if name in planned or not (run.path / name).is_dir():
            continue
        try:
            run.check_finished([name])
        except InputError:
            shutil.rmtree(run.path / name)


def _keep_added_items(run: Run, stages: list[Stage]) -> None:
    """Refuse to make a stage of a run again to which items were added: they have IDs, which they keep for ever."""
    if not run.has_added_items:
        return
    for stage in stages:
        if not stage.is_current(run):
            loss = "made again the run would lose the IDs of items that came by genrec add-items"
            raise InputError(f"{run}: {stage.folder} is out of date, but {loss}; fit another --run")
