"""An emulated device, which raises an error if its tensors are mixed with the CPU's, as a GPU does.

Its tensors are wrappers around tensors on the CPU. Each operation checks where its arguments are,
computes on the CPU, and wraps the results. `python tests/emulated_device.py` scores, draws and
trains every network of the table with this device as the default one.
"""

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

NAME = "emulated"
aten = torch.ops.aten
_COPIES = {aten.copy_.default, aten._to_copy.default}
_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
_FACTORIES = [
    *("arange", "arange.start", "arange.start_step", "linspace", "logspace", "eye", "eye.m"),
    *("randperm", "randperm.generator", "tril_indices", "triu_indices", "full"),
]
_library = torch.library.Library("aten", "IMPL")


class Emulated(torch.Tensor):
    """A tensor that reports the emulated device as its device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device(NAME, 0),
        )

    def __init__(self, held):
        self.held = held

    def tolist(self):
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {})


def _check_devices(function, args, kwargs):
    """Tensors without dimensions may be on the CPU, and so may indices of tensors on the device."""
    checked = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
    checked += [x for part in args if isinstance(part, list | tuple) for x in part]
    if function.overloadpacket in _INDEXED:
        checked = [x for x in (args[0], *args[2:]) if isinstance(x, torch.Tensor)]
    for x in checked:
        if isinstance(x, torch.Tensor) and not isinstance(x, Emulated) and x.dim() > 0:
            raise RuntimeError(f"expected all tensors on {NAME}, found one on the CPU: {function}")


def _run(function, args, kwargs):
    device = kwargs.get("device")
    if function not in _COPIES:
        _check_devices(function, args, kwargs)
    if function is aten.copy_.default:
        stays = not isinstance(args[0], Emulated)
    else:
        stays = device is not None and torch.device(device).type != NAME
    inner = tree_map_only(Emulated, lambda x: x.held, (args, kwargs))
    inner = tree_map_only(
        torch.device, lambda x: torch.device("cpu") if x.type == NAME else x, inner
    )
    out = function(*inner[0], **inner[1])
    if stays or function is aten._local_scalar_dense.default:
        return out
    wrapped = tree_map_only(torch.Tensor, Emulated, out)
    return return_and_correct_aliasing(function, args, kwargs, wrapped)


def _factory(name):
    packet, _, overload = name.partition(".")
    function = getattr(getattr(aten, packet), overload or "default")

    def made(*args, device=None, pin_memory=None, **kwargs):
        return Emulated(function(*args, device=torch.device("cpu"), **kwargs))

    return made


def _empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    return Emulated(torch.empty(size, dtype=dtype, device="cpu"))


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    return Emulated(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source, target, non_blocking=False):
    return _run(aten.copy_.default, (target, source), {})


class _Backend(backend_registration._DummyBackendModule):
    def get_rng_state(self, device=0):
        return torch.default_generator.get_state()

    def set_rng_state(self, state, device=0):
        pass

    def get_amp_supported_dtype(self):
        return [torch.float16, torch.bfloat16]


def start():
    """Registers the device, for the whole process."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    kernels = {name: _factory(name) for name in _FACTORIES}
    kernels |= {"empty.memory_format": _empty, "empty_strided": _empty_strided}
    kernels |= {"_copy_from": _copy_from}
    kernels |= {"copy_": lambda target, source, _=False: _copy_from(source, target)}
    for name, kernel in kernels.items():
        _library.impl(name, kernel, "PrivateUse1")


def check(network, factorization):
    """Scores, draws, gradients and decoders of a network that is built on the device."""
    net = build(network, factorization, CONTEXT)
    p = net.condition(torch.randn(2, *CONTEXT))
    x = p.sample((3,))
    score = p.log_prob(x).sum()
    assert x.device.type == score.device.type == NAME
    if score.requires_grad:
        score.backward()
    if p.has_rsample:
        p.rsample((3,)).sum().backward()
    first = (net.factorization.ranks.flatten() == 0).to(NAME)
    whole = net.factorization.layout.expand_to_elements(first)
    q = p.given(x, net.factorization.merge(whole))
    assert q.log_prob(q.sample()).device.type == NAME
    context = torch.randn(1, *CONTEXT)
    ad.testing.check_decoder(net, context, batch_size=2, tolerance=1e-3)
    if not isinstance(net.factorization.layout.distinct[0], ad.families.Nested):
        ad.testing.check_autoregressive(net, context)


def check_rules():
    """Rules of the library and of the user, orders that differ by row, and training."""
    from fuzz_rules import Balanced

    from ardist import rules

    for rule in (
        Balanced(),
        rules.Sum(3),
        rules.Automaton.regex("0*1*", "01"),
        rules.Automaton.walk([[0, 1], [1, 1]], start=0),
    ):
        fac = ad.Factorization(6, ad.families.Bernoulli(), rule=rule)
        events = fac.enumerate_support()
        nets = [ad.networks.MADE(fac, hidden_features=8), ad.networks.RNN(fac, cell="tanh")]
        for net in nets:
            p = net.condition()
            total = p.log_prob(events).logsumexp(0).item()
            assert abs(total) < 1e-4, (rule, total)
            assert p.support.check(p.sample((20,))).all()
            ad.sampling.beam_search(p, 2)
        if isinstance(rule, rules.Sum):
            free = ad.Factorization(6, ad.families.Bernoulli())
            ad.sampling.smc(ad.networks.MADE(free).condition(), rule, 100)
    fac = ad.Factorization(6, ad.families.Normal())
    net = ad.networks.Transformer(fac, dim=8, depth=1, heads=2)
    orders = torch.rand(3, 6).argsort(-1)
    q = net.condition().with_ordering(orders)
    assert q.log_prob(q.sample((2,))).device.type == NAME
    ad.training.fit(net, q.sample((20,))[:, 0], max_epochs=1, orderings="row", progress=False)


def check_tables():
    """Models of tables, which compute on the CPU."""
    import pandas as pd

    from ardist.tables import TableDensity

    table = pd.DataFrame({"a": [0.1 * i for i in range(60)], "b": ["x", "y", "z"] * 20})
    model = TableDensity(max_epochs=1).fit(table)
    assert model.score_samples(table).shape == (60,)
    assert len(model.sample(5, where={"a": (1.0, 3.0)})) == 5
    assert len(model.impute(table.assign(a=table["a"].where(table["b"] == "x")))) == 60
    model.quantile({"b": "x"}, "a", [0.1, 0.9])


if __name__ == "__main__":
    start()
    import os

    os.environ["ARDIST_TEST_DEVICE"] = NAME
    from table import CONTEXT, COVERING, build

    import ardist as ad

    # On devices other than the CPU, torch has cells of its own for these.
    cases = [case for case in COVERING if case[0] not in ("rnn-gru", "rnn-lstm")]
    failed = 0
    for case in cases:
        try:
            check(*case)
        except Exception as error:
            failed += 1
            print(case, f"{type(error).__name__}: {str(error)[:200]}")
    check_rules()
    check_tables()
    print(f"{len(cases) - failed} of {len(cases)} networks")
    raise SystemExit(bool(failed))
