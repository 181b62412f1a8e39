"""The checks of `ardist.testing` find the faults that they are for."""

import pytest
import torch
import torch.nn.functional as F
from table import FACTORIZATIONS, Plain, build, random_made
from torch import nn
from torch.distributions import AffineTransform

import ardist as ad
from ardist import families as fam
from ardist import networks


def leaking():
    """A network whose block 1 sees block 3."""
    net = Plain(FACTORIZATIONS["normal-raster"])
    net.mask[2:4, 3] = 1.0
    return net


def test_a_leak_is_named():
    message = r"leaks: the parameters of block \(1,\) \(rank 1\) react to block \(3,\) \(rank 3\)"
    with pytest.raises(ad.testing.CheckError, match=message):
        ad.testing.check_autoregressive(leaking())
    with pytest.raises(AssertionError, match="leaks"):
        ad.testing.check_autoregressive(leaking())
    with pytest.raises(ValueError, match="leaks"):
        ad.testing.check_autoregressive(leaking())


def test_weights_of_zero_hide_no_leak():
    net = leaking()
    torch.nn.init.zeros_(net.weight)
    with pytest.raises(ad.testing.CheckError, match="leaks: "):
        ad.testing.check_autoregressive(net)
    assert not net.weight.any()


def test_a_leak_between_columns_is_named():
    net = Plain(ad.Factorization.columns(a=fam.Normal(), b=fam.Bernoulli()))
    net.mask[0, 1] = 1.0
    with pytest.raises(ad.testing.CheckError, match=r"of column 'a' .* react to column 'b'"):
        ad.testing.check_autoregressive(net)


def test_lost_reach_is_seen():
    net = Plain(FACTORIZATIONS["normal-raster"])
    net.mask[2:4, 0] = 0.0  # block 1 no longer sees block 0
    found = ad.testing.check_autoregressive(net)
    assert found.reach == pytest.approx(5 / 6)
    assert not found.influence[1, 0]
    deaf = Plain(FACTORIZATIONS["normal-raster"], context_shape=(3,))
    deaf.context.register_forward_hook(lambda module, inputs, output: 0 * output)
    assert ad.testing.check_autoregressive(deaf, torch.zeros(3)).context_reach == 0.0


def test_checks_leave_the_network_and_the_random_state_alone():
    net = build("made", "normal-raster")
    state = torch.get_rng_state()
    ad.testing.check_autoregressive(net)
    ad.testing.check_decoder(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert net.training
    assert next(net.parameters()).dtype == torch.float32


class Off(networks.MADE):
    """A MADE whose decoder is wrong in one way."""

    wrong = ""

    def decoder(self, *args, **options):
        decoder = super().decoder(*args, **options)
        original = getattr(decoder, self.wrong)
        if self.wrong == "select":
            decoder.select = lambda rows: original(rows.flip(0))
        else:
            setattr(decoder, self.wrong, lambda *given: original(*given) + 0.01)
        return decoder


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("step", "decoder.step at step 0: differs from the parallel pass by"),
        ("prefill", "decoder.prefill at step 1: differs from the parallel pass by"),
        ("select", "decoder.step at step 3: differs from the parallel pass by"),
    ],
)
def test_a_wrong_decoder_is_found(wrong, message):
    net = Off(FACTORIZATIONS["normal-raster"], hidden_features=(16,))
    net.wrong = wrong
    with pytest.raises(ad.testing.CheckError, match=message):
        ad.testing.check_decoder(net)


class Unnormalized(fam.Bernoulli):
    """Scores that do not sum to one."""

    def log_prob(self, params, value):
        return super().log_prob(params, value) + 0.1


def test_a_wrong_sum_is_found():
    net = random_made(ad.Factorization(2, Unnormalized()), hidden_features=(4,))
    with pytest.raises(
        ad.testing.CheckError, match=r"expected probabilities that sum to 1, got 1.2"
    ):
        ad.testing.check_normalized(net.condition())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_points", [401, 2001])
@pytest.mark.parametrize(
    "family",
    [
        fam.Hurdle((1.0,), fam.Gamma()),
        fam.Hurdle((0.0, 1.0), fam.Beta()),
        fam.Hurdle((0.0,), fam.Poisson()),
        fam.Hurdle((1.0,), fam.Hurdle((0.1, 0.0), fam.Normal())),
        fam.Mixture(fam.Hurdle((0.0,), fam.Normal()), 2),
        fam.Hurdle((2.0,), fam.Truncated(fam.Normal(), -1.0, 2.0)),
        fam.Hurdle((-3.0,), fam.Truncated(fam.Poisson(), 1)),
        fam.Rounded(fam.Transformed(fam.Exponential(), AffineTransform(-5.0, 1.0))),
        fam.Rounded(fam.Transformed(fam.Exponential(), AffineTransform(500.0, 1.0))),
    ],
    ids=str,
)
def test_points_and_the_density_next_to_them_sum_to_one(family, num_points, dtype):
    """A density on the half line is integrated at 1, among others."""
    net = networks.MADE(ad.Factorization(1, family), hidden_features=4).to(dtype)
    ad.testing.check_normalized(net, num_points=num_points, tolerance=1e-6)


@pytest.mark.parametrize("shape", [(0,), (0, 2), (2, 0)])
def test_a_batch_may_be_empty(shape):
    ad.testing.check_shapes(build("made", "normal-raster").condition().expand(shape))


def test_a_wrong_shape_is_found():
    p = build("made", "normal-raster").condition()
    p.log_prob = lambda value: torch.zeros(())
    with pytest.raises(ad.testing.CheckError, match=r"log_prob: expected shape \(2,\), got \(\)"):
        ad.testing.check_shapes(p)


class Normalizing(networks.ConditionalNetwork):
    """A causal convolution and batch norm, of each unit over rows, or over rows and positions."""

    def __init__(self, factorization, over_positions):
        super().__init__(factorization)
        self.over_positions = over_positions
        self.conv = nn.Conv1d(1, 8, 3)
        self.norm = nn.BatchNorm1d(8 if over_positions else 8 * factorization.num_blocks)
        self.head = nn.Conv1d(8, 2, 1)

    def forward(self, blocks, context=None, ranks=None):
        hidden = self.conv(F.pad(blocks, (3, 0))[:, :-1].unsqueeze(1))
        shape = hidden.shape if self.over_positions else (len(blocks), -1)
        return self.head(self.norm(hidden.reshape(shape)).view_as(hidden).relu()).transpose(1, 2)


def test_batch_norm_leaks_over_positions_and_only_in_training_mode():
    fac = ad.Factorization(8, fam.Normal())
    message = r"leaks in training mode: the parameters of block \(0,\)"
    with pytest.raises(ad.testing.CheckError, match=message):
        ad.testing.check_autoregressive(Normalizing(fac, over_positions=True))
    found = ad.testing.check_autoregressive(Normalizing(fac, over_positions=False))
    assert found.reach == 18 / 28  # the last three blocks


@pytest.mark.parametrize("network", ["made", "rnn-gru", "wavenet", "pixelcnn", "transformer"])
def test_dropout_is_no_leak(network):
    fac = "image-raster" if network == "pixelcnn" else "normal-raster"
    net = build(network, fac, dropout=0.4)
    assert ad.testing.check_autoregressive(net).reach == 1.0


class Masking(networks.ConditionalNetwork):
    """One state of each block has no probability; perhaps another one follows the next block."""

    def __init__(self, leaks):
        super().__init__(ad.Factorization(4, fam.Categorical(3)))
        self.leaks = leaks

    def forward(self, blocks, context=None, ranks=None):
        params = torch.zeros(*blocks.shape, 3)
        params[..., 0] = -torch.inf
        params[:, 1:, 1] += blocks[:, :-1]
        if self.leaks:
            params[:, :-1, 1] += blocks[:, 1:]
        return params


def test_infinite_logits_are_no_difference_and_hide_none():
    assert ad.testing.check_autoregressive(Masking(leaks=False)).influence.sum() == 3
    ad.testing.check_decoder(Masking(leaks=False))
    with pytest.raises(ad.testing.CheckError, match="3 leaks: "):
        ad.testing.check_autoregressive(Masking(leaks=True))


@pytest.mark.parametrize("network", ["made", "transformer", "rnn-gru"])
def test_checks_take_a_network_or_a_distribution(network):
    net = build(network, "categorical-2")
    for given in (net, net.condition()):
        assert ad.testing.check_autoregressive(given).reach == 1.0
        ad.testing.check_decoder(given)
        ad.testing.check_shapes(given)
        ad.testing.check_normalized(given)


def test_checks_of_a_distribution_follow_its_context_order_and_parameters():
    net = build("transformer", "normal-raster", context_shape=(3,))
    order = ad.Ordering.reverse()
    p = net.condition(torch.randn(5, 3)).with_ordering(order)
    found = ad.testing.check_autoregressive(p)
    assert found.context_reach == 1.0
    assert torch.equal(found.influence, p.factorization.dependencies)
    ad.testing.check_decoder(p)
    rows = net.condition(torch.randn(2, 3)).with_ordering(
        torch.tensor([[3, 2, 1, 0], [0, 1, 2, 3]])
    )
    assert torch.equal(ad.testing.check_autoregressive(rows).influence, found.influence)
    net = Plain(FACTORIZATIONS["normal-raster"])
    zeros = {name: torch.zeros_like(value) for name, value in net.named_parameters()}
    assert ad.testing.check_autoregressive(net.condition(params=zeros)).reach == 0.0


class OfFloats(fam.Normal):
    """Makes its constants as users do, in the default dtype."""

    def features(self, value):
        return torch.stack((value, torch.ones(value.shape)), -1) @ torch.eye(2)

    num_features = 2


def test_families_that_make_tensors_of_the_default_dtype():
    inner = random_made(ad.Factorization(2, fam.Normal()), hidden_features=4, context_shape=(3,))
    nested = ad.Factorization((3, 2), fam.Nested(inner), partition=ad.Partition.along(0))
    for fac in (ad.Factorization(4, OfFloats()), nested):
        net = networks.RNN(fac, hidden_size=8)
        longer = ad.Factorization(
            (5, *fac.event_shape[1:]), fac.families[0], partition=fac.partition
        )
        for other in (None, longer):
            assert ad.testing.check_autoregressive(net, factorization=other).reach == 1.0
