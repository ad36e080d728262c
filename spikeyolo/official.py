"""The public address of what `spikeyolo.conversion.official` has for Python."""

from spikeyolo.conversion.official import from_official_state_dict, import_checkpoint, official_name

__all__ = ["from_official_state_dict", "import_checkpoint", "official_name"]
