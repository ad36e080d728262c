"""A user's day: train, val, predict, track, resume, export, fine-tune; through the stock Ultralytics interface."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import IBRA, PICO, calibrated, train, write_small, write_yaml
from ultralytics import YOLO
from ultralytics.nn.tasks import load_checkpoint, torch_safe_load
from ultralytics.utils import YAML

from spikeyolo.neurons.config import NeuronConfig
from spikeyolo.neurons.integer import IBRALIF
from spikeyolo.plugin import callbacks

T2 = {"type": "ibra-lif", "D": 5.11, "N": 100, "T": 2}


@pytest.fixture(scope="module")
def images(digits):
    return sorted((digits.parent / "images/val").iterdir())


@pytest.fixture(scope="module")
def video(images, tmp_path_factory):
    """Ten frames: one image, shifted."""
    path = tmp_path_factory.mktemp("video") / "digits.avi"
    image = cv2.imread(str(images[0]))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, image.shape[1::-1])
    for i in range(10):
        writer.write(np.roll(image, 2 * i, axis=1))
    writer.release()
    return path


def run(*words, cwd, **environment):
    """Run the stock yolo command."""
    command = [sys.executable, "-c", "from ultralytics.cfg import entrypoint; entrypoint()", *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=os.environ | environment, check=False)


def test_trained_checkpoint_is_complete(trained):
    results = (trained.parents[1] / "results.csv").read_text().splitlines()
    assert len(results) == 3
    checkpoint = torch.load(trained, weights_only=False)
    assert checkpoint["model"].yaml["neuron"]["type"] == "ibra-lif"
    assert checkpoint["model"].yaml["nc"] == 10


@pytest.mark.slow
def test_checkpointed_training_is_the_same_training(digits, tmp_path):
    # both here: in another process sums may be rounded otherwise, which a high learning rate makes large
    runs = [train(YOLO(PICO), digits, tmp_path / f"{on}", checkpoint=on).parents[1] for on in (False, True)]
    assert [YAML.load(run / "args.yaml")["checkpoint"] for run in runs] == [False, True]
    plain, checkpointed = ((run / "results.csv").read_text().splitlines()[1].split(",")[2:5] for run in runs)
    assert plain == checkpointed
    network = torch.load(runs[1] / "weights/best.pt", weights_only=False)["model"]
    assert not any("checkpoint" in vars(module) for module in network.modules())


def test_val(trained, digits, tmp_path):
    metrics = YOLO(trained).val(data=str(digits), imgsz=64, batch=4, plots=False, project=str(tmp_path))
    assert 0 <= metrics.box.map <= 1


def test_predict_images_a_folder_and_a_video(trained, images, video, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(callbacks, "use_all_cores", lambda: asked.append(True))
    model = YOLO(trained)
    one = model.predict(images[0], imgsz=64, conf=0.001, save=True, project=str(tmp_path), verbose=False)
    assert (Path(one[0].save_dir) / images[0].name.replace(".png", ".jpg")).is_file()
    assert len(model.predict(images[0].parent, imgsz=64, verbose=False)) == len(images)
    assert len(model.predict(video, imgsz=64, verbose=False)) == 10
    assert len(asked) == 3  # no core is left idle: tests/plugin says how many threads that means


def test_track_on_a_video(trained, video):
    results = YOLO(trained).track(video, imgsz=64, conf=0.0001, verbose=False)
    assert len(results) == 10


@pytest.mark.parametrize("neuron", ["IBRA", pytest.param("T2", marks=pytest.mark.slow)])
def test_a_torchscript_file_predicts_what_the_model_predicts(neuron, trained, images, tmp_path):
    if neuron == "T2":
        model = YOLO(write_yaml(tmp_path / "two-p.yaml", neuron=T2, nc=3))
        model.save(tmp_path / "model.pt")
    else:
        (tmp_path / "model.pt").write_bytes(trained.read_bytes())
    model = YOLO(tmp_path / "model.pt")
    x = torch.from_numpy(cv2.imread(str(images[0]))[None, ..., ::-1].copy()).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = model.model.float().eval()(x)[0].numpy()
    file = model.export(format="torchscript", imgsz=128)
    found = torch.jit.load(file)(x).numpy()
    assert found.shape == expected.shape
    # Another order of summation may move a potential across a rounding step: nearly all, not all, are equal.
    assert np.mean(np.abs(found - expected) <= 1e-3 * np.maximum(1, np.abs(expected))) > 0.98
    assert len(YOLO(file, task="detect").predict(images[0], imgsz=128, verbose=False)) == 1


def test_two_timesteps_through_train_val_predict(digits, images, tmp_path):
    best = train(YOLO(write_yaml(tmp_path / "two-p.yaml", neuron=T2)), digits, tmp_path)
    model = YOLO(best)
    assert {m.T for m in model.model.modules() if isinstance(m, IBRALIF)} == {2}
    model.val(data=str(digits), imgsz=64, plots=False, project=str(tmp_path))
    assert len(model.predict(images[0], imgsz=64, verbose=False)) == 1  # batch 1: T*B = 2 rows


def test_fine_tunes_on_another_number_of_classes(trained, digits, tmp_path):
    data = YAML.load(digits) | {"path": str(digits.parent), "names": {i: str(i) for i in range(12)}}
    YAML.save(tmp_path / "twelve.yaml", data)
    best = train(YOLO(trained), tmp_path / "twelve.yaml", tmp_path)
    assert YOLO(best).model.model[-1].nc == 12


def test_copies_pickles_and_fuses(trained):
    model = load_checkpoint(trained)[0]
    x = torch.rand(1, 3, 64, 64)
    expected = model(x)[0]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x)[0], expected)
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert torch.equal(pickle.loads(pickle.dumps(fused))(x)[0], fused(x)[0])
    assert fused.fuse(verbose=False) is fused  # a second time changes nothing


@pytest.mark.parametrize("neuron", ["relu", "silu", "lif"])
def test_a_saved_model_loads_as_the_network_that_it_was(neuron, tmp_path, photos):
    # Ultralytics makes activations of loaded checkpoints in place where it can; no residual branch survives that.
    model = calibrated(write_small(tmp_path / "net.yaml", NeuronConfig.preset(neuron).to_mapping()), photos)
    with torch.no_grad():
        expected = model.model.half().float()(photos)[0]
        model.save(tmp_path / "net.pt")
        for loaded in (load_checkpoint(tmp_path / "net.pt")[0], YOLO(tmp_path / "net.pt").model):
            assert torch.equal(loaded.float().eval()(photos)[0], expected)
            assert torch.allclose(loaded.fuse(verbose=False)(photos)[0], expected, atol=2e-2)


def test_loads_safely(trained):
    checkpoint, _ = torch_safe_load(trained, safe_only=True)
    assert isinstance(checkpoint["model"], torch.nn.Module)


def test_end2end_trains_and_predicts(digits, images, tmp_path):
    best = train(YOLO(write_yaml(tmp_path / "free-p.yaml", end2end=True)), digits, tmp_path)
    results = YOLO(best).predict(images[0], imgsz=64, conf=0.0001, verbose=False)
    assert results[0].boxes.data.shape[1] == 6


@pytest.mark.slow
def test_distillation_at_one_timestep(trained, digits, tmp_path):
    assert train(YOLO(PICO), digits, tmp_path, distill_model=str(trained)).is_file()


@pytest.mark.parametrize("length", [0, 10, 5000, 1_000_000, -10])
def test_broken_checkpoints_are_named(length, trained, tmp_path):
    path = tmp_path / "broken.pt"
    path.write_bytes(trained.read_bytes()[:length])
    with pytest.raises(TypeError, match=r"broken\.pt is not a loadable checkpoint"):
        YOLO(path)


def test_other_files_are_no_checkpoints(tmp_path):
    path = tmp_path / "broken.pt"
    for content in ([1, 2], {"a": 1}, {"model": {"w": torch.zeros(1)}}):
        torch.save(content, path)
        with pytest.raises(TypeError, match=r"broken\.pt"):
            YOLO(path)


def test_empty_data_set_is_named(digits, tmp_path):
    for part in ("train", "val"):
        (tmp_path / "images" / part).mkdir(parents=True)
    YAML.save(tmp_path / "empty.yaml", YAML.load(digits) | {"path": str(tmp_path)})
    with pytest.raises(FileNotFoundError, match=r"Error loading data from .*images"):
        train(YOLO(PICO), tmp_path / "empty.yaml", tmp_path / "runs")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file that Pillow leaves open
def test_a_corrupt_image_is_left_out(digits, tmp_path):
    import shutil

    root = tmp_path / "digits"
    shutil.copytree(digits.parent, root, ignore=shutil.ignore_patterns("*.cache"))
    victim = sorted((root / "images/train").iterdir())[0]
    victim.write_bytes(victim.read_bytes()[:200])
    assert train(YOLO(PICO), root / "photo-digits.yaml", tmp_path / "runs").is_file()


def test_image_size_is_rounded_to_the_stride(trained, images):
    model = YOLO(trained)
    model.predict(images[0], imgsz=70, verbose=False)
    assert model.predictor.imgsz == [96, 96]


def test_errors_of_the_command_have_an_exit_code(tmp_path):
    result = run("train", "model=ibra-spikeyolo-x.yaml", "data=photo-digits.yaml", cwd=tmp_path)
    assert result.returncode != 0
    assert "scale 'x' does not exist; scales are p, n, s, m, l" in result.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os
from ultralytics.engine.trainer import BaseTrainer

save = BaseTrainer.save_model

def killed(trainer):
    if trainer.epoch == 2:  # its row of results.csv is written, its checkpoint is not
        os.kill(os.getpid(), 9)
    return save(trainer)

BaseTrainer.save_model = killed
from ultralytics.cfg import entrypoint
entrypoint()
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_with_each_epoch_once(digits, tmp_path):
    """Kill -9 between the row of an epoch and its checkpoint, then resume by the stock command."""
    model = write_small(tmp_path / "small.yaml", IBRA, nc=10)
    words = ["train", f"model={model}", f"data={digits}", "imgsz=64", "batch=8", "epochs=4", "plots=False"]
    words += ["optimizer=AdamW", "lr0=0.002", f"project={tmp_path}", "name=run"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], cwd=tmp_path, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr[-2000:]
    csv, last = tmp_path / "run/results.csv", tmp_path / "run/weights/last.pt"
    assert len(csv.read_text().splitlines()) == 1 + 3
    assert torch.load(last, weights_only=False)["epoch"] == 1
    result = run("train", "resume", f"model={last}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    rows = [line.split(",") for line in csv.read_text().splitlines()]
    assert [int(float(row[0])) for row in rows[1:]] == [1, 2, 3, 4]
    assert np.isfinite(np.array(rows[1:], dtype=float)).all()


@pytest.mark.slow
def test_safe_loading_in_a_process_of_its_own(trained, images, tmp_path):
    words = ("predict", f"model={trained}", f"source={images[0]}", "imgsz=64", f"project={tmp_path}")
    result = run(*words, cwd=tmp_path, ULTRALYTICS_SAFE_LOAD="1")
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_ddp_worker_script_finds_the_plugin(digits, tmp_path):
    """The script that Ultralytics writes for each GPU, run as one process on the CPU."""
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file

    overrides = {"model": PICO, "data": str(digits), "imgsz": 64, "epochs": 1, "batch": 8, "device": "cpu"}
    trainer = DetectionTrainer(overrides={**overrides, "plots": False, "project": str(tmp_path), "name": "ddp"})
    file = generate_ddp_file(trainer)
    try:
        result = subprocess.run([sys.executable, file], capture_output=True, text=True, cwd=tmp_path, check=False)
    finally:
        ddp_cleanup(trainer, file)
    assert result.returncode == 0, result.stderr[-2000:]
    assert list(tmp_path.rglob("best.pt"))


@pytest.mark.slow
def test_compiled_training(digits, tmp_path):
    """A network of five rows, one level: compiling the whole pico model takes seven minutes on two cores."""
    small = {
        "nc": 10,
        "neuron": T2,
        "backbone": [
            [-1, 1, "SpikeEncoder", []],
            [-1, 1, "SpikeDown", [8, 7, 4, 2, True]],
            [-1, 1, "SpikeRepBlock", [2, 7]],
            [-1, 1, "SpikeConv", [16, 3, 2]],
        ],
        "head": [[[3], 1, "SpikeDetect", ["nc"]]],
    }
    YAML.save(tmp_path / "small.yaml", small)
    assert train(YOLO(tmp_path / "small.yaml"), digits, tmp_path, compile=True).is_file()


@pytest.mark.slow
def test_resume_in_python(digits, tmp_path):
    class Stop(Exception):
        pass

    def stop(trainer):
        if trainer.epoch == 1:
            raise Stop

    model = YOLO(PICO)
    model.add_callback("on_train_epoch_start", stop)
    with pytest.raises(Stop):
        train(model, digits, tmp_path, epochs=3)
    last = next(tmp_path.rglob("last.pt"))
    YOLO(last).train(resume=True)
    assert len((last.parents[1] / "results.csv").read_text().splitlines()) == 4
