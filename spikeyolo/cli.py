"""The `spikeyolo` command: ``spikeyolo WORD key=value ...``; the words of `yolo` pass through."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """A word of the command line.

    Args:
        run: Called with the checked arguments; its result is the exit code.
        arguments: Known arguments with their defaults; a default's type is the type of the argument.
        about: One line for ``spikeyolo help``.
    """

    run: Callable[..., int]
    arguments: Mapping[str, Any]
    about: str

    def usage(self, name: str) -> str:
        """Return how the word is called."""
        return " ".join(["spikeyolo", name, *(f"{k}={v}" for k, v in self.arguments.items())])


def checks() -> int:
    """Print versions, the plugin's state and devices, and each problem with its remedy; 1 if there is any."""
    from spikeyolo.checks import collect

    facts, problems = collect()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    for problem, remedy in problems:
        print(f"PROBLEM  {problem}\n REMEDY  {remedy}")
    print("no problem found" if not problems else f"{len(problems)} problem{'s' * (len(problems) > 1)} found")
    return int(bool(problems))


def photo_digits(**options: Any) -> int:
    """Make the photo-digits data set at a path and in a size of one's own."""
    from spikeyolo.data.photo_digits import make_photo_digits

    file = make_photo_digits(options.pop("path"), **options)
    print(f"made {file.parent}; train with: yolo train data={file}")
    return 0


def verify(**options: Any) -> int:
    """Prove what an ONNX file is; 1 if it is not shown."""
    from spikeyolo.proof.verify import verify

    model = options.pop("model")
    if not model:
        raise ValueError("model= is missing, e.g. spikeyolo verify model=best.onnx")
    checks = []
    for check in verify(model, **options):
        print(check, flush=True)
        checks.append(check)
    if failed := sum(bool(check.problems) for check in checks):
        raise ValueError(f"{model} is not proven: {failed} check{'s' * (failed > 1)} failed")
    claims = [check.claim for check in checks if check.claim]
    if not options["reference"]:
        claims.append("compared with no checkpoint: give reference=best.pt")
    print(f"{model} is proven: {'; '.join(claims)}")
    return 0


def report(**options: Any) -> int:
    """Count spikes, estimate energy and write a report; 130 if interrupted."""
    from spikeyolo.show.render import summary
    from spikeyolo.show.report import report

    folder, result = report(options.pop("model"), **options)
    print(f"\n{summary(result)}\n\n{result['note']} Results saved to {folder} (report.html, report.md, report.json)")
    return 0 if result["complete"] else 130


def coco(**options: Any) -> int:
    """Evaluate a detector with COCO's metrics."""
    from spikeyolo.measure.coco import evaluate, summary

    target = options["save_json"]
    print(f"\n{summary(evaluate(options.pop('model'), **options))}")
    if target:
        print(f"\nResults for the evaluation server saved to {target}")
    return 0


def import_(**options: Any) -> int:
    """Make a checkpoint of ours out of an official one."""
    from spikeyolo.conversion.official import import_checkpoint

    source = options.pop("model")
    imported = import_checkpoint(source, **options)
    network = imported.model
    count, classes = sum(p.numel() for p in network.parameters()), network.yaml["nc"]
    print(f"{source}: official SpikeYOLO, {count:,} parameters, {classes} classes; nothing in it was run")
    print(f"trained with {imported.trained}")
    if imported.neuron != imported.trained:
        print(f"the same weights, but OTHER neurons: {imported.neuron}")
        print("its accuracy is not that of the source; train it on from there: yolo train model=...")
    print(f"Results saved to {imported.file}")
    return 0


def convert(**options: Any) -> int:
    """Make a spiking network of an ANN and show what it costs."""
    from dataclasses import fields

    from spikeyolo.conversion.calibration import Ranges
    from spikeyolo.conversion.convert import convert, summary

    ranges = Ranges(**{f.name: options.pop(f.name) for f in fields(Ranges)})
    source = options.pop("model")
    done = convert(source, ranges=ranges, **options)
    print(f"\n{source}: {summary(done)}\nResults saved to {done.file}")
    return 0


def demo(**options: Any) -> int:
    """Show boxes, spikes and energy on a video; 1 if the source broke, 130 if interrupted."""
    from spikeyolo.show.demo import demo

    run = demo(options.pop("source"), **options)
    spiking_uj, twin_uj = (run.energy_pj[scheme] / run.frames / 1e6 for scheme in ("spikes", "ann"))
    print(f"\n{run.frames} frames, {run.frames / run.seconds:.1f} per second")
    print(f"per frame {run.spikes / run.frames:,.0f} spikes; energy, modelled ({options['preset']}):", end=" ")
    print(f"{spiking_uj:,.4g} µJ on binary spikes, {twin_uj:,.4g} µJ in the relu twin")
    if run.target:
        print(f"Results saved to {run.target}")
    if run.problem:
        print(f"spikeyolo demo: {run.problem}", file=sys.stderr)
    return {"": 0, "interrupted": 130}.get(run.problem, 1)


def show_help() -> int:
    """Print the words."""
    print("spikeyolo WORD key=value ...\n")
    for name, word in WORDS.items():
        print(f"  {word.usage(name)}\n      {word.about}")
    print("\ntrust=True loads a checkpoint as yolo does, which runs whatever is in it; without it nothing is run")
    print("\nEverything else goes to yolo, e.g.:")
    print("  spikeyolo train model=ibra-spikeyolo-p.yaml data=photo-digits.yaml imgsz=192")
    print("  spikeyolo predict model=runs/detect/train/weights/best.pt source=image.jpg")
    return 0


WORDS = {
    "checks": Word(checks, {}, "versions, plugin, devices; every problem with its remedy"),
    "photo-digits": Word(
        photo_digits,
        {"path": "photo-digits", "train": 2000, "val": 400, "imgsz": 192, "seed": 0},
        "make the photo-digits data set in a folder and size of your own",
    ),
    "verify": Word(
        verify,
        {"model": "", "reference": "", "source": "", "images": 8, "webassembly": "", "trust": False},
        "prove what an exported graph is: spike-driven, exact, equal to reference=best.pt, for any image",
    ),
    "report": Word(
        report,
        {"model": "", "data": "", "source": "", "images": 200, "imgsz": 0, "split": "val", "preset": "", "device": ""}
        | {"project": "", "name": "report", "trust": False},
        "count spikes exactly and estimate energy; model=a.pt,b.pt,c.onnx compares; imgsz=0: as trained; presets: all",
    ),
    "demo": Word(
        demo,
        {"source": "", "model": "ibra-spikeyolo-p.pt", "imgsz": 0, "conf": 0.25, "iou": 0.7, "layer": ""}
        | {"preset": "45nm-float32", "show": "auto", "save": "auto", "device": "", "project": "", "name": "demo"}
        | {"trust": False},
        "boxes, spike planes and modelled energy on a camera (source=0), video, stream or folder; a clip by default",
    ),
    "import": Word(
        import_,
        {"model": "", "neuron": "", "project": "", "name": ""},
        "read an official SpikeYOLO checkpoint, running nothing in it; neuron=ibra: same weights, other neurons",
    ),
    "convert": Word(
        convert,
        {"model": "", "data": "", "bits": 0, "D": 0.0, "N": 0.0, "percentile": 0.0}
        | {"per_layer": True, "power_of_two": True, "batchnorm": False, "table": False, "images": 128, "imgsz": 0}
        | {"batch": 16, "device": "", "project": "", "name": "", "trust": False},
        "make a trained ANN spiking, without training: 8 bits by default; D=5.11 N=100: one range, as in the paper",
    ),
    "coco": Word(
        coco,
        {"model": "", "images": "", "annotations": "", "imgsz": 0, "batch": 16, "conf": 0.001, "iou": 0.7}
        | {"max_det": 300, "device": "", "save_json": "", "skip_missing": False, "trust": False},
        "COCO metrics (pycocotools) of a .pt or .onnx on a COCO-format annotation file",
    ),
    "help": Word(show_help, {}, "this text"),
}


BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def parse_arguments(name: str, word: Word, arguments: list[str]) -> dict[str, Any]:
    """Return the arguments of a word, defaults filled in.

    Raises:
        ValueError: For an unknown argument or a value of another type.
    """
    values = dict(word.arguments)
    usage = word.usage(name)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in values:
            raise ValueError(f"{argument!r} is not an argument of this word; usage: {usage}")
        kind = type(word.arguments[key])
        try:
            values[key] = BOOLEANS[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            raise ValueError(f"{key} must be of type {kind.__name__}, got {value!r}; usage: {usage}") from None
    return values


def main() -> int:
    """Run the word on the command line; return the exit code, 130 after an interrupt."""
    name, *arguments = sys.argv[1:] or ["help"]
    if name in {"-h", "--help"}:
        name = "help"
    try:
        if word := WORDS.get(name):
            return word.run(**parse_arguments(name, word, arguments))
        return _pass_through(name)
    except (ValueError, OSError, RuntimeError, MemoryError) as e:
        if name in WORDS or isinstance(e, _Refused):
            told = str(e) or "this needs more memory than there is"
            print(f"spikeyolo{f' {name}' if name in WORDS else ''}: {told}", file=sys.stderr)
            return 1
        raise  # as the yolo command does
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


class _Refused(ValueError):
    """What keeps a word from being passed to yolo."""


def _pass_through(name: str) -> int:
    """Hand the command line to the yolo command."""
    from spikeyolo.checks import require_plugin

    try:
        require_plugin()
    except RuntimeError as e:
        raise _Refused(str(e)) from e
    from ultralytics import cfg

    if name not in {*cfg.MODES, *cfg.TASKS, "settings", "cfg", "copy-cfg", "solutions", "version", "login", "logout"}:
        words = ", ".join([*WORDS, *sorted(cfg.MODES)])
        raise _Refused(f"unknown word {name!r}; words are {words} (spikeyolo help says more)")
    cfg.entrypoint()
    return 0


if __name__ == "__main__":
    sys.exit(main())
