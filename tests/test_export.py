"""Saved graphs give the network's numbers, for any number of rows."""

import json

import pytest
import torch
from table import CONTEXT, NETWORKS, build, slow_except

import ardist as ad

FACTORIZATION = {"pixelcnn": "image-turned", "markov": "categorical-2", "foreign": "categorical-2"}
CONTEXTS = {"made": (), "rnn-gru": CONTEXT}


def saved(network, folder):
    """A network, its graphs and what is said of them."""
    default = "bernoulli-raster" if network == "masked-module" else "columns"
    factorization = FACTORIZATION.get(network, default)
    net = build(network, factorization, CONTEXTS.get(network, ())).eval()
    ad.export.write(net, folder)
    programs = [torch.export.load(folder / f"{name}.pt2") for name in ("log_prob", "start", "step")]
    about = json.loads((folder / "model.json").read_text())
    return net, [program.module() for program in programs], about


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore:The tensor attributes self.network.rnn"
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
            context = (torch.randn(rows, *CONTEXT),) if net.context_shape else ()
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
