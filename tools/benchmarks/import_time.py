"""Benchmark: what the plugin adds to interpreter start-up and to ``import ultralytics``. Medians of fresh processes.

Example: python tools/benchmarks/import_time.py 9
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

CODES = {
    "start-up hook, ms": (
        "import sys, time; sys.modules.pop('_spikeyolo_hook', None);"
        "sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != '_Finder'];"
        "t = time.perf_counter(); import _spikeyolo_hook; _spikeyolo_hook.arm()"
    ),
    "import spikeyolo behind import ultralytics, ms": (
        "import time, ultralytics; t = time.perf_counter(); import spikeyolo"
    ),
    "from ultralytics import YOLO behind import ultralytics, plugin on, ms": (
        "import time, ultralytics; t = time.perf_counter(); from ultralytics import YOLO"
    ),
    "from ultralytics import YOLO behind import ultralytics, plugin off, ms": (
        "import time, ultralytics; t = time.perf_counter(); from ultralytics import YOLO"
    ),
}


def main() -> None:
    """Run each code in fresh processes, interleaved."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    times = {name: [] for name in CODES}
    for _ in range(rounds):
        for name, code in CODES.items():
            environment = os.environ | {"SPIKEYOLO_DISABLE": "1" if "plugin off" in name else "0"}
            command = [sys.executable, "-c", code + "; print((time.perf_counter() - t) * 1000)"]
            folder = tempfile.gettempdir()  # not the checkout, which would come first in the search path
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=True)
            out = done.stdout
            times[name].append(float(out.split()[-1]))
    for name, found in times.items():
        print(f"{statistics.median(found):8.2f}  {name}")


if __name__ == "__main__":
    main()
