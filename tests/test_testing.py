"""The checks find what they are for."""

import pytest
import torch
from table import FACTORIZATIONS, Plain, build

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
    torch.nn.init.zeros_(deaf.context.weight)
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
    net = networks.MADE(ad.Factorization(2, Unnormalized()), hidden_features=(4,))
    with pytest.raises(
        ad.testing.CheckError, match=r"expected probabilities that sum to 1, got 1.2"
    ):
        ad.testing.check_normalized(net.condition())


def test_a_wrong_shape_is_found():
    p = build("made", "normal-raster").condition()
    p.log_prob = lambda value: torch.zeros(())
    with pytest.raises(ad.testing.CheckError, match=r"log_prob: expected shape \(2,\), got \(\)"):
        ad.testing.check_shapes(p)
