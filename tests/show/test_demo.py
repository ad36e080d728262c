"""The demo: boxes and spikes of every kind of source; wrong sources, models and arguments."""

import contextlib
import http.server
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import IBRA, calibrated, write_small
from ultralytics import YOLO

from spikeyolo.assets import CLIP
from spikeyolo.data import frames as sources
from spikeyolo.data.clip import make_clip
from spikeyolo.data.frames import Frames
from spikeyolo.measure.counting import CountedModel
from spikeyolo.measure.energy import MODELS, estimate
from spikeyolo.show import demo as video
from spikeyolo.show.demo import demo
from spikeyolo.show.panel import HEIGHT, WIDTH

SHIPPED = "ibra-spikeyolo-p.pt"
NEURONS = {"ibra": IBRA, "ibra-T2": IBRA | {"T": 2}, "lif": {"type": "lif", "D": 1, "N": 1}, "relu": {"type": "relu"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory, photos):
    """Checkpoints of small networks, and a short video."""
    folder = tmp_path_factory.mktemp("models")
    for name, neuron in NEURONS.items():
        torch.manual_seed(0)
        model = calibrated(write_small(folder / f"{name}.yaml", neuron), photos)
        model.overrides |= {"imgsz": 64, "task": "detect"}
        model.ckpt = {"train_args": {"imgsz": 64, "task": "detect"}}
        model.save(folder / f"{name}.pt")
    make_clip(folder / "clip.mp4", size=96, frames=7)
    return folder


@pytest.fixture(autouse=True)
def no_display(monkeypatch):
    """Open no window, even where there is a display."""
    monkeypatch.setattr(video, "check_imshow", lambda: False)


def read(file: Path) -> list[np.ndarray]:
    """Return all frames of a video."""
    capture, frames = cv2.VideoCapture(str(file)), []
    while (answer := capture.read())[0]:
        frames.append(answer[1])
    return frames


@pytest.mark.parametrize("name", ["ibra", "ibra-T2", "lif"])
def test_every_frame_is_written_with_its_spikes(files, tmp_path, name):
    run = demo(str(files / "clip.mp4"), model=str(files / f"{name}.pt"), project=str(tmp_path), conf=0.0)
    assert (run.frames, run.problem) == (7, "")
    assert run.target == tmp_path / "demo/clip.mp4"
    frames = read(run.target)
    assert len(frames) == 7
    assert frames[0].shape == (HEIGHT, HEIGHT + WIDTH, 3)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1

    model = CountedModel.open(str(files / f"{name}.pt"))
    images = [cv2.resize(f, (64, 64))[..., ::-1] for f in read(files / "clip.mp4")]
    for image in images:
        model.run(image[None].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    assert run.spikes == model.recording.total("spikes") > 0
    for scheme in ("spikes", "ann"):
        total = 7 * estimate(model.recording, scheme, MODELS["45nm-float32"]).total
        assert run.energy_pj[scheme] == pytest.approx(total)


def test_boxes_are_those_of_yolo_predict(digits, monkeypatch, tmp_path):
    """With trained weights and three digits apart: no box is near another one, or near the least confidence."""
    drawn = []
    results = video.Results
    monkeypatch.setattr(video, "Results", lambda *a, **k: drawn.append(k["boxes"]) or results(*a, **k))
    image = digits.parent / "images/val/000000000006.png"
    demo(str(image), model=SHIPPED, project=str(tmp_path), conf=0.5)
    stock = YOLO(SHIPPED).predict(image, conf=0.5, imgsz=192, verbose=False, save=False)[0].boxes.data
    (ours,) = drawn
    assert len(ours) == len(stock) == 3
    ours, stock = (boxes[boxes[:, 0].argsort()] for boxes in (ours, stock))  # from left to right
    assert torch.equal(ours[:, 5], stock[:, 5])
    assert torch.allclose(ours[:, 4], stock[:, 4], atol=0.03)  # the deploy form rounds weights to its grid
    assert torch.allclose(ours[:, :4] * 128 / HEIGHT, stock[:, :4], atol=1.0)


@pytest.mark.slow
def test_the_clip_that_ships_with_the_shipped_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = demo(project=str(tmp_path))
    assert run.frames == len(read(CLIP)) == len(read(run.target))
    YOLO("ibra-spikeyolo-p.pt").export(format="onnx", graph="integer")
    onnx = demo(model="ibra-spikeyolo-p.onnx", project=str(tmp_path))
    assert (onnx.frames, onnx.layer, onnx.spikes) == (run.frames, run.layer, run.spikes)


def test_a_folder_of_images_of_any_shape(files, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, shape in enumerate(((60, 80, 3), (90, 30, 3), (20, 200, 3))):
        cv2.imwrite(str(folder / f"{i}.png"), np.full(shape, 100, np.uint8))
    (folder / "3.png").write_text("no image")
    run = demo(str(folder), model=str(files / "ibra.pt"), project=str(tmp_path), layer="model.6.conv2.conv")
    assert (run.frames, run.layer) == (3, "model.6.conv2.conv")
    assert "1 files could not be read" in run.problem
    assert [len(read(run.target)), read(run.target)[0].shape] == [3, (HEIGHT, 720 + WIDTH, 3)]  # as the first: 80 x 60


def test_a_layer_of_ones_own(files, tmp_path):
    with pytest.raises(ValueError, match=r"layer=nonsense is no spiking layer; layers are (model\.\S+, )+"):
        demo(str(files / "clip.mp4"), model=str(files / "ibra.pt"), layer="nonsense", project=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_broken_file_keeps_what_was_written(files, tmp_path, capsys, spikeyolo):
    whole = tmp_path / "whole.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 96))
    for frame in read(files / "clip.mp4") * 6:
        writer.write(frame)
    writer.release()
    broken = tmp_path / "broken.avi"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    code = spikeyolo("demo", f"source={broken}", f"model={files / 'ibra.pt'}", f"project={tmp_path / 'runs'}")
    out, err = capsys.readouterr()
    frames = read(tmp_path / "runs/demo/broken.mp4")
    assert 1 <= len(frames) < 42
    assert code == 1
    assert f"broken.avi is broken after frame {len(frames)} of 42" in err
    assert "broken.mp4" in out


def test_an_interrupt_keeps_what_was_written(files, tmp_path, monkeypatch, capsys, spikeyolo):
    draw, drawn = video._Screen.draw, []

    def third_time_interrupted(self, frame):
        drawn.append(frame)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(self, frame)

    monkeypatch.setattr(video._Screen, "draw", third_time_interrupted)
    words = f"source={files / 'clip.mp4'}", f"model={files / 'ibra.pt'}", f"project={tmp_path}"
    assert spikeyolo("demo", *words) == 130
    assert "interrupted" in capsys.readouterr().err
    assert len(read(tmp_path / "demo/clip.mp4")) == 2


class _Camera:
    """What OpenCV gives for a camera: frames in their own time, and no number of frames."""

    def __init__(self, frames: int, pause: float):
        self.left, self.pause = frames, pause

    def isOpened(self):
        return True

    def get(self, what):
        return 0.0

    def read(self):
        time.sleep(self.pause)
        self.left -= 1
        return self.left >= 0, np.full((48, 64, 3), max(0, self.left), np.uint8)

    def release(self):
        self.left = 0


def test_a_slow_network_leaves_frames_of_a_camera_out(files, tmp_path, monkeypatch):
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda source: _Camera(100, 0.004))
    run = demo("0", model=str(files / "ibra.pt"), project=str(tmp_path))
    assert 1 <= run.frames < 100
    assert run.target is not None
    assert run.target.name == "camera-0.mp4"
    assert read(run.target)  # in real time: as many frames as its duration holds


def test_a_camera_that_gives_nothing(files, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "PATIENCE", 0.1)
    monkeypatch.setattr(sources.cv2, "VideoCapture", lambda source: _Camera(1, 1.0))
    with pytest.raises(OSError, match=r"0 gave no frame for 0.1 s"):
        demo("0", model=str(files / "ibra.pt"), project=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_stream_that_ends(files, tmp_path):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            data = cv2.imencode(".jpg", np.full((96, 96, 3), 90, np.uint8))[1].tobytes()
            with contextlib.suppress(OSError):  # the reader has gone
                for _ in range(60):
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")
                    time.sleep(0.01)

        def log_message(self, format, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/live.mjpg"
        run = demo(address, model=str(files / "ibra.pt"), project=str(tmp_path))
        server.shutdown()
    assert run.frames >= 1
    assert not run.problem
    assert run.target == tmp_path / "demo/live.mp4"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["source=99"], "camera 99 cannot be opened; try another number"),
        (["source=rtsp://127.0.0.1:1/x"], "stream rtsp://127.0.0.1:1/x cannot be opened; check the address"),
        (["source=nowhere.mp4"], "source=nowhere.mp4 does not exist"),
        (["source=EMPTY.mp4"], "cannot be opened; copy it again"),
        (["model=RELU"], "is an ANN: it has no spikes to show"),
        (["model=gone.pt"], "model=gone.pt does not exist"),
        (["show=True"], "show=True needs a display"),
        (["save=perhaps"], "save must be True, False or auto, got 'perhaps'"),
        (["conf=2"], "conf must be between 0 and 1, got 2"),
        (["preset=1nm"], "unknown preset 1nm"),
        (["preset=45nm-int8,45nm-float32"], "the demo shows one energy model"),
    ],
)
def test_what_is_wrong_is_said(files, tmp_path, capfd, spikeyolo, words, message):
    (tmp_path / "EMPTY.mp4").write_bytes(b"nothing")
    given = {"source": files / "clip.mp4", "model": files / "ibra.pt", "project": tmp_path / "runs"}
    given |= dict(word.split("=", 1) for word in words)
    for key in ("source", "model"):
        given[key] = str(given[key]).replace("EMPTY", str(tmp_path / "EMPTY")).replace("RELU", str(files / "relu.pt"))
    assert spikeyolo("demo", *(f"{key}={value}" for key, value in given.items())) == 1
    assert message in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_broken_video_is_said_in_one_line(files, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"nothing")
    words = "demo", "source=empty.mp4", f"model={files / 'ibra.pt'}"
    done = subprocess.run(
        [sys.executable, "-m", "spikeyolo.cli", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "spikeyolo demo: video empty.mp4 cannot be opened; copy it again\n"


def test_a_window_closes_with_a_key(files, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(video, "check_imshow", lambda: True)
    monkeypatch.setattr(video.cv2, "imshow", lambda title, picture: shown.append(picture))
    monkeypatch.setattr(video.cv2, "waitKey", lambda ms: ord("q") if len(shown) == 2 else -1)
    monkeypatch.setattr(video.cv2, "getWindowProperty", lambda title, what: 1.0)
    monkeypatch.setattr(video.cv2, "destroyAllWindows", lambda: shown.append(None))
    run = demo(str(files / "clip.mp4"), model=str(files / "ibra.pt"), project=str(tmp_path))
    assert (run.frames, len(shown), shown[-1], run.target) == (2, 3, None, None)
    assert not list(tmp_path.iterdir())


def test_frames_know_what_they_are(files, tmp_path):
    frames = Frames.open(str(files / "clip.mp4"))
    assert (frames.name, frames.fps, frames.count, frames.live) == ("clip", 15, 7, False)


@pytest.mark.parametrize("name", ["ibra", "ibra-T2"])
def test_the_fast_form_of_a_checkpoint_counts_and_detects_the_same(name, files, photos):
    slow, fast = (CountedModel.open(str(files / f"{name}.pt"), fast=fast) for fast in (False, True))
    assert type(slow) is not type(fast)
    assert slow.facts == fast.facts
    assert slow.file == fast.file
    image = photos[:1].numpy()
    ours, theirs = (model.observe(image, "model.3.conv") for model in (slow, fast))
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.allclose(ours.outputs, theirs.outputs, rtol=1e-6, atol=64e-6)  # pixels of 64
    for a, b in zip(ours.layers.values(), theirs.layers.values(), strict=True):
        assert (a.name, a.spikes, a.macs, a.codes) == (b.name, b.spikes, b.macs, b.codes)
    assert not list(files.glob("*.onnx"))
