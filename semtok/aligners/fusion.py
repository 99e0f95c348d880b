"""Fusing the text and the collaborative modality of items into the vectors that are quantised.

Both sides are centred, turned to their principal axes, cut to a common width W and scaled to unit length. An item's
fused vector is

    [ sqrt(w) t ; sqrt(1 - w) b ],    b = c for an item with interactions, unit(r(t)) for the others

with t its text side, c its collaborative side, w the weight of text, and r the ridge regression from t to c fitted on
the items with interactions, so that a cold-start item lands where items with like text are found. `text` and
`collaborative` give one side alone. The squared distance of two fused vectors is w times that of their text sides plus
1 - w times that of their collaborative sides.

Shapes: N items, D_t and D_c widths of the two inputs, W common width.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from sklearn.linear_model import RidgeCV

from genrec.semtok.aligners.config import FusionConfig
from genrec.semtok.aligners.principal_axes import principal_axes
from genrec.semtok.arrays import Spec, read_arrays
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json, to_json, write_atomic
from genrec.semtok.schema import parse_as
from genrec.semtok.vectors import ItemVectors, unit_rows

Floats = NDArray[np.float32]
_PARTS: Spec = {  # in the order in which `fit` makes them; the first two are all of a fusion of text alone
    "text_mean": ("float32", ("D_t",)),
    "text_axes": ("float32", ("D_t", "W_t")),
    "collaborative_mean": ("float32", ("D_c",)),
    "collaborative_axes": ("float32", ("D_c", "W_c")),
    "ridge_weights": ("float32", ("W_t", "W_c")),
    "ridge_bias": ("float32", ("W_c",)),
}
_RIDGE_PENALTIES = tuple(10.0**power for power in range(-2, 4))


@dataclass(frozen=True)
class Fusion:
    """A fitted fusion: it fuses the catalogue, and later items that it has not seen.

    Attributes:
        state: mean and axes of each side ("text_mean" [D_t], "text_axes" [D_t, W], "collaborative_mean" [D_c],
            "collaborative_axes" [D_c, W]) and the regression ("ridge_weights" [W, W], "ridge_bias" [W]); for text alone
            only its own.
    """

    config: FusionConfig
    state: dict[str, Floats]

    @classmethod
    def fit(
        cls, text: ItemVectors, collaborative: ItemVectors | None, counts: NDArray[np.integer], config: FusionConfig
    ) -> Fusion:
        """Fit both sides' axes and the regression.

        Args:
            text: [N, D_t].
            collaborative: [N, D_c]; rows of cold-start items are not read. Text alone needs none.
            counts: integers [N], training interactions of each item.

        Raises:
            InputError: different numbers of items, no collaborative vectors, or no item has interactions (text alone
                needs none).
        """
        state: dict[str, Floats] = {}
        state["text_mean"], state["text_axes"] = principal_axes(text.values, config.width)
        if config.method == "text":
            return cls(config, state)
        if collaborative is None:
            raise InputError(f"fusion: --fusion.method {config.method} needs collaborative vectors")
        _check_rows(text, collaborative, counts)
        seen = counts > 0
        if not seen.any():
            raise InputError("fusion: no item occurs in the training histories, so there is nothing to fuse")
        state["collaborative_mean"], state["collaborative_axes"] = principal_axes(
            collaborative.values[seen], config.width
        )
        fusion = cls(config, state)
        regression = RidgeCV(alphas=_RIDGE_PENALTIES)  # the penalty by leave-one-out error, in closed form
        regression.fit(
            fusion._side("text", text.values[seen]), fusion._side("collaborative", collaborative.values[seen])
        )
        weights = np.atleast_2d(regression.coef_).T
        state["ridge_weights"] = np.ascontiguousarray(weights, dtype=np.float32)
        state["ridge_bias"] = np.atleast_1d(regression.intercept_).astype(np.float32)
        return fusion

    def transform(
        self,
        text: ItemVectors,
        collaborative: ItemVectors | None = None,
        counts: NDArray[np.integer] | None = None,
    ) -> ItemVectors:
        """Fuse items.

        Args:
            text: [N, D_t], of the width that the fusion was fitted on.
            collaborative: [N, D_c], or None for cold-start items.
            counts: integers [N]; given with `collaborative`.

        Returns:
            float32 [N, 2 W], or [N, W] for one side alone.

        Raises:
            InputError: widths or numbers of items do not fit.
        """
        said = self._side("text", text.values)
        if self.config.method == "text":
            return ItemVectors(said, text.source)
        taken = unit_rows(said @ self.state["ridge_weights"] + self.state["ridge_bias"])
        source = f"{self.config.method}({text.source})"
        if collaborative is not None and counts is not None:
            _check_rows(text, collaborative, counts)
            seen = counts > 0
            taken[seen] = self._side("collaborative", collaborative.values[seen])
            source = f"{self.config.method}({text.source}, {collaborative.source})"
        if self.config.method == "collaborative":
            return ItemVectors(taken, source)
        weight = np.float32(self.config.text_weight)
        return ItemVectors(np.hstack([np.sqrt(weight) * said, np.sqrt(1 - weight) * taken]), source)

    def save(self, folder: Path) -> None:
        """Write `aligner.safetensors` and `aligner.json` into an existing folder."""
        write_atomic(folder / "aligner.safetensors", save(self.state))
        write_atomic(folder / "aligner.json", to_json({"name": "fusion", "config": asdict(self.config)}))

    @classmethod
    def load(cls, folder: Path) -> Fusion:
        """Read what `save` wrote; raises InputError where a file is missing or foreign."""
        value = read_json(folder / "aligner.json")
        try:
            if value["name"] != "fusion":
                raise ValueError(f"holds {json.dumps(value['name'])}")
            config = parse_as(json.dumps(value["config"]), FusionConfig, "config")
        except (InputError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder}: not a saved fusion ({error})") from None
        parts = dict(list(_PARTS.items())[: 2 if config.method == "text" else None])
        return cls(config, read_arrays(folder / "aligner.safetensors", parts, "a saved fusion"))

    def _side(self, name: Literal["text", "collaborative"], values: Floats) -> Floats:
        mean, axes = self.state[f"{name}_mean"], self.state[f"{name}_axes"]
        if values.shape[1] != len(mean):
            raise InputError(f"fusion: {name} vectors of width {values.shape[1]}, fitted on width {len(mean)}")
        return unit_rows(np.asarray((values - mean) @ axes, dtype=np.float32))


def _check_rows(text: ItemVectors, collaborative: ItemVectors, counts: NDArray[np.integer]) -> None:
    if not len(text) == len(collaborative) == len(counts):
        raise InputError(
            f"fusion: {len(text)} text vectors, {len(collaborative)} collaborative vectors and {len(counts)} counts"
        )
