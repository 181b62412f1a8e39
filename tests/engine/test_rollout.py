"""Steps, windows of steps and whole passes, through a decoder or without one."""

import pytest
import torch
from table import FACTORIZATIONS, build

import ardist as ad
from ardist import families as fam
from ardist import networks
from ardist.decoding import Decoder
from ardist.rollout import Rollout, sampler


def test_whole_passes_are_told_the_order():
    class AnyOrder(type(build("plain", "bernoulli-raster"))):
        def unsupported_reason(self, factorization):
            return None

        def forward(self, blocks, context=None, ranks=None):
            told.append(ranks)
            return blocks.unsqueeze(-1) * 0

    told = []
    net = AnyOrder(FACTORIZATIONS["bernoulli-raster"])
    other = FACTORIZATIONS["bernoulli-reverse"]
    net.decoder(2, factorization=other).step(None)
    assert torch.equal(told.pop().cpu(), other.ranks.flatten())
    net.decoder(2).step(None)
    assert told == [None]


@pytest.mark.parametrize("factorization", ["bernoulli-graph", "normal-permutation", "columns-ties"])
def test_windows_draw_what_single_steps_draw_from_the_same_noise(factorization):
    net = build("made", factorization).double()
    order, p = net.factorization.drawing_order, net.condition()
    reference = torch.zeros((), dtype=torch.float64)
    noise = [layout.noise(50, reference) for layout in order.step_layouts]
    stepped = Rollout(p.batch((50,)), decoder=net.decoder(50))
    for step in stepped:
        step.accept(step.layout.from_noise(step.params, noise[step.index]))
    # The same noise for one window over all steps, family by family.
    whole = order.layout_of(0, order.num_steps)
    members = [family for layout in order.step_layouts for family in layout.distinct]
    pieces = [piece for each in noise for piece in each]
    together = [
        torch.cat([p for f, p in zip(members, pieces, strict=True) if f == family], 1)
        for family in whole.distinct
    ]
    decoder = net.decoder(50)
    decoder.max_window = 2 * order.num_steps  # two thirds of it are the first window
    windowed = Rollout(p.batch((50,)), decoder=decoder, windows=True)
    for step in windowed:
        assert step.is_window
        step.accept(step.draw(lambda layout, params: layout.from_noise(params, together)))
    torch.testing.assert_close(windowed.drawn, stepped.drawn, atol=1e-9, rtol=0)


def test_single_steps_follow_a_slow_window(float64):
    fac = ad.Factorization(600, fam.Normal())
    net = networks.MADE(fac, hidden_features=()).double()
    with torch.no_grad():  # a random walk
        net.direct.weight.view(600, 2, 600)[:, 0].copy_(torch.eye(600).roll(-1, 1))
    noise, p = torch.randn(3, 600), net.condition()
    rollout, kinds = Rollout(p.batch((3,)), windows=True), []
    with torch.no_grad():
        for step in rollout:
            own = [rollout.part(noise, step)]
            step.accept(step.draw(lambda layout, params, own=own: layout.from_noise(params, own)))
            kinds.append(step.is_window)
        assert kinds == [True] + 384 * [False] + [True] + 55 * [False]
        again = fac.families[0].to_noise(net(rollout.drawn), rollout.drawn)
        torch.testing.assert_close(again, noise)
        draws = []
        for windows in (True, False):  # a seed gives the same draw by windows and by steps
            torch.manual_seed(2)
            rollout = Rollout(p.batch((3,)), windows=windows)
            sample = sampler(rollout)
            for step in rollout:
                step.accept(sample(step))
            draws.append(rollout.drawn)
    torch.testing.assert_close(*draws)


def test_a_rollout_asks_for_the_blocks_of_each_step():
    steps = iter(Rollout(build("made", "normal-raster").condition().batch((2,)), windows=False))
    next(steps)
    with pytest.raises(RuntimeError, match=r"^step: its blocks were not accepted"):
        next(steps)


def test_networks_without_a_decoder_are_sampled_by_whole_passes():
    net = build("plain", "bernoulli-random")
    made = build("made", "bernoulli-random")
    assert type(net.decoder(2)).__name__ == "WholePasses"
    assert isinstance(made.decoder(2), Decoder)
