"""Student's t distribution against formulas in forty digits, and against scipy."""

import mpmath as mp
import pytest
import torch
from scipy import stats

from ardist.families import student

Z = [0.0, 0.1, 1.49, 1.51, 5.0, 20.0, 50.0]


def _upper(z, df):
    share = mp.betainc(df / 2, mp.mpf(0.5), 0, df / (df + z * z), regularized=True)
    return mp.log(share / 2)


@pytest.mark.parametrize("df", [0.5, 1.0, 3.0, 30.0, 300.0, 1e4, 1e6])
def test_tails_and_their_slopes_are_exact_for_any_degrees_of_freedom(df, float64):
    z = torch.tensor(Z).requires_grad_()
    each = torch.full_like(z, df, requires_grad=True)
    below, above = student.log_tails(z, each)
    with mp.workdps(40):
        expected = torch.tensor([float(_upper(mp.mpf(x), mp.mpf(df))) for x in Z])
        slopes = torch.tensor([float(mp.diff(lambda d, x=x: _upper(x, d), mp.mpf(df))) for x in Z])
    torch.testing.assert_close(above, expected, rtol=1e-13, atol=1e-11)
    torch.testing.assert_close(below, torch.log1p(-expected.exp()), rtol=1e-13, atol=1e-11)
    scipys = torch.from_numpy(stats.t(df).logsf(Z))
    torch.testing.assert_close(above[scipys > -700], scipys[scipys > -700], rtol=1e-12, atol=1e-11)
    of_z, of_df = torch.autograd.grad(above.sum(), (z, each))
    hazard = (student.log_density(z, each) - above).exp()
    torch.testing.assert_close(of_z, -hazard, rtol=1e-10, atol=0)
    torch.testing.assert_close(of_df, slopes, rtol=1e-8, atol=0)
    for mirrored, tail in zip(student.log_tails(-z, each), (above, below), strict=True):
        assert torch.equal(mirrored, tail)


def test_tails_have_second_slopes_and_are_finite_far_out(float64):
    z = torch.tensor([-30.0, 0.0, 1.0, 1.6, 40.0], requires_grad=True)
    df = torch.tensor([1.0, 2.0, 5.0, 200.0, 1e4], requires_grad=True)
    assert torch.autograd.gradgradcheck(student.log_tails, (z, df), fast_mode=True)
    far = torch.tensor([-1e300, -1e30, 1e30, 1e300], requires_grad=True)
    tails = torch.stack(student.log_tails(far, torch.tensor([1.0, 3.0, 300.0, 1e6])))
    (slope,) = torch.autograd.grad(tails.sum(), far)
    assert tails.isfinite().all()
    assert slope.isfinite().all()
