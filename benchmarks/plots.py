"""Pictures of results. Needs matplotlib, which only the extra `bench` installs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import Result


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
    import matplotlib.pyplot

    return matplotlib.pyplot


def plot(result: Result, path: Path) -> None:
    """Write a PNG with a panel for each series: observations as the share that took at most so long, or bars."""
    plt = pyplot()
    series = {name: sorted(values) for name, values in result.samples.items() if values}
    count = len(series) + len(result.bars)
    if not count:
        raise PlotError(f"{result.benchmark} has no observations to plot")
    figure, axes = plt.subplots(1, count, figsize=(4 * count, 3.4), squeeze=False, layout="constrained")
    panels = iter(axes[0])
    for (name, values), axis in zip(series.items(), panels, strict=False):
        shares = [(i + 1) / len(values) for i in range(len(values))]
        axis.step([1000 * v for v in values], shares, where="post")
        axis.set(title=name, xlabel="ms", ylabel="share of observations", ylim=(0, 1.02))
    for (name, heights), axis in zip(result.bars.items(), panels, strict=True):
        axis.bar(list(heights), list(heights.values()))
        axis.set(title=name)
        axis.tick_params(axis="x", rotation=30)
    for axis in axes[0]:
        axis.grid(alpha=0.3)
    figure.suptitle(result.benchmark)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
