import importlib
import os
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import ultralytics
from networks import PICO, write_yaml
from torch import nn
from torch.utils._pytree import tree_flatten
from ultralytics import YOLO
from ultralytics.engine import exporter  # noqa: F401 (its import patches it: not in the middle of a test)
from ultralytics.nn import tasks
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils import LOGGER, YAML, callbacks, checks
from ultralytics.utils.torch_utils import get_flops

import _spikeyolo_hook as hook
import spikeyolo
from spikeyolo import plugin
from spikeyolo.plugin import patches
from spikeyolo.plugin.callbacks import CALLBACKS, drop_repeated_rows, prepare_training, use_whole_cpu


def python(code, **environment):
    """Run code in a fresh interpreter; return what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def unpatched():
    """Ultralytics as it comes, for the length of a test."""
    plugin.unregister()
    yield
    hook.failure = None
    plugin.register()


@pytest.mark.parametrize(
    "first",
    [
        "from ultralytics import YOLO",
        "import ultralytics.cfg; from ultralytics import YOLO",
        "from ultralytics.nn.tasks import DetectionModel as YOLO",
        "from ultralytics import YOLO; import spikeyolo",
        "import spikeyolo; from ultralytics import YOLO",
    ],
)
def test_works_in_any_order_of_imports(first):
    assert python(f"{first}; print(YOLO('ibra-spikeyolo-p.yaml') is not None)").endswith("True")


def test_arming_the_hook_imports_nothing():
    code = (
        "import sys; before = set(sys.modules); sys.modules.pop('_spikeyolo_hook', None);"
        "sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != '_Finder'];"
        "import _spikeyolo_hook; _spikeyolo_hook.arm(); print(set(sys.modules) - before - {'_spikeyolo_hook'})"
    )
    assert python(code) == "set()"


def test_armed_at_start_up_imports_no_torch():
    code = "import sys; print('torch' in sys.modules, 'spikeyolo' in sys.modules, '_spikeyolo_hook' in sys.modules)"
    assert python(code) == "False False True"


def test_environment_variable_switches_it_off():
    code = (
        "import spikeyolo, ultralytics.nn.tasks as t, ultralytics.utils.checks as c;"
        "print(t.parse_model.__module__, hasattr(t.parse_model, '__wrapped__'), hasattr(c.check_file, '__wrapped__'))"
    )
    assert python(code, SPIKEYOLO_DISABLE="1") == "ultralytics.nn.tasks False False"
    assert python(code, SPIKEYOLO_DISABLE="0") == "ultralytics.nn.tasks True True"


@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo26n.yaml", "yolo11n-cls.yaml", "yolov8n-seg.yaml"])
def test_stock_models_are_untouched(name, unpatched):
    def outcome():
        torch.manual_seed(1)
        model = YOLO(name).model.eval()
        x = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            tensors = [t for t in tree_flatten(model(x))[0] if isinstance(t, torch.Tensor)]
        return tensors, (str(model), model.yaml, get_flops(model))

    without = outcome()
    plugin.register()
    found = outcome()
    assert found[1] == without[1]
    assert len(found[0]) == len(without[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(found[0], without[0], strict=True))


def test_unregister_restores_every_name(unpatched):
    from ultralytics.engine import model as engine

    assert engine.yaml_model_load is tasks.yaml_model_load
    originals = {n: getattr(tasks, n) for n in ("yaml_model_load", "parse_model")}
    before = {event: list(found) for event, found in callbacks.default_callbacks.items()}
    plugin.register()
    assert plugin.registered()
    assert engine.yaml_model_load is tasks.yaml_model_load is not originals["yaml_model_load"]
    plugin.register()  # a second time changes nothing
    plugin.unregister()
    assert not plugin.registered()
    assert {n: getattr(tasks, n) for n in originals} == originals
    assert engine.yaml_model_load is originals["yaml_model_load"]
    assert {event: list(found) for event, found in callbacks.default_callbacks.items()} == before


@pytest.mark.parametrize(("version", "problem"), [("8.3.200", "too old"), ("8.5.0", "too new"), ("9.0.1", "too new")])
def test_other_versions_are_named(unpatched, monkeypatch, version, problem):
    monkeypatch.setattr(ultralytics, "__version__", version)
    with pytest.raises(RuntimeError, match=rf"ultralytics {version} is {problem}: tested with .*remedy: pip install"):
        plugin.register()
    assert not plugin.registered()


@pytest.mark.parametrize("anchor", patches.ANCHORS)
def test_a_moved_anchor_is_one_message_and_no_half_patch(unpatched, monkeypatch, anchor):
    module, path = anchor.split(":")
    owner, _, name = path.rpartition(".")
    holder = importlib.import_module(module)
    holder = getattr(holder, owner) if owner else holder
    monkeypatch.setattr(holder, name, lambda other: None)
    with pytest.raises(RuntimeError, match=rf"{path} of ultralytics .* takes \(other\): tested with"):
        plugin.register()
    assert not plugin.registered()
    assert not hasattr(tasks.parse_model, "__wrapped__")
    assert not hasattr(checks.check_file, "__wrapped__")
    monkeypatch.delattr(holder, name)
    with pytest.raises(RuntimeError, match=rf"{path} of ultralytics .* (is gone|takes)"):
        plugin.register()


def test_a_failing_plugin_leaves_stock_ultralytics_alone(unpatched, monkeypatch, capsys):
    monkeypatch.setattr(ultralytics, "__version__", "8.3.0")
    hook.imported("ultralytics.nn.tasks")
    hook.imported("ultralytics.nn.tasks")
    error = capsys.readouterr().err
    assert error.count("spikeyolo is off") == 1
    assert "8.3.0 is too old" in error
    assert isinstance(YOLO("yolo11n.yaml").model, nn.Module)


def test_bare_names_of_our_files_work_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert YAML.load(checks.check_file("photo-digits.yaml"))["names"][3] == "3"
    assert YAML.load(checks.check_yaml("spikeyolo-coco.yaml"))["epochs"] == 300
    (tmp_path / "photo-digits.yaml").write_text("mine: 1\n")  # a local file wins, as in Ultralytics
    assert checks.check_file("photo-digits.yaml") == "photo-digits.yaml"
    with pytest.raises(FileNotFoundError):
        checks.check_file("no-such-thing.yaml")


def test_coco_recipe_is_the_published_run():
    recipe = YAML.load(checks.check_yaml("spikeyolo-coco.yaml"))
    published = {"epochs": 300, "batch": 40, "imgsz": 640, "optimizer": "SGD", "lr0": 0.01, "lrf": 0.004}
    published |= {"momentum": 0.937, "weight_decay": 5e-4, "warmup_epochs": 10, "close_mosaic": 10, "mosaic": 1.0}
    published |= {"mixup": 0, "copy_paste": 0, "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "translate": 0.1}
    published |= {"scale": 0.5, "fliplr": 0.5, "box": 7.5, "cls": 0.5, "dfl": 1.5, "nbs": 64, "amp": True}
    assert {k: recipe[k] for k in published} == published
    from ultralytics.cfg import get_cfg

    for name in ("spikeyolo-coco.yaml", "spikeyolo-photo-digits.yaml"):
        get_cfg(overrides=YAML.load(checks.check_yaml(name)))  # every key is an Ultralytics argument


def test_embeddings_are_averaged_over_timesteps(tmp_path):
    neuron = {"type": "ibra-lif", "D": 5.11, "N": 100, "T": 2}
    model = YOLO(write_yaml(tmp_path / "two-p.yaml", neuron=neuron)).model.eval()
    x = torch.rand(3, 3, 64, 64)
    features = []
    model.model[8].register_forward_hook(lambda m, i, out: features.append(out))
    embedded = model.predict(x, embed=[8])
    assert len(embedded) == 3
    expected = features[0].mean((2, 3)).unflatten(0, (2, 3)).mean(0)
    assert torch.allclose(torch.stack(embedded), expected, atol=1e-6)


def test_distillation_at_several_timesteps_is_refused(tmp_path):
    neuron = {"type": "ibra-lif", "D": 5.11, "N": 100, "T": 2}
    model = YOLO(write_yaml(tmp_path / "two-p.yaml", neuron=neuron)).model
    with pytest.raises(ValueError, match="this model has T=2; use T=1"):
        DistillationModel(teacher_model=YOLO(PICO).model, student_model=model)


def test_foreign_weights_are_said_to_be_foreign(tmp_path, caplog):
    stock = tmp_path / "stock.pt"
    YOLO("yolo11n.yaml").save(stock)
    LOGGER.addHandler(caplog.handler)
    try:
        YOLO(PICO).load(stock)
        assert "stock.pt is another network" in caplog.text
        caplog.clear()
        own = tmp_path / "own.pt"
        YOLO(PICO).save(own)
        YOLO(PICO).load(own)
        assert "another network" not in caplog.text
    finally:
        LOGGER.removeHandler(caplog.handler)


def test_a_spiking_model_uses_every_core(monkeypatch):
    """On a machine of any number of cores: Ultralytics sets one thread less than there are cores, and at most 8."""
    spiking, stock, threads = YOLO(PICO).model, nn.Conv2d(3, 3, 1), []
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for model, cores, before, after in (
        (spiking, 4, 3, 4),
        (spiking, 8, 7, 8),
        (spiking, 16, 8, 8),  # enough
        (spiking, 4, 2, 2),  # somebody has set another number
        (spiking, 1, 1, 1),
        (stock, 4, 3, 3),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: set(range(cores)), raising=False)
        monkeypatch.setattr(ultralytics.utils, "NUM_THREADS", min(8, max(1, cores - 1)))
        threads[:] = [before]
        use_whole_cpu(SimpleNamespace(model=model, device=torch.device("cpu"), optimizer=None))
        assert threads[-1] == after, (cores, before)


ROWS = "epoch,time,loss\n", "1,2.5,0.3\n", "2,5,0.2\n", "3,7.5,0.1\n"


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (ROWS, ROWS[:3]),  # killed behind the row of epoch 3, whose checkpoint is missing
        ((*ROWS[:3], "3,7."), ROWS[:3]),  # in the middle of it
        ((*ROWS[:2], *ROWS[1:]), ROWS[:3]),  # with an epoch that was repeated before
        (ROWS[:3], ROWS[:3]),
    ],
)
def test_rows_of_epochs_that_are_trained_again_are_dropped(rows, kept, tmp_path):
    csv = tmp_path / "results.csv"
    csv.write_text("".join(rows))
    trainer = SimpleNamespace(csv=csv, resume=True, start_epoch=2, model=nn.DataParallel(YOLO(PICO).model))  # wrapped
    drop_repeated_rows(trainer)
    assert csv.read_text() == "".join(kept)
    csv.write_text("".join(rows))
    for other in ({"resume": False}, {"model": YOLO("yolo11n.yaml").model}):  # a new training, a stock model
        drop_repeated_rows(SimpleNamespace(**vars(trainer) | other))
        assert csv.read_text() == "".join(rows)
    csv.unlink()
    drop_repeated_rows(trainer)
    assert list(tmp_path.iterdir()) == []


def test_callback_is_pickled_by_reference():
    for callback in CALLBACKS.values():
        assert b"spikeyolo.plugin.callbacks" in pickle.dumps(callback)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (PICO, {"checkpoint": "yes"}, "checkpoint must be True or False, got checkpoint=yes"),
        (PICO, {"checkpoint": True, "compile": True}, "exclude each other"),
        ("yolo11n.yaml", {"checkpoint": True}, "needs a model with spiking blocks"),
    ],
)
def test_wrong_checkpoint_arguments_are_named(model, arguments, message):
    trainer = SimpleNamespace(model=YOLO(model).model, device="cuda", args=SimpleNamespace(compile=False), resume=False)
    vars(trainer.args).update(arguments)
    with pytest.raises(ValueError, match=message):
        prepare_training(trainer)


def test_public_modules_are_attributes():
    code = "import spikeyolo, sys; print('sklearn' in sys.modules, spikeyolo.official.official_name.__module__)"
    assert python(code) == "False spikeyolo.conversion.official"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = spikeyolo.nothing
