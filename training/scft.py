"""Contrastive fine-tuning of a text encoder on an item table (`genrec.training.encoder.fit`), on as many processes as
accelerate launches; each contrasts a batch of its own.

    accelerate launch -m genrec.training.scft --config scft.yaml --steps 300

with, for example,

    items: data/items.jsonl
    output: runs/scft
    encoder: minilm        # or smollm2, hf:MODEL, hf-last:MODEL: any Hugging Face encoder or causal LM
    steps: 150

The output is a Hugging Face folder with the adapters merged, for `genrec fit … --text.encoder scft:runs/scft`, which
tells it of items and of queries in the words that it was tuned on (`semtok.encoders.attribute_prompt`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from accelerate import PartialState

from genrec.semtok.errors import InputError
from genrec.training.encoder.config import ScftConfig, read_config
from genrec.training.encoder.fit import fit_scft


def main() -> None:
    """`accelerate launch -m genrec.training.scft --config FILE`, with fields of the file overridden behind it."""
    parser = argparse.ArgumentParser(
        prog="genrec.training.scft", description="Tune a text encoder on an item table.", allow_abbrev=False
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML with the fields of ScftConfig")
    for name in (field.name for field in fields(ScftConfig) if field.name != "columns"):  # which has parts
        parser.add_argument(f"--{name}", metavar="VALUE", default=argparse.SUPPRESS)
    overrides = vars(parser.parse_args())
    path: Path = overrides.pop("config")
    try:
        config = read_config(path, overrides)

        def log(row: Mapping[str, Any]) -> None:
            if PartialState().is_main_process:
                sys.stderr.write(json.dumps(dict(row)) + "\n")

        fit_scft(config, log)
        PartialState().wait_for_everyone()
        if PartialState().num_processes > 1:
            os._exit(0)  # gloo's threads can keep an interpreter from ending; everything is written
    except InputError as error:
        sys.stderr.write(f"genrec.training.scft: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
