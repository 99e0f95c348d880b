"""LETTER's regularisers: even clusters, mates, and what each term does to the codes of a small world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.semtok.aligners.losses import code_diversity, collaborative_contrast
from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.code_clusters import CodeMates, even_clusters
from genrec.semtok.quantizers.config import RqVaeConfig
from genrec.semtok.quantizers.residual import sum_codes
from genrec.semtok.quantizers.rqvae import RqVae
from genrec.training.quantizer.fit import fit_quantizer, fit_rqvae
from genrec.training.quantizer.letter import Collaborative, Letter

SIZES = (4, 4)
SMALL = RqVaeConfig(latent_width=8, hidden_widths=(32,), warmup_steps=50, steps=150, batch_size=64, revive_every=20)


def vectors(rows: int = 320) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = (4 * rng.normal(size=(4, 1, 12)) + rng.normal(size=(1, 4, 12))).reshape(16, 12)
    return (centres[np.arange(rows) % 16] + 0.05 * rng.normal(size=(rows, 12))).astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 25), clusters=st.integers(1, 6), seed=st.integers(0, 99))
def test_clusters_are_even(n: int, clusters: int, seed: int) -> None:
    clusters = min(clusters, n)
    points = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    sizes = np.bincount(even_clusters(points, clusters, seed), minlength=clusters)
    assert sizes.sum() == n
    assert sizes.max() <= -(-n // clusters)


def test_clusters_find_groups_of_like_size() -> None:
    centres = np.array([[0, 0], [9, 0], [0, 9]], dtype=np.float32)
    points = np.repeat(centres, 5, axis=0) + np.random.default_rng(0).normal(size=(15, 2)).astype(np.float32)
    chosen = even_clusters(points, 3, seed=0)
    assert all(len(set(chosen[5 * i : 5 * i + 5].tolist())) == 1 for i in range(3))
    assert len(set(chosen.tolist())) == 3


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 25), clusters=st.integers(1, 30), seed=st.integers(0, 99))
def test_a_mate_is_another_code_of_the_cluster(n: int, clusters: int, seed: int) -> None:
    book = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    mates = CodeMates(book, clusters, seed)
    codes = torch.arange(n).repeat(400)
    drawn = mates.draw(codes, torch.Generator().manual_seed(seed))
    assert not (drawn == codes).any()
    partners = [set(drawn[codes == code].tolist()) for code in range(n)]
    for code in range(n):
        for mate in partners[code]:  # one cluster: whoever is a mate has the same mates
            assert mate in range(n)
            assert mates.start[mate] == mates.start[code]
    assert partners[0] == {c for c in range(1, n) if mates.start[c] == mates.start[0]}


def test_the_terms_are_the_weighted_losses_of_known_items() -> None:
    torch.manual_seed(0)
    data = vectors(64)
    known = np.arange(64) % 3 > 0
    collaborative = Collaborative(np.random.default_rng(1).normal(size=(64, 5)).astype(np.float32), known)
    config = replace(SMALL, collaborative_weight=0.5, diversity_weight=0.25, diversity_clusters=2)
    model = RqVae(12, SIZES, config)
    for book in model.books:
        torch.nn.init.normal_(book)
    letter, rows = Letter(config, 64, collaborative, 0, torch.device("cpu")), torch.arange(0, 64, 2)
    output = model(torch.from_numpy(data)[rows])
    assert letter.collaborative.shape == (64, 8)
    centred = collaborative.vectors - collaborative.vectors[known].mean(axis=0)
    np.testing.assert_allclose(  # five axes of five dimensions turn the vectors, and only that
        letter.collaborative.numpy() @ letter.collaborative.numpy().T,
        centred @ centred.T / (np.square(centred[known]).sum() / (known.sum() * 5)),
        atol=1e-3,
    )
    here = torch.from_numpy(known)[rows]
    expected = 0.5 * collaborative_contrast(output.quantised[here], letter.collaborative[rows[here]])
    generator = torch.Generator().manual_seed(0)
    for level, book in enumerate(model.books):
        mates = CodeMates(book.detach().numpy(), 2, 0).draw(output.codes[:, level], generator)
        expected = expected + 0.25 * code_diversity(book, output.codes[:, level], mates)
    torch.testing.assert_close(letter(model, output, rows, 1), expected)


def test_codes_come_to_agree_with_collaborative_vectors() -> None:
    """Text has 16 groups; collaborative vectors split each in two by a direction that is a small part of it."""
    rng = np.random.default_rng(0)
    side = rng.integers(0, 2, size=320) * 2.0 - 1
    data = np.hstack([vectors(), side[:, None]]).astype(np.float32)
    taken = np.outer(side, rng.normal(size=6)).astype(np.float32)
    collaborative = Collaborative(taken, np.ones(320, dtype=bool))

    def agreement(weight: float) -> float:
        model = fit_rqvae(data, (8, 8), replace(SMALL, collaborative_weight=weight), 0, collaborative)
        quantised = sum_codes(model.codebooks, model.encode(data))
        design = np.hstack([quantised, np.ones((320, 1), dtype=np.float32)])
        fitted = design @ np.linalg.lstsq(design, side, rcond=None)[0]
        return float(1 - np.square(side - fitted).sum() / np.square(side - side.mean()).sum())

    plain, held = agreement(0.0), agreement(1.0)
    assert held > plain + 0.2, (plain, held)


def test_off_is_off_and_the_seed_decides() -> None:
    data = vectors()
    collaborative = Collaborative(
        np.random.default_rng(1).normal(size=(320, 5)).astype(np.float32), np.ones(320, dtype=bool)
    )
    short = replace(SMALL, warmup_steps=5, steps=20)
    plain, with_vectors = fit_rqvae(data, SIZES, short, 0), fit_rqvae(data, SIZES, short, 0, collaborative)
    assert all(torch.equal(a, b) for a, b in zip(plain.books, with_vectors.books, strict=True))
    both = replace(short, collaborative_weight=0.01, diversity_weight=0.01)
    first, second = fit_rqvae(data, SIZES, both, 0, collaborative), fit_rqvae(data, SIZES, both, 0, collaborative)
    assert all(torch.equal(a, b) for a, b in zip(first.books, second.books, strict=True))
    assert not torch.equal(first.books[0], plain.books[0])


def test_a_level_of_one_code_has_no_mates() -> None:
    model = fit_rqvae(vectors(), (1, 4), replace(SMALL, steps=5, diversity_weight=0.1), 0)
    assert np.isfinite(model.codebooks[0]).all()


def test_collaborative_vectors_must_be_given_where_they_are_asked_for() -> None:
    with pytest.raises(InputError, match=r"--semtok.rqvae.collaborative_weight"):
        fit_quantizer("rqvae", vectors(), SIZES, replace(SMALL, collaborative_weight=0.1))
