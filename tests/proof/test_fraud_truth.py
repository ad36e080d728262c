"""What is said of frauds and mutations, found out with ONNX Runtime."""

import hashlib

import mutations
import numpy as np
import onnx
import pytest
from frauds import CHANGES, CODE, FAILS, FRAUDS, SAME, trigger_image
from mutations import differing_image, equal, mutate, run, session

KINDS = sorted({fraud.kind for fraud in FRAUDS.values()})
WRITTEN = {"file", "versions", "functions", "inputs", "outputs"}  # of which no pixel is read otherwise: fewer images
SIDE = 64


@pytest.fixture(scope="module")
def honest(folder):
    """Spike graph of a small SpikeYOLO."""
    return onnx.load(folder / "spike.onnx")


@pytest.fixture(scope="module")
def images(photos):
    """Four photos, extremes, noise, and what opens backdoors: (1, 3, 64, 64) each."""
    rng = np.random.default_rng(0)
    shape = 1, 3, SIDE, SIDE
    board = np.broadcast_to(np.indices((SIDE, SIDE)).sum(0) % 2, shape)
    found = [photos.numpy()[i : i + 1] for i in range(4)]
    found += [np.zeros(shape), np.ones(shape), board, rng.integers(0, 256, shape) / 255, rng.random(shape)]
    return [np.asarray(image, np.float32) for image in [*found, trigger_image(found[0]), trigger_image(found[4])]]


@pytest.fixture(scope="module")
def outputs(honest, images):
    opened = session(honest)
    return [run(opened, image) for image in images]


@pytest.fixture(scope="module")
def known():
    """Truth by the hash of all that is computed: lies of notes alone are run once."""
    return {}


def truth(model, images, outputs, known):
    """Return what becomes of the outputs."""
    computed = onnx.ModelProto.FromString(model.SerializeToString())
    computed.ClearField("metadata_props")
    key = hashlib.sha256(computed.SerializeToString(deterministic=True)).digest()
    if key not in known:
        known[key] = _truth(model, images, outputs)
    return known[key]


def _truth(model, images, outputs):
    opened = session(model)
    if opened is None:
        return FAILS
    for image, expected in zip(images, outputs, strict=True):
        found = run(opened, image)
        if found is None:
            return FAILS
        if not equal(expected, found):
            return CHANGES
    return SAME


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_frauds_do_what_is_said_of_them(kind, honest, images, outputs, known):
    wrong, content = {}, honest.SerializeToString()
    few = slice(None, None, 5 if kind in WRITTEN else 1)
    for name, fraud in FRAUDS.items():
        if fraud.kind == kind:
            model = fraud(honest)
            assert model.SerializeToString() != content, name
            found = truth(model, images[few], outputs[few], known)
            if (found, fraud.truth) == (SAME, CHANGES):  # rare roundings
                image = differing_image(honest, model, images[:1], np.random.default_rng(0), tries=200)
                found = SAME if image is None else CHANGES
            if found != fraud.truth:
                wrong[name] = f"said: {fraud.truth}, is: {found}"
    assert not wrong
    assert honest.SerializeToString() == content


def test_a_place_that_is_not_there_is_an_error():
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    for fraud in FRAUDS.values():
        if fraud.kind in ("planes", "QLinearConv", "neurons", "branches", "whole sums"):
            with pytest.raises(LookupError):
                fraud(empty)


def test_the_same_seed_makes_the_same_mutation(honest):
    content = honest.SerializeToString()
    for seed in range(100):
        (one, words), (other, again) = (mutate(honest, np.random.default_rng(seed)) for _ in range(2))
        assert words == again
        assert type(one) is type(other)
        assert (one if isinstance(one, bytes) else one.SerializeToString()) != content
        assert one == other
        assert len(words.splitlines()) == 1
    assert honest.SerializeToString() == content


@pytest.mark.campaign
def test_mutations_are_of_all_kinds_and_harmless_ones_change_nothing(honest, images):
    kinds, harmless = set(), 0
    for seed in range(150):
        mutant, words = mutate(honest, np.random.default_rng(seed))
        if words.startswith("harmless"):
            harmless += 1
            assert session(mutant) is not None, words
            assert differing_image(honest, mutant, images[:2], np.random.default_rng(0), tries=2) is None, words
        kinds.add(words.split()[0])
    assert harmless
    assert len(kinds) > 20


def test_a_backdoor_is_found_with_its_image_alone(honest, images):
    backdoor = FRAUDS["backdoor: boxes times 0 at nine pixels"](honest)
    rng = np.random.default_rng(0)
    assert differing_image(honest, backdoor, images[:2], rng, tries=4) is None
    found = differing_image(honest, backdoor, images, rng, tries=0)
    assert found is not None
    assert (found[:, :, :3, :3] == np.float32(CODE / 255)).all()
    assert differing_image(honest, b"no graph", images, rng) is None
    assert len(list(mutations.candidates(images, rng, 8))) == len(images) + 3 + 8
