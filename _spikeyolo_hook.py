"""Start-up hook: run the plugin when (and only when) a process imports Ultralytics.

Armed by `_spikeyolo_hook.pth` (or `.start` from Python 3.15 on) at interpreter start, and by ``import spikeyolo``. It
imports neither torch nor Ultralytics, and whatever goes wrong in the plugin, stock Ultralytics goes on.
"""

import os
import sys

DISABLE = "SPIKEYOLO_DISABLE"  # set to 1 to leave Ultralytics untouched
TARGETS = ("ultralytics.cfg", "ultralytics.nn.tasks", "ultralytics.engine.exporter")
failure = None  # why the plugin is off


class _Finder:
    """A meta path finder that lets the others find the targets, and calls the plugin behind their import."""

    def __init__(self):
        self.busy = False

    def find_spec(self, name, path=None, target=None):
        if name not in TARGETS or self.busy:
            return None
        import importlib.util

        self.busy = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.busy = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            imported(name)

        spec.loader.exec_module = exec_module
        return spec


def imported(name):
    """Patch what is imported of Ultralytics, behind the import of `name`; a failure is told once and harms nobody."""
    global failure
    if failure is not None:
        return
    try:
        from spikeyolo.plugin import register

        register(behind=name)
    except Exception as e:
        failure = f"{e}"
        print(f"WARNING spikeyolo is off, Ultralytics runs without it: {e}", file=sys.stderr)


def disabled():
    """Return whether the environment switches the plugin off."""
    return os.environ.get(DISABLE, "0") not in ("", "0")


def arm():
    """Wait for Ultralytics, or patch at once what of it is imported already. Can be called more than once."""
    if disabled():
        return
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if any(name in sys.modules for name in TARGETS):
        imported("")
