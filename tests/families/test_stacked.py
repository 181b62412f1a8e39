"""Families that differ in numbers alone give in one stack what each of them gives."""

import pytest
import torch
from torch.distributions import AffineTransform, ExpTransform, SigmoidTransform

import ardist as ad
from ardist import families as fam
from ardist.families.stacked import form_of, stack


def real(loc=3.0, scale=2.0, least=1e-3):
    return fam.Transformed(fam.Mixture(fam.Normal(least), 3), AffineTransform(loc, scale))


def positive(loc=1.0, scale=0.5, shift=0.0):
    transforms = [AffineTransform(loc, scale), ExpTransform(), AffineTransform(shift, 1.0)]
    return fam.Transformed(fam.Mixture(fam.Laplace(), 2), transforms)


STACKS = {
    "scales": [fam.Normal(1e-3), fam.Normal(0.5), fam.Normal(1e-6)],
    "logistic": [fam.Logistic(0.1), fam.Logistic(0.2)],
    "mixtures": [fam.Mixture(fam.LogNormal(least), 4) for least in (0.01, 0.1)],
    "units": [real(), real(-70.0, 0.1, 0.01), real(1e4, -300.0)],
    "logarithms": [positive(), positive(-2.0, 1.5), positive(4.0, 0.1)],
    "integers": [fam.Rounded(real(40.0, 12.0)), fam.Rounded(real(-3.0, 1.1))],
    "counts": [fam.Rounded(positive(2.0, 1.0, -0.5)), fam.Rounded(positive(5.0, 0.5, -0.5))],
    "spikes": [fam.Hurdle([0.1, 2.0], real()), fam.Hurdle([-70.0, 5.0], real(-70.0))],
    "counts with spikes": [
        fam.Hurdle([0.0, 9.0], fam.Rounded(real(40.0, 12.0))),
        fam.Hurdle([18.0, 90.0], fam.Rounded(real(50.0, 20.0))),
    ],
}
stacks = pytest.mark.parametrize("families", STACKS.values(), ids=STACKS.keys())
DTYPES = [torch.bfloat16, torch.float32, torch.float64]


def by_blocks(method, families, *rows):
    """What each family's method gives for its own block, joined."""
    each = zip(families, *(part.unbind(1) for part in rows), strict=True)
    return torch.stack([getattr(family, method)(*given) for family, *given in each], 1)


@stacks
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_stack_gives_what_each_of_its_families_gives(families, dtype):
    assert len({form_of(family) for family in families}) == 1
    together = stack(families)
    params = torch.randn(50, len(families), together.num_params, dtype=dtype)
    noise = torch.rand(50, len(families), *together.noise_shape, dtype=dtype)
    uniform = torch.rand(50, len(families), dtype=dtype).clamp(0.01, 0.99)
    draws = by_blocks("sample", families, params)
    draws[::7] = torch.stack([family.placeholder().to(dtype) for family in families])
    draws[3] = torch.inf
    calls = [
        *(("log_prob", params, draws), ("cdf", params, draws), ("features", draws)),
        *(("mass", params, draws), ("from_noise", params, noise), ("inside", draws)),
    ]
    if dtype != torch.bfloat16:  # in which one unit moves a quantile of integers
        calls += [("interval_log_prob", params, draws - 1, draws), ("icdf", params, uniform)]
    for method, *given in calls:
        found, wanted = getattr(together, method)(*given), by_blocks(method, families, *given)
        assert found.dtype == wanted.dtype
        assert torch.allclose(found, wanted, rtol=100 * torch.finfo(dtype).eps), method
    assert together.inside(together.sample(params)).all()


@stacks
def test_columns_of_one_form_are_scored_drawn_and_fitted_as_each_alone(families):
    layout = ad.Factorization.columns({f"c{i}": family for i, family in enumerate(families)}).layout
    assert len(layout.stacked) == 1
    assert layout.families == tuple(families)
    params = torch.randn(40, *layout.param_shape)
    values = layout.sample(params)
    alone = [layout.select([block]) for block in range(len(families))]
    parts = list(enumerate(alone))
    scores = [
        one.log_prob(layout.block("param", params, b), values[:, b : b + 1]) for b, one in parts
    ]
    assert torch.allclose(layout.log_prob(params, values), torch.cat(scores, 1), rtol=1e-4)
    known = torch.ones_like(values, dtype=torch.bool)
    found = layout.fit(values, known).split(layout.sizes["param"])
    for block, one in parts:
        column = values[:, block : block + 1]
        wanted = one.fit(column, known[:, :1])
        # The search ends within some hundredths of a nat, where rounding leads it.
        scores = [one.log_prob(each.expand(40, 1, -1), column) for each in (found[block], wanted)]
        assert abs((scores[0] - scores[1]).mean().item()) < 0.03


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (fam.Hurdle([0.0], real()), fam.Hurdle([0.0, 1.0], real())),
        (fam.Hurdle([-1.0], fam.LogNormal()), fam.Hurdle([-2.0], fam.LogNormal())),
        (positive(shift=0.0), positive(shift=1.0)),
        (real(), fam.Transformed(fam.Mixture(fam.Normal(), 4), AffineTransform(3.0, 2.0))),
        (real(torch.tensor(1.0)), real(torch.tensor(2.0))),
        (fam.Normal(), fam.Laplace()),
        (fam.Mixture(real(1.0), 2), fam.Mixture(real(2.0), 2)),
    ],
    ids=["points", "ends of points", "ends", "components", "tensors", "classes", "mixed units"],
)
def test_families_of_other_forms_are_not_stacked(one, other):
    assert form_of(one) != form_of(other)
    layout = ad.Factorization.columns(a=one, b=other).layout
    assert layout.stacked == layout.distinct == [one, other]


def test_a_subclass_is_not_stacked_since_it_may_need_plain_numbers():
    class Own(fam.Normal):
        pass

    assert form_of(Own(0.1)) == Own(0.1) != form_of(Own(0.2))


def test_affine_maps_of_an_interval_keep_their_ends():
    percent, share = (
        fam.Transformed(fam.Normal(), [SigmoidTransform(), AffineTransform(0.0, width)])
        for width in (100.0, 1.0)
    )
    assert form_of(percent) != form_of(share)


def test_tensors_of_transforms_have_the_dtype_of_parameters():
    wide = real(torch.tensor(1.0, dtype=torch.float64))
    assert wide.log_prob(torch.zeros(9), torch.tensor(1.0)).dtype == torch.float32
    family = fam.Transformed(
        fam.Independent(fam.Normal(), (2,)), AffineTransform(torch.tensor([1.0, 2.0]), 1.0)
    )
    assert family.sample(torch.zeros(4, dtype=torch.float64)).dtype == torch.float64
