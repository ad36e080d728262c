"""The fast paths of the neuron against the equations: blocks on a CPU, the compiled form, the Triton kernels.

Without a GPU the Triton kernels run in Triton's interpreter (TRITON_INTERPRET, set in conftest.py), and are compiled
for GPUs that are not there.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import IBRA, calibrated, write_small

from spikeyolo.neurons import integer, kernels
from spikeyolo.neurons.equations import Dynamics, fire, simulate
from spikeyolo.neurons.integer import IBRALIF

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # its interpreter is NumPy: inf - inf
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def triton_kernels(monkeypatch):
    """Let every neuron use the Triton kernels."""
    pytest.importorskip("triton")
    from spikeyolo.neurons import triton_kernels

    monkeypatch.setattr(kernels, "_triton", lambda x: triton_kernels)
    return triton_kernels


def potentials(shape, D, N, *, dtype=torch.float32, device="cpu"):
    """Draw currents in which every tie, every edge of the gradient window, infinities and NaN occur."""
    x = torch.randn(shape, dtype=torch.float64) * D
    ties = (torch.arange(-2, round(D * N) + 3).double() + 0.5) / N
    edges = torch.tensor([0.0, -0.0, D, -1e-30, torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    special = torch.cat([ties, edges])
    x.view(-1)[torch.randperm(x.numel())[: x.numel() // 2]] = special[torch.randint(len(special), (x.numel() // 2,))]
    return x.to(dtype).to(device).requires_grad_()


def reference(x, D, N, T, decay):
    """Compute spike values and gradient by `simulate`, with the window written as in the paper."""
    inside = []

    def emit(v):
        inside.append((v >= 0) & (v <= torch.tensor(round(D * N) / N, dtype=v.dtype)))
        return fire(v, dynamics) / N

    dynamics = Dynamics(N, round(D * N), T, decay)
    spikes = simulate(x.detach(), emit, dynamics)
    return spikes, inside


def reference_gradient(grad, inside, decay):
    steps = list(grad.chunk(len(inside)))
    following = torch.zeros_like(steps[0])
    for t in reversed(range(len(steps))):
        following = steps[t] * inside[t] + decay * following
        steps[t] = following
    return torch.cat(steps)


def check(x, D, N, T, decay):
    """Compare the neuron, forward and backward, with the reference."""
    out = IBRALIF(D, N, T=T, decay=decay)(x)
    spikes, inside = reference(x, D, N, T, decay)
    assert torch.equal(out.detach().nan_to_num(-7), spikes.to(out.dtype).nan_to_num(-7))
    grad = torch.randn_like(out)
    out.backward(grad)
    assert x.grad.dtype == x.dtype
    assert x.grad.stride() == x.stride()
    expected = reference_gradient(grad.to(spikes.dtype), inside, decay)
    assert torch.equal(x.grad == 0, expected.to(x.dtype) == 0)  # the windows, whatever the rounding
    torch.testing.assert_close(x.grad, expected.to(x.dtype))


NUMBERS = st.sampled_from([(5.11, 100.0), (4.0, 1.0), (1.0, 1.0), (511.0, 1.0), (0.875, 8.0), (7.3, 10.0)])


@given(NUMBERS, st.integers(1, 8), st.integers(1, 5), st.sampled_from([0.0, 0.25, 0.3, 1.0]), st.integers(1, 500))
def test_blocks_equal_the_equation(number, T, images, decay, cached):
    x = potentials((T * images, 3, 5, 4), *number)
    before, kernels.CACHED = kernels.CACHED, cached
    try:
        check(x, *number, T, decay)
    finally:
        kernels.CACHED = before


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("T", [1, 3])
def test_blocks_in_every_dtype(dtype, T, monkeypatch):
    monkeypatch.setattr(kernels, "CACHED", 700)
    check(potentials((2 * T, 8, 9, 7), 5.11, 100.0, dtype=dtype), 5.11, 100.0, T, 0.3)


@pytest.mark.parametrize("T", [1, 2])
def test_any_strides(T, monkeypatch):
    monkeypatch.setattr(kernels, "CACHED", 100)
    base = potentials((4, 6, 8, 5), 5.11, 100.0).detach()
    for x in (
        base.to(memory_format=torch.channels_last),
        base.transpose(1, 3),
        base[:, ::2],
        base[:, :1].expand(4, 3, 8, 5),
    ):
        grown = x.clone().requires_grad_()
        expected = IBRALIF(T=T)(grown)
        grad = torch.randn(expected.shape).transpose(2, 3).contiguous().transpose(2, 3)  # another layout than x
        expected.backward(grad)
        strided = x.detach().requires_grad_()
        out = IBRALIF(T=T)(strided)
        out.backward(grad)
        assert torch.equal(out.nan_to_num(-7), expected.nan_to_num(-7))
        assert torch.equal(strided.grad, grown.grad)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (4, 0, 4, 4), (4,), (4, 3)])
def test_any_shape(shape):
    for T in (1, 2):
        x = torch.rand(shape, requires_grad=True)
        IBRALIF(T=T)(x).sum().backward()
        assert x.grad.shape == x.shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 4])
def test_compiled_form_equals_the_equation(dtype, T):
    x = potentials((2 * T, 3, 9, 7), 5.11, 100.0, dtype=dtype)
    compiled = torch.compile(IBRALIF(T=T, decay=0.3), backend="aot_eager", fullgraph=True)
    spikes, inside = reference(x, 5.11, 100.0, T, 0.3)
    out = compiled(x)
    assert torch.equal(out.nan_to_num(-7), spikes.to(dtype).nan_to_num(-7))
    grad = torch.randn_like(out)
    out.backward(grad)
    torch.testing.assert_close(x.grad, reference_gradient(grad.to(spikes.dtype), inside, 0.3).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 2, 8])
@pytest.mark.parametrize("number", [(5.11, 100.0), (4.0, 1.0)])
def test_triton_equals_the_equation(triton_kernels, number, dtype, T):
    # 1,183 elements per timestep: neither whole blocks nor whole bytes of windows
    x = potentials((T, 13, 13, 7), *number, dtype=dtype, device=DEVICE)
    # Under autocast: IBRA-LIF answers bfloat16 in float32. (The interpreter cuts bfloat16 off where GPUs round.)
    with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
        check(x, *number, T, 0.3)


def test_triton_rounds_every_code_and_tie(triton_kernels):
    D_N = 2**22 - 1
    k = torch.cat([torch.arange(2048), torch.arange(D_N - 2048, D_N + 1)]).double()
    v = torch.cat([k, k + 0.5]).float().to(DEVICE)
    spikes, _ = triton_kernels.emit(v, Dynamics(1.0, D_N), torch.float32)
    assert torch.equal(spikes, fire(v, Dynamics(1.0, D_N)))


@pytest.mark.parametrize("T", [1, 2])
def test_triton_keeps_channels_last_and_takes_any_gradient(triton_kernels, T):
    x = torch.randn(4, 8, 6, 5, device=DEVICE).to(memory_format=torch.channels_last).requires_grad_()
    out = IBRALIF(T=T)(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn(4, 8, 6, 5, device=DEVICE)  # contiguous
    out.backward(grad)
    spikes, inside = reference(x, 5.11, 100.0, T, 0.25)
    assert torch.equal(out, spikes)
    torch.testing.assert_close(x.grad, reference_gradient(grad, inside, 0.25))


def test_triton_under_autocast(triton_kernels):
    x = (torch.rand(4, 8, 6, 6, device=DEVICE) * 6).half().requires_grad_()
    with torch.autocast(DEVICE, torch.float16):
        out = IBRALIF(T=2)(x)
    assert out.dtype == torch.float16
    spikes, _ = reference(x, 5.11, 100.0, 2, 0.25)
    assert torch.equal((out.double() * 100).round(), (spikes.double() * 100).round())


@pytest.mark.parametrize(("path", "bits"), [("blocks", 8), ("triton", 1)])
@pytest.mark.parametrize("T", [1, 2])
def test_bits_kept_for_backward(request, path, bits, T):
    if path == "triton":
        request.getfixturevalue("triton_kernels")
    saved = []
    x = torch.randn(4, 8, 16, 16, device=DEVICE, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        IBRALIF(T=T)(x)
    assert sum(t.numel() * t.element_size() for t in saved) * 8 == x.numel() * bits


def test_falls_back_to_pytorch_with_a_warning(triton_kernels, monkeypatch):
    def fail(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(triton_kernels, "emit", fail)
    kernels._triton_on.cache_clear()
    with pytest.warns(UserWarning, match=r"Triton cannot compile for cpu \(RuntimeError: no compiler\).*Remedy"):
        assert kernels._triton_on(torch.device("cpu")) is None
    monkeypatch.setitem(sys.modules, "spikeyolo.neurons.triton_kernels", None)  # as where there is no triton
    monkeypatch.delattr("spikeyolo.neurons.triton_kernels")
    kernels._triton_on.cache_clear()
    assert kernels._triton_on(torch.device("cpu")) is None
    kernels._triton_on.cache_clear()


COMPILE = """
import re, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from spikeyolo.neurons import triton_kernels

def compile(kernel, types, T, capability, **more):
    names = kernel.arg_names
    constants = {"T": T, "BLOCK": triton_kernels.BLOCK, **more}
    kinds = {name: "constexpr" for name in constants} | {"n": "i64", "n_bytes": "i64"}
    kinds["scale"] = "*fp32" if more.get("BY_ADDRESS") else "fp32"
    types = [*types, *[kinds.get(name, "fp32") for name in names[3:]]]
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name.endswith("_ptr") or name == "n"}
    source = ASTSource(kernel, dict(zip(names, types)), constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=triton_kernels.OPTIONS).asm

for capability in (75, 90):
    for x, o in (("*fp32", "*fp32"), ("*fp16", "*fp16"), ("*bf16", "*fp32")):
        for T in (1, 4):
            asm = [compile(triton_kernels._emit, (x, o, "*u8"), T, capability, BY_ADDRESS=a) for a in (False, True)]
            asm.append(compile(triton_kernels._pull_back, (o, "*u8", x), T, capability))
            for a in asm:
                assert a["cubin"]
                assert "fma" not in a["ptx"]
                assert re.search(r"ld.global\\S*.v4", a["ptx"]) and re.search(r"st.global\\S*.v4", a["ptx"])
print("compiled")
"""


@pytest.mark.slow
def test_triton_compiles_for_gpus_without_fused_multiply_add(tmp_path):
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.stdout == "compiled\n", done.stderr


@pytest.mark.parametrize("T", [1, 2])
def test_training_is_that_of_the_equations(tmp_path, photos, T, monkeypatch):
    def losses():
        torch.manual_seed(0)
        network = calibrated(write_small(tmp_path / "small.yaml", IBRA | {"T": T}), photos).model.train()
        network.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        batch = {"img": photos, "batch_idx": torch.arange(8.0), "cls": torch.arange(8.0)[:, None] % 3}
        batch["bboxes"] = torch.tensor([0.5, 0.5, 0.4, 0.4]).expand(8, 4)
        for _ in range(4):
            optimizer.zero_grad()
            loss = network(batch)[0].sum()
            loss.backward()
            optimizer.step()
            yield loss.item()

    def textbook(x, dynamics, dtype):
        def emit(v):
            inside = v.clamp(0, dynamics.D)  # its gradient is the window
            return inside + (fire(v.detach(), dynamics) / dynamics.N - inside).detach()

        v, *currents = x.chunk(dynamics.T)
        spikes = [emit(v)]
        for current in currents:
            v = dynamics.decay * (v - spikes[-1].detach()) + current
            spikes.append(emit(v))
        return torch.cat(spikes)

    ours = list(losses())
    monkeypatch.setattr(integer, "straight_through", textbook)
    assert ours == pytest.approx(list(losses()), rel=1e-4)
    assert len(set(ours)) == 4
