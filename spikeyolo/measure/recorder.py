"""Record what enters every convolution while a network runs, without touching the network."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from ultralytics.engine.model import Model
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.modules.block import DFL, Attention

from spikeyolo.blocks import RepChain, SepChain, factored
from spikeyolo.deployment import CodeNeuron, IntegerConv
from spikeyolo.measure.spikes import LayerSpikes, Recording, Synapse
from spikeyolo.neurons import IBRALIF

NEURON, PART, OTHER = "", "(part)", "(other)"  # roles of modules that are not counted by name


@contextlib.contextmanager
def record_spikes(model: Any) -> Iterator[Recording]:
    """Count what enters every convolution of a network, in each of its complete runs within this context.

    The network is not touched: no attribute, no hook of its own. What comes straight from a neuron is counted as codes,
    everything else as real. A re-parameterised convolution counts as the dense 3x3 convolution that it is when
    deployed.

    Args:
        model: Any torch module (each call of it is a run; with T > 1 its input holds the timesteps, unless it begins
            with a `SpikeEncoder`), or a `YOLO` object with a torch network (its predictions and validations, without
            warm-up, and calls of its ``model``).

    Yields:
        Recording, which grows with every run.

    Raises:
        TypeError: If there is no torch network.
    """
    of_yolo = isinstance(model, Model)
    network = model.model if of_yolo else model
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"record_spikes takes a torch network or a YOLO object that holds one, got {network!r}; "
            "an exported file is counted by: spikeyolo report model=FILE source=IMAGES"
        )
    recorder = _Recorder(network, of_yolo)
    warmup = AutoBackend.warmup
    with contextlib.ExitStack() as stack:
        stack.enter_context(register_module_forward_pre_hook(recorder.enter))
        stack.enter_context(register_module_forward_hook(recorder.leave))
        stack.callback(setattr, AutoBackend, "warmup", warmup)
        AutoBackend.warmup = recorder.without(warmup)
        yield recorder.recording


class _Recorder:
    """The two hooks that see every module of the process run; they count those of one network."""

    def __init__(self, network: nn.Module, of_yolo: bool):
        self.recording = Recording()
        self.network, self.of_yolo = network, of_yolo
        self.root: nn.Module | None = None  # the network, or a predictor's copy of it, while it runs
        self.paused = False
        self.learned: nn.Module | None = None  # the root whose modules these are:
        self.roles: dict[nn.Module, str] = {}
        self.T = 1
        self.emitted: dict[int, tuple[Any, nn.Module]] = {}  # by id: a neuron's output, weakly held, and the neuron
        self.layers: dict[str, LayerSpikes] = {}

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Notice the start of a run."""
        if not self.paused and (module is self.network or (self.of_yolo and self._is_copy(module))):
            self.root, self.layers, self.emitted = module, {}, {}
            if module is not self.learned:
                self._learn(module)

    def without(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same, but whose runs do not count."""

        @functools.wraps(function)
        def uncounted(*args: Any, **kwargs: Any) -> Any:
            self.paused = True
            try:
                return function(*args, **kwargs)
            finally:
                self.paused = False

        return uncounted

    def _is_copy(self, module: nn.Module) -> bool:
        """Return whether a module is the copy of the network that Ultralytics predicts with."""
        return type(module) is type(self.network) and getattr(module, "yaml", 0) == getattr(self.network, "yaml", 1)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """Count what has entered a convolution; at the end of the run keep its counts."""
        if self.root is None:
            return
        if module not in self.roles:  # it was fused after the last run
            self._learn(self.root)
        role = self.roles.get(module, OTHER)
        if role == NEURON:
            self.emitted[id(output)] = weakref.ref(output), module
        elif role == OTHER:
            weight = getattr(module, "weight", None)
            if weight is not None and weight.ndim > 1 and inputs and self._source(inputs) is not None:
                self.recording.uncounted.add(type(module).__name__)
        elif isinstance(module, Attention):
            dims = module.num_heads, module.key_dim, module.head_dim
            layer = LayerSpikes.attention(role, self.T, inputs[0].shape, dims)
            self.layers[layer.name] = layer
        elif role != PART:
            self._count(role, module, inputs, output)
        if module is self.root:
            self.recording.add(self.layers)
            self.root, self.layers, self.emitted = None, {}, {}

    def _learn(self, root: nn.Module) -> None:
        """Find out what each module of a network is."""
        self.learned, self.roles = root, dict(_roles(root))
        self.T = max((m.T for m in self.roles if isinstance(m, (IBRALIF, CodeNeuron))), default=1)

    def _source(self, inputs: Any) -> nn.Module | None:
        """Return the neuron that has just emitted an input."""
        held, neuron = self.emitted.get(id(inputs[0]), (None, None))
        return neuron if held is not None and held() is inputs[0] else None

    @torch.no_grad()
    def _count(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        neuron, x = self._source(inputs), inputs[0].detach()
        if isinstance(neuron, CodeNeuron):
            D_N, N, T, codes = neuron.D_N, neuron.N, neuron.T, x
        elif isinstance(neuron, IBRALIF):
            D_N, N, T, codes = neuron.D_N, neuron.N, neuron.T, (x * neuron.N).round_() + neuron.rest
        else:
            D_N, N, T, codes = 0, 0.0, self.T, x != 0
        binary = D_N == 1 or (isinstance(module, IntegerConv) and module.spike_driven)
        operand = "real" if not D_N else "binary" if binary else "code"
        synapse = _deployed(module)
        if isinstance(neuron, IBRALIF) and neuron.rest and isinstance(synapse, nn.Conv2d):
            synapse, codes = bordered(synapse, codes, neuron.rest)
        layer = LayerSpikes.of((name, operand, D_N, N, T), codes, synapse, output.numel())
        self.layers[name] = self.layers[name] + layer if name in self.layers else layer


def _roles(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Walk over modules: what is counted by its name, else one of the roles above.

    A chain of linear layers is one convolution; the decoder's expectation (DFL) is none, it has no weights to learn.
    """
    whole = None
    for name, module in model.named_modules():
        if whole is not None and name.startswith(f"{whole}."):
            yield module, PART
        elif isinstance(module, (IBRALIF, CodeNeuron)):
            yield module, NEURON
        elif isinstance(module, (RepChain, SepChain, DFL)):
            whole = name
            yield module, PART if isinstance(module, DFL) else name
        elif isinstance(module, (nn.Conv2d, nn.Linear, Attention)):
            yield module, name or type(module).__name__
        else:
            yield module, OTHER


def bordered(conv: nn.Conv2d, codes: Tensor, rest: int) -> tuple[nn.Conv2d, Tensor]:
    """Return a convolution without padding, and its codes with a border that means 0, as in deploy form."""
    height, width = (side for side in conv.padding if isinstance(side, int))
    shape = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, 0, conv.dilation, conv.groups
    return nn.Conv2d(*shape, device="meta"), nn.functional.pad(codes, (width, width, height, height), value=rest)  # pyright: ignore[reportArgumentType]


def _deployed(module: nn.Module) -> Synapse:
    """Return the convolution that a module is when deployed."""
    if isinstance(module, (RepChain, SepChain)):
        first, *_, last = (layer for layer in module.layers() if isinstance(layer, nn.Conv2d))
        return factored(nn.Conv2d(first.in_channels, last.out_channels, 3, padding=1, device="meta"), module.layers())
    assert isinstance(module, (nn.Conv2d, nn.Linear))
    return module
