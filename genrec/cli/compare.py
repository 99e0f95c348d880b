"""`genrec compare`: every chosen aligner through every chosen backbone by every seed, each cell in a folder of its own.

    catalog ─┬─ vectors/text, vectors/text-… ┬─ cells/NAME-BACKBONE-SEED ─ report
             └─ split ─ cells/plain-sasrec-SEED ─┘          where an aligner reads its vectors

A cell's manifest holds a hash of its configuration and of what it read, so a comparison that is called again, with more
aligners or seeds too, trains what is missing alone; a cell that was interrupted goes on from its last epoch. The table
is written anew after each seed: RUN/table.md (with times, from log.jsonl), figures and pictures in RUN/report.
"""

from __future__ import annotations

from genrec.cli.compare_config import CompareConfig
from genrec.data.stages import catalog_stage, split_stage
from genrec.evaluation.comparison import CellName, comparison_stage, costs, table
from genrec.run import Run
from genrec.semtok.aligners import PLAIN, aligner_entry
from genrec.semtok.errors import InputError
from genrec.semtok.folders import write_atomic
from genrec.sequential.config import LruRecConfig
from genrec.stages import bring_up_to_date
from genrec.training.cell import Cell
from genrec.training.encoder.stage import text_stage, users_stage

COLLABORATIVE = "sasrec"  # the backbone of the plain model whose vectors aligners look at, as in `genrec fit`


def compare(config: CompareConfig) -> Run:
    """Train what is missing, write the table after each seed; raises InputError for a folder of something else."""
    run, cells = Run(config.run), {seed: cells_of(config, seed) for seed in config.seeds}
    writers = {cell.options.writer for some in cells.values() for cell in some if cell.reads_users}
    if len(writers) > 1:
        raise InputError(
            f"recgoat writers {', '.join(sorted(writers))}: a comparison has one, as its lines share users"
        )
    with run.locked():
        run.write_settings(config.to_yaml(), "compare")
        data, seed = config.data, config.split_seed
        texts = [text_stage(encoder, folder) for folder, encoder in config.encoders.items()]
        for stage in (catalog_stage(data), split_stage(data, seed), *texts):
            bring_up_to_date(run, stage)
        done: list[CellName] = []
        for seed in config.seeds:
            for cell in cells[seed]:
                if cell.reads_users:
                    bring_up_to_date(run, users_stage(*writers))
                bring_up_to_date(run, cell.stage())
                done.append(cell.name)
            bring_up_to_date(run, comparison_stage(done, config.reference, tuple(config.encoders)))
            write_atomic(run.table, table(run.metrics(), costs(run, done)))
    return run


def cells_of(config: CompareConfig, seed: int) -> list[Cell]:
    """The cells of a seed, the plain model whose vectors aligners look at first."""
    backbones, kinds = list(config.backbones), {config.aligner(line)[0] for line in config.lines} - {PLAIN}
    if COLLABORATIVE not in backbones and any(aligner_entry(kind).reads_collaborative for kind in kinds):
        backbones.insert(0, COLLABORATIVE)
    plain = sorted(backbones, key=lambda backbone: backbone != COLLABORATIVE)
    names = [CellName(PLAIN, backbone, seed) for backbone in plain]
    names += [CellName(line, backbone, seed) for backbone in config.backbones for line in config.lines if line != PLAIN]
    return [_cell(config, name) for name in names]


def _cell(config: CompareConfig, name: CellName) -> Cell:
    aligner, options = config.aligner(name.name)
    shape, training = config.shape(name.backbone), config.training_of(name.name)
    if isinstance(shape, LruRecConfig):
        shape = shape.settled()  # with its numbers a finished cell is found again, whatever the defaults become
    collaborative = CellName(PLAIN, COLLABORATIVE, name.seed)
    return Cell(name, aligner, options, shape, training, config.negatives, collaborative, config.text_folder(name.name))
