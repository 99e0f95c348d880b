"""Sequential models over item ids: collaborative vectors for the tokenizer, and baselines for the tables.

A new model is one file here and one line in `SEQUENTIAL_MODELS`.
"""

from __future__ import annotations

from genrec.sequential.sasrec import SasRec, SasRecConfig

SEQUENTIAL_MODELS = {"sasrec": SasRec}

__all__ = ["SEQUENTIAL_MODELS", "SasRec", "SasRecConfig"]
