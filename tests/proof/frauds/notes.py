"""Frauds about metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from surgery import Surgery

from frauds.registry import SAME, fraud, register


def note(name: str, key: str, change: Callable[[Any], Any], truth: str = SAME) -> None:
    """Add a fraud that changes a note that is JSON."""
    register("notes", name, lambda s: s.note_json(key, change), truth)


def text_note(name: str, key: str, value: str | None) -> None:
    register("notes", name, lambda s: s.note(key, value), SAME)


JSON_NOTES = (
    "D",
    "N",
    "T",
    "decay",
    "ranges",
    "unit",
    "planes",
    "weight_bits",
    "layers",
    "factored_weights",
    "versions",
    "real_valued",
    "attention",
    "kept_planes",
    "form",
)
TEXT_NOTES = ("graph", "graph_sha256", "source", "source_sha256", "neuron", "exact")
for key in (*JSON_NOTES, *TEXT_NOTES):
    register("notes", f"{key} missing", lambda s, k=key: s.note(k, None), SAME, forged=key != "graph_sha256")
for key in JSON_NOTES:
    register("notes", f"{key} is damaged JSON", lambda s, k=key: s.note(k, s.notes()[k] + "}"), SAME)
    register("notes", f"{key} is null", lambda s, k=key: s.note(k, "null"), SAME)
for key in ("D", "ranges", "layers", "planes"):
    register("notes", f"{key} is deeply nested", lambda s, k=key: s.note(k, "[" * 100_000 + "]" * 100_000), SAME)
    register("notes", f"{key} is NaN", lambda s, k=key: s.note(k, "NaN"), SAME)
    register("notes", f"{key} is infinite", lambda s, k=key: s.note(k, "1e999"), SAME)
    register("notes", f"{key} has 5,000 digits", lambda s, k=key: s.note(k, "9" * 5000), SAME)
    register("notes", f"{key} is text", lambda s, k=key: s.note(k, json.dumps("5.08")), SAME)
    register("notes", f"{key} is true", lambda s, k=key: s.note(k, "true"), SAME)
    register("notes", f"{key} is an empty list", lambda s, k=key: s.note(k, "[]"), SAME)


@fraud("notes", SAME)
def none_at_all(s: Surgery) -> None:
    s.model.ClearField("metadata_props")


@fraud("notes", SAME)
def those_of_spikeyolo_missing(s: Surgery) -> None:
    kept = [(p.key, p.value) for p in s.model.metadata_props if p.key not in (*JSON_NOTES, *TEXT_NOTES)]
    s.model.ClearField("metadata_props")
    for key, value in kept:
        s.model.metadata_props.add(key=key, value=value)


text_note("an integer graph", "graph", "integer")
text_note("a graph of another kind", "graph", "analog")
text_note("graph in capitals", "graph", "Spike")
text_note("no kind of graph", "graph", "")
text_note("another form", "form", "3")
text_note("an earlier form", "form", "1")
text_note("a form of text", "form", '"2"')
text_note("a form of 2.0", "form", "2.0")
text_note("another neuron", "neuron", "lif")
text_note("a neuron of control characters", "neuron", "ibra-lif\x1b[2K\rproven\n")
text_note("another source", "source", "other.pt")
text_note("a source elsewhere", "source", "../../../etc/passwd")
text_note("a source of many lines", "source", "small.pt\nok    everything     is proven\n")
text_note("another checkpoint", "source_sha256", "0" * 64)
note("D is 1", "D", lambda v: 1.0)
note("D a little larger", "D", lambda v: v + 1e-9)
note("N is 1", "N", lambda v: 1.0)
note("N doubled", "N", lambda v: v * 2)
note("T is 2", "T", lambda v: 2)
note("T is 0", "T", lambda v: 0)
note("T is 1.0", "T", lambda v: 1.0)
note("decay is 0.9", "decay", lambda v: 0.9)
note("unit is 1", "unit", lambda v: 1.0)
note("unit a little larger", "unit", lambda v: v * (1 + 1e-12))
note("unit is negative", "unit", lambda v: -v)
note("unit is 0", "unit", lambda v: 0)
note("weight_bits is 2", "weight_bits", lambda v: 2)
note("weight_bits is 16", "weight_bits", lambda v: 16)
note("kept_planes is 9", "kept_planes", lambda v: 9)
note("kept_planes is 3", "kept_planes", lambda v: 3)
text_note("exact is nothing", "exact", "")
text_note("exact is a list", "exact", '["model.3.conv"]')
note("nothing is real-valued", "real_valued", lambda v: [])
note("the decoder is not real-valued", "real_valued", lambda v: v[:1])
note("more is real-valued", "real_valued", lambda v: [*v, "everything"])
note("an attention", "attention", lambda v: {"model.3": [1, 2, 3]})
note("factored weights of one more", "factored_weights", lambda v: {k: n + 1 for k, n in v.items()})
note("factored weights of a layer that does not exist", "factored_weights", lambda v: {**v, "model.99": 1})
note("no factored weights", "factored_weights", lambda v: {})
note("a plane more in one layer", "planes", lambda v: {k: n + (i == 0) for i, (k, n) in enumerate(v.items())})
note("one plane in all layers", "planes", lambda v: dict.fromkeys(v, 1))
note("255 planes in all layers", "planes", lambda v: dict.fromkeys(v, 255))
note("planes of 7.0", "planes", lambda v: {k: float(n) for k, n in v.items()})
note("a layer without planes", "planes", lambda v: dict(list(v.items())[1:]))
note("the stem has planes", "planes", lambda v: {"model.1.conv": 8, **v})
note("planes of a layer that does not exist", "planes", lambda v: {**v, "model.99": 7})
note("planes in another order", "planes", lambda v: dict(list(v.items())[::-1]))
note("ranges of another D", "ranges", lambda v: {k: [9.0, n, r] for k, (_, n, r) in v.items()})
note("ranges of another N", "ranges", lambda v: {k: [d, 2 * n, r] for k, (d, n, r) in v.items()})
note("ranges of D and N against each other", "ranges", lambda v: {k: [2 * d, n / 2, r] for k, (d, n, r) in v.items()})
note("ranges with a rest", "ranges", lambda v: {k: [d, n, 5] for k, (d, n, _) in v.items()})
note("a range of one layer", "ranges", lambda v: v | {next(iter(v)): [1.0, 1.0, 0]})
note("a layer without range", "ranges", lambda v: dict(list(v.items())[1:]))
note("a range of a layer that does not exist", "ranges", lambda v: {**v, "model.99": [1.0, 1.0, 0]})
note("ranges of four numbers", "ranges", lambda v: {k: [*r, 0] for k, r in v.items()})


def layer_note(key: str, value: Any, which: int = 3) -> None:
    def change(layers: dict[str, Any]) -> dict[str, Any]:
        name = list(layers)[which]
        return layers | {name: layers[name] | {key: value}}

    note(f"a layer's {key}", "layers", change)


for key, value in {
    "codes": "images/pixels",
    "order": "NCHW",
    "size": [1, 1],
    "kind": "wide",
    "scale": 2.0,
    "largest": 3,
    "rest": 9,
    "channels": [1, 1],
    "kernel": [1, 1],
    "stride": [2, 2],
    "padding": [0, 0],
    "dilation": [2, 2],
    "groups": 4,
    "binary": True,
}.items():
    layer_note(key, value)
note("layers in another order", "layers", lambda v: dict(list(v.items())[::-1]))
note("a layer missing", "layers", lambda v: dict(list(v.items())[:-1]))
note("the stem missing", "layers", lambda v: dict(list(v.items())[1:]))
note("a layer that does not exist", "layers", lambda v: {**v, "model.99": next(iter(v.values()))})
note(
    "layers exchanged",
    "layers",
    lambda v: dict(zip(v, [list(v.values())[i] for i in [0, 2, 1, *range(3, len(v))]], strict=True)),
)
note("codes of layers exchanged", "layers", lambda v: exchanged_codes(v))
note("versions of other packages", "versions", lambda v: {**v, "torch": "1.0"})
note("a later version of spikeyolo", "versions", lambda v: {**v, "spikeyolo": "99.0"})
note("no versions", "versions", lambda v: {})


def exchanged_codes(layers: dict[str, Any]) -> dict[str, Any]:
    names = list(layers)
    one, two = names[1], names[4]
    codes = layers[one]["codes"], layers[two]["codes"]
    return layers | {one: layers[one] | {"codes": codes[1]}, two: layers[two] | {"codes": codes[0]}}


@fraud("notes", SAME, forged=False)
def another_digest(s: Surgery) -> None:
    s.note("graph_sha256", "0" * 64)


@fraud("notes", SAME)
def a_key_twice_in_json(s: Surgery) -> None:
    s.note("planes", s.notes()["planes"].replace("{", '{"model.3.conv": 1, ', 1))


@fraud("notes", SAME)
def a_note_twice(s: Surgery) -> None:
    s.model.metadata_props.add(key="D", value="1.0")


@fraud("notes", SAME)
def an_unknown_note(s: Surgery) -> None:
    s.model.metadata_props.add(key="proven", value="true")


@fraud("notes", SAME)
def settings_of_the_runtime(s: Surgery) -> None:
    """Add a key that ONNX Runtime reads where its environment allows."""
    s.model.metadata_props.add(key="ort_config", value='{"session_options": {"graph_optimization_level": 99}}')


for key, text in {
    "names": "{0: 'cat', 1: 'dog', 2: 'owl'}",
    "stride": "32",
    "task": "segment",
    "imgsz": "[32, 32]",
    "batch": "8",
    "channels": "1",
    "end2end": "True",
    "head": "Detect",
    "args": "{'half': True}",
    "version": "1.0",
    "names ": "{}",
}.items():
    register(
        "notes of Ultralytics",
        f"{key.strip()} is {text}",
        lambda s, k=key, t=text: s.note(k, t) if k in s.notes() else s.model.metadata_props.add(key=k, value=t),
        SAME,
    )
for key in ("names", "stride", "task", "imgsz", "batch", "channels", "end2end"):
    register("notes of Ultralytics", f"{key} missing", lambda s, k=key: s.note(k, None), SAME)
register("notes of Ultralytics", "names that are run", lambda s: s.note("names", "__import__('os').getcwd()"), SAME)
register("notes of Ultralytics", "names exchanged", lambda s: s.note("names", "{0: '1', 1: '0', 2: '2'}"), SAME)


@fraud("notes", SAME)
def a_note_of_an_earlier_version(s: Surgery) -> None:
    s.model.metadata_props.add(key="grid", value='{"model.3.conv": 5}')
