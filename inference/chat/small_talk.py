"""Turns that are about no item: a greeting, thanks, help, and what a shop is asked that no catalogue tells.

read_small_talk("good morning!")                         # Question("greet")
read_service("do you ship to Norway?", words)            # Question("off_topic", asked="ship")
"""

from __future__ import annotations

import re

from genrec.inference.chat.catalog_words import CatalogWords, fold, words_of
from genrec.inference.chat.draft import content_words
from genrec.inference.chat.patterns import compiled
from genrec.inference.chat.reading import Kind, Question

LONGEST = 120  # characters of small talk; its patterns repeat, so that much longer texts would take them long


_FRIEND = r"(?: (?:there|again|you|all(?! right)|mate|man|dude|buddy|pal|love|folks|everyone|guys|bot))*"
_HOW_ARE_YOU = r"how(?:'?s| are| is) (?:you|it|things|life)(?: doing| going| today)*"
_GREET = compiled(
    rf"(?:(?:hi+|hello+|hey+|hiya|howdy|yo|greetings|(?:good )?(?:morning|afternoon|evening)|good day|hola"
    rf"|bonjour|hallo"
    rf"|ciao|salut|guten tag|buenos dias|hej){_FRIEND}[,!. ]*)+(?:{_HOW_ARE_YOU})?|{_HOW_ARE_YOU}|what'?s up|sup"
)
_FINE = (
    r"ok|okay|k|kk|great|perfect|awesome|cool|nice|lovely|wonderful|super|alright|all right|got it|well done|good|fine"
    r"|brilliant|amazing|excellent|sweet|neat"
)
_ACKNOWLEDGE = compiled(
    rf"(?:(?:{_FINE}|yes|yeah|yep|yup|sure|no|nope|nah|hm+|wow|oh|ah|i see|never ?mind|maybe|so|that(?:'?s| is)"
    r"|sounds|very|really|lol|ha(?:ha)+|i (?:don'?t know|dunno|guess(?: so)?|think so)|dunno|not sure|let me think"
    rf"|we'?ll see|fair enough|makes sense|interesting|right|true|understood|whatever){_FRIEND}[,!. ]*)+"
)
_THANK = (
    r"(?:many )?thanks?(?: a lot| so much| very much| a bunch| a million)?|thank (?:you|u)(?: so much| very much)?"
    r"|thx|tnx|ty|ta|cheers|merci(?: beaucoup)?|danke(?: schön)?|gracias|grazie|obrigad[oa]|tack"
)
_BYE = (
    r"(?:good)?bye(?: bye)?(?: for now| now)?|good ?night|see (?:you|ya|u)(?: later| soon| around)?|take care|later"
    r"|have a (?:nice|good|great) (?:day|evening|one|weekend)|that(?:'?s| is| will be| would be)(?: all| it"
    r"| everything)|i'?m (?:done|good|fine|all set)|done|nothing else|no more for (?:now|today)"
)
_THANKS = compiled(
    rf"(?:(?:{_FINE}|no|yes|oh|well|and|then|{_BYE}|that(?:'?s| is| was) (?:great|perfect|helpful|lovely)|{_THANK}"
    rf"|(?:you(?:'ve| have) been|you'?re|that was) (?:very |so |really )?(?:helpful|kind|great)"
    rf"|for (?:your|the|all your) (?:help|time)|for now){_FRIEND}[,!. ]*)+"
)
_THANKS_FIRST = compiled(rf"^(?:{_THANK}){_FRIEND}[,!.] *(.+)$")
_SEEKS = compiled(
    r"\b(?:now|also|an?|some\w*|any\w*|next|another|other|more|show|find|need|want|look\w*|what|how)\b|\d"
)
_HELP = compiled(
    r"(?:please )?(?:help(?: me)?(?: out)?(?: please)?|(?:can|could) you help(?: me)?(?: out)?"
    r"|what (?:can|do|should) (?:you|i) (?:do|say|ask|type|sell|have|offer)(?: here| for me| to you)?"
    r"|how (?:does (?:this|it)|do you|do i|can you|can i) (?:work|help me|use (?:this|you|it))|what is this"
    r"|what(?:'?s| is) in (?:this|the) (?:shop|store|catalogu?e)|what (?:kinds?|sorts?|types?) of (?:things|items"
    r"|products|stuff)(?: do you (?:have|sell)| are there)?"
    r"|(?:sorry,? )?(?:what do you mean(?: by that)?|i don'?t (?:get it|understand)|i have no (?:clue|idea)))"
)
# What a shop is asked and a catalogue doesn't hold: verbs and nouns that no item is asked for by, and others
_SERVICE = compiled(
    r"\b(ship(?:s|ping|ped|ment)?|deliver(?:y|ies|s|ed)?|return policy|refunds?|warranty|guarantee"
    r"|pay(?:ment)?|paypal|credit cards?|invoice|discounts?|coupons?|vouchers?|promo(?:tion)?(?: codes?)?"
    r"|(?:in|out of) stock|availab(?:le|ility)|my order|order status|track(?:ing)?|opening hours"
    r"|open (?:on|at|today)|customer service|(?:talk|speak) to (?:a|an|some)|gift ?wrap(?:ping)?|newsletter|my account"
    r"|password|log ?in|sign (?:in|up)|my (?:basket|cart)|checkout"
    r"|who (?:are|made) you|your name|are you (?:a |an )?(?:bot|human|real|ai|robot|person)|how old are you"
    r"|near me|(?:physical|a|your) (?:store|shop|branch)\b)"
)
_TOPIC = compiled(r"\b(returns?|exchange|weather|(?:tell me a )?joke|news|reserve|physical stores?)\b")
_ASKS = compiled(
    r"^(?:and |but |so |well |hey |please )*(?:do|does|did|can|could|will|would|is|are|was|how|what|where|when"
    r"|who|which|what'?s|may|i want to (?:return|talk|speak|track)|i(?:'d| would) like to (?:return|talk|speak|track)"
    r"|tell me)\b"
)
# "can I stream it?" asks for a service, "can I see mugs?" looks for mugs
_CAN_I = compiled(
    r"^(?:and |but |so )*(?:(?:where|how|when) )?(?:can|could|may|do|should) (?:i|we) (?:also |just )?(?!see\b"
    r"|have\b|get\b|find\b|buy\b|look\b|need\b|want\b|try\b|take\b|like\b|compare\b|sort\b|please\b)[a-z]+\b"
)
_OPEN = compiled(
    r"^(?:and |but |so )*(?:who|what|what'?s|where|when|why|how|whose|is there|are there|do you|does the)\b"
)


def asks(text: str) -> bool:
    """Whether a turn is put as a question."""
    return bool(_ASKS.match(text)) or text.rstrip().endswith("?")


def read_small_talk(text: str, words: CatalogWords) -> Question | None:
    """A greeting, an answer to nothing, thanks or a call for help; None where the turn says more than that."""
    plain = text.strip(" .!?\n\t")
    if len(plain) > LONGEST:
        return None
    kinds: tuple[tuple[re.Pattern[str], Kind], ...] = (
        (_GREET, "greet"), (_ACKNOWLEDGE, "acknowledge"), (_THANKS, "thanks"), (_HELP, "help"),
    )  # fmt: skip
    for pattern, kind in kinds:
        if pattern.fullmatch(plain):
            return Question(kind)
    thanks = _THANKS_FIRST.match(plain)
    if thanks and not _SEEKS.search(thanks[1]) and not words.matches(words_of(thanks[1])):
        return Question("thanks")
    return None


def read_service(text: str, words: CatalogWords) -> Question | None:
    """A question about what no catalogue tells: delivery, payment, the weather."""
    plain = text.strip(" .!?\n\t")
    for pattern in (_SERVICE, _TOPIC) if _ASKS.match(plain) else ():
        found = pattern.search(plain)
        asked = found[0].lower() if found else ""
        if found and (asked.startswith(("ship", "deliver", "pay")) or not words.titles_with(asked).any()):
            return Question("off_topic", asked=asked)
    if _CAN_I.match(plain) and text.rstrip().endswith("?") and not words.matches(words_of(plain)):
        return Question("off_topic", asked=_content(plain))
    return None


def read_open(text: str, words: CatalogWords) -> Question | None:
    """A question of which no word names anything here: "what's the capital of Norway?"."""
    plain = text.strip(" .!?\n\t")
    content = content_words(plain)
    if not _OPEN.match(plain) or not content or any(fold(word) in words.telling for word in content):
        return None
    return Question("off_topic", asked=_content(plain))


def _content(text: str) -> str:
    """The words that a question is about, a few of them."""
    return " ".join(content_words(text)[:5]).lower() or "that"
