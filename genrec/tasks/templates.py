"""The wording of the tasks, as data: one template of a task is drawn for each example.

A slot in braces takes tokens: `{history}` a history's codes behind the history token, `{item}` and `{other}` the codes
of a candidate, `{titles}` the titles of a history, `{title}` and `{text}` words of one item or of a query. The response
follows the template's last character.
"""

from __future__ import annotations

TEXT_TO_CODES = ("Item: {text}\nCodes:", "Which item is this? {text}\nCodes:", "Find: {text}\nCodes:")
CODES_TO_TEXT = ("Codes: {item}\nItem:", "What is {item}?\nItem:", "Describe {item}\nItem:")

CODES_TO_TITLE = (
    "{history}\nNext item:",
    "Bought so far: {history}\nWhat comes next?\nItem:",
    "Name the item that follows {history}\nItem:",
)
TITLES_TO_CODES = (
    "Bought so far:{titles}\nNext codes:",
    "After{titles}\nwhat comes next?\nCodes:",
    "History:{titles}\nRecommend one item.\nCodes:",
)
QUERY_TO_CODES = (
    "Find: {text}\nCodes:",
    "I am looking for {text}\nCodes:",
    "What would you recommend to someone who wants {text}?\nCodes:",
    "Search: {text}\nCodes:",
)
PREFERENCE = (
    "{history}\nWhat does this person like?\nAnswer:",
    "Sum up the taste behind {history}\nAnswer:",
    "Bought so far: {history}\nPreferences:",
)
WOULD_TAKE = (
    "{history}\nWould this person take {item}?\nAnswer:",
    "Bought so far: {history}\nCandidate: {item} {title}\nTaken?\nAnswer:",
    "Does {item} follow {history}\nAnswer:",
)
PREFERRED_OF_TWO = (
    "{history}\nWhich is preferred, {item} or {other}?\nCodes:",
    "Bought so far: {history}\nFirst: {item}\nSecond: {other}\nBetter choice:",
    "Choose between {item} and {other} after {history}\nCodes:",
)
YES, NO = "Yes", "No"

SEARCH_PROMPT = TEXT_TO_CODES[2]  # what a search at inference says; both text tasks train it
