"""`fit`: it reaches the optimum, keeps the best weights, and gives the same numbers every time."""

import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, TensorDataset

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.specification import Reader
from ardist.training import History, batches, fit, fitting

BITS = ad.Factorization((2, 2), fam.Bernoulli())
LINE = ad.Factorization(4, fam.Bernoulli())
PAIRS = ad.Factorization(2, fam.Normal())


class Foreign(nn.Module):
    """A causal module: the outputs at a place read the inputs up to it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 16))
        self.register_buffer("states", torch.tensor([1.0, 2.0, 4.0, 8.0]))

    def forward(self, blocks):
        index = (blocks * self.states).cumsum(1).long()  # the state up to each place
        return self.weight.T[index, torch.arange(4)].unsqueeze(-1)


NETWORKS = {
    "MADE": lambda: networks.MADE(BITS, hidden_features=32),
    "RNN": lambda: networks.RNN(LINE, hidden_size=16),
    "WaveNet": lambda: networks.WaveNet(LINE, channels=16, depth=3),
    "PixelCNN": lambda: networks.PixelCNN(BITS, channels=16, depth=3),
    "Transformer": lambda: networks.Transformer(BITS, dim=16, depth=2, heads=2),
    "Masked": lambda: networks.Masked(BITS, hidden_features=(64, 64)),
    "Unshared": lambda: networks.Unshared(BITS, hidden_features=(16,)),
    "Markov": lambda: networks.Markov(LINE, window=3, hidden_features=(32,)),
    "FromModule": lambda: networks.FromModule(Foreign(), LINE),
}


def table(name):
    """Rows of four dependent bits, and their entropy, which is the least mean of nats."""
    counts = torch.tensor([9, 1, 1, 4, 2, 2, 6, 1, 1, 5, 2, 1, 3, 1, 1, 8])
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    net = NETWORKS[name]()
    x = states.repeat_interleave(counts, 0).reshape(-1, *net.factorization.event_shape)
    share = counts / counts.sum()
    return net, x, -(share * share.log()).sum()


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_reaches_the_optimum(name):
    """Independent bits cost 0.32 nats more than the optimum."""
    net, x, entropy = table(name)
    lr, warmup, most = {
        "Transformer": (0.03, 50, 0.1),
        "Masked": (0.1, 5, 0.2),  # its objective is a random estimate
    }.get(name, (0.1, 5, 0.02))
    epochs = 120 if name == "Transformer" else 80
    fit(
        *(net, x),
        valid=None,
        max_epochs=epochs,
        batch_size=48,
        lr=lr,
        warmup=warmup,
        progress=False,
    )
    assert not net.training
    assert -1e-5 < -net.condition().log_prob(x).mean() - entropy < most


class Point(nn.Module):
    """A normal density with one parameter, which is called as `LogLikelihood` is."""

    def __init__(self, start=0.0):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(start))

    def forward(self, x):
        return -((x - self.loc) ** 2)


class Rows(Point):
    """Takes rows of any shape."""

    def forward(self, x):
        return super().forward(x.reshape(x.shape[0], -1)).mean(-1)


SGD = {"optimizer": torch.optim.SGD, "warmup": 0, "progress": False}
ONES = torch.ones(4)


def test_early_stopping_keeps_the_best_weights():
    model, valid = Point(), torch.full((3,), 0.5)
    history = fit(model, ONES, valid=valid, lr=0.05, patience=4, **SGD)
    assert len(history.valid) == history.best_epoch + 1 + 4
    assert history.best_epoch > 2
    assert -model(valid).mean().item() == pytest.approx(min(history.valid), rel=1e-6)
    assert abs(model.loc - 0.5) < 0.06


class Fading(Point):
    """Its likelihood becomes NaN, or training stops, after two epochs of one batch."""

    def __init__(self, error):
        super().__init__()
        self.error, self.seen = error, []

    def forward(self, x):
        if self.training:
            self.seen.append(self.loc.item())
            if len(self.seen) > 2 and self.error is KeyboardInterrupt:
                raise KeyboardInterrupt
        return super().forward(x) * (1.0 if len(self.seen) < 3 else torch.nan)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_run_that_breaks_off_keeps_the_best_weights(error):
    model = Fading(error)
    with pytest.raises(error):
        fit(model, ONES, valid=ONES, lr=0.05, **SGD)
    assert not model.training
    assert len(model.seen) == 3
    assert model.loc.item() == model.seen[-1]


def test_without_validation_the_last_weights_stay():
    model = Point()
    history = fit(model, ONES, valid=None, max_epochs=3, lr=0.25, clip=None, **SGD)
    assert history.valid == []
    assert history.best_epoch == 2
    factors = torch.tensor([0.0, 1 / 3, 2 / 3]).mul(torch.pi / 2).cos() ** 2
    assert 1 - model.loc.item() == pytest.approx((1 - 0.5 * factors).prod().item())


def made(**options):
    torch.manual_seed(0)
    return networks.MADE(ad.Factorization(4, fam.Normal()), hidden_features=16, **options)


def gpt():
    torch.manual_seed(0)
    return networks.Transformer(
        ad.Factorization(4, fam.Normal()), dim=8, depth=1, heads=2, dropout=0.1
    )


def masked():
    torch.manual_seed(0)
    return networks.Masked(ad.Factorization(4, fam.Normal()), hidden_features=16, dropout=0.1)


RUNS = {
    "dropout, averaged": (lambda: made(dropout=0.2), {"max_epochs": 6, "average": 0.9}),
    "orders by row": (gpt, {"max_epochs": 6, "orderings": "row", "in_order": 0.5}),
    "random sets": (masked, {"max_epochs": 6, "weight_decay": 0.1}),
    "no end": (made, {"patience": 6, "lr": 0.1}),
    "no state": (made, {"max_epochs": 6, "optimizer": torch.optim.SGD}),
}


def data():
    return torch.randn(90, 4, generator=torch.Generator().manual_seed(0)).cumsum(1)


def run(make, **options):
    net = make()
    history = fit(net, data(), batch_size=32, progress=False, **options)
    return history, net


def assert_same(run, other):
    assert run[0].train == other[0].train
    assert run[0].valid == other[0].valid
    assert run[0].lr == other[0].lr
    pairs = zip(run[1].state_dict().values(), other[1].state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_gives_the_numbers_of_one_that_was_not_stopped(name, tmp_path):
    make, options = RUNS[name]
    path = tmp_path / "run.pt"

    def stop(history):
        if len(history.train) == 3:
            raise StoppedError

    expected = run(make, **options)
    with pytest.raises(StoppedError):
        run(make, **options, checkpoint=path, callbacks=[stop])
    torch.manual_seed(1)
    found = run(make, **options, checkpoint=str(path))
    assert_same(found, expected)
    assert [each.name for each in tmp_path.iterdir()] == ["run.pt"]
    assert_same(run(make, **options, checkpoint=path), expected)  # nothing is left to do
    again = run(make, **options, checkpoint=path, resume=False)
    assert_same(again, expected)


def test_a_resumed_run_does_not_compute_its_start(tmp_path, monkeypatch):
    run(made, max_epochs=2, checkpoint=tmp_path / "run.pt")
    monkeypatch.setattr(networks.MADE, "start_at", lambda *_: pytest.fail("start_at was called"))
    run(made, max_epochs=2, checkpoint=tmp_path / "run.pt")
    with pytest.raises(pytest.fail.Exception):
        run(made, max_epochs=2, checkpoint=tmp_path / "run.pt", resume=False)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_checkpoint_that_was_cut_is_an_error(share, tmp_path):
    path = tmp_path / "run.pt"
    run(made, max_epochs=1, checkpoint=path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match="expected a file that fit has written"):
        run(made, max_epochs=1, checkpoint=path)


def test_a_checkpoint_belongs_to_one_network_and_one_kind_of_run(tmp_path):
    path = tmp_path / "run.pt"
    run(made, max_epochs=1, checkpoint=path)

    def frozen():
        net = made()
        net.head.requires_grad_(False)
        return net

    with pytest.raises(ValueError, match="checkpoint: expected one of this network"):
        run(frozen, max_epochs=2, checkpoint=path)


CHANGES = {
    "lr": {"lr": 0.1},
    "average": {"average": 0.9},
    "weight_decay": {"weight_decay": 5.0},
    "orderings": {"orderings": [ad.Ordering.raster()]},
    "nan_policy": {"nan_policy": "marginalize"},
    "optimizer": {"optimizer": torch.optim.SGD},
    "valid": {"valid": 0.3},
}


@pytest.mark.parametrize("name", [*CHANGES, "betas", "x", "rows of valid"])
def test_a_run_is_not_resumed_as_another(name, tmp_path):
    options = {"batch_size": 32, "checkpoint": tmp_path / "run.pt", "progress": False}
    adam = {"optimizer": partial(torch.optim.AdamW, betas=(0.8, 0.9))}
    before, after, x = {}, CHANGES.get(name, {}), data()
    if name == "betas":
        before, after = adam, {"optimizer": torch.optim.AdamW}
    if name == "rows of valid":
        before, after = {"valid": data()[:9]}, {"valid": data()[1:]}
    fit(made(), x, max_epochs=1, **options, **before)
    if name == "x":
        x = 50 * x + 1000
    label = {"betas": "optimizer", "rows of valid": "valid"}.get(name, name)
    with pytest.raises(ValueError, match=f"expected one of a run with {{'{label}': [^:]*"):
        fit(made(), x, max_epochs=2, **options, **after)


class Noisy(Dataset):
    """Rows that differ each time."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.randn(4)


@pytest.mark.parametrize("x", [Noisy(), DataLoader(Noisy(), 16), data(), data()[:, 0].long()])
def test_a_run_on_the_same_data_is_resumed(x, tmp_path):
    model = Rows()
    options = {"valid": Noisy(), "checkpoint": tmp_path / "run.pt", "progress": False}
    fit(model, x, max_epochs=1, **options)
    assert len(fit(model, x, max_epochs=3, **options).train) == 3


def test_results_depend_on_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = run(lambda: made(dropout=0.2), max_epochs=2)
    torch.manual_seed(6)
    assert_same(first, run(lambda: made(dropout=0.2), max_epochs=2))
    other = run(lambda: made(dropout=0.2), max_epochs=2, seed=1)
    assert first[0].train != other[0].train
    net = made()
    torch.set_rng_state(before)
    fit(net, data(), max_epochs=1, progress=False)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("make", [made, gpt, masked])
def test_gradients_are_on_in_the_call_alone(mode, make):
    expected, net, net_with_valid = run(make, max_epochs=2), make(), make()
    with mode():
        x = data()
        history = fit(net, x, max_epochs=2, batch_size=32, progress=False)
        fit(net_with_valid, x[:80], valid=x[80:], max_epochs=1, progress=False)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert_same((history, net), expected)


@pytest.mark.parametrize("seed", [2**63 - 1, 1 - 2**63])
def test_seeds_at_the_ends_are_taken_in_each_epoch(seed, tmp_path):
    options = {"seed": seed, "checkpoint": tmp_path / "run.pt"}
    run(made, max_epochs=2, **options)
    assert len(run(made, max_epochs=3, **options)[0].train) == 3
    ordering = ad.Ordering.random(seed)
    assert Reader("path").read(ordering.to_spec()) == ordering


def test_the_start_from_a_loader_depends_on_the_seed_alone():
    x = data() + 1
    loader, nets = DataLoader(x, 8, shuffle=True), []
    for state in (0, 1):
        torch.manual_seed(5)
        nets.append(networks.MADE(ad.Factorization(4, fam.Normal()), hidden_features=8))
        torch.manual_seed(state)
        fit(nets[-1], loader, valid=None, max_epochs=1, steps_per_epoch=2, progress=False)
    pairs = zip(*(net.parameters() for net in nets), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


class Items(Dataset):
    """Rows one by one."""

    def __init__(self, *tensors):
        self.tensors = tensors

    def __len__(self):
        return self.tensors[0].shape[0]

    def __getitem__(self, index):
        row = tuple(tensor[index] for tensor in self.tensors)
        return row if len(row) > 1 else row[0]


def test_data_gets_no_gradients():
    x, context = data().requires_grad_(), data()[:, :3].requires_grad_()
    valid = (x[:8].detach(), context[:8].detach())
    net = made(context_shape=(3,))
    fit(net, TensorDataset(x, context), valid=valid, max_epochs=1, progress=False)
    assert x.grad is None
    assert context.grad is None


class Changed(Dataset):
    """The items of another dataset, which it may change one by one."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        assert isinstance(index, int)
        return self.dataset[index]


@pytest.mark.parametrize("has_context", [False, True])
def test_tensors_datasets_and_loaders_agree(has_context):
    context = data()[:, :3] if has_context else None
    tensors = (data(), context) if has_context else (data(),)
    options = {"max_epochs": 2, "batch_size": 32, "progress": False, "seed": 0}

    def result(x, context=None, **more):
        net = made(context_shape=(3,) if has_context else ())
        return fit(net, x, context, **options, **more), net

    expected = result(data(), context)
    for dataset in (TensorDataset(*tensors), Items(*tensors), Changed(Items(*tensors))):
        assert_same(result(dataset), expected)
    assert_same(result(Changed(TensorDataset(*tensors)), valid=None), result(*tensors, valid=None))
    valid = tensors if has_context else tensors[0]
    expected = result(data(), context, valid=valid)
    sampler = DistributedSampler(Items(*tensors), 1, 0, seed=0)
    loader = DataLoader(Items(*tensors), 32, sampler=sampler)
    held = DataLoader(Items(*tensors), 32)
    for sets in ((loader, valid), (loader, held), (TensorDataset(*tensors), Items(*tensors))):
        assert_same(result(sets[0], valid=sets[1]), expected)


@pytest.mark.parametrize("name", ["MADE", "Masked", "Transformer"])
@pytest.mark.parametrize("part", ["x", "valid"])
@pytest.mark.parametrize("number", [torch.inf, torch.nan, 0.5])
def test_an_error_names_the_rows_with_a_wrong_number(name, part, number):
    net, x, _ = table(name)
    sets = {"x": x, "valid": x}
    sets[part] = x.clone()
    sets[part][-1, 0, 0] = number
    with pytest.raises(ValueError, match=rf"^{part}: expected block \(0, 0\) inside the support"):
        fit(net, **sets, max_epochs=1, progress=False)


@pytest.mark.parametrize("is_batch", [False, True])
def test_a_loader_of_each_process_has_a_share_of_the_rows(is_batch, monkeypatch):
    sampler = DistributedSampler(data(), 2, 0)
    options = (
        {"batch_sampler": BatchSampler(sampler, 8, False)} if is_batch else {"sampler": sampler}
    )
    monkeypatch.setattr(batches, "place", lambda: (0, 2))
    loader = batches.make_loader(DataLoader(data(), **options), None, "x")
    assert batches.sampler_of(loader) is sampler


def test_a_stream_has_epochs_of_so_many_steps():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield torch.randn(4)

    net = made()
    loader, seen = DataLoader(Stream(), 16), []
    net.register_forward_hook(lambda module, *args: seen.extend([0] * module.training))
    fit(net, loader, valid=None, max_epochs=3, steps_per_epoch=5, progress=False)
    assert len(seen) == 15


def test_the_bar_of_a_stream_has_no_length(capsys):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(torch.randn(32, 4))

    fit(made(), DataLoader(Stream(), 16), valid=None, max_epochs=2)
    assert "4it" in capsys.readouterr().err


def test_an_epoch_may_end_before_the_pass_does():
    history = run(made, max_epochs=4, steps_per_epoch=2)[0]
    assert len(history.train) == 4
    every = run(made, max_epochs=4, steps_per_epoch=100)[0]
    assert every.train == run(made, max_epochs=4)[0].train


def test_it_learns_from_the_context():
    torch.manual_seed(0)
    context = torch.randn(400, 1)
    x = context * torch.tensor([1.0, -1.0]) + 0.5 * torch.randn(400, 2)
    net = networks.MADE(PAIRS, hidden_features=32, context_shape=(1,))
    history = fit(net, x, context, max_epochs=30, lr=0.02, progress=False)
    truth = torch.distributions.Normal(context * torch.tensor([1.0, -1.0]), 0.5).log_prob(x)
    assert min(history.valid) == pytest.approx(-truth.sum(-1).mean().item(), abs=0.2)


class Orders(ad.LogLikelihood):
    """Keeps the orders that it is called with."""

    def __init__(self, network):
        super().__init__(network)
        self.seen = []

    def forward(self, x, context=None, ordering=None):
        self.seen.append(ordering)
        return super().forward(x, context, ordering)


def test_orders():
    x, options = data(), {"valid": None, "max_epochs": 2, "batch_size": 30, "progress": False}
    model = Orders(gpt())
    fit(model, x, orderings="row", **options)
    ranks = torch.cat(model.seen)
    assert ranks.shape == (180, 4)
    assert torch.equal(ranks.sort(-1).values, torch.arange(4).expand(180, 4))
    assert len(ranks.unique(dim=0)) == 24
    model = Orders(gpt())
    fit(model, x, orderings="row", in_order=0.5, **options)
    natural = (torch.cat(model.seen) == torch.arange(4)).all(-1).float().mean()
    assert natural.item() == pytest.approx(0.5 + 0.5 / 24, abs=0.15)
    model = Orders(gpt())
    fit(model, x, orderings="batch", **options)
    assert [each.shape for each in model.seen] == [(4,)] * 6
    orderings = [ad.Ordering.raster(), ad.Ordering.reverse()]
    model = Orders(gpt())
    fit(model, x, orderings=orderings, **options)
    assert set(model.seen) == set(orderings)
    net = gpt()
    one = [ad.Ordering.random(3)]
    history = fit(net, x, orderings=one, max_epochs=5, lr=0.02, progress=False)
    assert min(history.valid) < history.valid[0]


def test_a_masked_network_in_order():
    """If all rows are in the natural order, that order gains, and the reverse one loses."""
    reverse, nats = ad.Ordering.reverse(), []
    options = {"valid": None, "max_epochs": 80, "batch_size": 48, "warmup": 5, "progress": False}
    for share in (0.0, 1.0):
        net, x, entropy = table("Masked")
        fit(net, x, lr=0.05, in_order=share, **options)
        p = net.condition()
        nats.append([-q.log_prob(x).mean() - entropy for q in (p, p.with_ordering(reverse))])
    assert nats[1][0] < 0.15
    assert nats[1][0] < nats[0][0]
    assert nats[1][1] > nats[0][1]


@pytest.mark.parametrize("name", NETWORKS)
def test_truth_values_and_integers_are_numbers(name):
    net, x, _ = table(name)
    initial = copy.deepcopy(net.state_dict())
    options, histories = {"max_epochs": 1, "progress": False}, []
    for dtype in (torch.float32, torch.bool, torch.int64, torch.uint8):
        net.load_state_dict(initial)
        histories.append(fit(net, x.to(dtype), **options))
    assert all(history.valid == histories[0].valid for history in histories)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_in_half_precision_are_added_up_in_float32(dtype):
    """The sum over 128 rows is beyond the largest number of float16."""
    net = networks.MADE(ad.Factorization(784, fam.Categorical(4)), hidden_features=4).to(dtype)
    x = torch.randint(4, (256, 784), generator=torch.Generator().manual_seed(0))
    history = fit(net, x, valid=x, lr=1e-6, max_epochs=1, progress=False)
    assert history.train == pytest.approx(history.valid, rel=1e-3)


@pytest.mark.parametrize("name", ["Masked", "Transformer"])
def test_missing_values_are_left_out(name):
    net, x, _ = table(name)
    x = x.repeat(10, 1, 1)
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    x[holes] = torch.nan
    with pytest.raises(ValueError, match="inside the support"):
        fit(net, x, max_epochs=1, progress=False)
    options = {"orderings": "row"} if name == "Transformer" else {}
    options |= {"max_epochs": 15, "lr": 0.02, "nan_policy": "marginalize", "progress": False}
    fit(net, x, **options)
    for place in itertools.product(range(2), repeat=2):
        mask = torch.zeros(2, 2, dtype=torch.bool)
        mask[place] = True
        share = net.condition().marginal(mask).log_prob(torch.ones(1)).exp()
        assert share.item() == pytest.approx(x[:, *place].nanmean().item(), abs=0.1)


def test_callbacks_see_each_epoch():
    seen = []
    history = run(
        made, max_epochs=3, callbacks=[lambda h: seen.append((len(h.train), h.valid[-1]))]
    )
    assert seen == list(enumerate(history[0].valid, 1))


def test_averaged_weights_are_validated_and_kept():
    model, options = Point(), {**SGD, "lr": 0.25, "max_epochs": 4, "valid": ONES, "clip": None}
    history = fit(model, ONES, average=0.5, **options)
    loc, average = torch.zeros(()), None
    for epoch in range(4):
        loc = loc + 0.5 * torch.tensor(torch.pi / 8 * epoch).cos() ** 2 * (1 - loc)
        average = loc if average is None else (average + loc) / 2
        assert history.valid[epoch] == pytest.approx(((1 - average) ** 2).item())
    assert model.loc.item() == pytest.approx(average.item())


def test_the_learning_rate():
    model = Point()
    history = fit(model, ONES, valid=None, max_epochs=8, lr=0.1, **{**SGD, "warmup": 4})
    rates = torch.arange(8).mul(torch.pi / 16).cos() ** 2 * torch.tensor([1, 2, 3, 4, 4, 4, 4, 4])
    assert history.lr == pytest.approx((0.1 * rates / 4).tolist())
    valid = torch.full((3,), -1.0)  # each epoch is worse than the first
    history = fit(Point(), ONES, valid=valid, lr=0.1, patience=6, **SGD)
    assert history.lr == pytest.approx([0.1 * 0.5 ** (max(i - 1, 0) // 2) for i in range(7)])
    assert fitting._num_plateaus([3, 4, 2, 3, 1, 2, 2, 2], 2) == 1  # single ones do not count


def test_the_time_limit_ends_training_and_sets_the_learning_rate(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(fitting, "perf_counter", lambda: next(clock))
    history = fit(Point(), torch.ones(8), valid=None, batch_size=2, time_limit=6, lr=0.1, **SGD)
    assert history.seconds == [5, 8]  # four steps and the end; the second epoch ends early
    rates = torch.tensor([4.0, 6.0]).mul(torch.pi / 12).cos() ** 2 * 0.1
    assert history.lr == pytest.approx(rates.tolist(), rel=1e-5, abs=1e-9)


def test_the_optimizer_decays_weights_and_not_biases():
    seen = []

    def optimizer(groups, lr):
        seen.extend(groups)
        return torch.optim.AdamW(groups, lr)

    net = made()
    net.hidden[0].weight.requires_grad_(False)
    frozen = net.hidden[0].weight.clone()
    fit(net, data(), max_epochs=1, weight_decay=0.3, optimizer=optimizer, progress=False)
    decays = {id(each): group["weight_decay"] for group in seen for each in group["params"]}
    assert decays == {
        id(each): 0.3 if each.dim() > 1 else 0.0 for each in net.parameters() if each.requires_grad
    }
    assert torch.equal(net.hidden[0].weight, frozen)


def test_gradients_are_clipped():
    model = Point()
    fit(model, 100 * ONES, valid=None, max_epochs=1, lr=1.0, clip=0.1, **SGD)
    assert model.loc.item() == pytest.approx(0.1)


def test_the_bar_shows_nats(capsys):
    options = {"max_epochs": 2, "valid": ONES, "warmup": 0}
    fit(Point(1.0), ONES, **options)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "train 0.000, valid 0.000 nats" in shown
    fit(Point(), ONES, **options, progress=False)
    assert capsys.readouterr().err == ""


def test_a_history_is_printed_in_a_line():
    history = History([3.0, 2.0], [], [0.1, 0.1], [1.0, 2.0])
    assert str(history) == "epoch 2 of 2 (2 s): train 2.000 nats"
    assert str(History()) == "no epochs"


def test_a_likelihood_is_trained_as_its_network_is():
    expected, net = run(made, max_epochs=1)[1], made()
    fit(ad.LogLikelihood(net), data(), max_epochs=1, batch_size=32, progress=False)
    pairs = zip(net.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("name", ["MADE", "Masked"])
def test_a_new_network_starts_at_the_marginals_and_a_trained_one_where_it_was(name):
    torch.manual_seed(0)
    ones = (torch.rand(400, 1) < 0.1).float()
    net = NETWORKS[name]()
    shape = net.factorization.event_shape
    x = ones.expand(400, 4).reshape(400, *shape)  # all bits are equal
    options = {"valid": None, "progress": False, "max_epochs": 1, "lr": 1e-9, "warmup": 0}
    state = torch.get_rng_state()
    fit(net, x, **options)
    assert torch.equal(torch.get_rng_state(), state)
    probs = net.condition().conditionals(torch.ones(shape)).probs
    torch.testing.assert_close(probs, ones.mean().expand(shape), rtol=0.02, atol=0)
    fit(net, x, valid=None, progress=False, max_epochs=8, lr=0.02)
    trained = [weight.clone() for weight in net.parameters()]
    fit(net, x, **options)
    for weight, before in zip(net.parameters(), trained, strict=True):
        torch.testing.assert_close(weight, before)


def test_frozen_parameters_stay():
    net = networks.MADE(PAIRS, hidden_features=8)
    frozen = net.output_bias.requires_grad_(False)
    before = frozen.clone()
    fit(net, 3 + torch.rand(200, 2), valid=None, max_epochs=1, progress=False)
    assert torch.equal(frozen, before)


@pytest.mark.parametrize(
    ("family", "starts"), [(fam.Normal(), True), (fam.Poisson(), True), (fam.Bernoulli(), False)]
)
def test_an_rnn_starts_at_numbers_but_not_at_states(family, starts):
    torch.manual_seed(0)
    net = networks.RNN(ad.Factorization(4, family), hidden_size=8)
    assert net.starts_at_data == starts
    before, x = net.head.bias.clone(), torch.ones(200, 4)
    x[::3] = 0.0
    fit(net, x, valid=None, max_epochs=1, lr=1e-9, warmup=0, progress=False)
    assert torch.allclose(net.head.bias, before) != starts


@pytest.mark.parametrize(("mean", "deviation"), [(1e5, 1e3), (0.0, 0.01)])
@pytest.mark.parametrize("name", ["MADE", "Transformer"])
def test_numbers_in_units_far_from_one_are_warned_of(name, mean, deviation):
    torch.manual_seed(0)
    x, options = mean + deviation * torch.randn(200, 4), {"max_epochs": 1, "progress": False}
    make, sizes = getattr(networks, name), {} if name == "MADE" else {"dim": 8, "heads": 2}
    with pytest.warns(UserWarning, match="^x: expected numbers in units near 1"):
        fit(make(ad.Factorization(4, fam.Normal()), **sizes), x, **options)
    fit(make(ad.Factorization(4, fam.auto(x[:, 0])), **sizes), x, **options)


@pytest.mark.parametrize("scale", [1e3, 1e-3])
def test_contexts_in_units_far_from_one_are_warned_of(scale):
    torch.manual_seed(0)
    x, context = torch.bernoulli(torch.full((200, 4), 0.5)), torch.randn(200, 2)
    net = networks.MADE(LINE, context_shape=(2,), hidden_features=8)
    with pytest.warns(UserWarning, match="^context: expected numbers in units near 1"):
        fit(net, x, context * torch.tensor([1.0, scale]), max_epochs=1, progress=False)
    fit(net, x, context * torch.tensor([1.0, 0.0]), max_epochs=1, progress=False)


class Binarized(nn.Module):
    """Trains a network on other values than those of the rows."""

    def __init__(self, network):
        super().__init__()
        self.network, self.factorization = network, network.factorization

    def forward(self, x):
        return self.network.condition().log_prob((x > 0.5).float())


def test_the_network_of_ones_own_module_does_not_start_at_the_rows():
    x = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
    model = Binarized(networks.MADE(LINE, hidden_features=8))
    before = model.network.output_bias.clone()
    fit(model, x, valid=None, max_epochs=1, lr=1e-9, progress=False)  # its support has no 0.3
    torch.testing.assert_close(model.network.output_bias, before)


def test_a_module_of_ones_own_may_read_rows_of_another_shape():
    class Flat(Binarized):
        def forward(self, x):
            return super().forward(x.flatten(1))

    model = Flat(networks.MADE(LINE, hidden_features=8))
    history = fit(model, torch.rand(200, 2, 2), valid=None, max_epochs=1, progress=False)
    assert len(history.train) == 1


def test_columns_of_one_value_leave_the_others_as_they_are():
    torch.manual_seed(0)
    x = torch.randn(400, 4).exp()
    x[:, 1], x[::2, 2] = 1.5, 0.0  # a density has no maximum there
    net = networks.MADE(ad.Factorization(4, fam.Normal()), hidden_features=16)
    history = fit(net, x, max_epochs=5, progress=False)
    assert history.valid[-1] < history.valid[0] < 4 * 2.5
