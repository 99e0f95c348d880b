"""Values of the catalogue that a clause wants, refuses or allows, and the words that are left to look for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from genrec.inference.chat import phrases
from genrec.inference.chat.belongings import never
from genrec.inference.chat.catalog_words import WORD, Match, Meaning, fold
from genrec.inference.chat.draft import Draft, add_values
from genrec.inference.chat.state import say_conditions

LONGEST_WISH = 240  # characters: a prompt of a few hundred tokens in any script


def wish_for(draft: Draft, text: str) -> None:
    """What a clause wants: values that it names become conditions, its words the wish."""
    folded, raw = draft.folded(text)
    content = [place for place, word in enumerate(folded) if word not in phrases.FILLER]
    matches = draft.words.matches(folded)
    if not content and not matches:
        return
    brands = _name_brands(draft, matches, folded, raw)
    _name_kinds(draft, matches, folded, text)
    if draft.state.wish and content and set(content) <= brands:
        return  # "only from Everpan" narrows what was looked for
    begin, end = content[0] if content else matches[0].start, content[-1] if content else matches[-1].end - 1
    unknown = [raw[place] for place in content if folded[place] not in draft.words.vocabulary]
    draft.unknown += unknown
    draft.known = draft.known or len(unknown) < len(content) or bool(matches)
    draft.wishes.append(" ".join(raw[begin : end + 1]))
    draft.found.joins = draft.found.joins or bool(phrases.JOINS.match(text) and not phrases.ASK.search(text))


def refuse(draft: Draft, text: str, rows: Sequence[int], *, this: bool) -> bool:
    """Refuse cards, values or title words; False where there was nothing to refuse."""
    never(draft, rows)
    folded, raw = draft.folded(text)
    matches = draft.words.matches(folded)
    for match in matches:
        for meaning in match.meanings[:1]:
            add_values(draft.found.unwanted, meaning)
            draft.note(f"not {' or '.join(meaning.values)}")
    if matches or rows:
        return True
    refused = [word for word, spelled in zip(raw, folded, strict=True) if spelled not in phrases.FILLER]
    phrase = " ".join(refused[:3])
    if phrase and draft.words.titles_with(phrase).any():
        add_values(draft.found.unwanted, Meaning("title", (phrase.lower(),)))
        draft.note(f"nothing titled '{phrase.lower()}'")
        return True
    if phrase:
        draft.fail("refuse", f"no item here is called '{phrase}', so there is nothing to leave out")
    elif this:
        draft.note("which one? say its number")
    return bool(phrase)


def allow(draft: Draft, text: str) -> None:
    """Show refused values again."""
    folded, _ = draft.folded(text)
    for match in draft.words.matches(folded):
        add_values(draft.found.allowed, match.meanings[0])
        draft.note(f"{' or '.join(match.meanings[0].values)} allowed again")
    titled = [value for value in draft.state.unwanted.get("title", ()) if fold(value) in folded]
    for value in titled:
        add_values(draft.found.allowed, Meaning("title", (value,)))
        draft.note(f"'{value}' allowed again")


def only_values(draft: Draft, clause: str) -> bool:
    """Whether a clause is nothing but values of the catalogue."""
    folded = [fold(word) for word in WORD.findall(clause)]
    covered = {place for match in draft.words.matches(folded) for place in range(match.start, match.end)}
    return all(place in covered or word in phrases.FILLER for place, word in enumerate(folded)) and bool(covered)


def finish(draft: Draft) -> None:
    """Join the wishes of all clauses, and say what was made of them."""
    found = draft.found
    for name, condition in found.where.items():
        draft.note(say_conditions({name: condition}))
    wish = " ".join(draft.wishes).strip()
    if not wish:
        return
    if len(wish) > LONGEST_WISH:
        wish = wish[:LONGEST_WISH].strip()
        draft.note(f"the wish was cut to {LONGEST_WISH} characters")
    found.wish = wish
    draft.note(f'looking for "{wish}"')
    if draft.unknown:
        draft.note(f"words that are not in this catalogue: {', '.join(dict.fromkeys(draft.unknown))}")


def _name_brands(draft: Draft, matches: Sequence[Match], folded: Sequence[str], raw: Sequence[str]) -> set[int]:
    """Make conditions of the brands that are named; the places of their words."""
    named: set[int] = set()
    for match in matches:
        for meaning in match.meanings:
            if meaning.attribute not in draft.words.names:
                continue
            introduced = match.start > 0 and folded[match.start - 1] in phrases.BY
            capital = match.start > 0 and raw[match.start][0].isupper()
            alone = meaning.bare and len(match.meanings) == 1
            if introduced or capital or alone:
                want(draft, meaning)
                named.update(range(match.start, match.end))
    return named


def _name_kinds(draft: Draft, matches: Sequence[Match], folded: Sequence[str], text: str) -> None:
    """The heads of the phrase become a condition: "cream" in "oil free cream for the face".

    Of alternatives each gives its head; one without ("a mug or something warm") leaves all of them to the wish.
    """
    kinds = [match for match in matches if _is_head(draft, match, matches, folded)]
    if not kinds:
        return
    stop = next((at for at in range(kinds[0].start, len(folded)) if folded[at] in phrases.PREPOSITIONS), len(folded))
    bounds = [-1, *(at for at in range(stop) if folded[at] in ("and", "or")), stop]
    heads: list[Match] = []
    for begin, end in pairwise(bounds):
        inside = [match for match in kinds if begin < match.start < end]
        if inside:
            heads.append(inside[-1])
        elif heads:
            return
    attribute = next(meaning.attribute for meaning in heads[0].meanings if meaning.attribute in draft.words.kinds)
    if attribute in draft.asked_kinds:
        if not phrases.ASK.search(text):
            return  # "mascara, for sensitive eyes": the first clause has said what kind
        draft.found.where.pop(attribute, None)
    draft.asked_kinds.add(attribute)
    for match in heads:
        for meaning in match.meanings:
            if meaning.attribute == attribute:
                want(draft, meaning)


def _is_head(draft: Draft, match: Match, matches: Sequence[Match], folded: Sequence[str]) -> bool:
    """Whether a kind of thing is what a phrase is about: no noun of its own follows, as in "tea towels"."""
    after = folded[match.end] if match.end < len(folded) else ""
    ends = not after or after in phrases.FILLER or after in phrases.PREPOSITIONS
    before_another = any(match.end == other.start for other in matches)
    by = match.start > 0 and folded[match.start - 1] in phrases.BY
    of_a_kind = any(meaning.attribute in draft.words.kinds for meaning in match.meanings)
    return of_a_kind and (ends or before_another) and not by


def want(draft: Draft, meaning: Meaning) -> None:
    """Make a condition of values, but for those that stay refused."""
    found = draft.found
    refused = {
        *draft.state.unwanted.get(meaning.attribute, ()),
        *found.unwanted.get(meaning.attribute, ()),
    } - set(found.allowed.get(meaning.attribute, ()))
    wanted = [value for value in meaning.values if value not in refused]
    if not wanted:
        draft.note(f"{meaning.values[0]} stays refused; 'allow {meaning.values[0]}' brings it back")
        return
    before = found.where.get(meaning.attribute, ())
    found.where[meaning.attribute] = (*before, *(value for value in wanted if value not in before))
