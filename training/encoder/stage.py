"""The stages `vectors/text` and `vectors/users` of a run: what an encoder makes of texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from genrec.run import Run
from genrec.semtok.encoders import item_texts, make_encoder
from genrec.semtok.vectors import ItemVectors
from genrec.stages import Stage
from genrec.tasks.preference_texts import preference_vectors


def text_stage(encoder: str) -> Stage:
    """Vectors of the items' texts, and the encoder's state.

    Args:
        encoder: its name (see `make_encoder`).
    """
    return Stage("vectors/text", {"encoder": encoder}, ("catalog",), partial(_text, encoder))


def users_stage() -> Stage:
    """Vectors of the preference text of each training history, by the items' encoder."""
    return Stage("vectors/users", {}, ("catalog", "split", "vectors/text"), _users)


def _text(name: str, run: Run, folder: Path) -> None:
    encoder = make_encoder(name)
    texts = item_texts(encoder, run.catalog())
    encoder.fit(texts)
    encoder.save(folder)
    ItemVectors(encoder.encode(texts), encoder.name).save(folder / "text.safetensors")


def _users(run: Run, folder: Path) -> None:
    encoder = run.text_encoder()
    vectors = preference_vectors(run.catalog(), run.split().train, encoder)
    ItemVectors(vectors, encoder.name).save(folder / "users.safetensors")
