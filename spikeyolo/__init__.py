"""SpikeYOLO with integer binary-range alignment neurons, as a plugin for stock Ultralytics."""

import _spikeyolo_hook

__version__ = "0.1.0"
__all__ = ("__version__",)

_spikeyolo_hook.arm()
