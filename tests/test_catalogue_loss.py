"""The two losses over one catalogue against their equations, differentiated in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec.training.lm.catalogue_loss import CatalogueTargets, catalogue_loss
from genrec.training.loop import losses
from genrec.training.loop.losses import SoftTargets

D, M, V = 5, 7, 6


def drawn(seed: int, n: int, spread: float, weight: float, taught: bool) -> tuple[Tensor, Tensor, CatalogueTargets]:
    """A batch over n items, some unseen, of at most V first codes."""
    torch.manual_seed(seed)
    codes = torch.randint(V, (n,)).sort().values
    unseen = (torch.rand(n) < 0.3).nonzero()[:, 0]
    seen = torch.ones(n, dtype=torch.bool).index_fill_(0, unseen[: n - 1], False)  # one is seen at least
    unseen = (~seen).nonzero()[:, 0]
    positions = seen.nonzero()[:, 0][torch.randint(int(seen.sum()), (M,))]
    soft, beyond = None, None
    if taught:
        shares = torch.rand(M) * (torch.rand(M) > 0.3)
        soft = SoftTargets(torch.randn(M, 3), torch.randn(n, 3), shares)
        mass = (soft.states @ soft.vectors.T).softmax(1)
        of_codes = torch.zeros(M, V).index_add_(1, codes, mass)
        beyond = shares[:, None] * (of_codes - torch.nn.functional.one_hot(codes[positions], V))
    first = CatalogueTargets.first(codes, positions, V, beyond)
    targets = CatalogueTargets(positions, codes, first, unseen, weight, soft)
    return torch.randn(M, D), spread * torch.randn(n, D), targets


def by_equation(query: Tensor, vectors: Tensor, targets: CatalogueTargets) -> tuple[Tensor, Tensor]:
    x = query @ vectors.T
    seen = torch.ones(len(vectors), dtype=torch.bool).index_fill_(0, targets.unseen, False)
    wanted = torch.nn.functional.one_hot(targets.positions, len(vectors)).double()
    if targets.soft is not None:
        t = (targets.soft.states @ targets.soft.vectors.T).double().masked_fill(~seen, -torch.inf).softmax(1)
        wanted = (1 - targets.soft.shares[:, None]) * wanted + targets.soft.shares[:, None] * t
    log_p = x.masked_fill(~seen, -torch.inf).log_softmax(1)
    dense = -(wanted * log_p.masked_fill(~seen, 0.0)).sum()
    nodes = torch.zeros((), dtype=torch.float64)
    for code in targets.codes.unique().tolist():
        below = targets.codes == code
        nodes = nodes - (targets.first_codes[:, code] * (x[:, below].logsumexp(1) - x.logsumexp(1))).sum()
    return nodes, dense


@settings(deadline=None, max_examples=80)
@given(
    st.integers(0, 9_999),
    st.integers(1, 40),
    st.sampled_from([0.1, 1.0, 30.0]),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.booleans(),
    st.sampled_from([1, 1 << 21]),
)
def test_losses_and_gradients_are_the_equations(
    seed: int, n: int, spread: float, weight: float, taught: bool, cells: int
) -> None:
    """In one chunk and in many, also where some codes are so far behind that their exponentials vanish."""
    query, vectors, targets = drawn(seed, n, spread, weight, taught)
    q, v = (x.double().requires_grad_() for x in (query, vectors))
    nodes, dense = by_equation(q, v, targets)
    (nodes + weight * dense).backward()
    query.requires_grad_()
    vectors.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "CHUNK_LOGITS", cells)
        both, found_nodes, found_dense = catalogue_loss(query, vectors, targets)
    (3 * both).backward()
    close = {"rel": 1e-4, "abs": 1e-4 * max(1.0, spread)}
    assert found_nodes.item() == pytest.approx(nodes.item(), **close)
    assert found_dense.item() == pytest.approx(dense.item() if weight else 0.0, **close)
    assert both.item() == pytest.approx(nodes.item() + weight * dense.item(), **close)
    torch.testing.assert_close(query.grad, (3 * q.grad).float(), rtol=1e-3, atol=1e-3 * max(1.0, spread))
    torch.testing.assert_close(vectors.grad, (3 * v.grad).float(), rtol=1e-3, atol=1e-3)
