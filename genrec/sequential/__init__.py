"""Sequential models: collaborative vectors for the tokenizer, the models that aligners train through, and baselines.

A new backbone is one file here and one line in `BACKBONES`. LightGCN stands beside them: it reads a graph, no order.
"""

from __future__ import annotations

from genrec.sequential.base import Backbone, ColdItems, SequentialModel
from genrec.sequential.bert4rec import Bert4RecBackbone, Bert4RecConfig
from genrec.sequential.gru4rec import Gru4RecBackbone, Gru4RecConfig
from genrec.sequential.lightgcn import LightGcn, LightGcnConfig
from genrec.sequential.lrurec import LruRecBackbone, LruRecConfig
from genrec.sequential.sasrec import SasRec, SasRecBackbone, SasRecConfig

BACKBONES: dict[str, type[Backbone]] = {
    "sasrec": SasRecBackbone,
    "gru4rec": Gru4RecBackbone,
    "bert4rec": Bert4RecBackbone,
    "lrurec": LruRecBackbone,
}
"""Each is built from its `shape`."""

__all__ = [
    "BACKBONES",
    "Backbone",
    "Bert4RecConfig",
    "ColdItems",
    "Gru4RecConfig",
    "LightGcn",
    "LightGcnConfig",
    "LruRecConfig",
    "SasRec",
    "SasRecBackbone",
    "SasRecConfig",
    "SequentialModel",
]
