"""What spiking models do at moments of Ultralytics' trainer, predictor and exporter; `spikeyolo.plugin` registers it.

Callbacks are pickled by reference, which makes DDP workers import the plugin. Nothing heavy is imported before they
run.
"""

from typing import Any

from spikeyolo.plugin.models import is_ours
from spikeyolo.plugin.patching import patched
from spikeyolo.processor import keep_memory, use_all_cores


def use_whole_cpu(engine: Any) -> None:
    """Let a spiking model on the CPU use all of it; a callback of trainer and predictor.

    Ultralytics leaves one core to data loader workers, but starts none on a CPU: of two cores one is idle. Convolutions
    are faster in channels_last, above all depthwise ones, and large training steps in kept memory (docs/speed.md).
    """
    import torch

    model = getattr(engine, "model", None)
    model = getattr(getattr(model, "backend", None), "model", model)  # inside AutoBackend
    if str(getattr(engine, "device", "")) != "cpu" or not is_ours(model):
        return
    use_all_cores()
    if isinstance(model, torch.nn.Module):
        model.to(memory_format=torch.channels_last)
    if hasattr(engine, "optimizer"):  # the trainer
        keep_memory()


def prepare_training(trainer: Any) -> None:
    """Use the whole CPU, and keep less for backward if ``checkpoint=True`` asks for it; a callback of the trainer.

    Raises:
        ValueError: If the argument makes no sense.
    """
    use_whole_cpu(trainer)
    check_ranges(trainer)
    drop_repeated_rows(trainer)
    checkpoint = getattr(trainer.args, "checkpoint", False)
    if checkpoint not in (True, False):
        raise ValueError(f"checkpoint must be True or False, got checkpoint={checkpoint}")
    if not checkpoint:
        return
    from ultralytics.utils.torch_utils import unwrap_model

    model = unwrap_model(trainer.model)  # of data-parallel training
    if not is_ours(model):
        raise ValueError("checkpoint=True needs a model with spiking blocks, this one has none; leave it away")
    if trainer.args.compile:
        raise ValueError("checkpoint=True and compile exclude each other: a compiler decides itself; drop one of them")
    from spikeyolo.blocks import SpikeBlock

    for module in model.modules():
        if isinstance(module, SpikeBlock):
            module.checkpoint = True


def drop_repeated_rows(trainer: Any) -> None:
    """Drop the rows of results.csv whose epochs a resumed training trains again.

    Ultralytics writes an epoch's row before its checkpoint: what is killed there has a row too many, or half a row.
    """
    from ultralytics.utils import RANK

    if not (trainer.resume and RANK in {-1, 0} and trainer.csv.is_file() and trainer.csv.stat().st_size):
        return
    from ultralytics.utils.torch_utils import unwrap_model

    from spikeyolo.files import whole_file

    if not is_ours(unwrap_model(trainer.model)):
        return

    header, *rows = trainer.csv.read_text().splitlines(keepends=True)
    by_epoch = {row.split(",")[0].strip(): row for row in rows if row.endswith("\n")}
    kept = [by_epoch[epoch] for epoch in map(str, range(1, trainer.start_epoch + 1)) if epoch in by_epoch]
    if kept != rows:
        with whole_file(trainer.csv, "make it writable") as part:
            part.write_text("".join([header, *kept]))


def check_ranges(trainer: Any) -> None:
    """Refuse to resume a training whose checkpoint holds no ranges of its aligned neurons."""
    from ultralytics.utils.torch_utils import unwrap_model

    from spikeyolo.neurons import check_tracked

    if trainer.resume:
        check_tracked(unwrap_model(trainer.model))


def track_ranges(trainer: Any) -> None:
    """Let aligned neurons track their ranges, but not in the last part of training; at each epoch's start."""
    from ultralytics.utils.torch_utils import unwrap_model

    from spikeyolo.neurons import TRACKED_PART, ranges_of

    for own_range in ranges_of(unwrap_model(trainer.model)):
        own_range.tracking = trainer.epoch < max(1, int(TRACKED_PART * trainer.epochs))


def check_potentials(trainer: Any) -> None:
    """Name the first layer whose potentials are no numbers any more; at each epoch's end, before anything is saved."""
    from ultralytics.utils.torch_utils import unwrap_model

    from spikeyolo.neurons import ranges_of

    for own_range in ranges_of(unwrap_model(trainer.model)):
        own_range.N  # noqa: B018 (raises)


def check_export_arguments(exporter: Any) -> None:
    """Refuse arguments that make no spike graph; a callback of the exporter."""
    from spikeyolo.graph.arguments import check_arguments, writes_graph

    check_arguments(exporter)
    if writes_graph(exporter) and "ultralytics.engine.exporter" not in patched:
        raise RuntimeError(
            "the exporter of this Ultralytics is not patched, so it would write another graph than the one asked for; "
            "spikeyolo checks says why"
        )


CALLBACKS = {
    "on_train_start": prepare_training,
    "on_train_epoch_start": track_ranges,
    "on_train_epoch_end": check_potentials,
    "on_predict_start": use_whole_cpu,  # a validator does not show its model
    "on_export_start": check_export_arguments,
}
