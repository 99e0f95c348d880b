"""`genrec add-items`: new items get vectors and IDs with the stored encoder, aligner and quantiser.

They can be recommended at once. Nothing is trained and no published ID moves. All folders are made ready before the
first is put in place, the catalogue last: whoever opens the run meanwhile, or after a kill, sees it as it was before,
and the same command ends in the bytes of an undisturbed one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from genrec.run import Run
from genrec.run_folder import ADDED, BEFORE, EXTENDED, files_hash
from genrec.semtok.aligners.fusion import Fusion
from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders import item_texts
from genrec.semtok.folders import MANIFEST, check_folder, finish_rename, hash_file, sealed_scratch
from genrec.semtok.semantic_ids import add_items as assign_new
from genrec.semtok.vectors import ItemVectors, unit_rows
from genrec.sequential.aligner_inputs import vectors_from_text
from genrec.sequential.frozen import extended


def add(run: Run, file: Path) -> int:
    """Add the items of a table to a run.

    Returns:
        How many items were new.

    Raises:
        InputError: the table is bad, an item is in the catalogue already, or another process works on the run.
    """
    with run.locked() as finished:
        new, added = Catalog.from_file(file, run.columns), hash_file(file)
        if finished and run.added()[-1:] == [added]:  # this command was killed when all was ready
            return len(new)
        parts = _grown(run, new)
        for name in EXTENDED:
            _extend(run, name, added, parts[name])
        with run.placing():
            for name in EXTENDED:
                finish_rename(run.path / name)
        return len(new)


def _grown(run: Run, new: Catalog) -> Mapping[str, Callable[[Path], None]]:
    """What writes each folder anew, with the new items behind the others."""
    old = run.catalog()
    grown, ids_before = old.append(new), run.semantic_ids()
    encoder = run.text_encoder()
    texts = item_texts(encoder, grown, old.text_columns)[len(old) :]  # by the attributes that it was fitted with
    text = ItemVectors(encoder.encode(texts), encoder.name)
    fused, raw = place(run, text)
    ids = assign_new(ids_before, run.quantizer(), new.item_ids, fused.values)
    text_vectors, item_vectors = _behind(run.text_vectors(), text), _behind(run.item_vectors(), fused)
    sequence = run.sequential()

    def write_items(folder: Path) -> None:
        item_vectors.save(folder / "item.safetensors")
        if sequence is not None and raw is not None:
            extended(sequence, len(old), raw).save(folder)

    return {
        "vectors/text": lambda folder: text_vectors.save(folder / "text.safetensors"),
        "vectors/item": write_items,
        "semtok": ids.save,
        "catalog": grown.save,
    }


def place(run: Run, text: ItemVectors) -> tuple[ItemVectors, Tensor | None]:
    """Vectors of cold-start items from their text vectors [M, D_t] alone, by the run's own aligner.

    Returns:
        Those that are quantised; and those of a trained aligner's recommender, whose lengths count.
    """
    aligner = run.aligner()
    if aligner is None:
        return Fusion.load(run.verified("vectors/item")).transform(text), None
    raw = vectors_from_text(aligner, text)
    return ItemVectors(unit_rows(raw.numpy()), f"{aligner.aligner[0]}({text.source})"), raw


def _behind(old: ItemVectors, new: ItemVectors) -> ItemVectors:
    return ItemVectors(np.concatenate([old.values, new.values]), old.source)


def _extend(run: Run, name: str, added: str, write: Callable[[Path], None]) -> None:
    """Make a sealed folder ready with the new items; it keeps what it was made from."""
    folder = run.path / name
    made_from = {**check_folder(folder)["inputs"], ADDED: [*run.added(), added], BEFORE: files_hash(folder)}
    with sealed_scratch(folder, made_from) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        write(scratch)
