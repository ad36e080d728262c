"""Data sets of our own, and images, annotations and frames of others."""


def __getattr__(name: str):
    """Import `make_photo_digits` on first access: its photographs and scans come from large packages."""
    if name == "make_photo_digits":
        from spikeyolo.data.photo_digits import make_photo_digits

        return make_photo_digits
    raise AttributeError(f"module 'spikeyolo.data' has no attribute {name!r}")
