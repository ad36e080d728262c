"""Every fraud and every mutation of an honest graph is refused, unless it is another way to write the same."""

from pathlib import Path

import mutations
import numpy as np
import onnx
import pytest
from frauds import CHANGES, FRAUDS

from spikeyolo.proof.graph_file import Graph
from spikeyolo.proof.program import Program
from spikeyolo.proof.reference import Exports
from spikeyolo.proof.verify import claims, open_reference

KINDS = sorted({fraud.kind for fraud in FRAUDS.values()})

MANY = {"decoder", "versions", "inputs", "notes", "notes of Ultralytics", "QLinearConv", "pixels", "outputs"}

# The same program, written in another way.
SAME = {
    "raw maps: without their identity",
    "file: two nodes in another order",
    "file: names of weights exchanged",
    "file: weights as int32 data",
    "file: documents",
    "file: unknown fields",
    "whole sums: no axis of the weights",
    "whole sums: axis -1 of the weights",
    "whole sums: zero points of the biases, all zero",
    "outputs: through identity",
    "neurons: potential through Relu",
    "pixels: Identity",
    "operands: Identity",
    *(f"versions: opset {n}" for n in range(19, 24)),
    *(f"versions: ir_version {n}" for n in (7, 9, 10)),
}
# Notes that are about nothing that a program is: order, dates, origins.
BESIDE = {
    "notes: another source",
    "notes: another checkpoint",
    "notes: planes in another order",
    "notes: layers in another order",
    "notes: versions of other packages",
    "notes: a later version of spikeyolo",
    "notes: no versions",
    "notes: a key twice in json",
    "notes of Ultralytics: args is {'half': True}",
    "notes of Ultralytics: version is 1.0",
}
# Without a reference: other networks, which are spike-driven and exact as well, and what only a reference shows.
OTHER = {
    *(
        f"QLinearConv: {what}, {where}"
        for where in ("stem", "direct", "branch", "depthwise")
        for what in (
            "weights negated",
            "filters in another order",
            "filters turned",
            "filters transposed",
            "one weight moved",
            "weights shuffled",
            "all weights zero",
        )
    ),
    "file: weights by constantofshape",
    "whole sums: weights changed",
    "whole sums: taps in another order",
    "whole sums: outputs in another order",
    "whole sums: biases changed",
    "networks: two layers in the wrong order",
    "networks: a layer twice",
    "neurons: potential of the stem",
    "neurons: codes of the largest of neighbours",
    "neurons: codes pooled alone",
    "neurons: pooled alone, dilations that reach nothing",
    *(f"additions: {what}, addition {i}" for i in range(4) for what in ("twice the branch", "exchanged")),
    "additions: another stream",
    "concatenation: maps exchanged",
    "notes: decay is null",
    "notes: decay is 0.9",
    "notes: another neuron",
    "notes: kept_planes is 9",
    "notes: factored weights of one more",
    "notes: no factored weights",
    "notes of Ultralytics: names is {0: 'cat', 1: 'dog', 2: 'owl'}",
    "notes of Ultralytics: names exchanged",
    "notes of Ultralytics: head is Detect",
}


class Judge:
    """Holds files against a reference, and against nothing; no runtime is asked.

    Args:
        folder: With the honest graph and its checkpoint.
    """

    def __init__(self, folder: Path):
        self.honest = onnx.load(folder / "spike.onnx")
        self.network = open_reference(folder / "small.pt")
        self.exports = Exports(Program())

    def problems(self, model: onnx.ModelProto | bytes) -> tuple[list[str], list[str]]:
        """Return what speaks against a file, with its reference and without."""
        try:
            model = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
        except Exception:  # of protobuf
            return ["no ONNX file"], ["no ONNX file"]
        try:
            graph = Graph.of(Path("fraud.onnx"), model, self.exports.program)
        except ValueError as e:
            return [str(e)], [str(e)]
        found = (claims(graph, self.exports, network, "small.pt") for network in (self.network, None))
        with_reference, alone = ([problem for check in checks for problem in check.problems] for checks in found)
        return with_reference, alone


@pytest.fixture(scope="module")
def judge(folder):
    return Judge(folder)


def test_the_honest_graph_is_not_refused(judge):
    assert judge.problems(judge.honest) == ([], [])


def test_there_are_as_many_frauds_as_we_say():
    assert len(FRAUDS) >= 900
    assert FRAUDS.keys() >= SAME | BESIDE | OTHER
    assert not [name for name in SAME | BESIDE if FRAUDS[name].truth == CHANGES]


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k in MANY else ()) for k in KINDS])
def test_frauds_are_refused(kind, judge):
    accepted, alone = set(), set()
    for name, fraud in FRAUDS.items():
        if fraud.kind == kind:
            problems = judge.problems(fraud(judge.honest))
            accepted |= set() if problems[0] else {name}
            alone |= set() if problems[1] else {name}
    ours = {name for name in SAME | BESIDE if FRAUDS[name].kind == kind}
    assert accepted == ours
    assert alone == ours | {name for name in OTHER if FRAUDS[name].kind == kind}


def _mutations(judge, seeds):
    """Demand that a mutation is refused with its reference, or changes nothing that a search finds."""
    refused = 0
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (1, 3, 64, 64)).astype(np.float32) / np.float32(255) for _ in range(2)]
    for seed in seeds:
        mutant, words = mutations.mutate(judge.honest, np.random.default_rng(seed))
        problems, _ = judge.problems(mutant)
        refused += bool(problems)
        if not problems:
            found = mutations.differing_image(judge.honest, mutant, images, np.random.default_rng(seed), tries=6)
            assert found is None, (seed, words)
    return refused


def test_mutations_are_refused_or_change_nothing(judge):
    assert _mutations(judge, range(60)) > 40


@pytest.mark.slow
def test_more_mutations_are_refused_or_change_nothing(judge):
    assert _mutations(judge, range(60, 300)) > 160


@pytest.mark.campaign
def test_two_thousand_mutations_are_refused_or_change_nothing(judge):
    assert _mutations(judge, range(300, 2300)) > 1300
