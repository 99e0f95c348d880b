"""First rows of the SID tokens: geometry, spread, and codes that lie near the words of their items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.data.cases import Cases, Split
from genrec.data.sequences import Sequences
from genrec.semtok.aligners.losses import symmetric_contrast
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.code_alignment import CodeProjection, even, spread_like
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import ItemVectors
from genrec.training.lm.base import scratch_tokenizer
from genrec.training.lm.build import LmInputs, build_lm
from genrec.training.lm.config import LmConfig
from genrec.training.lm.sid_embeddings import aligned_rows, fit_projection, item_words, random_rows

RNG = np.random.default_rng(0)
BOOKS = [RNG.standard_normal((6, 8)).astype(np.float32), 0.2 * RNG.standard_normal((4, 8)).astype(np.float32)]
SIZES = (6, 4)
CODES = np.array([[a, b] for a in range(6) for b in range(4)], dtype=np.int32)
EMBEDDINGS = 0.02 * torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) + 0.01


@pytest.mark.parametrize("init", ["random", "aligned"])
def test_every_level_has_the_mean_and_spread_of_the_words(init: str) -> None:
    words = torch.randn(24, 16, generator=torch.Generator().manual_seed(1))
    sizes = (*SIZES, 5)  # one level that only keeps items apart
    codes = np.hstack([CODES, np.zeros((24, 1), dtype=np.int32)])
    if init == "random":
        rows = random_rows(EMBEDDINGS, sizes, seed=0)
    else:
        rows = aligned_rows(EMBEDDINGS, BOOKS, codes, words, sizes, seed=0)
    assert rows.shape == (16, 16)
    torch.testing.assert_close(rows[0], EMBEDDINGS.mean(dim=0))
    for here in (slice(1, 7), slice(7, 11), slice(11, 16)):
        torch.testing.assert_close(rows[here].mean(dim=0), EMBEDDINGS.mean(dim=0), rtol=0, atol=1e-6)
        assert (rows[here] - EMBEDDINGS.mean(dim=0)).std().item() == pytest.approx(EMBEDDINGS.std(dim=0).mean().item())


def test_the_loss_is_the_contrast_of_summed_codes_with_words() -> None:
    projection = CodeProjection(BOOKS, 16, seed=0).double()
    words = torch.randn(24, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    centred = [torch.tensor(book, dtype=torch.float64) for book in BOOKS]
    centred = [book - book.mean(dim=0) for book in centred]
    for level, book in enumerate(projection.books):
        torch.testing.assert_close(book, centred[level], rtol=1e-6, atol=1e-6)
    codes = torch.from_numpy(CODES).long()
    summed = projection.books[0][codes[:, 0]] + projection.books[1][codes[:, 1]]
    expected = symmetric_contrast(summed @ projection.weight, words, torch.arange(24), 0.07)
    torch.testing.assert_close(projection.loss(codes, words, 0.07), expected)


def test_aligned_codes_find_the_words_of_their_items() -> None:
    """Words are a linear map of the code vectors, so a projection exists that puts every item on its words."""
    hidden_map = torch.randn(8, 16, generator=torch.Generator().manual_seed(2))
    summed = torch.tensor(BOOKS[0][CODES[:, 0]] + BOOKS[1][CODES[:, 1]])
    words = (summed - summed.mean(dim=0)) @ hidden_map
    codes = torch.from_numpy(CODES).long()

    def found(projection: CodeProjection) -> float:
        alike = torch.nn.functional.normalize(projection(codes), dim=1) @ torch.nn.functional.normalize(words, dim=1).T
        return float((alike.argmax(dim=1) == torch.arange(24)).float().mean())

    assert found(CodeProjection(BOOKS, 16, seed=0)) < 0.4
    assert found(fit_projection(CodeProjection(BOOKS, 16, seed=0), CODES, words, seed=0)) > 0.9


def test_rows_are_evened_without_being_turned() -> None:
    rows = torch.tensor(BOOKS[0] - BOOKS[0].mean(axis=0)) @ torch.randn(
        8, 16, generator=torch.Generator().manual_seed(3)
    )
    evened = even(rows)
    sizes = torch.linalg.svdvals(evened)
    torch.testing.assert_close(sizes, torch.tensor([1.0, 1, 1, 1, 1, 0]), rtol=0, atol=1e-4)  # six centred rows
    nearest = (evened * rows).sum()
    for seed in range(20):  # no other rows of such sizes lie nearer
        turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(seed)))[0]
        assert (evened @ turn * rows).sum() < nearest
    torch.testing.assert_close(even(3 * rows), evened, rtol=1e-3, atol=1e-4)


def test_item_words_are_mean_embeddings() -> None:
    tokenizer = scratch_tokenizer(["red shoes", "blue shoes"], 300)
    matrix = torch.randn(len(tokenizer), 4, generator=torch.Generator().manual_seed(0))
    words = item_words(matrix, tokenizer, ["red shoes", ""])
    ids = tokenizer("red shoes")["input_ids"]
    torch.testing.assert_close(words[0], matrix[ids].mean(dim=0) - matrix.mean(dim=0))
    assert not words[1].any()


def test_spread_like_does_not_divide_by_nothing() -> None:
    torch.testing.assert_close(spread_like(EMBEDDINGS, torch.ones(3, 16)), EMBEDDINGS.mean(dim=0).expand(3, 16))


@pytest.mark.parametrize("init", ["random", "aligned"])
def test_the_language_model_starts_from_them(init: str, tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n" + "".join(f"i{row},{['red', 'blue', 'green'][row % 3]} shoe {row}\n"
                                                for row in range(24)))  # fmt: skip
    catalog = Catalog.from_file(path)
    histories = Sequences.from_lists([[0, 1, 2], [3, 4]])
    none = Cases((), (), Sequences.from_lists([]), np.zeros(0, np.int32), None, np.zeros(0, bool))
    inputs = LmInputs(
        catalog=catalog,
        semantic_ids=SemanticIds(catalog.item_ids, CODES, SIZES),
        codebooks=BOOKS,
        item_vectors=ItemVectors(RNG.standard_normal((24, 8)).astype(np.float32), "test"),
        split=Split(histories, ("u", "v"), none, none, "given"),
    )
    config = LmConfig(width=16, text_vocabulary=300, sid_init=init)  # type: ignore[arg-type]
    first, again = build_lm(inputs, config).model.rows, build_lm(inputs, config).model.rows
    assert first.shape == (11, 16)
    assert torch.equal(first, again)
    other = LmConfig(width=16, text_vocabulary=300, sid_init="aligned" if init == "random" else "random")
    assert not torch.allclose(first, build_lm(inputs, other).model.rows)


def test_an_unknown_start_is_named() -> None:
    with pytest.raises(InputError, match=r"sid_init 'words': choose one of random, aligned"):
        LmConfig(sid_init="words")  # type: ignore[arg-type]
