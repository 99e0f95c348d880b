"""A shop of 60 items and 150 people, and the options that fit it in seconds."""

from __future__ import annotations

from pathlib import Path

from genrec.data.sample_shop import make_sample_shop
from genrec.semtok.folders import hash_file

SMALL = [
    "--text.encoder=tfidf", "--baseline=sasrec",
    "--sasrec.width=16", "--lrurec.width=16",
    "--collaborative.epochs=3", "--aligner.training.epochs=3", "--lm.epochs=2", "--lm.width=16",
    "--lm.text_vocabulary=300", "--lm.dense_width=16", "--lm.valid_cases=50", "--topk.k=5", "--topk.shard_size=40",
]  # fmt: skip
LITTLE = {  # the same from Python
    "text": {"encoder": "tfidf"},
    "sasrec": {"width": 16},
    "aligner": {"training": {"epochs": 1}},
    "lm": {"epochs": 1, "width": 16, "text_vocabulary": 300, "dense_width": 16, "valid_cases": 50},
    "topk": {"k": 5},
}


def write_shop(folder: Path) -> Path:
    """A small shop and the smallest configuration for it."""
    make_sample_shop(0, users=150, items=60).write(folder)
    config = folder / "my.yaml"
    data = f"data:\n  items: {folder / 'items.jsonl'}\n  interactions: {folder / 'interactions.csv'}\n"
    config.write_text(f"{data}run: {folder / 'run'}\n")
    return config


def contents(run: Path) -> dict[str, str]:
    """Every file of a run that must be the same every time, by its hash: a difference of bytes takes ages to print."""
    return {
        str(path.relative_to(run)): hash_file(path)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", ".lock", "config.yaml")
    }
