"""Aligners: item vectors from words and behaviour, trained with a recommender."""

from semtok.aligners.base import AlignerInputs, IdTable, ItemTable

__all__ = ["AlignerInputs", "IdTable", "ItemTable"]
