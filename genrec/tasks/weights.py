"""`TaskWeights`: how often each text task is drawn; light to import."""

from __future__ import annotations

from dataclasses import dataclass, fields

from genrec.semtok import options as check
from genrec.semtok.errors import InputError


@dataclass(frozen=True)
class TaskWeights:
    """How often each text task is drawn, relative to the others; 0 leaves it out.

    Attributes:
        text_to_codes: an item's words to its codes.
        codes_to_text: an item's codes to its title.
        query_to_codes: a query made from an item's attributes to its codes.
        codes_to_title: a history in codes to the title of the next item.
        titles_to_codes: a history in titles to the codes of the next item.
        preference: a history in codes to a sentence on what its owner likes.
        would_take: a history and a candidate to yes or no.
        preferred_of_two: a history and two candidates to the codes of the better one.
    """

    text_to_codes: float = 1.0
    codes_to_text: float = 1.0
    query_to_codes: float = 0.0
    codes_to_title: float = 0.0
    titles_to_codes: float = 0.0
    preference: float = 0.0
    would_take: float = 0.0
    preferred_of_two: float = 0.0

    def __post_init__(self) -> None:
        check.not_negative(self, *self.of_tasks())
        if not any(self.of_tasks().values()):
            raise InputError("lm.tasks: every weight is 0; set lm.text_share to 0 to train without text tasks")

    def of_tasks(self) -> dict[str, float]:
        """The weight of each task by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
