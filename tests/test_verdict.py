"""What a run's figures say in a sentence, from rows written by hand."""

from __future__ import annotations

import pytest

from genrec.evaluation.tables import Row
from genrec.evaluation.verdict import verdict

OURS = "genrec fused (default)"


def row(model: str, value: float, name: str = "all", metric: str = "recall", n: int = 100) -> Row:
    return Row(model=model, split="test", slice=name, metric=metric, k=10, value=value, low=0.0, high=1.0, n=n)


def difference(value: float, low: float, high: float, reference: str = "Markov") -> Row:
    return row(OURS, value, metric=f"recall_minus_{reference}") | {"low": low, "high": high}  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("ours", "interval", "said", "loses"),
    [
        (0.5, (0.05, 0.15), "genrec fused beats Markov, the best baseline, by 0.1000 in Recall@10 (0.5000 against "
         "0.4000, 95% interval +0.0500 to +0.1500). Next: several seeds", False),
        (0.42, (-0.05, 0.09), "beats Markov, the best baseline, by 0.0200 in Recall@10 (0.4200 against 0.4000, 95% "
         "interval -0.0500 to +0.0900, within chance)", False),
        (0.3, (-0.15, -0.05), "loses to Markov, the best baseline, by 0.1000 in Recall@10", True),
        (0.4, (-0.05, 0.05), "is level with Markov, the best baseline, in Recall@10 (0.4000 against 0.4000", False),
    ],
)  # fmt: skip
def test_who_wins_by_how_much(ours: float, interval: tuple[float, float], said: str, loses: bool) -> None:
    """The best of those that are no part of the run: neither the aligned recommender nor the oracle."""
    others = [row("Popularity", 0.1), row("Markov", 0.4), row("sasrec, aligned", 0.9), row("Oracle", 0.95)]
    found = verdict([*others, row("genrec beam", 0.7), row(OURS, ours), difference(ours - 0.4, *interval)])
    assert said in found.sentence
    assert found.loses is loses
    assert ("counts alone do better" in found.sentence) is loses


def test_the_slice_of_the_greatest_loss_is_named_and_small_ones_say_nothing() -> None:
    rows = [row("ContentKnn", 0.1), row("SASRec", 0.2), row(OURS, 0.5)]
    rows += [row("ContentKnn", 0.4, "cold"), row("SASRec", 0.0, "cold"), row(OURS, 0.3, "cold")]
    rows += [row("ContentKnn", 0.1, "head"), row("SASRec", 0.55, "head"), row(OURS, 0.5, "head")]
    rows += [row(name, value, "tail", n=19) for name, value in (("ContentKnn", 0.9), ("SASRec", 0.0), (OURS, 0.0))]
    said = verdict(rows).sentence
    assert "; on cold targets ContentKnn is better (0.4000 against 0.3000). Next: a better text encoder" in said


def test_a_report_without_baselines_has_no_winner() -> None:
    assert verdict([row(OURS, 0.5)]) == ("No ranking of the run stands beside baselines.", False)
    assert not verdict([]).loses


def test_a_baseline_without_a_figure_of_a_slice_is_left_out_there() -> None:
    whole = [row("Markov", 0.4), row("Popularity", 0.5), row(OURS, 0.45)]
    rows = [*whole, row(OURS, 0.1, "tail"), row("Markov", 0.2, "tail")]
    assert "on tail targets Markov is better (0.2000 against 0.1000)" in verdict(rows).sentence
