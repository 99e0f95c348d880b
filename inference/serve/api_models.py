"""What the HTTP API takes and gives, as the OpenAPI document shows it.

Requests are parsed by these models; answers only described by them, for they are written straight from their parts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StrictBool, StrictStr, Tag
from pydantic_core import PydanticCustomError

from genrec.inference.serve.microbatch import Question, Ranking


def _encodable(text: str) -> str:
    """Text that UTF-8 can hold; JSON may escape half of a character. pydantic looks only where a length is asked."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "Input should be text without halves of characters") from None
    return text


LONGEST_USER = 2048  # characters of an id
Text = Annotated[StrictStr, AfterValidator(_encodable)]
ItemId = Annotated[str, Field(min_length=1, max_length=512, examples=["B0009P4PZC"])]
UserId = Annotated[str, Field(min_length=1, max_length=LONGEST_USER, examples=["A1YJEY40YUW4SE"])]
Whole = Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]
Real = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)]
Value = StrictBool | Whole | Annotated[Real, Field(strict=True)] | Text


class Asked(BaseModel):
    """A request's body; an unknown member is an error, not a silent no-op."""

    model_config = ConfigDict(extra="forbid")


class Range(Asked):
    """A numeric range, inclusive; an end left out is open."""

    min: Real | None = None
    max: Real | None = None


def _shape(condition: Any) -> str:
    if isinstance(condition, dict | Range):
        return "range"
    return "any of" if isinstance(condition, list) else "value"


def _plain(condition: Any) -> Any:
    """As `genrec.decoding.filters.WhereFilters` takes conditions, which alone decides what they mean."""
    return condition.model_dump(exclude_unset=True) if isinstance(condition, Range) else condition


Condition = Annotated[
    Annotated[Value, Tag("value")] | Annotated[list[Value | None], Tag("any of")] | Annotated[Range, Tag("range")],
    Discriminator(_shape),  # so that an error is about the shape that was meant, not about all three
    AfterValidator(_plain),
]


Where = Annotated[
    dict[Text, Condition],
    Field(
        max_length=20,
        description="Attribute to a value, values (any of them) or a range: {min, max}, [low, high].",
    ),
]


class RecommendationsRequest(Asked):
    """A live recommendation. Items that the catalogue does not know are passed over and named in the answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"history": ["B0009P4PZC", "B000052YP6"], "k": 10, "where": {"categories": "Nails"}},
                {"user_id": "A1YJEY40YUW4SE", "where": {"price": {"max": 20}}, "deny": ["B000052YP6"]},
                {"history": [], "k": 5},
            ]
        },
    )

    user_id: UserId | None = Field(None, description="Whose known history to use where `history` is left out.")
    history: list[ItemId] | None = Field(None, description="Item ids, oldest first. Empty: an anonymous user.")
    k: int = Field(10, ge=1, strict=True, description="Number of items.")
    exclude_seen: StrictBool = Field(True, description="Leave out the history's items.")
    where: Where = {}
    deny: list[ItemId] = Field([], description="Items that must not come back.")
    ranking: Ranking | None = Field(None, description="The run's own where left out.")

    def question(self, history: tuple[str, ...], deny: tuple[str, ...]) -> Question:
        """The question that this asks with a history and denied items that the catalogue knows."""
        return Question(
            history=history,
            k=self.k,
            exclude_seen=self.exclude_seen,
            where=tuple(self.where.items()),
            deny=deny,
            ranking=self.ranking,
        )


class SearchRequest(Asked):
    """What is looked for, in words."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": "hand cream", "k": 5, "where": {"price": {"max": 20}}}]}
    )

    query: Text = Field(min_length=1, max_length=1000, description="What the items should be.")
    k: int = Field(10, ge=1, strict=True, description="Number of items.")
    where: Where = {}
    deny: list[ItemId] = Field([], description="Items that must not come back.")


class EventsRequest(Asked):
    """The items that a user has just interacted with, oldest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item_ids": ["B000052YP6"]}]})

    item_ids: list[ItemId] = Field(min_length=1)


class ScoredItem(BaseModel):
    item_id: str
    score: float
    title: str | None = Field(None, description="Where `?expand=title` asks; null of an item that the catalogue lacks.")


class RecommendationsAnswer(BaseModel):
    """A list, best first; it may be shorter than K."""

    user_id: str | None
    items: list[ScoredItem]
    source: Literal["store", "live"]
    stale: bool = Field(description="Events are known that the list does not take into account.")
    version: str | None = Field(description="Of the store; null for a live answer.")
    age_seconds: float = Field(description="Since the time up to which events are in the list.")
    model_id: str
    index_version: str
    history_length: int | None = Field(None, description="Known items that a live answer went by.")
    unknown_items: list[str] = Field([], description="Of the request, that the catalogue does not know.")
    reason: str | None = Field(None, description="Why a live list is shorter than K.")


class SimilarAnswer(BaseModel):
    item_id: str
    items: list[ScoredItem]
    model_id: str


class SearchAnswer(BaseModel):
    query: str
    items: list[ScoredItem]
    reason: str | None = Field(description="Why the list is shorter than K.")
    model_id: str


class ItemAnswer(BaseModel):
    item_id: str
    title: str
    attributes: dict[str, Any]
    withdrawn: bool
    semantic_id: list[int] | None = Field(description="Code on each level.")


class EventsAnswer(BaseModel):
    user_id: str
    accepted: int
    unknown_items: list[str]


class Lists(BaseModel):
    """The batch in the store."""

    version: str
    model_id: str
    ranking: str
    index_version: str
    as_of: float
    users: int
    items: int


class ReadyAnswer(BaseModel):
    status: Literal["ready"]
    live: bool
    store: Lists | None
    store_matches_model: bool | None = Field(description="Whether the lists come out of the index that is loaded.")


class LiveAnswer(BaseModel):
    status: Literal["live"]


class ProblemDocument(BaseModel):
    """RFC 9457. `type` tells programs what is wrong, `detail` tells people."""

    model_config = ConfigDict(
        title="Problem",
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:genrec:unknown-item",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "no item 'B00' in the catalogue",
                    "instance": "/v1/items/B00",
                }
            ]
        },
    )

    type: str
    title: str
    status: int
    detail: str
    instance: str
