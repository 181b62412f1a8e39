"""The pages about other programs run as they are; what they make has the properties they claim.

Each page runs in a process of its own, since these programs change settings of torch on import.
"""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ardist as ad

DOCS = Path(__file__).parents[2] / "docs"


def weights_changed(trained, fresh):
    pairs = zip(trained.parameters(), fresh.parameters(), strict=True)
    return not any(torch.equal(*pair) for pair in pairs)


def check_programs(page):
    assert page["are_equal"](page["whole"], page["resumed"])  # by the last of the programs
    assert weights_changed(page["whole"], page["make_network"]())
    assert not page["are_equal"](page["whole"].net, page["make_network"]())


def check_sbi(page):
    from sbi.inference import MNLE, NPE

    prior, theta, x, build = (page[name] for name in ("prior", "theta", "x", "posterior_density"))
    options = {"density_estimator": build, "show_progress_bars": False}
    inference = NPE(prior, **options).append_simulations(theta, x)
    estimator = inference.train(learning_rate=3e-3, max_num_epochs=3)
    torch.manual_seed(0)
    assert weights_changed(estimator, build(theta, x))

    observed = x[:1]
    posterior = inference.build_posterior().set_default_x(observed)
    draws = posterior.sample((500,), show_progress_bars=False)
    assert prior.log_prob(draws).isfinite().all()
    inside = estimator.sample((500,), observed).squeeze(1)
    assert prior.log_prob(inside).isfinite().all()  # no leakage
    score = posterior.log_prob(torch.tensor([[5.0, 0.0], [5.0, 3.0]]))
    expected = estimator.given(observed).log_prob(torch.tensor([5.0, 0.0]))
    torch.testing.assert_close(score[:1], expected, rtol=1e-3, atol=1e-3)  # sbi estimates leakage
    assert score[1] == -torch.inf
    assert (
        page["check_sbc"](page["ranks"], page["test"], page["averaged"], 500)["ks_pvals"] > 1e-3
    ).all()

    # A second round, with sbi's atomic loss.
    again = posterior.sample((200,), show_progress_bars=False)
    inference.append_simulations(again, page["simulate"](again), proposal=posterior)
    inference.train(max_num_epochs=2)

    mixed = MNLE(prior, density_estimator=page["likelihood"], show_progress_bars=False)
    with pytest.raises(AssertionError, match="MixedDensityEstimator"):
        mixed.append_simulations(theta, x).train(max_num_epochs=1)
    rate, location = page["draws"].T  # given three trials
    assert 3 < rate.mean() < 7
    assert 0 < location.mean() < 1


def check_torchrl(page):
    net, data = page["net"], page["data"]
    assert {id(p) for p in net.parameters()} <= {id(p) for p in page["loss"].parameters()}
    torch.manual_seed(0)
    fresh = ad.networks.MADE(page["fac"], context_shape=(5,), hidden_features=(64,))
    assert weights_changed(net, fresh)
    assert (data["action"].sort(-1).values == torch.arange(5)).all()
    assert page["reward"](data).mean() > 0.6

    # The gradient of an entropy bonus: of the page, exact, and torchrl's without `entropy`.
    one = page["observe"]()[:1].expand(2000)
    exact = ad.information.entropy(net.condition(one["observation"][0])).value
    expected = torch.autograd.grad(exact, net.head.bias)[0]

    def gradient(distribution):
        loss = page["ClipPPOLoss"](page["actor"], page["critic"])
        entropy = loss._get_entropy(distribution, one.batch_size)
        return torch.autograd.grad(entropy.mean(), net.head.bias)[0]

    size = expected.norm()
    assert (gradient(page["Policy"](net, one["observation"])) - expected).norm() < 0.3 * size
    assert gradient(net.condition(one["observation"])).norm() < 0.5 * size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["programs", "sbi", "torchrl"])
def test_a_page_runs_and_holds_what_it_says(name, tmp_path):
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weights: False" not in done.stdout


def main(name):
    text, page = (DOCS / "howto" / f"{name}.md").read_text(), {"__name__": "__main__"}
    for cell in runpy.run_path(str(DOCS / "notebooks.py"))["notebook"](text, f"howto/{name}")[
        "cells"
    ]:
        if cell["cell_type"] == "code":
            exec(compile(cell["source"], f"{name}.md", "exec"), page)
    globals()[f"check_{name}"](page)


if __name__ == "__main__":
    main(sys.argv[1])
