"""From a person's words to an item: our search, and the LM's part of it alone, against TF-IDF over the same texts.

    python scripts/bench_search.py --run runs/demo [--quick] [--json FILE]

A query paraphrases one item, made with a seed and no look at either searcher. Four kinds, a quarter of them each:

    title words   half of the title's words, at least two, shuffled
    text words    four words of the item's text outside of its title, shuffled
    lead-in       the title's words shuffled after "I am looking for", as people write
    misspelt      the title with two neighbouring letters swapped in every second word of five letters or more

TF-IDF has exact words and no order, so it loses nothing by shuffling and much by misspelling; the LM was trained on
whole titles and texts in order (with a seed of its own), so it loses by shuffling and, reading pieces of words, less by
misspelling. No query is a training prompt of the LM: title words are dropped, added, moved or changed in each. TF-IDF
(words, sublinear, smoothed idf, English stop words kept) is fitted on all items; ties go to the lower row. "ours" is
`Recommender.search`, in which the run's text vectors propose and weigh too; "LM" is the same without them.

Words come from the catalogue as they are spelled there, which is the best case of an index of exact words: synonyms, in
which an LM with a pretrained base should gain, are not measured. Several items may fit a query as well as the one that
it came from (three sizes of one mug); both searchers get the same blame for it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from genrec.inference.chat.catalog_words import WORD
from genrec.inference.recommender import Recommender
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic

KINDS = ("title words", "text words", "lead-in", "misspelt")
K = 10


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="200 queries")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.queries < 1:
        parser.error("--queries must be at least 1")
    recommender = Recommender.from_pretrained(arguments.run)
    catalog, rng = recommender.catalog, np.random.default_rng(arguments.seed)
    count = 200 if arguments.quick else arguments.queries
    sellable = np.flatnonzero(~catalog.withdrawn)
    queries = []
    for place, row in enumerate(rng.choice(sellable, size=count, replace=count > len(sellable)).tolist()):
        kind = KINDS[place % len(KINDS)]
        query = paraphrase(catalog, row, kind, rng)
        if query:
            queries.append((kind, row, query))

    vectorizer = TfidfVectorizer(sublinear_tf=True)
    matrix = vectorizer.fit_transform(catalog.texts())
    hits: dict[tuple[str, str], list[bool]] = {(name, kind): [] for name in ("tfidf", "lm", "ours") for kind in KINDS}
    seconds = {"tfidf": 0.0, "lm": 0.0, "ours": 0.0}
    for kind, row, query in queries:
        start = time.perf_counter()
        scores = (matrix @ vectorizer.transform([query]).T).toarray().ravel()
        scores[catalog.withdrawn] = -1.0
        best = np.argsort(-scores, kind="stable")[:K]
        seconds["tfidf"] += time.perf_counter() - start
        hits["tfidf", kind].append(row in best)
        for name in ("lm", "ours"):
            start = time.perf_counter()
            found = recommender.search(query, K, by_text_vectors=name == "ours")
            seconds[name] += time.perf_counter() - start
            hits[name, kind].append(catalog.item_ids[row] in dict(found))

    figures = {}
    print(
        f"{arguments.run}: {len(queries)} queries over {len(catalog):,} items, Recall@{K} (95% of a paired bootstrap)\n"
    )
    print(f"{'paraphrase':<14}{'TF-IDF':>8}{'LM':>8}{'ours':>8}{'ours - TF-IDF':>26}")
    for kind in (*KINDS, "all"):
        tfidf, lm, ours = (
            np.array([hit for one in KINDS if kind in (one, "all") for hit in hits[name, one]], dtype=float)
            for name in ("tfidf", "lm", "ours")
        )
        draws = np.random.default_rng(0).integers(len(ours), size=(2000, len(ours)))
        low, high = np.quantile((ours - tfidf)[draws].mean(axis=1), [0.025, 0.975])
        difference = f"{(ours - tfidf).mean():+.3f} [{low:+.3f}, {high:+.3f}]"
        print(f"{kind:<14}{tfidf.mean():>8.3f}{lm.mean():>8.3f}{ours.mean():>8.3f}{difference:>26}")
        name = kind.replace(" ", "_").replace("-", "_")
        figures |= {
            f"recall_at_10_{who}_{name}": hit.mean() for who, hit in (("tfidf", tfidf), ("lm", lm), ("ours", ours))
        }
        figures |= {
            f"difference_{name}": (ours - tfidf).mean(),
            f"difference_low_{name}": low,
            f"difference_high_{name}": high,
        }
    for name in seconds:
        figures[f"milliseconds_{name}"] = 1000 * seconds[name] / len(queries)
    each = ", ".join(f"{name} {figures[f'milliseconds_{name}']:.1f}" for name in seconds)
    print(f"\nmilliseconds a query: {each}")
    if arguments.json:
        conditions = {
            "run": arguments.run.name, "run_id": recommender.run_id, "items": len(catalog), "queries": len(queries),
            "seed": arguments.seed, "beams": recommender.ranker.config.beams,
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }  # fmt: skip
        value = {"figures": {name: float(figure) for name, figure in figures.items()}, "conditions": conditions}
        write_atomic(arguments.json, to_json(value))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_search: {error}")
