"""`genrec inspect`: what an item's semantic ID says, and how good the IDs of a run are."""

from __future__ import annotations

import io

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from genrec.decoding.vocabulary import spell
from genrec.run import Run
from genrec.semtok.quality import GOOD, problems

NEIGHBOURS = 8


def describe_item(run: Run, item_id: str) -> str:
    """The item's codes and the items that share each of its prefixes; raises InputError for an unknown item."""
    catalog, ids = run.catalog(), run.semantic_ids()
    row = catalog.row(item_id)
    codes = ids.codes[row]
    lines = [
        f"{item_id}  {catalog.titles[row]}",
        "  " + "".join(spell(level, code) for level, code in enumerate(codes)),
    ]
    for depth in range(len(codes) - 1, 0, -1):
        same = np.flatnonzero((ids.codes[:, :depth] == codes[:depth]).all(axis=1))
        others = same[same != row]
        prefix = "".join(spell(level, code) for level, code in enumerate(codes[:depth]))
        lines.append(f"  {prefix}: {len(others)} others")
        lines += [f"    {catalog.item_ids[other]}  {catalog.titles[other]}" for other in others[:NEIGHBOURS]]
    return "\n".join(lines) + "\n"


def describe_quality(run: Run) -> str:
    """The quality report of the run's semantic IDs as a table, what is good of each figure, and what is wrong."""
    table = Table(box=SIMPLE, title="Semantic IDs", title_justify="left")
    table.add_column("figure")
    table.add_column("value, or one a level", justify="right")
    table.add_column("good")
    for name, value in run.quality().items():
        parts = value if isinstance(value, list) else [value]
        text = ", ".join(f"{part:.3f}" if isinstance(part, float) else str(part) for part in parts)
        table.add_row(name.replace("_", " "), text, GOOD.get(name, "").replace("_", " "))
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    wrong = problems(run.quality())
    return out.getvalue() + ("".join(f"Bad: {fault}.\n" for fault in wrong) or "Nothing is wrong with them.\n")
