"""Steps, windows of steps and whole passes, through a decoder or without one."""

import pytest
import torch
from table import FACTORIZATIONS, build

from ardist.decoding import Decoder, Forced, _draw_steps, draw


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
    assert torch.equal(told.pop(), other.ranks.flatten())
    net.decoder(2).step(None)
    assert told == [None]


@pytest.mark.parametrize("factorization", ["bernoulli-graph", "normal-permutation", "columns-ties"])
def test_windows_draw_what_single_steps_draw_from_the_same_noise(factorization, monkeypatch):
    net = build("made", factorization).double()
    fac = net.factorization
    noise = [layout.noise(50, torch.zeros((), dtype=torch.float64)) for layout in fac.step_layouts]
    left = iter(noise)
    like = torch.zeros((), dtype=torch.float64)
    stepped = torch.cat(
        _draw_steps(
            net.decoder(50),
            fac,
            lambda layout, params: layout.from_noise(params, next(left)),
            Forced(fac, None),
        ),
        1,
    )
    order = [block for step in fac.steps for block in step]
    whole = fac.layout.select(order)
    # The same noise for one window over all steps, family by family.
    members = [fam for layout in fac.step_layouts for fam in layout.distinct]
    pieces = [piece for each in noise for piece in each]
    together = [
        torch.cat([p for f, p in zip(members, pieces, strict=True) if f == family], 1)
        for family in whole.distinct
    ]
    monkeypatch.setattr(type(fac.layout), "noise", lambda *_: together)
    decoder = net.decoder(50)
    decoder.max_window = fac.num_steps
    drawn = draw(decoder, fac, like)
    torch.testing.assert_close(
        fac.layout.gather_blocks("value", drawn, order), stepped, atol=1e-9, rtol=0
    )


def test_networks_without_a_decoder_are_sampled_by_whole_passes():
    net = build("plain", "bernoulli-random")
    made = build("made", "bernoulli-random")
    assert type(net.decoder(2)).__name__ == "WholePasses"
    assert isinstance(made.decoder(2), Decoder)
