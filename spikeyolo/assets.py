"""The files that ship with the package: model, data set and training YAML, trained weights, a clip."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def _folder(name: str) -> Path:
    """Return a shipped folder: inside the package (wheel) or beside it (checkout)."""
    return next((d for d in (PACKAGE / name, PACKAGE.parent / name) if d.is_dir()), PACKAGE / name)


CFG_DIR, WEIGHTS_DIR = _folder("cfg"), _folder("weights")
ARCHITECTURE = CFG_DIR / "models" / "spikeyolo.yaml"
FORMER_WEIGHTS = {"arlif-spikeyolo-p.pt": "potlif-spikeyolo-p.pt"}
CLIP = WEIGHTS_DIR / "photo-digits.mp4"


def find_cfg(name: str) -> Path | None:
    """Return our YAML file of this bare name (data set, training recipe, architecture), or None."""
    if Path(name).name != name or not name.endswith((".yaml", ".yml")):
        return None
    return next(CFG_DIR.rglob(name), None)


def find_weights(file: str | Path) -> Path:
    """Return the file that a path means: our weights if it is their bare name and there is no such file, else itself.

    Weights that were renamed answer to their former name as well. What is made from shipped weights (an exported graph)
    belongs beside the bare name: into the current folder.
    """
    file = Path(file)
    shipped = WEIGHTS_DIR / FORMER_WEIGHTS.get(file.name, file.name)
    return (
        shipped if file.name == str(file) and file.suffix == ".pt" and not file.exists() and shipped.is_file() else file
    )
