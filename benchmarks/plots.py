"""Pictures of results. Needs matplotlib, which only the extra `bench` installs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import Result

MOST_COLUMNS = 4
FEW_BARS = 6
"""Names of more stand upright, or they lie on each other."""
STYLES = ("o-", "s--", "^:", "D-.", "v-")
"""Lines that differ without colours, too."""


class PlotError(RuntimeError):
    """No picture can be drawn; the message says what would help."""


def pyplot() -> Any:
    """matplotlib.pyplot, drawing to files. Raises PlotError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise PlotError(
            "a plot needs matplotlib, which is not installed: pip install 'starcoder-serve[bench]'"
        ) from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "starcoder"  # the same picture is the same file
    import matplotlib.pyplot

    return matplotlib.pyplot


def plot(result: Result, path: Path) -> None:
    """Write a PNG, or an SVG if the name says so, with a panel for each series and each set of curves.

    Observations are drawn as the share that took at most so long; bars and curves as they are.
    """
    plt = pyplot()
    series = {name: sorted(values) for name, values in result.samples.items() if values}
    count = len(series) + len(result.bars) + len(result.curves)
    if not count:
        raise PlotError(f"{result.benchmark} has no observations to plot")
    columns = min(count, 2 if result.curves else MOST_COLUMNS)  # curves carry a legend
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4 * columns, 3.4 * rows), squeeze=False, layout="constrained")
    panels = iter(axes.flat)
    for (name, values), axis in zip(series.items(), panels, strict=False):
        shares = [(i + 1) / len(values) for i in range(len(values))]
        axis.step([1000 * v for v in values], shares, where="post")
        axis.set(title=name, xlabel="ms", ylabel="share of observations", ylim=(0, 1.02))
    for (name, heights), axis in zip(result.bars.items(), panels, strict=False):
        axis.bar(list(heights), list(heights.values()))
        for label, ends in result.whiskers.get(name, {}).items():
            axis.plot([label, label], ends, "k_-")
        axis.set(title=name)
        axis.tick_params(axis="x", rotation=30 if len(heights) <= FEW_BARS else 90)
    for (name, lines), axis in zip(result.curves.items(), panels, strict=False):
        for (label, points), style in zip(lines.items(), STYLES, strict=False):
            axis.plot(*zip(*points, strict=True), style, label=label, markersize=5)
        axis.set(title=name, xlabel=result.axes[0], ylabel=result.axes[1])
        axis.legend(fontsize="small")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    for axis in panels:
        axis.set_axis_off()
    figure.suptitle(result.benchmark)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
