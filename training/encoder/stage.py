"""The stages `vectors/text` and `vectors/users` of a run: what an encoder makes of texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from genrec.run import Run
from genrec.run_folder import TEXT, files_hash
from genrec.semtok.encoders import encoder_entry, item_texts, make_encoder
from genrec.semtok.vectors import ItemVectors
from genrec.stages import Stage
from genrec.tasks.preference_texts import TEMPLATE, preference_texts


def text_stage(encoder: str, folder: str = TEXT) -> Stage:
    """Vectors of the items' texts, and the encoder's state.

    Args:
        encoder: its name (see `make_encoder`).
        folder: its place in the run.

    Raises:
        InputError: the encoder was tuned (`scft:FOLDER`) and its folder is unfinished.
    """
    config, (entry, model) = {"encoder": encoder}, encoder_entry(encoder)
    if entry.reads_prompts:
        config["tuned"] = files_hash(Path(model).expanduser())  # tuned anew in the same place it makes other vectors
    return Stage(folder, config, ("catalog",), partial(_text, encoder))


def users_stage(writer: str = TEMPLATE) -> Stage:
    """Vectors of the preference text of each training history, by the items' encoder.

    Args:
        writer: of the texts (see `preference_texts`); what a language model wrote is kept beside them.
    """
    config = {} if writer == TEMPLATE else {"writer": writer}
    return Stage("vectors/users", config, ("catalog", "split", TEXT), partial(_users, writer))


def _text(name: str, run: Run, folder: Path) -> None:
    encoder = make_encoder(name)
    texts = item_texts(encoder, run.catalog())
    encoder.fit(texts)
    encoder.save(folder)
    ItemVectors(encoder.encode(texts), encoder.name).save(folder / "text.safetensors")


def _users(writer: str, run: Run, folder: Path) -> None:
    encoder = run.text_encoder()
    texts = preference_texts(writer, run.catalog(), run.split().train, folder / "answers.jsonl")
    ItemVectors(encoder.encode(texts), encoder.name).save(folder / "users.safetensors")
