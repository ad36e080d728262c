"""The picture beside a video: planes of a layer, spike rates, modelled energy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from spikeyolo.measure.spikes import LayerSpikes, Recording
from spikeyolo.neurons import to_planes

WIDTH, HEIGHT = 432, 540  # pixels
MARGIN, GAP = 14, 8
PLANES_TOP, BARS = 72, 70  # where the planes begin, height of the longest bar
SMALL, MIDDLE, LARGE = 11, 13, 17  # fonts
BACKGROUND, INK, PALE = "#10151c", "#e8edf2", "#8a94a3"
ENERGIES = {"spikes": ("binary spikes", "#2a9d8f"), "ann": ("relu twin", "#e08e2b")}  # schemes, label and colour


class Panel:
    """Draws the panel of a layer; what never changes is drawn once.

    Args:
        layer: Counts of the layer whose planes are shown, on any image.
        channel: Which of its channels.
        layers: Number of spiking layers of the network.
        planes: Largest number of planes of its neurons.
        price: Name of the energy model.
    """

    def __init__(self, layer: LayerSpikes, channel: int, layers: int, planes: int, price: str):
        self.name, self.channel, self.order = layer.name, channel, list(reversed(range(layer.planes)))
        self.planes, self.total_planes = layer.planes, planes
        self.columns = min(5, 1 + layer.planes)
        self.side = (WIDTH - 2 * MARGIN - GAP * (self.columns - 1)) // self.columns
        font = Path(mpl.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
        self.fonts = {
            size: ImageFont.truetype(str(font), size, layout_engine=ImageFont.Layout.BASIC)
            for size in (SMALL, MIDDLE, LARGE)
        }
        self.bars_top = PLANES_TOP + -(-(1 + layer.planes) // self.columns) * (self.side + 34) + 4
        self.image = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
        self.pen = ImageDraw.Draw(self.image)
        self._write(MARGIN, 10, "Spikes", LARGE)
        title = f"{layer.name.removeprefix('model.').removesuffix('.conv')}, channel {channel}"
        self._write(MARGIN, 36, f"into layer {title}: its codes as binary planes", colour=PALE)
        for i, b in enumerate(self.order, start=1):
            x, y = self._tile(i)
            self._write(x, y - 15, f"plane {b}, x{1 << b}")
        self._write(MARGIN, self.bars_top, f"Spike rate of each plane, all {layers} layers", MIDDLE)
        for b in range(planes):
            self._write(
                self._bar(b) + self._bar_width() / 2, self.bars_top + 58 + BARS, f"{b}", colour=PALE, anchor="ma"
            )
        self._write(MARGIN, HEIGHT - 92, "Energy of this frame, modelled", MIDDLE)
        self._write(WIDTH - MARGIN, HEIGHT - 91, price, colour=PALE, anchor="ra")
        for i, (label, _) in enumerate(ENERGIES.values()):
            self._write(MARGIN, HEIGHT - 65 + 28 * i, label)
        self.empty = self.image

    def draw(self, codes: Tensor, now: Recording, energy_pj: Mapping[str, float], speed: str) -> NDArray[np.uint8]:
        """Return the panel (HEIGHT, WIDTH, 3), BGR.

        Args:
            codes: Codes that enter the layer, (C, H, W).
            now: Counts of this frame.
            energy_pj: Energy of this frame by scheme.
            speed: Frames per second, in words.
        """
        self.image = self.empty.copy()
        self.pen = ImageDraw.Draw(self.image)
        self._write(WIDTH - MARGIN, 12, speed, MIDDLE, PALE, "ra")
        self._draw_planes(codes[self.channel], now.layers[self.name])
        self._draw_rates(now)
        longest = max(energy_pj.values())
        for i, (scheme, (_, colour)) in enumerate(ENERGIES.items()):
            y = HEIGHT - 68 + 28 * i
            self.pen.rectangle((104, y, 104 + 214 * energy_pj[scheme] / longest, y + 18), fill=colour)
            self._write(WIDTH - MARGIN, y + 2, f"{energy_pj[scheme] / 1e6:,.4g} µJ", MIDDLE, INK, "ra")
        return cv2.cvtColor(np.asarray(self.image), cv2.COLOR_RGB2BGR).astype(np.uint8)

    def _draw_planes(self, code: Tensor, layer: LayerSpikes) -> None:
        """Draw codes and planes of one channel (H, W), and the spike rate of each plane in the layer."""
        x, y = self._tile(0)
        largest = int(code.max())
        self._write(x, y - 15, f"code 0..{largest}")
        shades = (code / max(1, largest) * 255).byte().numpy()
        colours: Any = cv2.cvtColor(cv2.applyColorMap(shades, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
        self._paste(colours, x, y)
        planes = (to_planes(code, self.planes) * 255).byte().numpy()
        rates = layer.plane_rates
        for i, b in enumerate(self.order, start=1):
            x, y = self._tile(i)
            self._paste(planes[b], x, y)
            self._write(x + self.side / 2, y + self.side + 2, f"{rates[b]:.1%}", colour=PALE, anchor="ma")

    def _draw_rates(self, now: Recording) -> None:
        """Draw the spike rate of each plane over all layers."""
        spikes = np.zeros(self.total_planes)
        for layer in now.spiking:
            spikes[: layer.planes] += layer.spikes_per_plane
        rates, top = spikes / now.total("codes"), self.bars_top
        told = f"{int(spikes.sum()):,} spikes in this frame, {rates.sum():.3f} per code"
        self._write(MARGIN, top + 18, told, colour=PALE)
        bottom, width = top + 54 + BARS, self._bar_width()
        for b, rate in enumerate(rates):
            x, bar = self._bar(b), BARS * rate / max(1e-9, rates.max())
            self.pen.rectangle((x, bottom - bar, x + width, bottom), fill=ENERGIES["spikes"][1])
            self._write(x + width / 2, bottom - bar - 2, f"{rate:.1%}", anchor="md")

    def _tile(self, i: int) -> tuple[int, int]:
        """Return the left upper corner of a tile."""
        row, column = divmod(i, self.columns)
        return MARGIN + column * (self.side + GAP), PLANES_TOP + row * (self.side + 34)

    def _bar_width(self) -> float:
        return (WIDTH - 2 * MARGIN) / self.total_planes - 6

    def _bar(self, b: int) -> float:
        """Return the left end of the bar of a plane; the most significant plane comes first."""
        return MARGIN + (self.total_planes - 1 - b) * (self._bar_width() + 6)

    def _paste(self, pixels: NDArray[np.uint8], x: int, y: int) -> None:
        """Paste a map (H, W) or (H, W, 3) into a tile, its proportions kept."""
        scale = self.side / max(pixels.shape[:2])
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        self.image.paste(Image.fromarray(cv2.resize(pixels, size, interpolation=cv2.INTER_NEAREST)), (x, y))

    def _write(self, x: float, y: float, text: str, size: int = SMALL, colour: str = INK, anchor: str = "la") -> None:
        self.pen.text((x, y), text, fill=colour, font=self.fonts[size], anchor=anchor)
