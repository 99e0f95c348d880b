"""The English that a conversation understands, as patterns: what opens a refusal, a like, a question."""

from __future__ import annotations

import re
from functools import lru_cache

from genrec.inference.chat.patterns import compiled


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# "a cream, but no mascara" is two sentences, "anything but mascara" one that refuses
SENTENCE = compiled(
    r"[;!?\n]+|\.(?=\s|$)|,\s+(?=but\b)|(?<![\s,])(?<!\bany)(?<!\ball)(?<!\banything)(?<!\beverything)\s+(?=but\b)"
    r"|,?\s+and\s+(?=(?:no|not|nothing|never|without|I)\b)"
)
COMMA = compiled(r",\s+|\s+and\s+(?=(?:under|below|cheaper)\b)")
# What opens a turn and says nothing: "hmm ...", "forget it, ..."; words that may begin a name ("hello kitty", "cool
# box") only where a comma or a person's own words follow
LEAD = compiled(
    r"^(?:(?:ok(?:ay)?|hm+|oh|ooh+|aww?|ah+|wow|nah|yeah|yep|um+|uh+|er+|lol|(?:ha){2,}|ugh|meh|so|actually"
    r"|forget (?:it|that)|never ?mind)\b(?:[,.!:]+\s*|\s+(?!(?:is|are|was|looks?|good|and|or|of)\b))"
    r"|(?:kk?|well|yes|no|right|alright|great|cool|nice|perfect|sorry|hey|yo|hi|hello|hiya|now|whatever"
    r"|(?:good )?(?:morning|afternoon|evening))\b(?:[,.!:]+\s*"
    r"|\s+(?=(?:i|we|i'\w+|can|could|do|have|got|need|any|show)\b)))+(?=\S)"
)
RESET = compiled(
    r"(?:please )?(?:let'?s )?(?:reset|restart|start (?:over|again|afresh|anew|fresh|from (?:scratch|zero"
    r"|the beginning))|begin again|forget (?:everything|it all|all)(?: (?:i|we) said)?"
    r"|(?:clear|delete|wipe) (?:everything|all)|new (?:conversation|search))(?: please| pls)?"
)
MORE = compiled(
    r"(?:(?:show|give|find) (?:me )?|what |anything |something |some |any |are there )*"
    r"(?:more|next|else|similar(?: ones| items| things)?|others?|other (?:ones|options|ideas|items)"
    r"|different ones|more of (?:these|those|them))"
    r"(?: please| pls)?|next(?: page)?|(?:show|give) (?:me )?(?:some )?(?:more|others?)(?: please| pls)?"
    r"|(?:what|anything) else(?: do you have| have you got| is there)?"
    r"|(?:(?:these|they|those|all of (?:these|those|them))(?: are| look| seem)?(?: all| both)?(?: just| so"
    r"| really| too| pretty)*"
    r" (?:rubbish|awful|terrible|ugly|bad|wrong|boring|crap|horrible|useless|no good|not (?:right|good|for me"
    r"|what .*)))"
)
SUGGEST = compiled(
    r"(?:and |so )*(?:what (?:else )?(?:goes|would go|fits|pairs) (?:well )?with (?:that|it|this|them|these|those"
    r"|what i have)"
    r"|(?:what (?:else )?(?:do|would|can|could) you (?:recommend|suggest)|recommend me something|surprise me"
    r"|any (?:ideas?|suggestions?)"
    r"|what else (?:do|would|might) i need|what should i (?:get|buy)(?: next)?)(?: for me)?)"
)
WHY = compiled(
    r"\s*(?:and |but |so )*(?:why\b(?! not)|how come\b|how (?:do|did) you (?:choose|pick|select|rank|find|get"
    r"|come up with)\b|what made you (?:choose|pick|show)\b)"
)
HAVE = compiled(
    r"(?:and |well |also )*(?:i|we)(?:'ve| have)?(?: already| just| recently| also)*"
    r" (?P<verb>have|own|bought|got|use|used|ordered|purchased|had|watched|seen|saw|read|played|tried"
    r"|finished)\b(?! to\b)(?: already| just| recently| all of)*"
)
# Of things; "I have" may also be said of dry skin
BOUGHT = _words("own bought ordered purchased watched seen saw played finished")
# What follows the name of a thing that somebody has: "... a million times", "... and love it"
OFTEN = compiled(
    r"\s+(?:(?:a )?(?:million|thousand|hundred|few|couple of) times|(?:so )?many times|twice|already|before"
    r"|recently|yesterday"
    r"|last (?:week|month|year)|ages ago|and (?:i )?(?:really )?(?:love|loved|like|liked|hate|hated) (?:it|them"
    r"|that))\s*$"
)
# Taking a card: the words around its place say nothing else
TAKE = compiled(
    r"^(?:i |we )?(?:(?:will|'?ll|would|'d|can|want to|'?m going to|am going to|think i'?ll|'?d like to)\s+)?"
    r"(?:take|have|go (?:with|for)|choose|pick|buy|get|prefer|keep|order|add|watch|fancy)\b"
)
LIKE = compiled(
    r"(?:and |but |well )*(?:(?P<said>i (?:really |also )*(?:like|love|liked|loved|enjoy|enjoyed|adore)\b)"
    r"|(?:(?:show|give|find) me )?(?:something|anything|things?|items?|others?|more|ones?)? ?(?:like|similar to)\b)"
)
REFUSE = compiled(
    r"\b(?:no more|no longer|not any ?more|nothing (?:from|by|in|with|like|of)|nothing"
    r"|(?:any(?:thing)?|everything|all) but"
    r"|except(?: for)?|without|avoid|never(?: again)?|forget|remove|hide|stop showing(?: me)?|enough(?: of)?"
    r"|(?:i |we )?(?:really )?(?:do not|don'?t|dont|did not|didn'?t) (?:really )?(?:want|like|need|show|care for|use)"
    r"(?: to see| me)?(?: any(?: ?more)?)?"
    r"|(?:(?:i|we|he|she|they|my \w+) )?(?:really )?(?:hates?|hated|dislikes?|loathes?|detests?|can'?t (?:stand"
    r"|have|eat|use|wear)|cannot (?:stand|have|eat|use|wear)|doesn'?t (?:like|want|eat|need)|(?:am |is |are |'?m "
    r"|'?s )?(?:allergic|intolerant)"
    r" to)|allergic to|none|neither|get rid of|ditch|skip|leave out|take (?:out|away)|fed up with|(?:sick|tired) of"
    r"|(?:not |no )(?:a |much of a |really a )?(?:fan of|keen on|into|fond of)|nor|not|no)\b"
)
ALLOW = compiled(
    r"\b(?:allow|bring back|unhide)\b|\b(?:is|are) (?:fine|ok|okay|allowed|all right|alright)(?: again| now"
    r"| after all)*\s*$"
)
ASK = compiled(r"\b(?:looking for|look for|show|find|want|need|search|give|recommend|suggest)\b")
JOINS = compiled(r"\s*(?:but )?(?:in|with|for|which|that|more|made)\b")
BY = _words("by from brand")
# What sorts, the columns that it may mean (words in their names), and whether the largest come first
SORTS = (
    (
        compiled(
            r"\b(?:the )?(?:cheapest|least expensive|lowest[- ]priced|most affordable|low(?:est)? price first"
            r"|cheap(?:est)? first)(?: ones?)?(?: first)?\b"
            r"|\b(?:sort(?:ed)?|order(?:ed)?)(?: (?:it|them|these))? by price\b(?! desc)|\bby price\b"
            r"|\bmy budget is (?:tight|small|low|limited)\b|\b(?:i'm|i am|im) (?:broke|on a (?:tight |small )?budget)\b"
            r"|\b(?:i )?(?:don't|do not|dont|can't|cannot) (?:have|spend) (?:much|a lot of|a lot"
            r"|a fortune)(?: money)?\b|\b(?:something |anything )?(?:cheap|inexpensive|affordable|budget[- ]friendly"
            r"|not too expensive|(?:can|could|might) afford)\b(?! than)"
        ),
        ("price",),
        False,
    ),
    (
        compiled(
            r"\b(?:the )?(?:(?:most expensive|priciest|dearest)(?: ones?)?(?: first)?|highest[- ]priced"
            r"|high(?:est)? price first|(?:most )?luxurious)\b"
            r"|\bmoney is no object\b|\b(?:sort(?:ed)?|order(?:ed)?) by price desc(?:ending)?\b"
        ),
        ("price",),
        True,
    ),
    (
        compiled(r"\b(?:the )?(?:newest|latest|most recent)(?: ones?)?(?: first)?\b"),
        ("year", "date", "release"),
        True,
    ),
    (compiled(r"\b(?:the )?oldest(?: ones?)?(?: first)?\b"), ("year", "date", "release"), False),
    (compiled(r"\b(?:the )?(?:best|top|highest)[- ]rated\b|\bbest reviews?\b"), ("rating", "stars"), True),
)
# What ends a wish and says nothing of it: "a frying pan first", "mugs as well"
TRAIL = compiled(
    r"(?:[,\s]+(?:(?<!\bthe )(?<!\bmy )(?<!\bthat )first|then|as well|too|for now|today|tonight|next|again|pls|plz"
    r"|please|thx|thanks|lol|or something))+\s*$"
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


# Words that rules go by, which are put right where they are misspelt
SPELLED = _words(
    "about above affordable and another anything are around because below best better between bought brand budget "
    "cheap cheaper cheapest compare comparison costs dearer dearest deliver delivery difference different dislike "
    "dollars euros everything except expensive fifth first for fourth friendly hello instead language least less "
    "looking maximum minimum more need never newest not nothing oldest over pounds price prices pricier priciest "
    "ranked recommend return same second shipping should show similar something sort sorted start than thanks that "
    "the third under what where which without would"
)
_ANY_PRICE = (
    r"|\b(?:it )?(?:doesn'?t|does not) matter (?:what|how much) (?:it|they) costs?\b|\b(?:what|how) ?ever (?:it"
    r"|they) costs?\b"
    r"|\b(?:i )?(?:don'?t|do not) care (?:what|how much) (?:it|they) costs?\b|\bmoney (?:doesn'?t|does not) matter\b"
)


@lru_cache(maxsize=256)
def lifting(column: str, *, is_price: bool) -> re.Pattern[str]:
    """What frees an attribute: "any brand", "the price doesn't matter", "forget the category"."""
    names = {column.lower(), re.sub(r"ies$", "y", column.lower()).removesuffix("s")}
    if is_price:
        names |= {"price limit", "budget", "limit"}
    name = "(?:" + "|".join(re.escape(word) for word in sorted(names, key=len, reverse=True)) + ")s?"
    return compiled(
        rf"\b(?:any|every|all|whatever|whichever|no matter (?:the|which|what)"
        rf"|regardless of(?: the)?) {name}\b(?: is (?:fine|ok|okay))?"
        rf"|\b(?:the )?{name} (?:(?:really )?(?:doesn'?t|does not|don'?t|do not) matter|(?:isn'?t|is not"
        rf"|is no) (?:important|(?:an )?issue|(?:a )?problem|(?:a )?concern))\b(?: to me)?"
        rf"|\b(?:i )?(?:don'?t|do not) (?:care|mind) (?:about )?(?:the |which |what )?{name}\b"
        rf"|\b(?:forget|drop|remove|lift|clear|ignore|scrap|no)(?: about)?(?: the| any)? {name}\b"
        rf"(?: (?:limits?|filters?|conditions?|range|thing))?" + (_ANY_PRICE if is_price else "")
    )
