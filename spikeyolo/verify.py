"""Proof that an ONNX graph is spike-driven, and that it emits the codes of its integer twin and of PyTorch.

Static, for any image: every convolution accumulates weights where a spike is, its planes are the bits of one code, its
bias enters once, and float32 holds each of its sums exactly. Dynamic, on images: the same codes in every layer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from spikeyolo.export import digest, sha256
from spikeyolo.intervals import SIGNIFICANT, Array, Graph, Values

ACCUMULATING = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv"}
ACCUMULATING |= {"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "Einsum"}
CONTROL = {"If", "Loop", "Scan", "SequenceMap"}
RECURRENT = {"RNN", "LSTM", "GRU", "Attention"}
MOVING = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Concat", "Slice", "Split"}
EXACT = 2 ** SIGNIFICANT[TensorProto.FLOAT]
TOLERANCE = 1e-5  # of boxes and scores, relative to their size where it is above 1
SHOWN = 5


@dataclass
class Check:
    """One claim and what speaks against it.

    Args:
        name: The claim in a word.
        text: What was found.
        problems: Where it fails; it holds if there are none.
    """

    name: str
    text: str
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{'FAIL' if self.problems else 'ok':<4}  {self.name:<9} {self.text}"]
        lines += [f"      - {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"      - and {len(self.problems) - SHOWN} more")
        return "\n".join(lines)


class Layer(NamedTuple):
    """A convolution of codes: what its planes have in common."""

    codes: str
    weight: str
    attributes: str


@dataclass
class Form:
    """A tensor as a sum: coefficients of plane convolutions by layer and bit, and of biases by tensor and layer."""

    layers: dict[Layer, dict[int, float]] = field(default_factory=dict)
    biases: dict[tuple[str, str], float] = field(default_factory=dict)

    def plus(self, other: Form, factor: float = 1) -> Form:
        """Return this form plus a multiple of another."""
        layers = {layer: dict(bits) for layer, bits in self.layers.items()}
        for layer, bits in other.layers.items():
            mine = layers.setdefault(layer, {})
            for bit, coefficient in bits.items():
                mine[bit] = mine.get(bit, 0) + factor * coefficient
        biases = dict(self.biases)
        for bias, coefficient in other.biases.items():
            biases[bias] = biases.get(bias, 0) + factor * coefficient
        return Form(layers, biases)


class SpikeGraph:
    """What can be proven about an ONNX graph without running it.

    Args:
        model: Any ONNX model.

    Attributes:
        checks: The static claims.
        layers: Convolutions of codes that are complete: the tensor that holds each one's result, and its bias.
        spiking: Number of convolutions that take binary spikes.
    """

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        self.graph = Graph(model)
        self.layers: dict[Layer, tuple[str, str]] = {}
        self.planes: dict[Layer, int] = {}
        self.names: dict[Layer, str] = {}
        self.spiking = 0
        self.metadata = {p.key: p.value for p in model.metadata_props}
        self._bits, self._codes = self._find_planes()
        self.checks = [self._known(), self._operands(), *self._sums()]
        self.checks += [self._as_exported()] if "weights_sha256" in self.metadata else []

    def name(self, node: onnx.NodeProto) -> str:
        """Return the layer of a node (``LAYER/conv3`` takes its plane 3), else its own name or result."""
        return re.sub(r"/conv\d+$", "", node.name) or node.output[0]

    def _known(self) -> Check:
        """Find what no rule covers."""
        problems = [f"function {f.name}: a custom operator" for f in self.model.functions]
        for node in self.model.graph.node:
            what = f"{node.op_type} {node.name or node.output[0]}"
            if node.domain not in ("", "ai.onnx"):
                problems.append(f"{what}: a custom operator ({node.domain})")
            elif node.op_type in CONTROL:
                problems.append(f"{what}: control flow")
            elif node.op_type in RECURRENT:
                problems.append(f"{what}: recurrent or attention operator")
        text = "cannot be proven" if problems else "ONNX operators only, no control flow"
        return Check("operators", text, problems)

    def _find_planes(self) -> tuple[dict[str, tuple[str, int]], dict[str, str]]:
        """Trace tensors back: to bit b of codes, and whole-number tensors to the codes that they copy."""
        bits: dict[str, tuple[str, int]] = {}
        masked: dict[str, tuple[str, int]] = {}
        copies: dict[str, str] = {}
        for node in self.model.graph.node:
            source, target = (node.input[0] if node.input else ""), node.output[0]
            if node.op_type == "Identity":
                if source in bits:
                    bits[target] = bits[source]
                if source in copies:
                    copies[target] = copies[source]
            elif node.op_type == "Cast":
                to = next(a.i for a in node.attribute if a.name == "to")
                if source in masked and to == TensorProto.BOOL:
                    bits[target] = masked[source]
                elif source in bits:
                    bits[target] = bits[source]
                elif self.graph[source].whole and self._same_values(source, target):
                    copies[target] = copies.get(source, source)
            elif node.op_type == "BitwiseAnd":
                for codes, mask in (node.input, reversed(node.input)):
                    number = self.graph.array(mask)
                    if number is None or number.size != 1 or codes not in copies:
                        continue
                    value = int(number.item())
                    if value > 0 and value.bit_count() == 1:
                        masked[target] = (copies[codes], value.bit_length() - 1)
        return bits, copies

    def _same_values(self, a: str, b: str) -> bool:
        x, y = self.graph[a], self.graph[b]
        return np.array_equal(x.low, y.low) and np.array_equal(x.high, y.high)

    def _after_sums(self) -> set[str]:
        """Return the tensors that some convolution leads to."""
        reached: set[str] = set()
        for node in self.model.graph.node:
            if node.op_type in ACCUMULATING or any(name in reached for name in node.input):
                reached.update(node.output)
        return reached

    def _is_decoder(self, node: onnx.NodeProto) -> bool:
        """Return whether a node is the expectation of box bins: constant weights 0, 1, 2, ... on a softmax."""
        weight = self.graph.array(node.input[1])
        if weight is None or not np.array_equal(weight.ravel(), np.arange(weight.size)):
            return False
        source = self.graph.producer.get(node.input[0])
        while source is not None and source.op_type in MOVING:
            source = self.graph.producer.get(source.input[0])
        return source is not None and source.op_type == "Softmax"

    def _operands(self) -> Check:
        """Demand that every data operand is 0 or 1; name stem and decoder."""
        after = self._after_sums()
        stems: dict[str, str] = {}
        decoders, problems, total = [], [], 0
        for node in self.model.graph.node:
            if node.op_type not in ACCUMULATING:
                continue
            total += 1
            operands = [name for name in node.input[:2] if self.graph.array(name) is None]
            found: list[Values] = [self.graph[name] for name in operands]
            name = self.name(node)
            if found and all(v.binary for v in found):
                self.spiking += 1
            elif len(found) == 1 and self._is_decoder(node):
                decoders.append(f"decoder {name}")
            elif len(found) == 1 and operands[0] not in after and len({*stems, node.input[1]}) == 1:
                stems[node.input[1]] = f"stem {name} (takes {found[0]})"
            else:
                problems.append(f"{name}: an operand is {' and '.join(map(str, found))}, not a spike (0 or 1)")
        excepted = [*stems.values(), *decoders]
        if not self.spiking:
            problems.insert(0, "no convolution takes spikes: this is no spike graph")
            if self.metadata.get("graph") == "integer":
                problems[0] = "this is the integer graph, its operands are codes; export with graph=spike"
        text = f"{self.spiking} of {total} convolutions take spikes, 0 or 1"
        return Check("operands", f"{text}; excepted: {', '.join(excepted) or 'none'}", problems)

    def _form(self, node: onnx.NodeProto, forms: dict[str, Form]) -> Form | None:
        """Return the result of a node as a sum of plane convolutions, None if it is none."""
        inputs = [forms.get(name) for name in node.input]
        if node.op_type in ACCUMULATING and self.graph[node.input[0]].binary and len(node.input) > 1:
            codes, bit = self._bits.get(node.input[0], (node.input[0], 0))
            attributes = b"".join(sorted(a.SerializeToString() for a in node.attribute)).hex()
            layer = Layer(self._codes.get(codes, codes), node.input[1], node.op_type + attributes)
            self.names.setdefault(layer, self.name(node))
            biases = node.input[2:] if node.op_type in {"Conv", "ConvTranspose", "Gemm"} else []
            return Form({layer: {bit: 1}}, {(bias, self.name(node)): 1 for bias in biases if bias})
        if not any(inputs):
            return None
        if node.op_type == "Identity":
            return inputs[0]
        if node.op_type in {"Add", "Sum", "Sub"}:
            total = Form()
            for i, (name, form) in enumerate(zip(node.input, inputs, strict=True)):
                if form is None:
                    form = Form(biases={(name, self.name(node)): 1}) if self.graph.array(name) is not None else Form()
                total = total.plus(form, -1 if node.op_type == "Sub" and i else 1)
            return total
        if node.op_type == "Mul":
            form = next(filter(None, inputs))
            factors = [self.graph.array(n) for n, f in zip(node.input, inputs, strict=True) if f is None]
            if len(factors) == 1 and factors[0] is not None and factors[0].size == 1:
                return Form().plus(form, float(factors[0].item()))
        return None

    def _sums(self) -> tuple[Check, Check]:
        """Demand that each layer is sum_b 2^b * (W * plane_b) + bias and that float32 holds it in any order."""
        forms: dict[str, Form] = {}
        wrong: dict[Any, str] = {}
        inexact: dict[str, str] = {}
        tightest = 0.0
        for node in self.model.graph.node:
            form = self._form(node, forms)
            if form is None:
                for name in filter(forms.__contains__, node.input):
                    wrong |= self._incomplete(forms[name])
            else:
                forms[node.output[0]] = form
                self._complete(form, node.output[0])
            constant = node.op_type in ACCUMULATING and self.graph.array(node.input[1]) is not None
            if (form or constant) and not (constant and self._is_decoder(node)):
                result = self.graph[node.output[0]]
                steps = result.reach / result.step if result.step else math.inf
                tightest = max(tightest, steps / EXACT if steps <= EXACT else 0)
                if steps > EXACT:
                    names = {self.names[layer] for layer in form.layers} if form else set()
                    name = names.pop() if len(names) == 1 else self.name(node)
                    inexact[name] = f"{steps:.3g} grid steps" if result.step else "numbers on no grid"
        for output in self.model.graph.output:
            if output.name in forms:
                wrong |= self._incomplete(forms[output.name])
        text = f"{len(self.layers)} layers, each the sum over b of 2^b times one weight on plane b, its bias once"
        planes = Check("planes", text, list(wrong.values()))
        text = f"every sum is below 2^24 grid steps for any image and in any order (the largest reaches {tightest:.0%})"
        problems = [f"{name}: a sum can take {what}, float32 rounds it" for name, what in inexact.items()]
        return planes, Check("exactness", "some sums depend on their order" if problems else text, problems)

    def _is_complete(self, layer: Layer, bits: dict[int, float]) -> bool:
        """Return whether planes 0, 1, ... enter with 2^b, as many as the codes can have."""
        needed = int(self.graph[layer.codes].high.max()).bit_length()
        return len(bits) >= needed and bits == {b: 2**b for b in range(len(bits))}

    def _complete(self, form: Form, tensor: str) -> None:
        """Remember where a layer, and nothing else, is complete for the first time."""
        if len(form.layers) == 1 and len(form.biases) <= 1:
            ((layer, bits),) = form.layers.items()
            if layer not in self.layers and self._is_complete(layer, bits):
                self.layers[layer] = (tensor, next(iter(form.biases), ("", ""))[0])

    def _incomplete(self, form: Form) -> dict[Any, str]:
        """Return what is wrong with a finished sum, by layer and by bias."""
        wrong: dict[Any, str] = {}
        for layer, bits in form.layers.items():
            self.planes[layer] = len(bits)
            if not self._is_complete(layer, bits):
                needed = range(max(int(self.graph[layer.codes].high.max()).bit_length(), max(bits) + 1))
                missing = [b for b in needed if b not in bits]
                factors = [f"{b}: {c:g}" for b, c in sorted(bits.items()) if c != 2**b]
                told = [f"planes {missing} of {layer.codes} do not enter with weight {layer.weight}"] * bool(missing)
                told += [f"planes enter with factors {{{', '.join(factors)}}} in place of 2^b"] * bool(factors)
                wrong[layer] = f"{self.names[layer]}: {'; '.join(told)}"
        for (bias, layer), coefficient in form.biases.items():
            if coefficient != 1:
                wrong[bias, layer] = f"{layer}: the bias {bias} is added {coefficient:g} times"
        return wrong

    def _as_exported(self) -> Check:
        """Compare weights and planes with what the exporter noted."""
        problems = []
        if digest(self.weights()) != self.metadata["weights_sha256"]:
            problems.append("weights or biases are not those that were exported (SHA-256 differs)")
        if self.metadata.get("graph") == "spike":
            noted: dict[str, int] = json.loads(self.metadata["planes"])
            found = {self.names[layer]: planes for layer, planes in self.planes.items()}
            for name in sorted(noted.keys() | found.keys()):
                if noted.get(name) != found.get(name):
                    problems.append(f"{name}: {found.get(name, 0)} planes, exported with {noted.get(name, 0)}")
        return Check("origin", f"weights and planes as exported from {self.metadata.get('source') or '?'}", problems)

    def weights(self) -> dict[str, list[Array]]:
        """Return weight and bias of the layers that the exporter noted, by layer."""
        found: dict[str, list[Array]] = {}
        noted = json.loads(self.metadata.get("grid", "{}"))
        for node in self.model.graph.node:  # of the planes' convolutions the last has the bias
            if node.op_type == "Conv" and self.name(node) in noted:
                arrays = [self.graph.array(name) for name in node.input[1:]]
                found[self.name(node)] = [a for a in arrays if a is not None]
        return found

    def twin(self) -> onnx.ModelProto:
        """Return the integer twin: every complete layer as one convolution of its codes."""
        twin = onnx.ModelProto()
        twin.CopyFrom(self.model)
        results = {tensor: (layer, bias) for layer, (tensor, bias) in self.layers.items()}
        sample = {self._layer_of(node): node for node in self.model.graph.node if node.op_type in ACCUMULATING}
        nodes = []
        for node in self.model.graph.node:
            if node.output[0] in results:
                layer, bias = results[node.output[0]]
                new = helper.make_node(sample[layer].op_type, [layer.codes, layer.weight], [node.output[0]], node.name)
                new.input.extend([bias] if bias else [])
                new.attribute.extend(sample[layer].attribute)
                node = new
            nodes.append(node)
        needed = {output.name for output in self.model.graph.output}
        kept = []
        for node in reversed(nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        twin.graph.ClearField("node")
        twin.graph.node.extend(reversed(kept))
        return twin

    def _layer_of(self, node: onnx.NodeProto) -> Layer | None:
        form = self._form(node, {})
        return next(iter(form.layers)) if form else None


def verify(
    model: str | Path, *, reference: str | Path = "", source: str | Path = "", images: int = 8
) -> Iterator[Check]:
    """Prove that an ONNX graph is spike-driven and equals its integer twin and PyTorch; yields each claim when checked.

    Args:
        model: ONNX file, of whatever origin.
        reference: Checkpoint (.pt) that was exported; by default the one beside the file, if it has the noted hash.
        source: Images, a folder or a video, as for ``yolo predict``; by default the images that Ultralytics ships.
        images: Largest number of images to run.

    Yields:
        Checks; the graph is proven if none has problems.

    Raises:
        OSError: If a file is missing or unreadable, or there are no images.
        ValueError: If the model is no ONNX file, the images do not fit its input, or the reference is another network.
    """
    path = Path(model)
    graph = SpikeGraph(load(path))
    runnable = bool(graph.layers) and not graph.checks[0].problems
    checks, batches, torch_form = [*graph.checks], [], None
    if runnable or source:  # whatever is wrong with the arguments is told before any result
        batches = _batches(source, _input_size(graph, path), images)
    if checkpoint := _checkpoint(reference, path, graph.metadata):
        torch_form = _deployed(checkpoint)
        checks.append(_same_weights(graph, torch_form, checkpoint))
    yield from checks
    if runnable:
        yield from _compare(graph, batches, torch_form)


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is truncated or no ONNX file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; export one with: yolo export model=best.pt format=onnx")
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as e:  # of protobuf, onnx and the file system
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ValueError(f"{path} is no complete ONNX file ({reason}); export it again") from e
    return model


def _input_size(graph: SpikeGraph, path: Path) -> tuple[int, int, int]:
    """Return batch, height and width that images must have."""
    given = {t.name for t in graph.model.graph.initializer}
    inputs = [i for i in graph.model.graph.input if i.name not in given]
    shape = [d.dim_value or None for d in inputs[0].type.tensor_type.shape.dim] if inputs else []
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in (None, 3):
        found = ", ".join(
            f"{i.name} {[d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim]}" for i in inputs
        )
        raise ValueError(
            f"{path} does not take images: its input is {found or 'missing'}, not (batch, 3, height, width)"
        )
    noted = json.loads(graph.metadata.get("imgsz", "[640, 640]"))
    return shape[0] or 1, shape[2] or noted[0], shape[3] or noted[1]


def _batches(source: str | Path, size: tuple[int, int, int], images: int) -> list[Array]:
    """Load images as the predictor does: letterboxed, RGB, (batch, 3, height, width) in [0, 1]."""
    from ultralytics.data.augment import LetterBox
    from ultralytics.data.build import load_inference_source
    from ultralytics.utils import ASSETS

    if images < 1:
        raise ValueError(f"images must be at least 1, got {images}")
    batch, height, width = size
    fit = LetterBox((height, width), auto=False)
    found: list[Array] = []
    try:
        reader: Any = load_inference_source(str(source) or ASSETS)
    except FileNotFoundError as e:
        raise FileNotFoundError(str(e).splitlines()[0]) from e  # the formats that it knows fill the next lines
    for _, frames, _ in reader:
        found += [
            np.asarray(fit(image=frame))[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255 for frame in frames
        ]
        if len(found) >= images:
            break
    if not found:
        raise FileNotFoundError(f"no image could be read from {source}")
    found = found[:images]
    found += found[-1:] * (-len(found) % batch)  # fill the last batch
    return [np.stack(found[i : i + batch]) for i in range(0, len(found), batch)]


def _checkpoint(reference: str | Path, model: Path, metadata: dict[str, str]) -> Path | None:
    """Return the checkpoint to compare with, if there is one."""
    if reference:
        if not Path(reference).is_file():
            raise FileNotFoundError(f"reference={reference} does not exist")
        return Path(reference)
    beside = model.with_name(metadata.get("source") or "none")
    noted = metadata.get("source_sha256")
    return beside if noted and beside.is_file() and sha256(beside) == noted else None


def _deployed(checkpoint: Path) -> Any:
    """Load a checkpoint in deploy form."""
    from ultralytics import YOLO

    from spikeyolo.deployment import deploy

    try:
        return deploy(YOLO(checkpoint))
    except (TypeError, NotImplementedError) as e:  # how Ultralytics and torch name an unreadable checkpoint
        raise ValueError(f"reference={checkpoint}: {e}") from e


def _same_weights(graph: SpikeGraph, torch_form: Any, checkpoint: Path | None) -> Check:
    """Compare the weights in the graph with those of the reference, and give it the graph's trimmed planes."""
    form = torch_form.deployed
    ours, problems = graph.weights(), []
    if ours.keys() != form.convs.keys():
        raise ValueError(
            f"{checkpoint} is another network than the graph: {len(form.convs)} layers, of which "
            f"{len(ours.keys() & form.convs.keys())} are among the graph's {len(ours)}; give the exported checkpoint"
        )
    trimmed = json.loads(graph.metadata.get("trimmed", "{}"))
    for name, conv in form.convs.items():
        theirs = [conv.weight.numpy(), conv.bias.numpy()]
        if [a.shape for a in theirs] != [a.shape for a in ours[name]]:
            raise ValueError(f"{checkpoint} is another network than the graph: {name} has {theirs[0].shape} weights")
        changed = sum(int((a != b).sum()) for a, b in zip(ours[name], theirs, strict=True))
        if changed:
            problems.append(f"{name}: {changed} weights or biases differ")
        if name in trimmed:
            form.neurons[name].ceiling = trimmed[name]
    return Check("weights", f"{len(form.convs)} layers have the weights of {checkpoint}, bit for bit", problems)


def _session(model: onnx.ModelProto, outputs: list[str], *, optimise: bool) -> Any:
    """Make an ONNX Runtime session that also gives the named tensors."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {output.name for output in watched.graph.output}
    for name in outputs:
        if name not in present:
            watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _compare(graph: SpikeGraph, batches: list[Array], torch_form: Any) -> Iterator[Check]:
    """Run the spike graph, its integer twin and PyTorch; compare the codes of every layer and the outputs."""
    codes = list(dict.fromkeys(layer.codes for layer in graph.layers))
    wanted = [output.name for output in graph.model.graph.output]
    clipped = _clips(graph)
    twin = graph.twin()
    sessions = {
        "its integer twin": _session(twin, codes, optimise=True),
        "itself run without optimisation": _session(graph.model, codes, optimise=False),
    }
    spike = _session(graph.model, [*codes, *clipped], optimise=True)
    feed = spike.get_inputs()[0].name
    differing: dict[str, dict[str, int]] = {name: {} for name in [*sessions, *["PyTorch"] * (torch_form is not None)]}
    outputs = dict.fromkeys(differing, 0.0)
    count = spikes = cut = 0
    for batch in batches:
        names = list(dict.fromkeys([*wanted, *codes, *clipped]))
        ours = dict(zip(names, spike.run(names, {feed: batch}), strict=True))
        count += sum(ours[name].size for name in codes)
        spikes += sum(int(np.bitwise_count(ours[name].astype(np.uint32)).sum()) for name in codes)
        cut += sum(int((np.rint(ours[name]) > limit).sum()) for name, limit in clipped.items())
        for who, session in sessions.items():
            names = [*wanted, *codes]
            theirs = dict(zip(names, session.run(names, {feed: batch}), strict=True))
            _differences(graph, ours, theirs, differing[who])
            outputs[who] = max(outputs[who], *(_distance(ours[name], theirs[name]) for name in wanted))
        if torch_form is not None:
            theirs, decoded = _run_torch(graph, torch_form, batch)
            _differences(graph, ours, theirs, differing["PyTorch"])
            if decoded.shape == ours[wanted[0]].shape:  # else the graph ends in NMS
                outputs["PyTorch"] = max(outputs["PyTorch"], _distance(ours[wanted[0]], decoded))
    pictures = f"on {sum(map(len, batches))} images"
    for who, layers in differing.items():
        total = sum(layers.values())
        problems = [f"{name}: {n} codes differ" for name, n in layers.items() if n]
        yield Check("codes", f"{total} of {count:,} codes differ between the graph and {who} {pictures}", problems)
    far = [f"{who}: {distance:.1e}" for who, distance in outputs.items() if distance > TOLERANCE]
    largest = max(outputs.values())
    yield Check("outputs", f"boxes and scores agree within {largest:.1e} (tolerance {TOLERANCE:g})", far)
    yield Check("spikes", f"{spikes / count:.3f} per code and timestep {pictures} ({spikes:,} in all)")
    if clipped:
        trimmed = len(json.loads(graph.metadata["trimmed"]))
        yield Check("trim", f"{cut:,} of {count:,} codes are clipped {pictures}: {trimmed} layers have trimmed planes")


def _differences(graph: SpikeGraph, ours: dict[str, Array], theirs: dict[str, Array], total: dict[str, int]) -> None:
    for codes in {layer.codes for layer in graph.layers}:
        if codes in theirs:
            total[codes] = total.get(codes, 0) + int((ours[codes] != theirs[codes]).sum())


def _distance(a: Array, b: Array) -> float:
    """Return the largest difference, relative where numbers are above 1."""
    if a.shape != b.shape:
        return math.inf
    return float((np.abs(a - b) / np.maximum(1, np.abs(b))).max(initial=0))


def _run_torch(graph: SpikeGraph, model: Any, batch: Array) -> tuple[dict[str, Array], Array]:
    """Run the deploy form in PyTorch; return its codes by the graph's names, and the decoded output."""
    import torch

    from spikeyolo.deployment import emitted_codes

    names = {graph.names[layer]: layer.codes for layer in graph.layers}
    output, found = emitted_codes(model, torch.from_numpy(batch))
    decoded = output[0] if isinstance(output, tuple) else output
    return {names[name]: codes.numpy() for name, codes in found if name in names}, decoded.numpy()


def _clips(graph: SpikeGraph) -> dict[str, int]:
    """Return the potentials that trimmed neurons clip, with the largest code left."""
    trimmed: dict[str, int] = json.loads(graph.metadata.get("trimmed", "{}"))
    found = {}
    for layer in graph.layers:
        name = graph.names[layer]
        if name in trimmed:
            pending = [layer.codes]
            while pending:
                node = graph.graph.producer.get(pending.pop())
                if node is not None and node.op_type == "Clip":
                    found[node.input[0]] = trimmed[name]
                elif node is not None and node.op_type in {"Round", "Concat"}:
                    pending += node.input
    return found
