"""The only code that changes Ultralytics; `_spikeyolo_hook` calls `register`."""

from spikeyolo.plugin.patches import register, registered, unregister

__all__ = ["register", "registered", "unregister"]
