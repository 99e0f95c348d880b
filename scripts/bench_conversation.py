"""Movies that people recommend to each other in conversation (ReDial), retrieved by the parts of the product.

    python scripts/bench_conversation.py --data redial --movielens ml1m [--movielens-small ml_latest_small]
        [--quick] [--json FILE]

DATA has `items.jsonl.gz` and `valid_turns.jsonl`: turns of dialogues, each with what was said, the movies that were
named, and those that the next utterance recommends for the first time. MOVIELENS has `items.jsonl` and
`interactions.csv[.gz]`. Every movie of DATA is ranked, those that were named are left out (Li et al. 2018, "Towards
Deep Conversational Recommendations"; the protocol of He et al. 2023, "Large Language Models as Zero-Shot
Conversational Recommenders").

A dialogue becomes a history (movies named, those last that were named last, without those that the seeker disliked)
and a wish (what was said, without titles). No language model reads it. Component scores of a movie:

    popularity     log of its users in MovieLens                recent     year of its release, in steps
    co-ratings     `ItemKnn` of each MovieLens over the history
    words          BM25 (`LexicalIndex`) of all that the seeker said, and of the last four utterances
    meaning        cosines of the text encoder: the last four utterances against movies' texts; `ContentKnn`
    genres         named in the words; shared with the history   people    named in the words; shared with the history
    titles         BM25 of the history's titles, which finds sequels         years     distance from the history's
    dialogues      log of how many other dialogues name it, `ItemKnn` over the movies that they name together

They are fused by a softmax over the catalogue whose weights (one a column) are fitted on four fifths of the dialogues
and used on the last, five times. The counts of "dialogues" are taken from other folds than the scored one, also when
weights are fitted. Errors are standard errors over dialogues.

Shapes: T turns, N movies, C columns of component scores.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from scipy import sparse

from genrec.data.sequences import Sequences
from genrec.evaluation.baselines import ContentKnn, ItemKnn
from genrec.inference.lexical import LexicalIndex, fold
from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders import make_encoder
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.tables import read_table

K, FOLDS, NEGATIVES = 10, 5, 300
Scores = NDArray[np.float32]
_YEAR = re.compile(r"\s*\((\d{4})\)\s*$")
_ARTICLE = re.compile(r"(.*), (the|a|an|le|la|les|il|el|der|die|das)$", re.IGNORECASE)
_DISLIKED = re.compile(
    r"\b(?:(?:did not|didn'?t|do not|don'?t|never) (?:really |actually )?(?:like|care|enjoy|love|want)|hate[ds]?"
    r"|dislike|not (?:really |a |my )*(?:fan|into|interested|what|good|like)|boring|terrible|awful"
    r"|too (?:scary|slow|long|violent))",
    re.IGNORECASE,
)
# What people say for genres besides their names.
SAID = {
    "funny": "comedy", "humor": "comedy", "laugh": "comedy", "scary": "horror", "creepy": "horror",
    "scifi": "sci-fi", "sci": "sci-fi", "space": "sci-fi", "alien": "sci-fi", "superhero": "action",
    "romantic": "romance", "romcom": "romance", "love": "romance", "animated": "animation", "cartoon": "animation",
    "disney": "animation", "pixar": "animation", "kid": "family", "child": "family", "children": "family",
    "suspense": "thriller", "gangster": "crime", "mafia": "crime", "detective": "mystery", "magic": "fantasy",
    "historical": "history", "military": "war", "cowboy": "western",
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """A turn in which movies are recommended.

    Attributes:
        dialogue: its name.
        said: what was said, oldest first, the seeker's and the recommender's by turns.
        named: rows of the movies that were named, each where it was named last.
        liked: those of them that the seeker does not dislike.
        targets: rows of the movies that are recommended for the first time.
    """

    dialogue: str
    said: tuple[str, ...]
    named: tuple[int, ...]
    liked: tuple[int, ...]
    targets: tuple[int, ...]


# Reading


def read_turns(path: Path, catalog: Catalog) -> list[Turn]:
    """All turns of a file, with rows of the catalogue."""
    turns = []
    for line in path.read_text().splitlines():
        value = json.loads(line)
        named = dict.fromkeys(reversed([catalog.row(item) for item in value["mentioned"]]))
        named = tuple(reversed(named))
        said = tuple(value["context"])
        titles = [catalog.titles[row] for row in named]
        liked = tuple(row for row, title in zip(named, titles, strict=True) if not disliked(title, said))
        turns.append(Turn(value["dialog_id"], said, named, liked, tuple(map(catalog.row, value["new_targets"]))))
    return turns


def disliked(title: str, said: Sequence[str]) -> bool:
    """Whether the seeker says so of a movie, beside its title or in answer to the recommender who named it."""
    for place, utterance in enumerate(said):
        if title not in utterance:
            continue
        if place % 2 == 0:
            beside = [sentence for sentence in re.split(r"[.!?] ", utterance) if title in sentence]
        else:
            beside = list(said[place + 1 : place + 2])
        if any(_DISLIKED.search(sentence) for sentence in beside):
            return True
    return False


def keys_of(title: str) -> tuple[list[str], int | None]:
    """What a title is joined by: its letters without accents, articles in front, each of its names; and its year."""
    year = _YEAR.search(title)
    title = _YEAR.sub("", title.strip())
    both = re.match(r"(.*?)\s*\((.*)\)$", title)
    names = [both[1], both[2].removeprefix("a.k.a. ")] if both else [title]
    names = [f"{moved[2]} {moved[1]}" if (moved := _ARTICLE.match(name)) else name for name in names]
    keys = ["".join(fold(word) for word in re.findall(r"\w+", name.lower().replace("&", "and"))) for name in names]
    return keys, int(year[1]) if year else None


def read_log(folder: Path, catalog: Catalog) -> Sequences:
    """A MovieLens log as sequences of catalogue rows, joined by title and year (a year off at most)."""
    known: dict[tuple[str, int | None], int] = {}
    for row, title in enumerate(catalog.titles):
        keys, year = keys_of(title)
        for key in keys:
            known.setdefault((key, year), row)

    def find(title: str) -> int:
        keys, year = keys_of(title)
        near = [year, *([] if year is None else [year + 1, year - 1]), None]
        return next((known[key, other] for other in near for key in keys if (key, other) in known), -1)

    movies = read_table(folder / "items.jsonl", what="movies")
    rows = {item: find(title) for item, title in movies["item_id", "title"].rows()}
    files = [folder / name for name in ("interactions.csv", "interactions.csv.gz") if (folder / name).is_file()]
    if not files:
        raise InputError(f"{folder}: no interactions.csv or interactions.csv.gz")
    log = read_table(files[0], what="interactions")
    log = log.with_columns(row=pl.col("item_id").replace_strict(rows, default=-1, return_dtype=pl.Int32))
    log = log.filter(pl.col("row") >= 0).with_columns(pl.col("timestamp").cast(pl.Int64))
    by_user = log.sort("timestamp", maintain_order=True).group_by("user_id", maintain_order=True).agg("row")
    return Sequences.from_lists(by_user["row"].to_list())


# Component scores


def without_titles(turn: Turn, titles: Sequence[str], utterances: Sequence[str]) -> str:
    text = "\n".join(utterances)
    for row in turn.named:
        text = text.replace(titles[row], " ")
    return text


def over_maximum(scores: Scores) -> Scores:
    return scores / np.maximum(scores.max(axis=1, keepdims=True), 1e-9)


def of_history(table: sparse.csr_array, turns: Sequence[Turn]) -> sparse.csr_array:
    """Mean over the liked movies of rows of a table [N, A]: sparse [T, A]."""
    rows = [(t, row, 1 / len(turn.liked)) for t, turn in enumerate(turns) for row in turn.liked]
    where, row, weight = (np.array(part) for part in zip(*rows, strict=True))
    return sparse.csr_array((weight.astype(np.float32), (where, row)), shape=(len(turns), table.shape[0])) @ table


def attributes(values: Sequence[Sequence[str]]) -> tuple[sparse.csr_array, dict[str, int]]:
    """Which item has which of some values, [N, A], rows of unit length; and the values' columns."""
    names = {name: column for column, name in enumerate(sorted({name for held in values for name in held}))}
    rows = [(row, names[name], 1 / np.sqrt(len(held))) for row, held in enumerate(values) for name in held]
    row, column, weight = (np.array(part) for part in zip(*rows, strict=True))
    return sparse.csr_array((weight.astype(np.float32), (row, column)), shape=(len(values), len(names))), names


def named_in(said: str, names: dict[tuple[str, ...], str], longest: int) -> set[str]:
    words = [fold(word) for word in re.findall(r"\w+", said.lower())]
    runs = (tuple(words[i : i + n]) for i in range(len(words)) for n in range(1, longest + 1))
    return {names[run] for run in runs if run in names}


def of_names(turns: Sequence[Turn], table: sparse.csr_array, columns: dict[str, int], others: dict[str, str]) -> Scores:
    """Items that have values which somebody named, [T, N]."""
    spelled = {tuple(fold(word) for word in re.findall(r"\w+", name.lower())): name for name in columns}
    spelled = {words: name for words, name in spelled.items() if len(words) > 1 or len(columns) < 100}
    spelled |= {(word,): name for word, name in others.items() if name in columns}
    found = [(t, columns[name]) for t, turn in enumerate(turns) for name in named_in(" ".join(turn.said), spelled, 3)]
    where, column = (np.array(part) for part in zip(*found, strict=True))
    asked = sparse.csr_array((np.ones(len(where), dtype=np.float32), (where, column)), shape=(len(turns), len(columns)))
    return (asked @ table.T).toarray()


def fixed_scores(
    catalog: Catalog, turns: Sequence[Turn], logs: dict[str, Sequences], encoder: str
) -> dict[str, Scores]:
    """All component scores that no other dialogue has a part in, [T, N] each, by "component: column"."""
    size, plain = len(catalog), [_YEAR.sub("", title) for title in catalog.titles]
    liked = Sequences.from_lists([turn.liked for turn in turns])
    years = np.array([keys_of(title)[1] or 0 for title in catalog.titles])
    steps = {f"recent: from {year}": (years >= year).astype(np.float32) for year in (1, 1980, 1990, 2000, 2010, 2016)}
    found = {name: np.broadcast_to(step, (len(turns), size)) for name, step in steps.items()}
    for name, log in logs.items():
        users = np.log1p(np.bincount(log.values, minlength=size)).astype(np.float32)
        found[f"popularity: {name}"] = np.broadcast_to(users, (len(turns), size))
        found[f"co-ratings: {name}"] = np.sqrt(
            ItemKnn.fit(log, size, shrinkage=10.0, neighbours=1000, decay=0.9).score(liked)
        )
    index, titles = (
        LexicalIndex(catalog),
        LexicalIndex(Catalog(catalog.item_ids, tuple(plain), pl.DataFrame(), catalog.withdrawn)),
    )
    seeker = [without_titles(turn, catalog.titles, turn.said[::2]) for turn in turns]
    last = [without_titles(turn, catalog.titles, turn.said[-4:]) for turn in turns]
    found["words: seeker"] = over_maximum(np.array([index.scores(text) for text in seeker]))
    found["words: last"] = over_maximum(np.array([index.scores(text) for text in last]))
    alike = {row: titles.scores(plain[row]) for turn in turns for row in turn.liked}
    alike = {row: scores / max(float(scores[row]), 1e-9) for row, scores in alike.items()}
    nothing = np.zeros(size, dtype=np.float32)
    found["titles: history"] = np.array(
        [np.max([alike[row] for row in turn.liked], axis=0) if turn.liked else nothing for turn in turns]
    )
    reader = make_encoder(encoder)
    texts = catalog.texts()
    reader.fit(texts)
    vectors = reader.encode(texts)
    found["meaning: words"] = reader.encode(last) @ vectors.T
    found["meaning: history"] = ContentKnn(vectors, decay=0.9).score(liked)
    table, columns = attributes(catalog.attributes["categories"].fill_null([]).to_list())
    found["genres: words"] = of_names(turns, table, columns, SAID)
    found["genres: history"] = (of_history(table, turns) @ table.T).toarray()
    held = zip(catalog.attributes["cast"].fill_null([]), catalog.attributes["director"].fill_null([]), strict=True)
    table, columns = attributes([sorted({*cast, *director}) for cast, director in held])
    found["people: words"] = of_names(turns, table, columns, {})
    found["people: history"] = (of_history(table, turns) @ table.T).toarray()
    mean = [np.mean([years[row] for row in turn.liked if years[row]] or [np.nan]) for turn in turns]
    distance = np.abs(np.array(mean)[:, None] - np.where(years > 0, years, np.nan)).astype(np.float32)
    found["years: history"] = np.nan_to_num(np.minimum(distance, 40))
    return {name: scores.astype(np.float32) for name, scores in found.items()}


def of_dialogues(turns: Sequence[Turn], liked: Sequence[Turn], size: int) -> dict[str, Scores]:
    """How often the dialogues of `turns` name each movie, and which they name together; for the turns `liked`."""
    named: dict[str, set[int]] = defaultdict(set)
    for turn in turns:
        named[turn.dialogue] |= {*turn.named, *turn.targets}
    log = Sequences.from_lists([sorted(rows) for rows in named.values()])
    share = np.bincount(log.values, minlength=size) / len(log)
    together = ItemKnn.fit(log, size, shrinkage=2.0, neighbours=1000, decay=0.9)
    return {
        "dialogues: named": np.broadcast_to(np.log(1000 * share + 0.3).astype(np.float32), (len(liked), size)),
        "dialogues: together": np.sqrt(together.score(Sequences.from_lists([turn.liked for turn in liked]))),
    }


# Fusion


class Fusion:
    """Component scores in columns, and the folds in which their weights are fitted.

    Args:
        every: all turns, of which those with targets are scored.
        size: N.
        fixed: see `fixed_scores`, of the turns with targets.
    """

    def __init__(self, every: Sequence[Turn], size: int, fixed: dict[str, Scores]) -> None:
        self.turns = [turn for turn in every if turn.targets]
        self._size, self._fixed = size, fixed
        names = sorted({turn.dialogue for turn in every})
        order = np.random.default_rng(0).permutation(len(names)) % FOLDS
        fold_of = dict(zip(names, order.tolist(), strict=True))
        self._folds = np.array([fold_of[turn.dialogue] for turn in self.turns])
        self._named = np.zeros((len(self.turns), size), dtype=np.bool_)
        for place, turn in enumerate(self.turns):
            self._named[place, list(turn.named)] = True
        self._counted: dict[frozenset[int], dict[str, Scores]] = {}
        for first in range(FOLDS):
            for second in range(first, FOLDS):
                away = frozenset({first, second})
                others = [turn for turn in every if fold_of[turn.dialogue] not in away]
                self._counted[away] = of_dialogues(others, self.turns, size)
        self.columns = [*fixed, *self._counted[frozenset({0})]]
        counted = self._counted[frozenset({0})]
        self._scale = {name: 1 / max(float(self._of(name, counted).std()), 1e-9) for name in self.columns}

    def _of(self, name: str, counted: dict[str, Scores]) -> Scores:
        return self._fixed[name] if name in self._fixed else counted[name]

    def ranks(self, columns: Sequence[str]) -> tuple[list[NDArray[np.int64]], dict[str, float]]:
        """The place of each turn's targets, from 1, by weights that its own fold had no part in; and mean weights."""
        ranks: list[NDArray[np.int64]] = [np.empty(0, dtype=np.int64)] * len(self.turns)
        fitted = []
        for scored in range(FOLDS):
            weights = self._fit(columns, scored)
            fitted.append(weights)
            places = np.flatnonzero(self._folds == scored)
            total = np.zeros((len(places), self._size), dtype=np.float32)
            for name, weight in zip(columns, weights, strict=True):
                total += weight * self._scale[name] * self._of(name, self._counted[frozenset({scored})])[places]
            total[self._named[places]] = -np.inf
            for place, scores in zip(places.tolist(), total, strict=True):
                targets = list(self.turns[place].targets)
                better = (scores[None] > scores[targets][:, None]).sum(axis=1)
                ties = [(scores[:target] == scores[target]).sum() for target in targets]
                ranks[place] = 1 + better + np.array(ties)
        return ranks, dict(zip(columns, np.mean(fitted, axis=0).tolist(), strict=True))

    def _fit(self, columns: Sequence[str], scored: int) -> NDArray[np.float32]:
        """Weights by which targets win a softmax against `NEGATIVES` other movies, on all folds but one."""
        features = self._examples(scored)[:, [self.columns.index(name) for name in columns]]
        weights = torch.zeros(len(columns), requires_grad=True)
        optimizer = torch.optim.LBFGS([weights], max_iter=40, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            logits = torch.einsum("ecn,c->en", features, weights)
            loss = -torch.log_softmax(logits, dim=1)[:, 0].mean() + 1e-3 * weights.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
        return weights.detach().numpy()

    @cache  # noqa: B019
    def _examples(self, scored: int) -> torch.Tensor:
        """[E, C, 1 + NEGATIVES] of the targets of all folds but one: the target, and movies drawn beside it."""
        rng, found = np.random.default_rng(scored), []
        for place in np.flatnonzero(self._folds != scored).tolist():
            counted = self._counted[frozenset({scored, int(self._folds[place])})]
            for target in self.turns[place].targets:
                others = ~self._named[place]
                others[target] = False
                rows = np.append(target, rng.choice(np.flatnonzero(others), NEGATIVES, replace=False))
                found.append([self._scale[name] * self._of(name, counted)[place, rows] for name in self.columns])
        return torch.tensor(np.array(found, dtype=np.float32))


def measured(turns: Sequence[Turn], ranks: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    """Recall@K and NDCG@K over all targets, with standard errors over dialogues (a ratio of sums of dialogues)."""
    sums: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(3))
    for turn, places in zip(turns, ranks, strict=True):
        hit = places <= K
        sums[turn.dialogue] += [len(places), hit.sum(), (hit / np.log2(places + 1)).sum()]
    count, *found = np.array(list(sums.values())).T
    figures = {}
    for name, value in zip(("recall", "ndcg"), found, strict=True):
        mean = value.sum() / count.sum()
        figures[name] = float(mean)
        figures[f"{name}_error"] = float(np.sqrt(((value - mean * count) ** 2).sum()) / count.sum())
    return figures


def lines_of(fusion: Fusion, quick: bool) -> Iterator[tuple[str, list[str]]]:
    """Names of what is measured, and its columns."""
    component = {name: name.partition(":")[0] for name in fusion.columns}
    parts = [part for part in dict.fromkeys(component.values()) if part != "recent"]
    alone = [name for name in fusion.columns if component[name] != "dialogues"]
    yield "all", list(fusion.columns)
    yield "all but dialogues", alone
    if quick:
        return
    for part in parts:
        yield f"{part} alone", [name for name in fusion.columns if component[name] == part]
    for part in parts:
        yield f"all without {part}", [name for name in fusion.columns if component[name] != part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--movielens", type=Path, required=True)
    parser.add_argument("--movielens-small", type=Path)
    parser.add_argument("--encoder", default="tfidf", help="text encoder, by its name in configurations")
    parser.add_argument("--quick", action="store_true", help="no line for each component")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    started = time.perf_counter()
    catalog = Catalog.from_file(arguments.data / "items.jsonl.gz")
    every = read_turns(arguments.data / "valid_turns.jsonl", catalog)
    folders = [folder for folder in (arguments.movielens, arguments.movielens_small) if folder is not None]
    logs = {folder.name: read_log(folder, catalog) for folder in folders}
    turns = [turn for turn in every if turn.targets]
    fusion = Fusion(every, len(catalog), fixed_scores(catalog, turns, logs, arguments.encoder))
    targets = sum(len(turn.targets) for turn in turns)
    joined = ", ".join(f"{name} {len(np.unique(log.values)):,}" for name, log in logs.items())
    print(f"{len(catalog):,} movies (with ratings in {joined}); {len(turns):,} turns, {targets:,} targets\n")
    print(f"{'component scores':<32}{f'Recall@{K}':>17}{f'NDCG@{K}':>17}")
    figures, weights = {}, {}
    for name, columns in lines_of(fusion, arguments.quick):
        ranks, fitted = fusion.ranks(columns)
        value = measured(fusion.turns, ranks)
        each = [f"{value[metric]:.4f} ± {value[metric + '_error']:.4f}" for metric in ("recall", "ndcg")]
        print(f"{name:<32}{each[0]:>17}{each[1]:>17}", flush=True)
        key = re.sub(r"\W+", "_", name)
        figures |= {f"{metric}_{key}": number for metric, number in value.items()}
        weights = weights or fitted
    print("\nweights of all, each column scaled to a standard deviation of 1:")
    print("\n".join(f"    {name:<28}{weight:+.2f}" for name, weight in weights.items()))
    print(f"\n{time.perf_counter() - started:.0f} s")
    if arguments.json:
        conditions = {
            "movies": len(catalog), "turns": len(turns), "targets": targets, "encoder": arguments.encoder,
            "movielens": list(logs), "folds": FOLDS, "negatives": NEGATIVES,
        }  # fmt: skip
        write_atomic(arguments.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_conversation: {error}")
