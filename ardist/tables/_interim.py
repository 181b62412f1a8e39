import math, time, copy
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from ardist.training import masked_log_prob


def objective(p, net, x, in_order):
    if not net.has_masks:
        return p.log_prob(x).mean()
    return masked_log_prob(p, x, in_order=in_order).mean()


def fit(
    network,
    x,
    *,
    valid,
    batch_size,
    lr,
    max_epochs,
    time_limit,
    orderings,
    in_order,
    nan_policy,
    weight_decay,
    average,
    seed,
    progress,
):
    n = x.shape[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        perm = torch.randperm(n)
        k = int(n * (valid or 0))
        xv, xt = x[perm[:k]], x[perm[k:]]
        decay = [q for q in network.parameters() if q.dim() > 1]
        no = [q for q in network.parameters() if q.dim() <= 1]
        opt = torch.optim.AdamW(
            [{"params": decay, "weight_decay": weight_decay}, {"params": no, "weight_decay": 0.0}],
            lr=lr,
        )
        avg = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(average))
        best, state = -math.inf, copy.deepcopy(network.state_dict())
        start = time.process_time()
        bad = 0
        hist = []
        epochs = max_epochs or (10**6 if time_limit else 30)
        for epoch in range(epochs):
            network.train()
            for idx in torch.randperm(len(xt)).split(batch_size):
                el = time.process_time() - start
                frac = max(el / time_limit if time_limit else 0, epoch / epochs)
                if frac >= 1:
                    break
                for g in opt.param_groups:
                    g["lr"] = lr * 0.5 * (1 + math.cos(math.pi * frac))
                p = network.condition(nan_policy=nan_policy, validate_args=False)
                loss = -objective(p, network, xt[idx], in_order)
                opt.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                opt.step()
                avg.update_parameters(network)
            m = avg.module.eval()
            if k:
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    p = m.condition(nan_policy=nan_policy, validate_args=False)
                    v = float(sum(objective(p, m, xv, in_order) for _ in range(4)) / 4)
                hist.append((time.process_time() - start, v))
                if progress:
                    print(epoch, round(hist[-1][0], 1), -round(v, 4), flush=True)
                if v > best:
                    best, state, bad = v, copy.deepcopy(m.state_dict()), 0
                else:
                    bad += 1
                if bad > 10:
                    break
            else:
                state = copy.deepcopy(m.state_dict())
            if time_limit and time.process_time() - start >= time_limit:
                break
        network.load_state_dict(state)
        network.eval()
    return hist
