"""The files that ship with the package: model, data set and training YAML."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent
CFG_DIR = next((d for d in (PACKAGE / "cfg", PACKAGE.parent / "cfg") if d.is_dir()), PACKAGE / "cfg")  # wheel, checkout
ARCHITECTURE = CFG_DIR / "models" / "spikeyolo.yaml"


def find_cfg(name: str) -> Path | None:
    """Return our YAML file of this bare name (data set, training recipe, architecture), or None."""
    if Path(name).name != name or not name.endswith((".yaml", ".yml")):
        return None
    return next(CFG_DIR.rglob(name), None)
