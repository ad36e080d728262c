"""Draw docs/spike-graph.png: one neuron and its convolution in the integer graph and in the spike graph.

python tools/draw_spike_graph.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

FILE = Path(__file__).resolve().parents[1] / "docs/spike-graph.png"
COLOURS = {"neuron": "#dbe9f6", "plane": "#fde7c8", "conv": "#d9efd6", "sum": "#eeeeee"}


def box(axes: Axes, x: float, y: float, text: str, kind: str, width: float = 1.5) -> None:
    """Draw a node of the graph."""
    style = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "linewidth": 1, "edgecolor": "#555555"}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.3), width, 0.6, facecolor=COLOURS[kind], **style))
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """Draw a tensor between two nodes."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#333333", "linewidth": 1})
    if text:
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.14
        axes.text(*middle, text, ha="center", va="bottom", fontsize=8, color="#333333")


def main() -> None:
    """Draw both graphs."""
    figure, axes = plt.subplots(figsize=(12.5, 6.4))
    axes.set_xlim(-0.4, 14.6)
    axes.set_ylim(-5.7, 2.5)
    axes.axis("off")

    def neuron(y: float) -> None:
        arrow(axes, (-0.3, y), (0.75, y), "u = 100 v")
        box(axes, 1.5, y, "Clip 0..511", "neuron")
        arrow(axes, (2.25, y), (2.75, y))
        box(axes, 3.4, y, "Round", "neuron", 1.2)

    axes.text(-0.3, 2.2, "Integer graph: the codes enter the convolution", fontsize=11, weight="bold")
    neuron(1.2)
    arrow(axes, (4.0, 1.2), (7.9, 1.2), "code k: 0..511")
    box(axes, 8.9, 1.2, "Conv  W, bias", "conv", 2.0)
    arrow(axes, (9.9, 1.2), (14.4, 1.2), "u' = W * k + bias")

    axes.text(
        -0.3, -0.1, "Spike graph: binary planes (0 or 1) enter, the weights are the same", fontsize=11, weight="bold"
    )
    y = -2.9
    neuron(y)
    arrow(axes, (4.0, y), (4.55, y))
    axes.text(4.27, y + 0.16, "k", fontsize=8, ha="center")
    box(axes, 5.25, y, "Cast\nuint16", "plane", 1.3)
    rows = [(8, -1.0, ""), (7, -2.1, ""), (None, -3.15, ""), (0, -4.5, ", bias")]
    previous = None
    for b, row, bias in rows:
        if b is None:
            axes.text(8.9, row, "·\n·\n·", ha="center", va="center", fontsize=10, linespacing=0.7)
            continue
        arrow(axes, (5.95, y), (6.35, row))
        box(axes, 7.3, row, f"BitwiseAnd {1 << b}\nCast bool, float", "plane", 1.85)
        arrow(axes, (8.25, row), (9.25, row), f"plane {b}")
        box(axes, 10.2, row, f"Conv  W{bias}", "conv", 1.8)
        if previous is None:
            arrow(axes, (11.1, row), (12.3, row - 0.72))
        else:
            arrow(axes, (11.1, row), (12.0, row))
        previous = b
    box(axes, 12.6, -2.1, "2y + conv", "sum", 1.2)
    arrow(axes, (12.6, -2.4), (12.6, -4.2))
    axes.text(12.75, -3.25, "Horner's rule,\nAdd and Add", fontsize=8, va="center")
    box(axes, 12.6, -4.5, "2y + conv", "sum", 1.2)
    arrow(axes, (13.2, -4.5), (14.4, -4.5), "u'")
    axes.text(
        -0.3,
        -5.5,
        "u' = sum over b of 2^b (W * plane_b) + bias.  W and bias are multiples of 2^-grid and every partial sum stays "
        "below 2^24 steps: float32 is exact in any order.",
        fontsize=9,
    )
    figure.savefig(FILE, dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
