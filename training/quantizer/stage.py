"""The stage `semtok` of a run: a quantiser of the item vectors, the semantic IDs, and how good they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from genrec.data.user_items import user_item_matrix
from genrec.run import Run
from genrec.semtok.folders import hash_file, to_json, write_atomic
from genrec.semtok.quality import measure_quality
from genrec.semtok.quality_plots import plot_quality
from genrec.semtok.quantizers import Quantizer, reads_collaborative
from genrec.semtok.quantizers.given import codebooks_of, read_codes, sizes_of
from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans
from genrec.semtok.semantic_ids import assign_ids
from genrec.stages import Stage
from genrec.training.quantizer.fit import fit_quantizer
from genrec.training.quantizer.letter import Collaborative


def semtok_stage(settings: Mapping[str, Any], options: Any, seed: int) -> Stage:
    """Semantic IDs.

    Args:
        settings: the whole section of the configuration, by which the stage is known, with the codes where they are
            given.
        options: configuration of the chosen quantiser.
        seed: of the run.
    """
    needs, facts = ["catalog", "split", "vectors/text", "vectors/item"], {**settings, "seed": seed}
    if reads_collaborative(options):
        needs.append("vectors/collaborative")
    path = facts.pop("codes")
    if path is not None:
        facts["codes"] = hash_file(Path(path))
    return Stage("semtok", facts, tuple(needs), partial(_semtok, settings, options, seed))


def _semtok(settings: Mapping[str, Any], options: Any, seed: int, run: Run, folder: Path) -> None:
    catalog, vectors, text, targets = run.catalog(), run.item_vectors(), run.text_vectors(), None
    user_item = user_item_matrix(run.split().train, len(text))
    if reads_collaborative(options):
        targets = Collaborative(run.collaborative_vectors().values, user_item.sum(axis=0) > 0)
    quantizer: Quantizer
    if settings["codes"] is None:
        quantizer = fit_quantizer(settings["quantizer"], vectors.values, settings["sizes"], options, seed, targets)
        codes = quantizer.encode(vectors.values)
    else:
        codes = read_codes(Path(settings["codes"]), catalog.item_ids)
        quantizer = ResidualKMeans(codebooks_of(vectors.values, codes, sizes_of(codes, settings["sizes"]), seed))
    ids = assign_ids(quantizer, catalog.item_ids, vectors.values, codes, extra_level=settings["extra_level"])
    quantizer.save(folder)
    ids.save(folder)
    quality = measure_quality(ids, quantizer, vectors.values, text.values, user_item, codes)
    plot_quality(quality, ids, folder)
    write_atomic(folder / "quality.json", to_json(quality.to_json()))
