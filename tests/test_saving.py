"""Saved networks load unchanged, and files cannot do anything else."""

import copy
import functools
import json
import pickle
import random
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from files import edited, saved, small, with_bytes
from huggingface_hub import ModelHubMixin, PyTorchModelHubMixin
from pyro.distributions import transforms as flows
from pyro.nn import PyroModule
from safetensors import safe_open
from table import (
    CONTEXT,
    COVERING,
    FACTORIZATIONS,
    FAMILIES,
    ORDERINGS,
    VECTORS,
    Plain,
    build,
    condition,
)
from torch import nn
from torch.distributions import AffineTransform, ComposeTransform, ExpTransform, constraints
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import ardist as ad
from ardist import families as fam
from ardist import networks, rules
from ardist.specification import Reader, Writer

FOREIGN = ("foreign", "masked-module")  # refused: their constructors take modules
PAIRS = list(dict.fromkeys(("made" if net in FOREIGN else net, fac) for net, fac in COVERING))


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def check_round_trip(network, classes=()):
    """The loaded network has the specification, the state, the draws and the scores."""
    loaded = ad.load(saved(network), classes=classes)
    assert loaded.to_spec() == network.to_spec()
    assert same_state(loaded, network)
    drawn, scored = [], []
    for net in (network.eval(), loaded):
        torch.manual_seed(1)
        p = condition(net)
        drawn.append(p.sample((3,)))
        scored.append(p.log_prob(drawn[0]))
    assert torch.equal(*drawn)
    assert torch.equal(*scored)
    return loaded


@pytest.mark.parametrize(("network", "factorization"), PAIRS)
def test_a_network_returns(network, factorization):
    check_round_trip(build(network, factorization), [Plain])


@pytest.mark.slow
@pytest.mark.parametrize(("network", "factorization"), COVERING)
def test_a_network_with_a_context_returns(network, factorization):
    if network in FOREIGN:
        with pytest.raises(ValueError, match="to keep the argument 'fac'"):
            build(network, factorization, CONTEXT).to_spec()
    else:
        check_round_trip(build(network, factorization, CONTEXT), [Plain])


VALUES = {
    **{f"ordering {name}": value for name, value in ORDERINGS.items()},
    "a step of two": ad.Ordering.random(1, per_step=2),
    **{f"family {name}": value for name, value in (FAMILIES | VECTORS).items()},
    **{
        f"factorization {name}": value
        for name, value in FACTORIZATIONS.items()
        if "nested" not in name  # equal if their networks are the same object
    },
    "patches of one size": ad.Partition.patches(2),
    **{f"partition {f.partition!r}": f.partition for f in FACTORIZATIONS.values()},
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_returns(name):
    value = VALUES[name]
    assert Reader("spec").read(json.loads(json.dumps(value.to_spec()))) == value


@dataclass(frozen=True)
class Holding(fam.Normal):
    """A user's family with an argument of any kind."""

    held: Any = field(default=None, compare=False)


def square(x):
    return x * x


def through_json(value):
    writer = Writer()
    spec = json.loads(json.dumps(writer.write(Holding(held=value), "family")))
    return Reader("spec", [Holding, *writer.classes.values()]).read(spec).held


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, -0.5, "x", float("inf"), (1, (2.5, "y"), ()), frozenset({1, 2})),
        *({"a": (1, 2), 3: None}, torch.relu, nn.functional.gelu, square, Plain),
        *(torch.distributions.Normal, constraints.positive, flows.LeakyReLUTransform),
        *(AffineTransform(1.0, 2.0, event_dim=1), ExpTransform().inv, FACTORIZATIONS["labels"]),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_an_argument_returns(value):
    assert through_json(value) == value


ACTIVATIONS = [nn.LeakyReLU(0.3), nn.PReLU(), nn.Hardtanh(-2.0, 2.0), nn.ReLU(True), nn.Tanh()]


@pytest.mark.parametrize(
    "activation",
    [*ACTIVATIONS, *(getattr(nn.functional, name) for name in ("relu", "selu", "sigmoid", "tanh"))],
)
def test_a_network_with_an_activation_returns(activation):
    check_round_trip(small(activation=activation))


def test_an_argument_without_equality_returns():
    interval = through_json(constraints.interval(0.0, 1.0))
    assert repr(interval) == "Interval(lower_bound=0.0, upper_bound=1.0)"
    composed = through_json(ComposeTransform([ExpTransform(), AffineTransform(0.0, 3.0).inv]))
    assert composed(torch.zeros(())) == torch.tensor(1 / 3)
    numbers = torch.tensor([[float("nan"), -float("inf"), 1e-42]], dtype=torch.bfloat16)
    assert through_json(numbers).dtype == torch.bfloat16
    torch.testing.assert_close(through_json(numbers), numbers, rtol=0, atol=0, equal_nan=True)
    for module in ACTIVATIONS:
        assert repr(through_json(module)) == repr(module)


@pytest.mark.parametrize("value", [functools.partial(torch.add, 1), np.zeros(3), object(), 1j])
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match=r"to_spec: expected a value that JSON can hold as"):
        Holding(held=value).to_spec()


COLUMNS = {"age": fam.Normal(), "job": fam.Categorical(3), "sex": fam.Bernoulli()}
RULES = {
    "end": (rules.End(2, pad=0), fam.Categorical(3)),
    "distinct": (rules.Distinct(), fam.Categorical(4)),
    "sum": (rules.Sum(2), fam.Bernoulli()),
    "automaton": (rules.Automaton([[0, 1], [1, 0]], {0}), fam.Bernoulli()),
    "regex": (rules.Automaton.regex("a(b|c)*", "abc", end=2), fam.Categorical(3)),
    "within": (rules.Within(age=(0.5, None), job={0, 2}), COLUMNS),
    "when": (rules.When("sex", {1}, age=0.0, job=1), COLUMNS),
    "all": (rules.All(rules.Within(age=(None, 1.0)), rules.Within(job={1})), COLUMNS),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_returns(name):
    rule, families = RULES[name]
    if isinstance(families, dict):
        ordering = ad.Ordering.permutation([2, 0, 1])
        fac = ad.Factorization.columns(families, rule=rule, ordering=ordering)
    else:
        fac = ad.Factorization(4, families, rule=rule)
    loaded = check_round_trip(networks.MADE(fac, hidden_features=8))
    assert loaded.factorization == fac
    assert loaded.factorization.rule == rule


# Objects that are held in two places.


def test_a_shared_network_stays_one():
    inner = build("made", "normal-raster", CONTEXT)
    nested = ad.Factorization.columns(a=fam.Nested(inner), b=fam.Normal(), c=fam.Nested(inner))
    net = networks.MADE(nested, hidden_features=8)
    loaded = check_round_trip(net)
    assert len(loaded.nested) == 1
    assert len({id(f.network) for f in loaded.factorization.families[::2]}) == 1


def test_a_network_inside_a_network_inside_a_network_returns():
    inner = small(context_shape=(3,))
    middle = ad.Factorization((2, 3), fam.Nested(inner), partition=ad.Partition.along(0))
    middle = networks.RNN(middle, hidden_size=4, context_shape=(2,))
    outer = ad.Factorization((2, 2, 3), fam.Nested(middle), partition=ad.Partition.along(0))
    check_round_trip(networks.RNN(outer, hidden_size=4))


def test_shared_tensors_stay_one():
    rate = fam.Parametric(torch.distributions.Gamma, fixed={"rate": torch.tensor(2.0)})
    scaled = fam.Transformed(fam.Normal(), AffineTransform(torch.zeros(()), torch.tensor(3.0)))
    fac = ad.Factorization.columns(a=rate, b=scaled, c=rate, d=scaled)
    loaded = check_round_trip(networks.MADE(fac, hidden_features=8))
    assert len(loaded.factorization.layout.distinct) == 2


class Tied(networks.ConditionalNetwork):
    """One parameter under two names."""

    def __init__(self, factorization):
        super().__init__(factorization)
        self.scale = nn.Parameter(torch.randn(()))
        self.again = self.scale

    def forward(self, blocks, context=None, ranks=None):
        earlier = blocks.cumsum(1) - blocks
        return torch.stack((self.scale * earlier, torch.zeros_like(blocks)), -1)


def test_tied_parameters_stay_one():
    net = Tied(FACTORIZATIONS["normal-raster"])
    loaded = check_round_trip(net, [Tied])
    assert loaded.scale is loaded.again
    with safe_open(saved(net), "pt") as file:
        assert "again" not in file.keys()  # noqa: SIM118


# Kinds of networks.


def test_wrappers_are_looked_through(tmp_path):
    net = build("made", "columns")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        wrapped = [DistributedDataParallel(net), torch.compile(DistributedDataParallel(net))]
        wrapped += [torch.compile(net), AveragedModel(net), AveragedModel(torch.compile(net))]
        for module in wrapped:
            loaded = ad.load(saved(module))
            assert type(loaded) is networks.MADE
            assert same_state(loaded, net)
    finally:
        torch.distributed.destroy_process_group()


def test_a_pyro_module_is_written_as_its_base():
    fac = FACTORIZATIONS["columns"]
    net = PyroModule[networks.MADE](fac, hidden_features=8)
    loaded = ad.load(saved(net))
    assert type(loaded) is networks.MADE
    assert same_state(loaded, net)


class Halves(networks.MADE):
    def __init__(self, factorization, width=8):
        super().__init__(factorization, hidden_features=(width // 2, width - width // 2))


class Cooperative:
    def __init__(self, *args, note="", **kwargs):
        super().__init__(*args, **kwargs)
        self.note = note


class Noted(Cooperative, Halves):
    pass


def test_subclasses_and_mixins_keep_their_own_arguments():
    loaded = ad.load(saved(Halves(FACTORIZATIONS["columns"], 6)), classes=[Halves])
    assert loaded.to_spec()["args"]["width"] == 6
    assert type(loaded) is Halves
    net = Noted(FACTORIZATIONS["columns"], width=4, note="x")
    loaded = ad.load(saved(net), classes=[Noted])
    assert (loaded.note, type(loaded)) == ("x", Noted)
    assert same_state(loaded, net)


def test_copies_can_be_saved():
    net = build("rnn-lstm", "columns")
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert same_state(ad.load(saved(other)), net)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_dtype_returns(dtype):
    check_round_trip(build("markov", "gamma-2").to(dtype))
    mixed = build("made", "columns").to(dtype)
    mixed.head.float()
    assert same_state(ad.load(saved(mixed)), mixed)


def test_constants_have_the_precision_in_which_they_were_made(float64):
    net = build("markov", "gamma-2")
    path, x = saved(net), net.condition().sample((3,))
    torch.set_default_dtype(torch.float32)
    assert torch.equal(ad.load(path).condition().log_prob(x), net.condition().log_prob(x))
    assert torch.get_default_dtype() is torch.float32


def test_weights_in_another_memory_format_return():
    net = build("pixelcnn", "image-raster").to(memory_format=torch.channels_last)
    assert not all(weight.is_contiguous() for weight in net.parameters())
    assert same_state(ad.load(saved(net)), net)


def test_the_device_is_chosen():
    loaded = ad.load(saved(), map_location="meta")
    assert {parameter.device.type for parameter in loaded.parameters()} == {"meta"}


def test_loading_changes_nothing_around_it():
    path = saved(build("made", "discretized-2"))
    before = torch.get_rng_state(), random.getstate()
    loaded = ad.load(path)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_a_new_process_gives_the_same_score(tmp_path):
    net = build("transformer", "columns-permuted").eval()
    x = net.condition().sample((5,))
    torch.save((x, net.condition().log_prob(x).detach()), tmp_path / "scores.pt")
    program = f"""
import torch, ardist as ad
x, scores = torch.load({str(tmp_path / "scores.pt")!r})
assert torch.equal(ad.load({str(saved(net))!r}).condition().log_prob(x), scores)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


# Files.


def test_the_metadata_of_a_file_can_be_saved_again(tmp_path):
    net, path = small(), tmp_path / "net.safetensors"
    ad.save(net, path, metadata={"columns": "[1]"})
    with safe_open(path, "pt") as file:
        first = file.metadata()
    ad.save(net, path, metadata=first)
    with safe_open(path, "pt") as file:
        assert file.metadata() == first
    ad.load(path)


def test_a_file_that_could_not_be_read_does_not_replace_another(tmp_path):
    net, path = small(), tmp_path / "net.safetensors"
    ad.save(net, path)
    with pytest.raises(ValueError, match=r"^metadata: expected 16 MiB at most"):
        ad.save(net, path, metadata={"columns": "x" * 2**24})
    ad.load(path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_texts_stand_in_the_metadata(tmp_path):
    path = tmp_path / "made.safetensors"
    ad.save(small(), path, metadata={"columns": "[1]"})
    with safe_open(path, "pt") as file:
        assert file.metadata()["columns"] == "[1]"
        assert file.metadata()["format"] == "pt"


def test_a_refused_network_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "made.safetensors"
    ad.save(small(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="<lambda>"):
        ad.save(small(activation=lambda x: x), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        ad.load(tmp_path / "none.safetensors")


# Damaged and malicious files.


def test_every_damage_is_found():
    content = saved().read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 1, 8))):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        if damaged != content:
            check_refused(damaged)
    for _ in range(20):
        check_refused(content[: generator.randrange(len(content))])
    check_refused(content + b"\0")
    check_refused(b"")


def check_refused(content):
    with pytest.raises(ValueError, match=r"^path: "):
        ad.load(with_bytes(bytes(content)))


HOSTILE = (
    *(None, -1, 0, 1, 3, 2**24, 2**40, 2**62, 2**70, 0.5, -1e300, "", "x", [], [2**30] * 3, {}),
    *({"name": "torch.relu"}, {"name": "os.system"}, {"class": "networks.MADE", "args": {}}),
    *({"class": "builtins.eval", "args": {"source": "1"}}, {"same": 0}, {"same": -7}),
    *({"float": "nan"}, {"float": []}, {"set": [[]]}, {"dict": [1]}, {"inverse": 1}),
    *({"tensor": [1.0], "shape": [2**40], "dtype": "float32"}, {"name": "torch.nn.Softmax"}),
    {"class": "families.Categorical", "args": {"num_categories": 2**24}},
    {"class": "families.Nested", "args": {"network": {"name": "networks.MADE"}}},
)


def places(node):
    """The containers and keys of all values of a specification."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, part in items:
        yield node, key
        if isinstance(part, dict | list):
            yield from places(part)


def test_edited_specifications_load_or_are_refused():
    generator = random.Random(1)
    nets = [build("made", "nested-columns"), build("wavenet", "transformed-2")]
    nets += [build("transformer", "columns-ties")]

    def change(spec, tensors, texts):
        node, key = generator.choice([*places(spec)])
        node[key] = generator.choice(HOSTILE)

    results = [attempt(edited(change, generator.choice(nets))) for _ in range(60)]
    errors = [str(result) for result in results if isinstance(result, ValueError)]
    assert all(error.startswith("path: ") for error in errors)
    others = [result for result in results if not isinstance(result, ValueError)]
    assert all(isinstance(net, networks.ConditionalNetwork) for net in others)
    assert len(others) < 20  # some values are as good as those that they replace


def attempt(path):
    try:
        return ad.load(path)
    except ValueError as error:
        return error


def with_families(event_shape, name, **args):
    spec = ad.Factorization(3, fam.Normal()).to_spec()
    spec["args"].update(event_shape=[event_shape], families={"class": name, "args": args})
    return spec


LARGE = {
    "hidden_features": [2**24, 2**24],
    "activation": {"class": "torch.nn.PReLU", "args": {"num_parameters": 2**40}},
    "factorization": with_families(2**18, "families.Normal"),
    "factorization.families": with_families(3, "families.Categorical", num_categories=2**24),
    "hidden_features.length": [4] * 100_000,
}


@pytest.mark.parametrize("name", LARGE)
def test_a_claim_allocates_nothing(name):
    changes = {name.split(".")[0]: LARGE[name]}
    path = edited(lambda spec, tensors, texts: spec["args"].update(changes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="it takes more"):
        ad.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


# By other libraries.


class OfNumbers(networks.MADE, PyTorchModelHubMixin):
    def __init__(self, width=4):
        super().__init__(FACTORIZATIONS["columns"], hidden_features=width)


class OnTheHub(networks.MADE, ModelHubMixin):
    """The recipe of docs/howto/save.md, for a local folder."""

    def _save_pretrained(self, save_directory):
        ad.save(self, save_directory / "model.safetensors")

    @classmethod
    def _from_pretrained(cls, *, model_id, **_):
        return ad.load(f"{model_id}/model.safetensors", classes=[cls])


@pytest.mark.parametrize("name", ["columns", "nested-columns", "scalar"])
def test_the_mixin_of_the_hub_takes_any_argument(tmp_path, name):
    net = OnTheHub(FACTORIZATIONS[name], hidden_features=(6,), activation=torch.tanh)
    net.save_pretrained(tmp_path)
    again = OnTheHub.from_pretrained(tmp_path)
    assert again.to_spec() == net.to_spec()
    assert same_state(again, net)


def test_the_mixin_of_the_hub_saves_into_a_folder(tmp_path):
    net = OfNumbers(width=6)
    net.save_pretrained(tmp_path)
    assert same_state(OfNumbers.from_pretrained(tmp_path), net)
    assert same_state(ad.load(saved(net), classes=[OfNumbers]), net)
