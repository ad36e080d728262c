import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before torch and ultralytics are imported: no network, settings and caches of our own, one core for each worker.
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
if "YOLO_CONFIG_DIR" not in os.environ:
    files = tempfile.TemporaryDirectory(prefix="spikeyolo-tests-")  # deleted when the tests end
    os.environ["YOLO_CONFIG_DIR"] = files.name
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{files.name}/inductor"
else:
    files = None
if WORKER := os.environ.get("PYTEST_XDIST_WORKER"):  # gw0, gw1, ...
    # Ultralytics and the plugin set torch's number of threads by the cores that there are; so do child processes.
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(WORKER[2:]) % len(cores)]})

import pytest
import torch
from filelock import FileLock
from hypothesis import settings as hypothesis_settings

if not torch.cuda.is_available():  # before triton is imported: its kernels run in its interpreter
    os.environ.setdefault("TRITON_INTERPRET", "1")

from ultralytics import utils

if files:  # before other modules take these names from there; workers and child processes read the file
    utils.DATASETS_DIR, utils.RUNS_DIR = Path(files.name, "datasets"), Path(files.name, "runs")
    utils.SETTINGS.update(datasets_dir=str(utils.DATASETS_DIR), runs_dir=str(utils.RUNS_DIR))

from networks import PICO, train
from ultralytics import YOLO
from ultralytics.utils import torch_utils

import spikeyolo  # noqa: F401 (registers the plugin also where the start-up hook is not installed)
from spikeyolo.data import make_photo_digits

if WORKER:
    torch.set_num_threads(1)
    torch_utils.NUM_THREADS = 1  # it is set for each model on a CPU

# The same examples in each run, but other and many more ones in `make campaign`.
hypothesis_settings.register_profile("quick", max_examples=50, deadline=None, derandomize=True, database=None)
hypothesis_settings.register_profile("campaign", max_examples=5000, deadline=None, database=None, print_blob=True)
hypothesis_settings.load_profile("quick")


def pytest_configure(config):
    """Forget that Ultralytics has told of its new settings: pytest would print it behind its closing line."""
    if capture := config.pluginmanager.getplugin("capturemanager"):
        capture.read_global_capture()


def pytest_collection_modifyitems(items):
    """Begin with the files that have slow tests, so that no worker is left alone with them at the end."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(name="spikeyolo")
def run_spikeyolo(monkeypatch):
    """Run a command line in this process; return the exit code."""
    from spikeyolo import cli

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["spikeyolo", *map(str, words)])
        return cli.main()

    return run


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable:
    """Make a folder of files that are only read, once for all workers of a run."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if WORKER else root

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder, done = root / f"once-{name}", root / f"once-{name}.done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Path:
    """YAML file of a small photo-digits data set."""
    return make_photo_digits(tmp_path_factory.mktemp("data") / "digits", train=24, val=8, imgsz=128, progress=False)


@pytest.fixture(scope="session")
def trained(digits, once) -> Path:
    """Checkpoint of two short epochs of the pico model."""
    return next(once("trained", lambda folder: train(YOLO(PICO), digits, folder, epochs=2)).rglob("best.pt"))


@pytest.fixture(scope="session")
def photos(digits) -> torch.Tensor:
    """Eight images, (8, 3, 64, 64) in [0, 1]."""
    import cv2

    files = sorted((digits.parent / "images/val").iterdir())
    images = [cv2.resize(cv2.imread(str(file)), (64, 64))[..., ::-1].copy() for file in files]
    return torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images]).float() / 255


@pytest.fixture
def _default_activation():
    """Undo what `activation:` of a YAML changes for all networks of this process."""
    from ultralytics.nn.modules.conv import Conv

    before = Conv.default_act
    yield
    Conv.default_act = before


@pytest.fixture
def fine(monkeypatch):
    """Weights of any width and no rounded branches: what is left is the rounding of float32."""
    from spikeyolo.deployment import exponents, layers, transform

    monkeypatch.setattr(layers.IntegerConv, "limit", 2**30)
    for module in (layers, exponents):
        monkeypatch.setattr(module, "SUM_BITS", 60)
    monkeypatch.setattr(transform, "round_branches", lambda model: None)


@pytest.fixture(scope="session")
def earlier_graph(tmp_path_factory):
    """Write the spike graph of a small network as an earlier version exported it: float weights on a grid."""
    import gzip

    file = tmp_path_factory.mktemp("earlier") / "spike.onnx"
    file.write_bytes(gzip.decompress((Path(__file__).parent / "vectors/before_integers_spike.onnx.gz").read_bytes()))
    return file


@pytest.fixture(scope="session")
def node_modules():
    """Return the folder of onnxruntime-web; skip without it, but fail in CI and under make, which install it."""
    from spikeyolo.proof.webassembly import NODE_MODULES

    if not (NODE_MODULES / "onnxruntime-web").is_dir():
        missing = f"{NODE_MODULES} has no onnxruntime-web; `make test` installs it"
        if os.environ.keys() & {"CI", "MAKELEVEL"}:
            pytest.fail(missing)
        pytest.skip(missing)
    return NODE_MODULES


THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def same_threads():
    """Give each test the same number of threads, whatever another one has switched on: sums of floats depend on it."""
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)
