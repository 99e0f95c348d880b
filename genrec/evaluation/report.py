"""The report of a run: `metrics.json`, pictures, and `report.html`, which opens without a server.

The same input gives the same bytes: there is no date in it, and times in the training log are not read. The pictures
stand in the page itself as well as beside it, so that the page can be sent alone.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from genrec.evaluation.tables import HISTORY_GROUPS, MINUS, SEARCH, Row, summary
from genrec.evaluation.verdict import verdict
from genrec.semtok.figures import figure, png
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.quality import GOOD

_TEMPLATE = Path(__file__).with_name("report.html")
_COLOURS = (  # as many as a run has models, and some
    "#1f6f8b", "#e07a3f", "#5b8c5a", "#8f5b8c", "#b8982f", "#6b7a8f", "#b0413e", "#3f8f86",
    "#7d6a58", "#444444", "#d48fb0", "#9cbf3f", "#2f4b7c", "#b79fe0", "#7fb8d6", "#9a3f8f",
)  # fmt: skip


class Sample(NamedTuple):
    """A test case with the list that the run makes for it, by titles; the page may be sent, so it names no user."""

    history: list[str]  # the last items
    target: str  # the one that came next
    ranked: list[str]  # the first of the list, best first


def write_report(
    folder: Path,
    rows: Sequence[Row],
    *,
    training_log: Sequence[Mapping[str, Any]] = (),
    quality: Mapping[str, Any] | None = None,
    title: str = "genrec",
    notes: Sequence[str] = (),
    samples: Sequence[Sample] = (),
) -> None:
    """Write `metrics.json`, `report.html` and the pictures into an existing folder.

    Args:
        rows: of `evaluate` and `compare`.
        training_log: lines of `log.jsonl`; those with "stage", "epoch" and a number whose name has "loss", "recall" or
            "ndcg" in it are drawn. Of several lines about an epoch of a stage the last one counts: a resumed run
            repeats some.
        quality: `quality.json` of the semantic IDs (`genrec.semtok.quality.SidQuality.to_json`).
        title: heading of the page.
        notes: sentences on the protocol, data, seeds.
        samples: cases with their lists.
    """
    pictures = {
        "recall_by_popularity.png": (
            _recall_by_slice(rows, ("head", "tail", "cold")),
            "Recall@10 by popularity of the target, with 95% intervals. Head: the fifth of the catalogue with most "
            "training events; tail: all others, also cold items; cold: no training event.",
        ),
        "recall_by_history.png": (
            _recall_by_slice(rows, tuple(HISTORY_GROUPS)),
            "Recall@10 by the number of items in the history, with 95% intervals.",
        ),
        "training.png": (_training_curves(training_log), "Training: loss, and quality on validation cases, by epoch."),
        "codes.png": (_code_use(quality), "Use of the semantic IDs' codes by level; even use would fill both bars."),
    }
    drawn = {name: (png(picture), caption) for name, (picture, caption) in pictures.items() if picture is not None}
    sections = [_lead(rows), _summary_tables(rows), _notes(notes), _samples(samples)]
    sections += [_picture(name, data, caption) for name, (data, caption) in drawn.items()]
    sections += [_differences(rows), _search_table(rows), _quality_table(quality)]
    page = Template(_TEMPLATE.read_text(encoding="utf-8"))
    write_atomic(folder / "metrics.json", to_json(list(rows)))
    for name, (data, _) in drawn.items():
        write_atomic(folder / name, data)
    write_atomic(
        folder / "report.html", page.substitute(title=html.escape(title), body="\n".join(filter(None, sections)))
    )


def _recall_by_slice(rows: Sequence[Row], names: Sequence[str]) -> Figure | None:
    """Bars of Recall@10 in the test split, grouped by slice, one colour a model; None where no slice exists."""
    found = {
        (row["slice"], row["model"]): row
        for row in rows
        if row["split"] == "test" and row["slice"] in names and row["metric"] == "recall" and row["k"] == 10
    }
    present = [name for name in names if any(key[0] == name for key in found)]
    models = list(dict.fromkeys(model for _, model in found))
    if not present:
        return None
    drawn, axes = _figure(1.6 + 0.45 * len(models) * len(present), 3.6)
    width = 0.82 / len(models)
    for index, model in enumerate(models):
        places = [place for place, name in enumerate(present) if (name, model) in found]
        bars = [found[present[place], model] for place in places]
        at = np.array(places) + width * (index - (len(models) - 1) / 2)
        values, low, high = (np.array([bar[end] for bar in bars], dtype=float) for end in ("value", "low", "high"))
        # A percentile interval need not hold the mean of a very small slice.
        error = np.maximum([values - low, high - values], 0)
        axes.bar(at, values, width * 0.92, color=_colour(index), label=model)
        axes.errorbar(at, values, error, fmt="none", ecolor="#333333", elinewidth=0.9, capsize=2)
    cases = {name: max(row["n"] for key, row in found.items() if key[0] == name) for name in present}
    axes.set_xticks(range(len(present)), [f"{name.replace('_', ' ')}\n{cases[name]:,} cases" for name in present])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("Recall@10")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return drawn


def _training_curves(training_log: Sequence[Mapping[str, Any]]) -> Figure | None:
    """One panel a stage: losses on the left axis, validation metrics on the right one, by epoch."""
    stages: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in training_log:
        if "stage" in line and isinstance(line.get("epoch"), int) and (_drawn(line, "loss") or _drawn(line, "valid")):
            stages.setdefault(str(line["stage"]), {})[line["epoch"]] = line
    if not stages:
        return None
    drawn = figure(4.6 * len(stages), 3.4)
    for place, (stage, epochs) in enumerate(stages.items()):
        left = drawn.add_subplot(1, len(stages), place + 1)
        _tidy(left)
        left.set_title(stage, fontsize=10)
        left.set(xlabel="epoch", ylabel="loss")
        right = left.twinx()
        right.set_ylabel("validation")
        _tidy(right, right_axis=True)
        colour = 0
        for axes, kind, dashes in ((left, "loss", "-"), (right, "valid", "--")):
            for name in sorted({name for line in epochs.values() for name in _drawn(line, kind)}):
                points = [
                    (epoch, epochs[epoch][name]) for epoch in sorted(epochs) if name in _drawn(epochs[epoch], kind)
                ]
                axes.plot(*zip(*points, strict=True), dashes, marker=".", color=_colour(colour), label=name)
                colour += 1
        lines = [*left.get_lines(), *right.get_lines()]
        right.set_visible(bool(right.get_lines()))
        names = [str(line.get_label()) for line in lines]
        left.legend(lines, names, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False, fontsize=8)
    return drawn


def _drawn(line: Mapping[str, Any], kind: str) -> list[str]:
    """Names of a log line's numbers that are losses ("loss") or validation metrics ("valid")."""
    numbers = [name for name, value in line.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    if kind == "loss":
        return [name for name in numbers if "loss" in name]
    return [name for name in numbers if "recall" in name or "ndcg" in name]


def _code_use(quality: Mapping[str, Any] | None) -> Figure | None:
    """Share of each level's codes that are used, and of the evenness that is reached (perplexity over size)."""
    if quality is None:
        return None
    sizes = np.asarray(quality["sizes"], dtype=float)
    drawn, axes = _figure(1.8 + 1.1 * len(sizes), 3.0)
    series = {
        "codes in use": np.asarray(quality["codes_used"]) / sizes,
        "perplexity / codes": 2 ** np.asarray(quality["entropy"]) / sizes,
    }
    for index, (name, shares) in enumerate(series.items()):
        bars = axes.bar(np.arange(len(sizes)) + 0.4 * (index - 0.5), shares, 0.37, color=_colour(index), label=name)
        axes.bar_label(bars, labels=[f"{share:.0%}" for share in shares], fontsize=7, padding=1)
    axes.set_xticks(range(len(sizes)), [f"level {level + 1}\n{size:.0f} codes" for level, size in enumerate(sizes)])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(0, 1.08)
    axes.set_ylabel("share")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    return drawn


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    drawn = figure(min(max(width, 5.0), 13.0), height)
    axes = drawn.add_subplot()
    _tidy(axes)
    return drawn, axes


def _tidy(axes: Axes, *, right_axis: bool = False) -> None:
    axes.spines["top"].set_visible(False)
    axes.spines["right"].set_visible(right_axis)
    if not right_axis:
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axes.set_axisbelow(True)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _lead(rows: Sequence[Row]) -> str:
    """The page's first sentence: who wins by how much, and where the run loses."""
    said = verdict(rows)
    return f'<p class="lead{" lost" if said.loses else ""}">{html.escape(said.sentence)}</p>'


def _samples(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    lines = [
        [
            " · ".join(sample.history),
            sample.target,
            " · ".join(f"{i}. {title}" for i, title in enumerate(sample.ranked, 1)),
        ]
        for sample in samples
    ]
    head = ["the last items of a history", "what came next", "the list's first"]
    table = _table(head, lines).replace("<table>", '<table class="words">', 1)
    return f"<h2>Some lists</h2>\n{table}"


def _folded(heading: str, content: str) -> str:
    return f"<details>\n<summary><h2>{html.escape(heading)}</h2></summary>\n{content}\n</details>"


def _notes(notes: Sequence[str]) -> str:
    return "".join(f"<p>{html.escape(note)}</p>" for note in notes)


def _summary_tables(rows: Sequence[Row]) -> str:
    parts = []
    for split in dict.fromkeys(row["split"] for row in rows if row["split"] != SEARCH):
        cases = max(row["n"] for row in rows if row["split"] == split)
        parts.append(f"<h2>{html.escape(split.capitalize())}: {cases:,} cases</h2>")
        parts.append(_table(*summary(rows, split)))
    parts.append(
        "<p class=small>Ranked over the whole catalogue, on item ids. ± is half the width of the 95% bootstrap "
        "interval; head, tail, cold, tail users (the shortest 80% of the histories) and the days are Recall@10 on "
        "those cases. Every figure is in metrics.json.</p>"
    )
    return "\n".join(parts)


def _differences(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["model"],
            f"{metric}@{row['k']} minus {reference}'s",
            f"{row['value']:+.4f}",
            f"{row['low']:+.4f} to {row['high']:+.4f}",
            row["split"],
        ]
        for row in rows
        if row["split"] != SEARCH
        for metric, sign, reference in [row["metric"].partition(MINUS)]
        if sign
    ]
    if not lines:
        return ""
    table = _table(["model", "figure", "difference", "95% interval", "split"], lines)
    return _folded("Paired differences", table)


def _search_table(rows: Sequence[Row]) -> str:
    """What the search loses, see `genrec.evaluation.search_diagnosis`."""
    lines = [
        [
            row["model"],
            row["slice"].replace("_", " "),
            f"{row['metric'].replace('_', ' ')}@{row['k']}",
            f"{row['value']:.4f}",
            f"{row['n']:,}",
        ]
        for row in rows
        if row["split"] == SEARCH
    ]
    if not lines:
        return ""
    said = "prefix 1@20 is the share of cases whose target's first code is among the 20 that are kept, and so on."
    table = _table(["model", "cases", "figure", "value", "n"], lines)
    return _folded("Search", f"{table}\n<p class=small>{said}</p>")


def _quality_table(quality: Mapping[str, Any] | None) -> str:
    if quality is None:
        return ""
    lines = [
        [name.replace("_", " "), _short(value), GOOD.get(name, "").replace("_", " ")]
        for name, value in quality.items()
        if value is not None
    ]
    return _folded("Semantic IDs", _table(["figure", "value, or one a level", "good"], lines))


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " · ".join(_short(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(headings: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<div class=wide><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"


def _picture(name: str, data: bytes, caption: str) -> str:
    image = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    text = html.escape(caption)
    return f'<figure><img src="{image}" alt="{text}"><figcaption>{text} ({name})</figcaption></figure>'
