"""SRPO's three training steps in plain PyTorch, at the paper's sizes, one seed: what `gpu.py` measures ours against.

    python benchmarks/plain_torch.py --obs 11 --act 3 --seconds 2

Written as a practitioner would: modules, Adam, batches drawn from tensors on the device, one call per step; no CUDA
graphs, no compilation. Prints one JSON object: microseconds per step of each stage, by median over rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


def mlp(*sizes: int) -> nn.Sequential:
    layers = [layer for i, o in itertools.pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class TwinQ(nn.Module):
    def __init__(self, obs: int, act: int):
        super().__init__()
        self.heads = nn.ModuleList(mlp(obs + act, 256, 256, 1) for _ in range(2))

    def forward(self, s, a):
        x = torch.cat([s, a], -1)
        return torch.stack([head(x).squeeze(-1) for head in self.heads])


class Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.1), nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.contract(F.mish(self.expand(self.norm(self.drop(x)))))


class ScoreNet(nn.Module):
    def __init__(self, obs: int, act: int, width: int = 256, time_size: int = 64):
        super().__init__()
        self.register_buffer("frequency", 30 * torch.randn(time_size // 2))
        self.embed = nn.Sequential(nn.Linear(time_size, 2 * time_size), nn.Mish(), nn.Linear(2 * time_size, 2 * time_size))
        self.first, self.last = nn.Linear(act + obs + 2 * time_size, width), nn.Linear(width, act)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))

    def forward(self, x, t, s):
        angle = 2 * math.pi * t[:, None] * self.frequency
        e = self.embed(torch.cat([angle.sin(), angle.cos()], -1))
        return self.last(F.mish(self.blocks(self.first(torch.cat([x, s, e], -1)))))


def schedule(t):
    log_alpha = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
    return log_alpha.exp()[:, None], (1 - (2 * log_alpha).exp()).sqrt()[:, None]


class Data:
    def __init__(self, rows: int, obs: int, act: int, device: str):
        self.s, self.s2 = (torch.randn(rows, obs, device=device) for _ in range(2))
        self.a = 2 * torch.rand(rows, act, device=device) - 1
        self.r, self.mask = torch.randn(rows, device=device), torch.ones(rows, device=device)

    def sample(self, size: int):
        i = torch.randint(len(self.r), (size,), device=self.r.device)
        return self.s[i], self.a[i], self.r[i], self.s2[i], self.mask[i]


def critic(data: Data, obs: int, act: int, device: str):
    q, target, v = TwinQ(obs, act).to(device), TwinQ(obs, act).to(device), mlp(obs, 256, 256, 1).to(device)
    q_optimizer, v_optimizer = (torch.optim.Adam(net.parameters(), lr=3e-4) for net in (q, v))

    def step():
        s, a, r, s2, mask = data.sample(256)
        with torch.no_grad():
            best, next_v = target(s, a).min(0).values, v(s2).squeeze(-1)
        u = best - v(s).squeeze(-1)
        v_loss = (torch.abs(0.7 - (u < 0).float()) * u**2).mean()
        v_optimizer.zero_grad(set_to_none=True)
        v_loss.backward()
        v_optimizer.step()
        q_loss = ((q(s, a) - (r + 0.99 * mask * next_v)) ** 2).mean()
        q_optimizer.zero_grad(set_to_none=True)
        q_loss.backward()
        q_optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), q.parameters(), strict=True):
                slow.lerp_(fast, 0.005)

    return step


def behavior(data: Data, obs: int, act: int, device: str):
    net = ScoreNet(obs, act).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-4)

    def step():
        s, a, *_ = data.sample(2048)
        t, noise = 1e-3 + (1 - 1e-3) * torch.rand(len(a), device=device), torch.randn_like(a)
        alpha, sigma = schedule(t)
        loss = ((net(alpha * a + sigma * noise, t, s) - noise) ** 2).sum(-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def policy(data: Data, obs: int, act: int, device: str):
    net, q, score = mlp(obs, 256, 256, act).to(device), TwinQ(obs, act).to(device), ScoreNet(obs, act).to(device).eval()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1_000_000)

    def step():
        s, *_ = data.sample(256)
        action = torch.tanh(net(s))
        still = action.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(q(s, still).mean(0).sum(), still)
        t, noise = 0.02 + 0.96 * torch.rand(len(s), device=device), torch.randn_like(still)
        alpha, sigma = schedule(t)
        with torch.no_grad():
            predicted = score(alpha * still + sigma * noise, t, s)
        direction = sigma**2 * (predicted - noise) - 0.05 * gradient
        loss = (direction * action).sum(-1).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay.step()

    return step


def measure(step, device: str, seconds: float) -> float:
    """Microseconds per step: the median of five rounds that take `seconds` together."""

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(20 if device == "cuda" else 2):  # libraries choose their kernels in the first steps
        step()
    wait()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds / 5:
        step()
        count += 1
    rounds = []
    for _ in range(5):
        wait()
        begin = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        rounds.append((time.perf_counter() - begin) / count)
    return 1e6 * statistics.median(rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--obs", type=int, default=11)
    parser.add_argument("--act", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of timed steps per stage")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    data = Data(200_000, args.obs, args.act, device)
    stages = {"critic": critic, "behavior": behavior, "policy": policy}
    found = {name: measure(make(data, args.obs, args.act, device), device, args.seconds) for name, make in stages.items()}
    print(json.dumps({"torch": torch.__version__, "device": device, "microseconds": found}))


if __name__ == "__main__":
    main()
