"""The parts of the chat page as HTML: what a `ChatSession` holds, in; text for the browser, out.

Every word that comes from the catalogue, the model or the person goes through `html.escape`. What can be pressed is a
`<button data-act=...>` or a `<form data-act=...>` whose other `data-` attributes are the request that `ChatSession.act`
gets (see `page.js`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from genrec.inference.chat.prices import say_number
from genrec.inference.chat.session import (
    LONGEST_TEXT,
    ChatSession,
    ChoiceField,
    RangeField,
    Turn,
    Unfolded,
    choice_of,
    filter_fields,
    range_of,
)
from genrec.inference.chat.state import Card, say_conditions

SPEAKERS = {  # templates, which only repeat the catalogue, go unmarked
    "model": "written by the run's own model",
    "server": "written by the model server",
}
_CODE = re.compile(r"<[^<>]+>")
_LONG = 60  # characters above which an attribute stands in a line of its own

COMPOSER = f"""
<form class="composer" data-act="say" autocomplete="off">
  <label class="unseen" for="say">What do you look for, have, like or refuse?</label>
  <input id="say" name="text" type="text" maxlength="{LONGEST_TEXT}" enterkeyhint="send" autofocus
    placeholder="such as: coffee under 20">
  <button type="submit" class="main">Send</button>
</form>"""


def header(session: ChatSession) -> str:
    """The names of the runs, and with two of them the switch between their cards."""
    names = list(session.conversations)
    if len(names) == 1:
        switch = f'<p class="run-name">{escape(names[0])}</p>'
    else:
        views = [((name,), name, name) for name in names] + [(tuple(names), "", "Side by side")]
        switch = (
            '<div class="switch" role="group" aria-label="Runs">'
            + "".join(
                _button("view", label, run=run, pressed=view == session.view)  # "" stands for all runs
                for view, run, label in views
            )
            + "</div>"
        )
    return f'<div class="top"><h1>genrec</h1><p class="count">{len(session.catalog):,} items</p>{switch}</div>'


def log(session: ChatSession) -> str:
    """The conversation so far, and what is being written."""
    lines = "".join(map(turn, session.turns))
    if session.writing is not None:
        words = escape(session.writing) or '<span class="dots" aria-label="thinking">…</span>'
        lines += f'<li class="answer writing"><p class="said">{words}</p></li>'
    busy = "true" if session.writing is not None else "false"
    return f"""<section class="talk" aria-label="Conversation">
<ol class="log" role="log" aria-live="polite" aria-busy="{busy}" tabindex="0">{lines}</ol></section>"""


def turn(line: Turn) -> str:
    """A line of the conversation: what was said, what was understood, and who spoke."""
    who = {"you": "You: ", "did": "You: ", "answer": "genrec: ", "problem": "This did not work: "}[line.who]
    said = f'<p class="said"><span class="unseen">{who}</span>{escape(line.text)}</p>'
    if line.note:
        said += f'<p class="note">{escape(line.note)}</p>'
    if line.table:
        said += _compared(line.table)
    if line.spoken_by in SPEAKERS:
        said += f'<p class="speaker" data-speaker="{line.spoken_by}">{SPEAKERS[line.spoken_by]}</p>'
    return f'<li class="{line.who}">{said}</li>'


def _compared(rows: Sequence[Sequence[str]]) -> str:
    """A comparison: an attribute a row, a card a column."""
    heading, *body = rows
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in heading)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for name, *cells in body
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="compared" tabindex="0" role="region" aria-label="Comparison">{table}</div>'


def cards(session: ChatSession) -> str:
    """The items of every run in view, each run a column."""
    columns = "".join(_column(session, place, name) for place, name in enumerate(session.view))
    return f'<div class="columns" data-columns="{len(session.view)}">{columns}</div>'


def _column(session: ChatSession, place: int, name: str) -> str:
    """One run's cards; beside another run's, each card says where it stands there."""
    items = ""
    for rank, shown in enumerate(session.replies[name].cards, start=1):
        elsewhere = [_standing(session, shown, other) for other in session.view if other != name]
        unfolded = session.unfolded.get((name, shown.item_id))
        items += card(shown, f"card-{place}-{rank}", rank, name, unfolded, elsewhere)
    asked = session.state.wish or session.state.where or session.state.history
    none = "No item meets all that was asked for." if asked else "Nothing on the table yet."
    back = [
        (
            say_conditions({name: condition}),
            _button("put_back", "↺", name=name, about=f"keep the condition on {name}", bare=True),
        )
        for name, condition in session.state.relaxed.items()
    ]
    relaxed = f'<div class="relaxed"><p>Let go, since nothing meets it all:</p>{_chips(back, "")}</div>' if back else ""
    listed = f'{relaxed}<ol class="cards">{items}</ol>' if items else f'<p class="empty">{none}</p>'
    heading = escape(name) if len(session.view) > 1 else "For you"
    return f'<section class="run" aria-label="Items of {escape(name)}"><h2>{heading}</h2>{listed}</section>'


def _standing(session: ChatSession, item: Card, run: str) -> str:
    ids = [other.item_id for other in session.replies[run].cards]
    return f"{run}: place {ids.index(item.item_id) + 1}" if item.item_id in ids else f"{run}: not shown"


def card(
    item: Card, element: str, rank: int, run: str, unfolded: Unfolded | None = None, elsewhere: Sequence[str] = ()
) -> str:
    """An item: title, attributes, reason, and buttons.

    Args:
        element: the id of its title on the page.
        unfolded: what it shows on demand.
        elsewhere: where it stands in other runs.
    """
    short = {name: value for name, value in item.attributes.items() if len(value) <= _LONG}
    facts = "".join(f"<div><dt>{escape(n)}</dt><dd>{escape(v)}</dd></div>" for n, v in short.items())
    blurb = "".join(f'<p class="blurb">{escape(v)}</p>' for n, v in item.attributes.items() if n not in short)
    reason = f'<p class="reason">{escape(item.reason)}</p>' if item.reason else ""
    reason += "".join(f'<p class="note elsewhere">{escape(sentence)}</p>' for sentence in elsewhere)
    title, buttons = _title(item), ""
    for act, label in (("like", "Like"), ("dislike", "Dislike"), ("why", "Why"), ("codes", "Codes")):
        expanded = None if act in ("like", "dislike") else unfolded is not None and unfolded.kind == act
        buttons += _button(act, label, about=title, expanded=expanded, item=item.item_id, run=run)
    more = "" if unfolded is None else _unfolded(item, run, unfolded)
    return f"""<li><article class="card" aria-labelledby="{element}" data-item="{escape(item.item_id)}">
<h3 id="{element}"><span class="rank">{rank}</span><span>{escape(title)}</span></h3>
<dl class="facts">{facts}</dl>{blurb}{reason}
<div class="actions">{buttons}</div>{more}</article></li>"""


def _title(item: Card) -> str:
    return item.title.strip() or item.item_id


def _unfolded(item: Card, run: str, unfolded: Unfolded) -> str:
    """Why an item is there, or its codes: a button each, which shows the neighbours under the prefix that it ends."""
    if unfolded.kind == "why":
        return f'<div class="more"><p class="told">{escape(unfolded.text)}</p></div>'
    codes = _CODE.findall(item.semantic_id)
    spelled = []
    for level, code in enumerate(codes, start=1):
        if level == len(codes):
            spelled.append(f"<code>{escape(code)}</code>")
            continue
        about = f"neighbours under {''.join(codes[:level])}"
        inside = level <= unfolded.level
        spelled.append(
            _button("codes", code, item=item.item_id, run=run, level=str(level), about=about, pressed=inside)
        )
    neighbours = "".join(
        f"<li><span>{escape(_title(other))}</span> <code>{escape(other.semantic_id)}</code></li>"
        for other in unfolded.neighbours
    )
    prefix = f"<code>{escape(''.join(codes[: unfolded.level]))}</code>"
    said = f"<p>No other item under {prefix}</p>"
    if neighbours:
        listed = f'<ul class="neighbours" tabindex="0" aria-label="Neighbours">{neighbours}</ul>'
        said = f"<p>Others under {prefix}</p>{listed}"
    score = "" if math.isnan(item.score) else f'<p class="note">score {item.score:.3f}</p>'
    return f"""<div class="more"><div class="sid" role="group" aria-label="Semantic ID">{"".join(spelled)}</div>
{said}{score}</div>"""


def person(session: ChatSession) -> str:
    """What is known of the person, each part of it with a way to take it back; the filters; the state in full."""
    state = _button("state", "State in full", expanded=session.state_shown) + _button("reset", "Start again")
    full = ""
    if session.state_shown:
        full = f'<pre tabindex="0" aria-label="State as JSON">{escape(session.state.to_json())}</pre>'
    return f"""
{_panel("having", "You have or like", _having(session))}
{_panel("wish", "You look for", _wish(session))}
{_panel("filters", "Filters", _filters(session))}
{_panel("refused", "Not shown again", _refused(session))}
<section class="panel" id="state" aria-label="State"><div class="actions">{state}</div>{full}</section>"""


def _panel(element: str, heading: str, content: str) -> str:
    title = f'<h2 id="{element}-title">{heading}</h2>'
    return f'<section class="panel" id="{element}" aria-labelledby="{element}-title">{title}{content}</section>'


def _having(session: ChatSession) -> str:
    chips = []
    for item in session.state.history:
        title = session.title(item)
        chips.append((title, _button("forget", "×", item=item, about=f"remove {title}", bare=True)))
    found = "".join(f"<li>{_button('add', f'+ {session.title(item)}', item=item)}</li>" for item in session.found)
    return f"""{_chips(chips, "Nothing yet. Like an item, or add one by its title.")}
<form data-act="search" class="search" role="search"><label class="unseen" for="find">Add an item by its title</label>
<input id="find" name="text" type="search" data-live="search" autocomplete="off" placeholder="Add by title…"></form>
<ul class="found" aria-label="Items found">{found}</ul>"""


def _wish(session: ChatSession) -> str:
    wish = session.state.wish
    chips = [(wish, _button("unwish", "×", about="look for nothing in particular", bare=True))] if wish else []
    return _chips(chips, "Whatever fits what you have.")


def _refused(session: ChatSession) -> str:
    chips = []
    for item in session.state.refused:
        title = session.title(item)
        chips.append((title, _button("allow", "↺", item=item, about=f"show {title} again", bare=True)))
    for name, values in session.state.unwanted.items():
        for value in values:
            again = _button("want", "↺", name=name, value=value, about=f"allow {value} again", bare=True)
            chips.append((f"{name}: {value}", again))
    return _chips(chips, "Nothing refused.")


def _filters(session: ChatSession) -> str:
    where = dict(session.state.where)
    controls = ""
    for field in filter_fields(session.catalog):
        condition = where.pop(field.name, None)
        controls += _range(field, condition) if isinstance(field, RangeField) else _choice(field, condition)
    chips = []
    for name, condition in where.items():  # those without a control
        about = f"lift the condition on {name}"
        chips.append((say_conditions({name: condition}), _button("lift", "×", name=name, about=about, bare=True)))
    others = _chips(chips, "") if chips else ""
    if not controls:
        return others or '<p class="empty">This catalogue has nothing to filter by.</p>'
    apply = '<button type="submit">Apply</button>'
    return f'<form data-act="filter" data-auto class="filters">{controls}{apply}</form>{others}'


def _range(field: RangeField, condition: Any) -> str:
    name, (low, high) = escape(field.name), range_of(condition)
    inputs = ""
    for end, word, limit, value in (("low", "from", field.least, low), ("high", "to", field.most, high)):
        shown = "" if value is None else say_number(value)
        inputs += f"""<label><span>{name} {word}</span><input type="number" step="any" inputmode="decimal"
name="{end}:{name}" placeholder="{say_number(limit)}" data-value="{shown}"></label>"""
    return f'<div class="range" role="group" aria-label="{name}">{inputs}</div>'


def _choice(field: ChoiceField, condition: Any) -> str:
    name, chosen = escape(field.name), choice_of(condition)
    labels = {value: f"{value} ({count:,})" for value, count in field.counts.items()}
    if chosen:
        labels.setdefault(chosen, chosen)  # several values, as words can ask for
    options = "".join(f'<option value="{escape(v)}">{escape(label)}</option>' for v, label in labels.items())
    return f"""<label class="choice"><span>{name}</span><select name="is:{name}" data-value="{escape(chosen)}">
<option value="">any</option>{options}</select></label>"""


def _chips(chips: Iterable[tuple[str, str]], empty: str) -> str:
    """A list of (text, button), or what stands there when it is empty."""
    listed = "".join(f"<li><span>{escape(text)}</span>{button}</li>" for text, button in chips)
    return f'<ul class="chips">{listed}</ul>' if listed else f'<p class="empty">{empty}</p>'


def _button(
    act: str,
    label: str,
    *,
    about: str = "",
    bare: bool = False,
    pressed: bool | None = None,
    expanded: bool | None = None,
    **request: str,
) -> str:
    """A button that asks for `act`; `about` completes the label for those who cannot see where the button stands."""
    data = "".join(f' data-{name}="{escape(value)}"' for name, value in request.items())
    spoken = about if bare else f"{label}: {about}"
    aria = f' aria-label="{escape(spoken)}"' if about else ""
    for name, value in (("pressed", pressed), ("expanded", expanded)):
        if value is not None:
            aria += f' aria-{name}="{str(value).lower()}"'
    kind = ' class="bare"' if bare else ""
    return f'<button type="button" data-act="{act}"{data}{aria}{kind}>{escape(label)}</button>'
