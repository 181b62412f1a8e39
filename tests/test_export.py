"""Saved graphs give the network's numbers, for any number of rows."""

import io
import json

import pytest
import torch
from table import CONTEXT, NETWORKS, build, slow_except

import ardist as ad
from ardist import families as fam
from ardist import networks

FACTORIZATION = {"pixelcnn": "image-turned", "markov": "categorical-2", "foreign": "categorical-2"}
CONTEXTS = {
    "rnn-gru": (CONTEXT, "vector"),
    "wavenet": ((4, *CONTEXT), "blocks"),
    "transformer": ((5, *CONTEXT), "sequence"),
}


def saved(network, folder):
    """A network, its graphs and what is said of them."""
    default = "bernoulli-raster" if network == "masked-module" else "columns"
    factorization = FACTORIZATION.get(network, default)
    shape, kind = CONTEXTS.get(network, ((), None))
    net = build(network, factorization, shape, **({"context_kind": kind} if shape else {})).eval()
    ad.export.write(net, folder)
    programs = [torch.export.load(folder / f"{name}.pt2") for name in ("log_prob", "start", "step")]
    about = json.loads((folder / "model.json").read_text())
    return net, [program.module() for program in programs], about


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:The tensor attributes self.network.rnn",
    "ignore:No complete tensor found in the group",  # of views of one weight, while it saves
)
@pytest.mark.parametrize("network", slow_except(list(NETWORKS), "made", "rnn-gru"))
def test_saved_graphs_give_the_numbers_of_the_network(network, tmp_path):
    net, (log_prob, start, step), about = saved(network, tmp_path / "new" / "folder")
    draw, num_steps = ad.DrawStep(net), net.factorization.num_steps
    assert about["event_shape"] == list(net.factorization.event_shape)
    assert about["context_shape"] == list(net.context_shape)
    assert len(about["steps"]) == num_steps
    with torch.no_grad():
        for rows in (1, 3):
            context = (torch.randn(rows, *net.context_shape),) if net.context_shape else ()
            events, encodings, state = start(torch.zeros(rows), *context)
            own = draw.start(rows, *context)
            torch.testing.assert_close((events, encodings, state), own)
            assert str(events.dtype) == f"torch.{about['dtype']}"
            own_events, _, own_state = own
            for index, elements in enumerate(about["steps"]):
                before, position = events.flatten(1), torch.tensor(index)
                torch.manual_seed(index)
                events, state = step(events, position, encodings, state)
                torch.manual_seed(index)
                own_events, own_state = draw(own_events, position, encodings, own_state)
                torch.testing.assert_close(events, own_events)
                others = torch.ones_like(before, dtype=torch.bool).index_fill(
                    1, torch.tensor(elements), False
                )
                assert torch.equal(events.flatten(1)[others], before[others])
            p = net.condition(*context)
            torch.testing.assert_close(log_prob(events, *context), p.log_prob(events))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_saved_score_is_infinite_outside_the_support(tmp_path):
    net = networks.MADE(
        ad.Factorization.columns(a=fam.Bernoulli(), b=fam.Categorical(3), c=fam.Gamma()),
        hidden_features=8,
    )
    ad.export.write(net.eval(), tmp_path)
    log_prob = torch.export.load(tmp_path / "log_prob.pt2").module()
    x = torch.tensor(
        [[1.0, 2.0, 0.5], [7.0, 2.0, 0.5], [1.0, 3.0, 0.5], [1.0, 0.5, 0.5], [1.0, 2.0, -1.0]]
    )
    found = log_prob(x)
    torch.testing.assert_close(found[0], net.condition().log_prob(x[0]))
    assert (found[1:] == -torch.inf).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_graphs_under_a_rule_leave_no_traces_in_the_network(tmp_path):
    """The places of blocks, which rules keep, are tensors of no graph."""
    limits = ad.rules.All(ad.rules.When("a", {1}, b=0.0), ad.rules.Within(c={0, 2}))
    net = networks.MADE(
        ad.Factorization.columns(
            a=fam.Bernoulli(), b=fam.Bernoulli(), c=fam.Categorical(3), rule=limits
        ),
        hidden_features=8,
    )
    ad.export.write(net.eval(), tmp_path)
    log_prob, start, step = (
        torch.export.load(tmp_path / f"{name}.pt2").module()
        for name in ("log_prob", "start", "step")
    )
    events, encodings, state = start(torch.zeros(50))
    for position in range(3):
        events, state = step(events, torch.tensor(position), encodings, state)
    p = net.condition()
    for x in (events, p.sample((50,))):
        torch.testing.assert_close(log_prob(x), p.log_prob(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize(
    "factorization",
    [
        *("bernoulli-2", "normal-2", "gamma-2", "poisson-2", "mixture-2", "discretized-2"),
        *("ordinal-2", "top_k-2", "nucleus-2", "rounded-2", "hurdle-2", "relaxed_bernoulli-2"),
        *("dirichlet-along", "multivariate_normal-along", "independent-along", "split"),
    ],
)
def test_draws_of_families_can_be_saved(factorization):
    draw = ad.DrawStep(build("made", factorization).eval())
    events, encodings, state = draw.start(5)
    args = (events, torch.tensor(0), encodings, state)
    file = io.BytesIO()
    torch.export.save(ad.export.record(draw, args), file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    events, encodings, state = draw.start(3)
    args = (events, torch.tensor(0), encodings, state)
    torch.manual_seed(0)
    expected = draw(*args)
    torch.manual_seed(0)
    torch.testing.assert_close(loaded(*args), expected)
