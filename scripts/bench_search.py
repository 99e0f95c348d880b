"""From a person's words to an item: our search and its components against TF-IDF over the same texts.

    python scripts/bench_search.py --run runs/demo [--natural FILE] [--part valid] [--quick] [--json FILE]

Two sorts of queries, each for one item.

*Paraphrases* are made of the catalogue's own words with a seed and no look at any searcher, a quarter of each kind:

    title words   half of the title's words, at least two, shuffled
    text words    four words of the item's text outside of its title, shuffled
    lead-in       the title's words shuffled after "I am looking for", as people write
    misspelt      the title with two neighbouring letters swapped in every second word of five letters or more

They are the best case of an index of exact words: it loses nothing by shuffling, and no word is a synonym.

*Natural queries* (--natural, a table with the columns part, item_id and query; those of three catalogues are in
scripts/search_queries/) were written for items drawn by seed, as a shopper would ask who doesn't know the catalogue's
words, before any searcher was tried. Weights were chosen on the part "valid", figures are of the part "test".

    TF-IDF   scikit-learn's: words, sublinear counts, smoothed idf, fitted on all items' texts
    BM25     `genrec.inference.lexical`      dense   the run's text vectors      LM   text-to-codes by the beam
    search   `Recommender.search` as it is: BM25 and dense
    + LM     the same with a weight of 0.005 for the LM, the best of 0.002 to 0.1 on validation queries

Several items may fit a query as well as the one that it came from (three sizes of one mug); all searchers get the same
blame for it. Ties go to the lower row.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from genrec.inference.chat.catalog_words import WORD
from genrec.inference.recommender import Recommender
from genrec.inference.text_search import SearchWeights
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.tables import read_table

KINDS = ("title words", "text words", "lead-in", "misspelt")
K = 10
WEIGHTS = {
    "BM25": SearchWeights(1, 0, 0), "dense": SearchWeights(0, 1, 0), "LM": SearchWeights(0, 0, 1),
    "search": SearchWeights(), "+ LM": SearchWeights(language_model=0.005),
}  # fmt: skip
Query = tuple[str, int, str]  # kind, row, words


def paraphrase(catalog: Catalog, row: int, kind: str, rng: np.random.Generator) -> str:
    """A query for one item; empty where the item has no words for this kind."""
    title = WORD.findall(catalog.titles[row])
    if kind == "title words":
        kept = rng.permutation(len(title))[: max(2, len(title) // 2)]
        return " ".join(title[place] for place in kept)
    if kind == "text words":
        others = [word for word in WORD.findall(catalog.text(row)) if word not in title and len(word) > 3]
        return " ".join(others[place] for place in rng.permutation(len(others))[:4])
    if kind == "lead-in":
        return "I am looking for " + " ".join(title[place] for place in rng.permutation(len(title)))
    long = [place for place, word in enumerate(title) if len(word) >= 5]
    for place in long[::2]:
        word = title[place]
        at = int(rng.integers(1, len(word) - 1))
        title[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(title)


def make_queries(catalog: Catalog, count: int, seed: int, natural: Path | None, part: str) -> list[Query]:
    """Paraphrases, and the natural queries of one part of a file."""
    rng, queries = np.random.default_rng(seed), []
    sellable = np.flatnonzero(~catalog.withdrawn)
    for place, row in enumerate(rng.choice(sellable, size=count, replace=count > len(sellable)).tolist()):
        kind = KINDS[place % len(KINDS)]
        query = paraphrase(catalog, row, kind, rng)
        if query:
            queries.append((kind, row, query))
    if natural is not None:
        table = read_table(natural, what="natural queries")
        for name in ("part", "item_id", "query"):
            if name not in table.columns:
                raise InputError(f"{natural}: no column {name!r}")
        asked = table.filter(pl.col("part") == part)
        queries += [("natural", catalog.row(item), query) for item, query in asked["item_id", "query"].rows()]
    return queries


def tfidf_of(catalog: Catalog) -> Callable[[str], list[int]]:
    """What TF-IDF finds, as catalogue rows."""
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    matrix = vectorizer.fit_transform(catalog.texts())

    def find(query: str) -> list[int]:
        scores = (matrix @ vectorizer.transform([query]).T).toarray().ravel()
        scores[catalog.withdrawn] = -1.0
        return np.argsort(-scores, kind="stable")[:K].tolist()

    return find


def ranks_of(find: Callable[[str], list[int]], queries: list[Query]) -> tuple[NDArray[np.int64], float]:
    """The place of each query's item in what is found, from 1, or 0; and milliseconds a query."""
    find(queries[0][2])
    start = time.perf_counter()
    found = [find(query) for _, _, query in queries]
    spent = 1000 * (time.perf_counter() - start) / len(queries)
    places = [rows.index(row) + 1 if row in rows else 0 for rows, (_, row, _) in zip(found, queries, strict=True)]
    return np.array(places), spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=400, help="paraphrases")
    parser.add_argument("--natural", type=Path)
    parser.add_argument("--part", choices=["valid", "test"], default="test", help="of the natural queries")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="100 paraphrases")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.queries < 1:
        parser.error("--queries must be at least 1")
    recommender = Recommender.from_pretrained(arguments.run)
    catalog, count = recommender.catalog, 100 if arguments.quick else arguments.queries
    queries = make_queries(catalog, count, arguments.seed, arguments.natural, arguments.part)

    def ours(weights: SearchWeights) -> Callable[[str], list[int]]:
        return lambda query: catalog.rows(recommender.search(query, K, weights=weights).to_polars()["item_id"]).tolist()

    searchers = {"TF-IDF": tfidf_of(catalog)} | {name: ours(weights) for name, weights in WEIGHTS.items()}
    measured = {name: ranks_of(find, queries) for name, find in searchers.items()}
    print(
        f"{arguments.run}: {len(queries)} queries over {len(catalog):,} items, Recall@{K} (95% of a paired bootstrap)\n"
    )
    print(f"{'queries':<13}{'':>4}" + "".join(f"{name:>8}" for name in measured) + f"{'search - TF-IDF':>25}")
    figures = print_figures(queries, {name: places for name, (places, _) in measured.items()})
    print(f"{'ms a query':<17}" + "".join(f"{spent:>8.1f}" for _, spent in measured.values()))
    figures |= {f"milliseconds_{_key(name)}": spent for name, (_, spent) in measured.items()}
    if arguments.json:
        conditions = {
            "run": arguments.run.name, "run_id": recommender.run_id, "items": len(catalog), "queries": len(queries),
            "seed": arguments.seed, "part": arguments.part, "beams": recommender.ranker.config.beams,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }  # fmt: skip
        write_atomic(arguments.json, to_json({"figures": figures, "conditions": conditions}))


def print_figures(queries: list[Query], ranks: dict[str, NDArray[np.int64]]) -> dict[str, float]:
    """Recall of each kind of query, and mean reciprocal ranks; returns the same as figures."""
    kinds, figures = np.array([kind for kind, _, _ in queries]), {}
    hits = {name: (places > 0).astype(float) for name, places in ranks.items()}
    reciprocal = {name: hits[name] / np.maximum(places, 1) for name, places in ranks.items()}
    lines = [("recall", kind, hits) for kind in dict.fromkeys(kinds.tolist())]
    lines += [("mrr", kind, reciprocal) for kind in ("natural", "all") if kind == "all" or kind in kinds]
    for metric, kind, values in lines:
        asked = np.full(len(kinds), True) if kind == "all" else kinds == kind
        difference, low, high = paired(values["search"][asked] - values["TF-IDF"][asked])
        means = {name: float(value[asked].mean()) for name, value in values.items()}
        label = kind if metric == "recall" else f"MRR, {kind}"
        columns = "".join(f"{mean:>8.3f}" for mean in means.values())
        print(f"{label:<13}{asked.sum():>4}{columns}{difference:>+10.3f} [{low:+.3f}, {high:+.3f}]")
        key = f"{metric}_at_{K}_{_key(kind)}"
        figures |= {f"{key}_{_key(name)}": mean for name, mean in means.items()}
        figures |= {f"{key}_difference": difference, f"{key}_low": low, f"{key}_high": high}
    return figures


def paired(difference: NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean of a paired difference [n] and the ends of its 95% bootstrap interval."""
    draws = np.random.default_rng(0).integers(len(difference), size=(2000, len(difference)))
    low, high = np.quantile(difference[draws].mean(axis=1), [0.025, 0.975])
    return float(difference.mean()), float(low), float(high)


def _key(name: str) -> str:
    return name.lower().replace("+ lm", "with_lm").replace("tf-idf", "tfidf").replace("-", "_").replace(" ", "_")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_search: {error}")
