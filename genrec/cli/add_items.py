"""`genrec add-items`: new items get vectors and IDs with the stored encoder, aligner and quantiser.

They can be recommended at once. Nothing is trained and no published ID moves. The catalogue is replaced last: after a
kill the same command goes on, and until then the run refuses to open rather than answer from halves.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from genrec.semtok.aligners.fusion import Fusion
from genrec.semtok.aligners.saved import load_table
from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders import load_encoder
from genrec.semtok.errors import InputError
from genrec.semtok.folders import MANIFEST, check_folder, finish_rename, hash_file, new_folder, read_json
from genrec.semtok.quantizers import load_quantizer
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.semantic_ids import add_items as assign_new
from genrec.semtok.vectors import ItemVectors, unit_rows
from genrec.sequential.frozen import extended, load_frozen
from genrec.training.aligner.fit import load_aligner_inputs, vectors_from_text
from genrec.training.run_folder import ADDED, BEFORE, EXTENDED, files_hash, locked


def add(run: Path, file: Path) -> int:
    """Add the items of a table to a run.

    Returns:
        How many items were new.

    Raises:
        InputError: the table is bad, an item is in the catalogue already, or another process works on the run.
    """
    with locked(run):
        return _add(run, file)


def _add(run: Path, file: Path) -> int:
    for folder in EXTENDED:
        finish_rename(run / folder)
        check_folder(run / folder)
    old = Catalog.load(run / "catalog")
    new = Catalog.from_file(file)
    grown = old.append(new)
    inputs = {"added": hash_file(file)}
    texts = grown.texts(old.text_columns)[len(old) :]  # by the attributes that the catalogue was encoded with
    encoder, quantizer = load_encoder(run / "vectors/text"), load_quantizer(run / "semtok")
    said = ItemVectors(encoder.encode(texts), encoder.name)
    fused, raw = place(run, said)
    n = len(old)  # what an interrupted attempt put behind the published rows is made again, to the same bytes
    published = SemanticIds.load(run / "semtok")
    if published.item_ids not in (old.item_ids, grown.item_ids):
        cure = "run genrec fit, or repeat the interrupted add-items"
        raise InputError(f"{run}: catalogue and semantic IDs are of different items; {cure}")
    published = SemanticIds(published.item_ids[:n], published.codes[:n], published.sizes)
    ids = assign_new(published, quantizer, new.item_ids, fused.values)
    text_before = ItemVectors.load(run / "vectors/text/text.safetensors")
    item_before = ItemVectors.load(run / "vectors/item/item.safetensors")
    if min(len(text_before), len(item_before), len(published)) < n:
        raise InputError(f"{run}: vectors or semantic IDs are missing for items of the catalogue; run genrec fit")
    with _extended(run / "vectors/text", inputs) as scratch:
        _behind(text_before, n, said).save(scratch / "text.safetensors")
    with _extended(run / "vectors/item", inputs) as scratch:
        _behind(item_before, n, fused).save(scratch / "item.safetensors")
        sequence = load_frozen(scratch)
        if sequence is not None and raw is not None:
            extended(sequence, n, raw).save(scratch)
    with _extended(run / "semtok", inputs) as scratch:
        ids.save(scratch)
    with _extended(run / "catalog", inputs) as scratch:
        grown.save(scratch)
    return len(new)


def place(run: Path, text: ItemVectors) -> tuple[ItemVectors, Tensor | None]:
    """Vectors of items that nobody has taken, from their words [M, D_t] alone, by the run's own aligner.

    Returns:
        Those that are quantised; and those of a trained aligner's recommender, whose lengths count.
    """
    folder = run / "vectors/item"
    facts = read_json(folder / "aligner.json")
    if not isinstance(facts, dict) or facts.get("name") == "fusion":
        return Fusion.load(folder).transform(text), None
    raw = vectors_from_text(load_table(folder, load_aligner_inputs(run)), text)
    return ItemVectors(unit_rows(raw.numpy()), f"{facts['name']}({text.source})"), raw


def _behind(old: ItemVectors, n: int, new: ItemVectors) -> ItemVectors:
    return ItemVectors(np.concatenate([old.values[:n], new.values]), old.source)


@contextlib.contextmanager
def _extended(folder: Path, inputs: dict[str, str]) -> Iterator[Path]:
    """A copy of a sealed folder to change, put in its place when the block ends; keeps what it was made from."""
    before = files_hash(folder)
    made_from = check_folder(folder)["inputs"]
    added = [*made_from.get(ADDED, []), inputs["added"]]
    with new_folder(folder, {**made_from, ADDED: added, BEFORE: before}) as scratch:
        shutil.copytree(folder, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        yield scratch
