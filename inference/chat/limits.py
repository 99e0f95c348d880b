"""Price limits, what lifts a condition, and what sorts, as rules read them into a `Draft`."""

from __future__ import annotations

from genrec.inference.chat import phrases
from genrec.inference.chat.catalog_words import fold
from genrec.inference.chat.draft import Draft
from genrec.inference.chat.years import find_years


def limit(draft: Draft, low: float | None, high: float | None, *, instead: bool = False) -> None:
    """Set the ends of the price that were said.

    Args:
        instead: the other end falls; else an older one stays, but where the new one contradicts it.
    """
    if low is None and high is None:
        return
    price = draft.words.price
    if price is None:
        draft.fail("refine", "this catalogue has no prices, so a price limit can't be kept")
        return
    before = None if instead else draft.found.where.get(price) or draft.state.where.get(price)
    old_low, old_high = before if isinstance(before, tuple) else (None, None)
    low, high = (old_low if low is None else low), (old_high if high is None else high)
    if low is not None and high is not None and low > high:  # the new end wins over the old one
        low, high = (low, None) if low != old_low else (None, high)
    draft.found.where[price] = (low, high)


def years(draft: Draft, clause: str) -> str:
    """Take out what limits the year, where the catalogue has a column of years."""
    column = draft.words.numeric(("year",))
    if column is None:
        return clause
    found = find_years(clause)
    if found.low is not None or found.high is not None:
        draft.found.where[column] = (found.low, found.high)
    return found.rest


def compare_prices(draft: Draft) -> None:
    """Make a limit of "cheaper", by the cards it was said of or else by the middle of the table."""
    price = draft.words.price
    if draft.relation is None:
        return
    if price is None:
        limit(draft, 0, 0)
        return
    rows = draft.compared or [draft.catalog.row(item_id) for item_id in draft.state.shown]
    known = sorted(value for value in draft.catalog.attributes[price][rows].to_list() if value is not None)
    if not known:
        draft.fail("refine", f"{'cheaper' if draft.relation == 'below' else 'dearer'} than what? no price is known")
        return
    least, most = (known[0], known[-1]) if draft.compared else (known[len(known) // 2],) * 2
    if draft.relation == "below":
        limit(draft, None, round(least - 0.01, 2))
    else:
        limit(draft, round(most + 0.01, 2), None)


def lift(draft: Draft, clause: str) -> str:
    """Take out what frees an attribute: "any brand", "the price doesn't matter"."""
    for column in draft.words.columns:
        clause, count = phrases.lifting(column, is_price=column == draft.words.price).subn(" ", clause)
        if count:
            draft.found.lifted.append(column)
            draft.found.where.pop(column, None)
            draft.note(f"any {fold(column)}")
    return clause.strip()


def sort(draft: Draft, clause: str) -> str:
    """Take out what sorts: "the cheapest one", "sorted by price", "the newest", "my budget is tight"."""
    for pattern, columns, descending in phrases.SORTS:
        clause, count = pattern.subn(" ", clause)
        if not count:
            continue
        name = draft.words.price if columns == ("price",) else draft.words.numeric(columns)
        if name is None:
            draft.fail("sort", f"this catalogue has no {columns[0]} to sort by")
        else:
            draft.found.order = (name, descending)
            draft.note(f"sorted by {name}, {'highest' if descending else 'lowest'} first")
    return clause.strip()
