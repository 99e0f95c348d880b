"""`genrec fit`: the stages of a run in order, each into its own sealed folder, skipped where nothing it reads changed.

    catalog ─┬─ vectors/text ──────────┬─ vectors/item ─ semtok ─ lm ─┬─ report
             └─ split ─ vectors/collaborative ┘                       └─ topk

A stage's manifest holds a hash of its configuration and of the files it read. An interrupted stage goes on from its
checkpoint, or starts again; everything before it stands.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
import yaml

from genrec.cli.batch_command import batch_job
from genrec.cli.commands import RecommendConfig
from genrec.cli.config import FitConfig
from genrec.cli.estimate import DataSize, opening_line
from genrec.cli.report_stage import report_stage
from genrec.cli.stages import Stage, done, make_stage, note, progress_bar
from genrec.data.cases import Split
from genrec.data.interactions import Interactions
from genrec.data.splits import by_time, from_given, leave_last_out
from genrec.inference.batch.job import JOB, run_batch
from genrec.inference.batch.users import FileUsers
from genrec.inference.recommender import Recommender
from genrec.semtok.aligners import ALIGNERS
from genrec.semtok.aligners.fusion import Fusion
from genrec.semtok.aligners.saved import save_table
from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders import load_encoder, make_encoder
from genrec.semtok.errors import InputError
from genrec.semtok.folders import (
    MANIFEST,
    hash_file,
    link_folder,
    read_json,
    to_json,
    write_atomic,
)
from genrec.semtok.quality import measure_quality
from genrec.semtok.quality_plots import plot_quality
from genrec.semtok.semantic_ids import assign_ids
from genrec.semtok.vectors import ItemVectors
from genrec.sequential import BACKBONES
from genrec.sequential.frozen import frozen
from genrec.sequential.sasrec import SasRec
from genrec.tasks.preference_texts import preference_vectors
from genrec.training.aligner.fit import aligned_vectors, cold_items, fit_aligner, load_aligner_inputs
from genrec.training.lm.stage import LmStage, from_config, run_lm_stage
from genrec.training.loop.checkpoint import remove_work
from genrec.training.loop.epochs import FitContext
from genrec.training.quantizer.fit import fit_quantizer
from genrec.training.quantizer.letter import Collaborative
from genrec.training.refit import check_same_settings, chosen_epochs
from genrec.training.run_folder import (
    check_stage_folder,
    has_added_items,
    is_current,
    is_extended,
    is_made_of,
    locked,
    write_settings,
)
from genrec.training.sequential.fit import fit_sequential

_log = logging.getLogger(__name__)


class Pipeline:
    """The stages of one configuration."""

    def __init__(self, config: FitConfig) -> None:
        self.config, self.run = config, Path(config.run)
        self.chooser = None if config.refit is None else Path(config.refit)

    def fit(self, *, before_lm: bool = False) -> None:
        """Run every stage that is out of date.

        Args:
            before_lm: end before the language model, which `genrec.training.finetune` then trains on many processes.

        Raises:
            InputError: bad input, another process works on the run, or something in its folder would be lost.
        """
        if self.chooser is not None:
            check_same_settings(self.chooser, yaml.safe_load(self.config.to_yaml()))
        with locked(self.run):
            for name in [*(stage.folder for stage in self._stages_before_lm()), "lm", "report"]:
                check_stage_folder(self.run, name)
            self._keep_added_items()
            write_settings(self.run, self.config.to_yaml())
            for stage in self._stages_before_lm():
                self._bring_up_to_date(stage)
                if stage.folder == "split":
                    self._tell_what_will_happen()
            if before_lm:
                return
            self._lm()
            self._bring_up_to_date(report_stage(self.run, self.chooser))
            if self.config.topk.k:
                self._topk()

    def _tell_what_will_happen(self) -> None:
        """One line on the data, the parts and the time that the stages will take that no folder holds yet."""
        histories = pl.read_parquet(self.run / "split/users.parquet", columns=["history"], glob=False)[
            "history"
        ].list.len()
        size = DataSize(len(histories), len(Catalog.load(self.run / "catalog")), int(histories.sum()))
        names = [*(stage.folder for stage in self._stages_before_lm()), "lm", "report"]
        missing = [name for name in names if not (self.run / name / MANIFEST).is_file()]
        _log.info(opening_line(self.config, size, missing))

    def _keep_added_items(self) -> None:
        """Refuse to make a stage of a run again to which items were added: they have IDs, which they keep for ever."""
        if not has_added_items(self.run):
            return
        stages = [(stage.folder, stage.inputs(self.run)) for stage in self._stages_before_lm()]
        for folder, inputs in [*stages, ("lm", from_config(asdict(self.config)).inputs())]:
            if not is_current(self.run / folder, inputs):
                raise InputError(
                    f"{self.run}: {folder} is out of date, but made again the run would lose the IDs of items that "
                    "came by genrec add-items; fit another --run"
                )

    def _stages_before_lm(self) -> list[Stage]:
        c = self.config
        items = {"items": hash_file(Path(c.data.items))}
        data = {k: v for k, v in asdict(c.data).items() if k not in ("items", "interactions", "splits")}
        data |= {"interactions": hash_file(Path(c.data.interactions)), "seed": c.seed}
        if c.data.splits is not None:
            parts = sorted(Path(c.data.splits).glob("*.csv"))
            data["splits"] = {part.name: hash_file(part) for part in parts}
        collaborative = {"sasrec": asdict(c.sasrec), "collaborative": asdict(c.collaborative), "seed": c.seed}
        if self.chooser is not None:
            data["refit"] = True
            collaborative["stop_after"] = self._stop_after("vectors/collaborative")
        semtok = {**asdict(c.semtok), "seed": c.seed}
        users, sides = [], ["split", "vectors/text", "vectors/collaborative"]
        if c.aligner.name in ALIGNERS and ALIGNERS[c.aligner.name].reads_users:
            users = [Stage("vectors/users", {}, ("catalog", "split", "vectors/text"), self._users)]
            sides.append("vectors/users")
        return [
            Stage("catalog", items, (), self._catalog),
            Stage("split", data, ("catalog",), self._split),
            Stage("vectors/text", asdict(c.text), ("catalog",), self._text),
            Stage("vectors/collaborative", collaborative, ("catalog", "split"), self._collaborative),
            *users,
            Stage("vectors/item", self._aligner(), tuple(sides), self._item),
            Stage("semtok", semtok, ("catalog", "split", "vectors/text", "vectors/item"), self._semtok),
        ]

    def _aligner(self) -> dict[str, Any]:
        """What decides the item vectors."""
        c = self.config
        if c.aligner.name == "fusion":
            return asdict(c.fusion)
        parts = {"options": c.aligner.options, "training": c.aligner.training, c.aligner.backbone: self._shape()}
        facts = {"name": c.aligner.name, "seed": c.seed} | {name: asdict(part) for name, part in parts.items()}
        return facts if self.chooser is None else facts | {"stop_after": self._stop_after("vectors/item")}

    def _shape(self) -> Any:
        """Of the aligner's recommender."""
        return self.config.shape(self.config.aligner.backbone)

    def _stop_after(self, folder: str) -> int | None:
        """Epochs that a refit trains a stage for."""
        return None if self.chooser is None else chosen_epochs(self.chooser / folder)

    def _bring_up_to_date(self, stage: Stage) -> None:
        inputs = stage.inputs(self.run)
        if is_current(self.run / stage.folder, inputs):
            return
        check_stage_folder(self.run, stage.folder)
        if not self._linked(stage.folder, inputs):
            make_stage(self.run, stage, inputs)

    def _linked(self, folder: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the run to reuse has made this stage of the same inputs; it then stands here too."""
        if self.config.reuse is None:
            return False
        source = Path(self.config.reuse) / folder
        if not is_made_of(source, inputs) or is_extended(source):  # this run's table may not have the added items
            return False
        link_folder(source, self.run / folder)
        self._note({"stage": folder, "event": "linked"})
        return True

    def _note(self, row: Mapping[str, Any]) -> None:
        note(self.run, row)

    # --- the stages -------------------------------------------------------------------------------------------------

    def _catalog(self, folder: Path) -> None:
        Catalog.from_file(Path(self.config.data.items)).save(folder)

    def _split(self, folder: Path) -> None:
        data, seed = self.config.data, self.config.seed
        catalog = Catalog.load(self.run / "catalog")
        log = Interactions.from_file(Path(data.interactions), catalog, time_unit=data.time_unit)
        if data.split == "given":
            split = from_given(Path(data.splits or ""), catalog, log)
        elif data.split == "by_time":
            split = by_time(
                log, valid_share=data.valid_share, test_share=data.test_share, cold_share=data.cold_share, seed=seed
            )
        else:
            split = leave_last_out(log, cold_share=data.cold_share, seed=seed)
        (split if self.chooser is None else split.refit()).save(folder)
        owners = np.repeat(np.arange(len(log.histories)), log.histories.lengths)
        pairs = pl.DataFrame({"user": owners, "item": log.histories.values})
        exclude_seen = not pairs.is_duplicated().any() if data.exclude_seen is None else data.exclude_seen
        names = pl.Series(catalog.item_ids, dtype=pl.String).gather(pairs["item"])
        histories = pairs.select("user", names.alias("history")).group_by("user", maintain_order=True).agg("history")
        users = pl.DataFrame({"user_id": pl.Series(log.user_ids, dtype=pl.String), "history": histories["history"]})
        users.write_parquet(folder / "users.parquet")
        write_atomic(folder / "data.json", to_json({"exclude_seen": bool(exclude_seen), "time_unit": log.time_unit}))

    def _text(self, folder: Path) -> None:
        encoder, texts = make_encoder(self.config.text.encoder), Catalog.load(self.run / "catalog").texts()
        encoder.fit(texts)
        encoder.save(folder)
        ItemVectors(encoder.encode(texts), encoder.name).save(folder / "text.safetensors")

    def _users(self, folder: Path) -> None:
        """Vectors of the preference text of each training history, by the items' encoder."""
        encoder, split = load_encoder(self.run / "vectors/text"), Split.load(self.run / "split")
        vectors = preference_vectors(Catalog.load(self.run / "catalog"), split.train, encoder)
        ItemVectors(vectors, encoder.name).save(folder / "users.safetensors")

    def _collaborative(self, folder: Path) -> None:
        split, n_items = Split.load(self.run / "split"), len(Catalog.load(self.run / "catalog"))
        config = replace(self.config.collaborative, seed=self.config.collaborative.seed + self.config.seed)
        work = folder / "work"
        work.mkdir(exist_ok=True)
        with progress_bar("collaborative vectors", "step") as progress:
            model = fit_sequential(
                lambda: SasRec(n_items, self.config.sasrec),
                split,
                config,
                FitContext(work, self._note, progress, self._stop_after("vectors/collaborative")),
                exclude_seen=read_json(self.run / "split/data.json")["exclude_seen"],
            )
        model.save(folder)
        vectors = model.item_vectors.detach().numpy().copy()
        ItemVectors(vectors, "sasrec").save(folder / "collaborative.safetensors")
        (work / "training.json").rename(folder / "training.json")
        remove_work(work)

    def _item(self, folder: Path) -> None:
        if self.config.aligner.name != "fusion":
            self._align(folder)
            return
        text, collaborative, counts = self._sides()
        fusion = Fusion.fit(text, collaborative, counts, self.config.fusion)
        fusion.save(folder)
        fusion.transform(text, collaborative, counts).save(folder / "item.safetensors")

    def _align(self, folder: Path) -> None:
        aligner, split = self.config.aligner, Split.load(self.run / "split")
        text, collaborative, _ = self._sides()
        inputs = load_aligner_inputs(self.run)
        work = folder / "work"
        work.mkdir(exist_ok=True)
        with progress_bar("aligned item vectors", "step") as progress:
            model = fit_aligner(
                aligner.name,
                aligner.options,
                inputs,
                split,
                lambda: BACKBONES[aligner.backbone].build(self._shape()),
                replace(aligner.training, seed=aligner.training.seed + self.config.seed),
                FitContext(work, self._note, progress, self._stop_after("vectors/item")),
                exclude_seen=read_json(self.run / "split/data.json")["exclude_seen"],
            )
        save_table(model.items, folder)
        frozen(model, cold_items(inputs)).save(folder)
        source = f"{aligner.name}({text.source}, {collaborative.source})"
        aligned_vectors(model.items, inputs, source).save(folder / "item.safetensors")
        (work / "training.json").rename(folder / "training.json")
        remove_work(work)

    def _semtok(self, folder: Path) -> None:
        catalog, vectors = (
            Catalog.load(self.run / "catalog"),
            ItemVectors.load(self.run / "vectors/item/item.safetensors"),
        )
        text, collaborative, counts = self._sides()
        targets = Collaborative(collaborative.values, counts > 0)
        config = self.config.semtok
        quantizer = fit_quantizer(
            config.quantizer, vectors.values, config.sizes, config.options, self.config.seed, targets
        )
        ids = assign_ids(quantizer, catalog.item_ids, vectors.values, extra_level=config.extra_level)
        quantizer.save(folder)
        ids.save(folder)
        quality = measure_quality(ids, quantizer, vectors.values, text.values, collaborative.values, counts > 0)
        plot_quality(quality, ids, folder)
        write_atomic(folder / "quality.json", to_json(quality.to_json()))

    def _lm(self) -> None:
        stage = from_config(asdict(self.config))
        if is_current(self.run / "lm", stage.inputs()) or self._linked("lm", stage.inputs()):
            return
        started = perf_counter()
        finetuned = self._finetuned(stage.before_preference())
        with progress_bar("language model", "step") as progress:
            run_lm_stage(stage, self._note, progress, finetuned=finetuned)
        self._note(done("lm", started))

    def _finetuned(self, stage: LmStage | None) -> Path | None:
        """A finished model that only lacks the preference stage: the run's own, or that of the run to reuse."""
        if stage is None:
            return None
        runs = [self.run] if self.config.reuse is None else [self.run, Path(self.config.reuse)]
        return next((run / "lm" for run in runs if is_made_of(run / "lm", stage.inputs())), None)

    def _topk(self) -> None:
        recommender = Recommender.from_pretrained(self.run)
        exclude_seen = read_json(self.run / "split/data.json")["exclude_seen"]
        k, size = self.config.topk.k, self.config.topk.shard_size
        job = batch_job(recommender, RecommendConfig(self.run, k=k, shard_size=size, exclude_seen=exclude_seen))
        users = FileUsers(self.run / "split/users.parquet", recommender.catalog)
        identity = {**asdict(job), "users": users.count, "users_digest": users.digest}
        left = self.run / "topk" / JOB
        restart = left.is_file() and read_json(left) != json.loads(json.dumps(identity))
        run_batch(
            lambda histories: recommender.recommend_rows(histories, k=k, exclude_seen=exclude_seen),
            users,
            self.run / "topk",
            job=job,
            item_ids=recommender.catalog.item_ids,
            log=self.run / "log.jsonl",
            restart=restart,
        )

    def _sides(self) -> tuple[ItemVectors, ItemVectors, Any]:
        text = ItemVectors.load(self.run / "vectors/text/text.safetensors")
        collaborative = ItemVectors.load(self.run / "vectors/collaborative/collaborative.safetensors")
        counts = np.bincount(Split.load(self.run / "split").train.values, minlength=len(text))
        return text, collaborative, counts
