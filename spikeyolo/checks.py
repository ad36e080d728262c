"""What `spikeyolo checks` reports: versions, the plugin's state, devices, problems with remedies."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import _spikeyolo_hook as hook
from _spikeyolo_hook import DISABLE

PROBE = "import _spikeyolo_hook as h, sys; print(any(isinstance(f, h._Finder) for f in sys.meta_path))"

Problem = tuple[str, str]  # what is wrong, what helps


def collect() -> tuple[dict[str, str], list[Problem]]:
    """Return facts to show and problems with their remedies."""
    facts = {"python": f"{platform.python_version()} ({platform.system()} {platform.machine()})"}
    problems: list[Problem] = []
    _check_packages(facts, problems)
    _check_plugin(facts, problems)
    _check_devices(facts)
    _check_folders(facts, problems)
    return facts, problems


def require_plugin() -> None:
    """Raise RuntimeError, with the remedy, if the plugin is switched off or does not fit the installed Ultralytics."""
    from spikeyolo.plugin.patching import check_version

    if hook.disabled():
        raise RuntimeError(f"{DISABLE} is set, so Ultralytics knows no spiking model; remedy: unset {DISABLE}")
    check_version()
    if hook.failure is not None:
        raise RuntimeError(hook.failure)


def requirements() -> list[Requirement]:
    """Return spikeyolo itself and what it requires, as its installed metadata says."""
    try:
        required = [Requirement(r) for r in metadata.requires("spikeyolo") or []]
    except metadata.PackageNotFoundError:
        required = []
    return [Requirement("spikeyolo"), *(r for r in required if r.marker is None or r.marker.evaluate({"extra": ""}))]


def _check_packages(facts: dict[str, str], problems: list[Problem]) -> None:
    for requirement in requirements():
        name = requirement.name
        try:
            version = facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
            problems.append((f"{name} is not installed", f"pip install '{requirement}'"))
            continue
        # The plugin judges ultralytics by what it finds in it.
        if name != "ultralytics" and not requirement.specifier.contains(version, prereleases=True):
            problems.append((f"{name} {version} is not {requirement.specifier}", f"pip install '{requirement}'"))


def _check_plugin(facts: dict[str, str], problems: list[Problem]) -> None:
    from spikeyolo.plugin import patching, register

    if hook.disabled():
        facts["plugin"] = "disabled"
        problems.append((f"{DISABLE} is set: yolo knows no spiking model", f"unset {DISABLE}"))
        return
    started = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    if started.stdout.strip() != "True":
        problems.append(
            ("the start-up hook is not armed: the yolo command does not load the plugin", "pip install spikeyolo again")
        )
    try:
        version = patching.check_version()
        import ultralytics.nn.tasks  # noqa: F401 (what is patched)

        register()
        facts["plugin"] = f"on, tested with ultralytics {patching.TESTED[0]} to {patching.TESTED[1]}"
        if version not in patching.TESTED:
            facts["plugin"] += f"; {version} has every function that it needs"
    except RuntimeError as e:
        facts["plugin"] = "off"
        what, _, remedy = str(e).partition("; remedy: ")
        problems.append((what, remedy))
    except ImportError as e:
        facts["plugin"] = "off"
        problems.append((f"Ultralytics cannot be imported: {e}", "pip install --force-reinstall ultralytics"))


def _check_devices(facts: dict[str, str]) -> None:
    import torch

    facts["cpu"] = f"{os.cpu_count()} cores"
    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["cuda"] = ", ".join(cuda) or "none (training and prediction run on the CPU)"


def _check_folders(facts: dict[str, str], problems: list[Problem]) -> None:
    from ultralytics.utils import DATASETS_DIR, RUNS_DIR, SETTINGS

    for key, folder in {"datasets_dir": DATASETS_DIR, "runs_dir": Path(SETTINGS.get("runs_dir") or RUNS_DIR)}.items():
        facts[key] = str(folder)
        exists = next(p for p in (Path(folder), *Path(folder).parents) if p.exists())
        if not os.access(exists, os.W_OK):
            problems.append((f"no permission to write to {folder}", f"yolo settings {key}=FOLDER"))
