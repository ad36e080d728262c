"""Draw docs/spike-graph.png: one neuron and its convolution, in whole numbers, in both graphs.

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


def box(axes: Axes, x: float, y: float, text: str, kind: str, width: float = 1.5, height: float = 0.6) -> None:
    """Draw a node of the graph."""
    style = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "linewidth": 1, "edgecolor": "#555555"}
    corner = x - width / 2, y - height / 2
    axes.add_patch(FancyBboxPatch(corner, width, height, facecolor=COLOURS[kind], **style))
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "") -> None:
    """Draw a tensor between two nodes."""
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#333333", "linewidth": 1})
    if text:
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.12
        axes.text(*middle, text, ha="center", va="bottom", fontsize=8, color="#333333")


def after(axes: Axes, y: float) -> None:
    """Draw what becomes of a sum."""
    rows = [
        (y + 0.95, "QLinearConv: k' = clip(round(2^e s), 0, 127)", "one neuron reads it: its codes, uint8"),
        (y, "QLinearConv: round(2^(e-b) s), then x 2^b", "added to a residual stream: 8 bits of a potential"),
        (y - 0.95, "Gemm on gathered windows: 2^e s", "all else: the whole potential"),
    ]
    for row, text, label in rows:
        arrow(axes, (9.35, y), (9.85, row))
        box(axes, 12.25, row, text, "sum", 4.7)
        axes.text(14.75, row, label, fontsize=8, va="center", color="#333333")


def main() -> None:
    """Draw both graphs."""
    figure, axes = plt.subplots(figsize=(15.4, 7.2))
    axes.set_xlim(-0.4, 18.2)
    axes.set_ylim(-6.6, 2.6)
    axes.axis("off")

    axes.text(-0.3, 2.3, "Integer graph: the codes enter the convolution", fontsize=11, weight="bold")
    y = 0.6
    arrow(axes, (-0.3, y), (0.55, y), "u = N v")
    box(axes, 1.55, y, "QuantizeLinear\nClip 0..127", "neuron", 1.9)
    arrow(axes, (2.55, y), (6.35, y), "code k: 0..127, uint8")
    box(axes, 7.85, y, "s = sum of w k + bias\nw int8, s int32", "conv", 2.8)
    after(axes, y)

    axes.text(
        -0.3,
        -1.3,
        "Spike graph: binary planes enter, each 0 or its one value 2^b; the weights are the same",
        fontsize=11,
        weight="bold",
    )
    y = -3.9
    arrow(axes, (-0.3, y), (0.55, y), "u = N v")
    box(axes, 1.55, y, "QuantizeLinear\nClip 0..127", "neuron", 1.9)
    top, bottom = -2.3, -5.3
    arrow(axes, (2.55, y), (3.33, top))
    for b, row in ((6, top), (5, -3.3), (None, -4.3), (0, bottom)):
        if b is None:
            axes.text(4.15, row, "...", ha="center", va="center", fontsize=11)
        else:
            text = f"spikes at {1 << b}:\n0 or {1 << b}" if b else "what is left:\n0 or 1"
            box(axes, 4.15, row, text, "plane", 1.6)
            arrow(axes, (5.0, row), (5.4, y))
        if row > bottom:
            arrow(axes, (4.15, row - 0.32), (4.15, row - 0.68))
            axes.text(4.05, row - 0.5, "minus spike", fontsize=7, ha="right", va="center", color="#333333")
    box(axes, 5.75, y, "Concat", "plane", 0.75)
    arrow(axes, (6.15, y), (6.35, y))
    box(axes, 7.85, y, "s = sum of w (2^b plane_b)\n+ bias:  w, shifted,\nwhere a spike is", "conv", 2.9, 0.95)
    after(axes, y)

    axes.text(
        -0.3,
        -6.4,
        "Every partial sum stays below 2^24 in magnitude, for any image: int32 and float32 hold it exactly, in any "
        "order. e and b are exponents per output channel.",
        fontsize=9,
    )
    figure.savefig(FILE, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
