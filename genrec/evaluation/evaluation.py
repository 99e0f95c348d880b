"""`Evaluation`: the figures of a run's report, as a table, as a sentence, or as a data frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from genrec.evaluation.tables import Row, format_table, summary
from genrec.evaluation.verdict import verdict

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """Every ranking of a run beside baselines on the test split.

    Attributes:
        rows: one figure each: model, split, slice, metric, k, value, its 95% interval, cases.
    """

    rows: Sequence[Row]

    @property
    def verdict(self) -> str:
        """Who wins by how much, and where the run loses."""
        return verdict(self.rows).sentence

    def to_polars(self) -> pl.DataFrame:
        """A row a figure: model, split, slice, metric, k, value, low, high, n."""
        return pl.DataFrame(list(self.rows), infer_schema_length=None).select(list(Row.__annotations__))

    def to_pandas(self) -> pd.DataFrame:
        """The same as a pandas data frame; pandas must be installed."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=list(Row.__annotations__))

    def __repr__(self) -> str:
        return f"{format_table(self.rows)}\n{self.verdict}"

    def _repr_html_(self) -> str:
        headings, lines = summary(self.rows)
        head = "".join(f"<th>{name}</th>" for name in headings)
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines)
        return f"<p>{self.verdict}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
