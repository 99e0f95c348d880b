"""The English that a conversation understands, as patterns: what opens a refusal, a like, a question."""

from __future__ import annotations

import re
from functools import lru_cache


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# "a cream, but no mascara" is two sentences, "anything but mascara" one that refuses
SENTENCE = _compiled(
    r"[;!?\n]+|\.(?=\s|$)|,\s+(?=but\b)"
    r"|(?<![\s,])(?<!\bany)(?<!\ball)(?<!\banything)(?<!\beverything)\s+(?=but\b)"
    r"|,?\s+and\s+(?=(?:no|not|nothing|never|without|I)\b)"
)
COMMA = _compiled(r",\s+|\s+and\s+(?=(?:under|below|cheaper)\b)")
RESET = _compiled(
    r"(?:please )?(?:reset|restart|start (?:over|again|afresh)|begin again|forget (?:everything|it all|all)"
    r"|clear (?:everything|all)|new (?:conversation|search))"
)
MORE = _compiled(
    r"(?:(?:show|give|find) (?:me )?|what |anything |something |some |any |are there )*"
    r"(?:more|next|else|similar(?: ones| items| things)?|others?|other (?:ones|options|ideas|items)"
    r"|different ones|more of (?:these|those|them))"
    r"(?: please)?"
)
SUGGEST = _compiled(
    r"(?:and |so )*(?:what (?:else )?(?:goes|would go|fits|pairs) (?:well )?with (?:that|it|this|them|these|those"
    r"|what i have)"
    r"|(?:what (?:else )?(?:do|would|can|could) you (?:recommend|suggest)|recommend me something|surprise me"
    r"|any (?:ideas?|suggestions?)"
    r"|what else (?:do|would|might) i need|what should i (?:get|buy)(?: next)?)(?: for me)?)"
)
WHY = _compiled(r"\s*(?:and )?why\b(?! not)")
HAVE = _compiled(
    r"(?:and |well |also )*(?:i|we)(?:'ve| have)?(?: already| just| recently| also)*"
    r" (?P<verb>have|own|bought|got|use|used|ordered|purchased|had)\b(?! to\b)(?: already| just| recently)*"
)
BOUGHT = frozenset({"own", "bought", "ordered", "purchased"})  # of things; "I have" may also be said of dry skin
LIKE = _compiled(
    r"(?:and |but |well )*(?:(?P<said>i (?:really |also )*(?:like|love|liked|loved|enjoy|enjoyed|adore)\b)"
    r"|(?:(?:show|give|find) me )?(?:something|anything|things?|items?|others?|more|ones?)? ?(?:like|similar to)\b)"
)
REFUSE = _compiled(
    r"\b(?:no more|no longer|not any ?more|nothing (?:from|by|in|with|like|of)|nothing"
    r"|(?:any(?:thing)?|everything|all) but"
    r"|except(?: for)?|without|avoid|never(?: again)?|forget|remove|hide|stop showing(?: me)?|enough(?: of)?"
    r"|(?:i |we )?(?:really )?(?:do not|don't|dont|did not|didn't) (?:really )?(?:want|like|need|show|care for|use)"
    r"(?: to see| me)?(?: any(?: ?more)?)?"
    r"|(?:i |we )?(?:really )?(?:hate|dislike|loathe|detest|can't stand|cannot stand)|allergic to|none|neither"
    r"|nor|not"
    r"|no)\b"
)
ALLOW = _compiled(r"\b(?:allow|bring back|unhide)\b|\b(?:is|are) (?:fine|ok|okay|allowed)(?: again| now)?\s*$")
ASK = _compiled(r"\b(?:looking for|look for|show|find|want|need|search|give|recommend|suggest)\b")
JOINS = _compiled(r"\s*(?:but )?(?:in|with|for|which|that|more|made)\b")
BY = frozenset({"by", "from", "brand"})
# What sorts, the columns that it may mean (words in their names), and whether the largest come first
SORTS = (
    (
        _compiled(
            r"\b(?:the )?(?:cheapest|least expensive|lowest[- ]priced|most affordable|low(?:est)? price first"
            r"|cheap(?:est)? first)\b"
            r"|\b(?:sort(?:ed)?|order(?:ed)?)(?: (?:it|them|these))? by price\b(?! desc)|\bby price\b"
            r"|\bmy budget is (?:tight|small|low|limited)\b|\b(?:i'm|i am|im) (?:broke|on a (?:tight "
            r"|small )?budget)\b"
            r"|\b(?:i )?(?:don't|do not|dont|can't|cannot) (?:have|spend) (?:much|a lot of|a lot"
            r"|a fortune)(?: money)?\b"
            r"|\b(?:something |anything )?(?:cheap|inexpensive|affordable|budget[- ]friendly"
            r"|not too expensive)\b(?! than)"
        ),
        ("price",),
        False,
    ),
    (
        _compiled(
            r"\b(?:the )?(?:most expensive|priciest|dearest|highest[- ]priced|high(?:est)? price first"
            r"|(?:most )?luxurious)\b"
            r"|\bmoney is no object\b|\b(?:sort(?:ed)?|order(?:ed)?) by price desc(?:ending)?\b"
        ),
        ("price",),
        True,
    ),
    (_compiled(r"\b(?:the )?(?:newest|latest|most recent)\b"), ("year", "date", "release"), True),
    (_compiled(r"\b(?:the )?oldest\b"), ("year", "date", "release"), False),
    (_compiled(r"\b(?:the )?(?:best|top|highest)[- ]rated\b|\bbest reviews?\b"), ("rating", "stars"), True),
)
PREPOSITIONS = _words("for with in from of without to by on at that which under over made")
# Words that wish for nothing by themselves
FILLER = _words(
    "a about again all allow already also am an and another any anything are as at be been brand bring but buy by can "
    "card cards could d did do does dont else fine for find finally from get give had has have hello hey hi how i id "
    "if ill im in instead is it item items its just kind let like liked ll look looking love make makes may maybe me "
    "mind "
    "more my need nice now of off ok okay on one ones only option options or other others our perhaps please product "
    "products recommend s same search see show similar so some something sort still stuff suggest t take than thank "
    "thanks "
    "that the their them then there these they thing things this those though to too try type um us use ve very want "
    "was we well what when where which who why will with would yes yeah you your"
)
# Words that a language model may use beside the cards' own without saying anything about an item
CHATTY = _words(
    "after among at because before believe below beside bit both budget case choice choices come couple day each "
    "enjoy every everything explore far feel few first fit fits five following found four friend glad go goes "
    "going happy help here's hope i'd idea ideas includes including interest interested into know last lastly "
    "list listed match matches matching might much must next offer pair perhaps pick picked picks possible "
    "question range really right second selected selection she should since start style suit suits sure take "
    "taste they're think third three today together top two until up wanted wish within without work works wonder "
    "you'll you're you've"
)


@lru_cache(maxsize=256)
def lifting(column: str, *, is_price: bool) -> re.Pattern[str]:
    """What frees an attribute: "any brand", "the price doesn't matter", "forget the category"."""
    names = {column.lower(), re.sub(r"ies$", "y", column.lower()).removesuffix("s")}
    if is_price:
        names |= {"price limit", "budget", "limit"}
    name = "(?:" + "|".join(re.escape(word) for word in sorted(names, key=len, reverse=True)) + ")s?"
    return _compiled(
        rf"\b(?:any|every|all|whatever|no matter (?:the|which|what)) {name}\b(?: is (?:fine|ok|okay))?"
        rf"|\b(?:the )?{name} (?:doesn't|does not|don't|do not|doesnt|dont) matter\b"
        rf"|\b(?:forget|drop|remove|lift|clear|no)(?: about)?(?: the)? {name}\b(?: (?:limits?|filters?|conditions?))?"
    )
