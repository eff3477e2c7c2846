"""Rollouts on paper: how efficient 1 to 1,024 workers are, with stragglers and failures.

A simulation of discrete events. The hand-out of units is that of a run (`policy/handout.py`); how
long units take, and what handing one out costs the driver, are measured here first. Everything else
is assumed, stands at the top, and can be changed on the command line.

    python benchmarks/rollout_simulator.py
    python benchmarks/rollout_simulator.py --unit-seconds 30 --units-per-worker 16

Efficiency is the work of all units over the time of the step times the workers: 1 when nobody ever
waits. `driver` is the share of the step in which the driver, which alone hands out, is busy.
"""

import argparse
import heapq
import logging
import random
import statistics
import time
from dataclasses import dataclass

import ray
import torch
from transformers import PreTrainedModel

from align.data.chat import encode_prompt
from align.data.demo import demo_prompts
from align.policy.config import ModelConfig
from align.policy.handout import HandOut
from align.policy.model import load_causal_lm, load_tokenizer
from align.policy.rollout import SampleRequest
from align.policy.sample import SamplingSettings, sample

WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
OUTSTANDING = (1, 32, 256, 1024)
"""Calls under way at once, at which the driver's cost of one is measured."""


@dataclass(frozen=True)
class World:
    """What a run meets."""

    straggler_share: float = 0.0
    """Of the workers, which are slow for the whole step."""
    slowdown: float = 3.0
    """Times by which they are."""
    failures_per_hour: float = 0.0
    """Of each worker."""
    restart_seconds: float = 60.0
    """From a failure to the moment at which the new worker holds its weights."""


@dataclass(frozen=True)
class Outcome:
    """A simulated step."""

    efficiency: float
    driver: float
    lost: int
    """Units that were begun and not finished."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units-per-worker", type=int, default=8)
    parser.add_argument("--unit-seconds", type=float, help="mean; default: as measured")
    parser.add_argument("--straggler-share", type=float, default=0.05)
    parser.add_argument("--slowdown", type=float, default=3.0)
    parser.add_argument("--failures-per-hour", type=float, default=0.1, help="of each worker")
    parser.add_argument("--restart-seconds", type=float, default=60.0)
    given = parser.parse_args()
    seconds = unit_seconds()
    mean = statistics.mean(seconds)
    spread = statistics.stdev(seconds) / mean
    print(f"measured: a unit takes {mean:.2f} s, standard deviation {spread:.0%} of it")
    seconds = [one * (given.unit_seconds or mean) / mean for one in seconds]
    cost = driver_seconds()
    told = ", ".join(f"{1e3 * one:.2f} at {calls}" for calls, one in cost.items())
    print(f"measured: the driver spends, in ms for each unit, by calls under way: {told}")
    slow = {"straggler_share": given.straggler_share, "slowdown": given.slowdown}
    failing = {
        "failures_per_hour": given.failures_per_hour,
        "restart_seconds": given.restart_seconds,
    }
    worlds = {
        "calm": World(),
        "stragglers": World(**slow),
        "failures": World(**failing),
        "both": World(**slow, **failing),
    }
    print(f"\nefficiency, {given.units_per_worker} units of {statistics.mean(seconds):.2f} s each")
    print(f"{'workers':>8}" + "".join(f"{name:>12}" for name in worlds) + "  driver  units lost")
    for workers in WORKERS:
        outcomes = [
            typical(workers, workers * given.units_per_worker, seconds, cost, world)
            for world in worlds.values()
        ]
        last = outcomes[-1]
        line = "".join(f"{one.efficiency:12.2f}" for one in outcomes)
        print(f"{workers:8}{line} {last.driver:7.1%} {last.lost:11}")


def typical(
    workers: int, units: int, seconds: list[float], cost: dict[int, float], world: World
) -> Outcome:
    """The median outcome of several steps, by efficiency."""
    outcomes = [simulate(workers, units, seconds, cost, world, seed) for seed in range(9)]
    return sorted(outcomes, key=lambda one: one.efficiency)[len(outcomes) // 2]


def simulate(
    workers: int,
    units: int,
    seconds: list[float],
    cost: dict[int, float],
    world: World,
    seed: int,
) -> Outcome:
    """One step, until its last unit is back."""
    chance = random.Random(seed)
    durations = [chance.choice(seconds) for _ in range(units)]
    slow = [
        world.slowdown if chance.random() < world.straggler_share else 1.0 for _ in range(workers)
    ]
    per_call = cost[min(OUTSTANDING, key=lambda calls: abs(calls - workers))]
    rate = world.failures_per_hour / 3600
    hand_out, events = HandOut(range(workers), units), list[tuple[float, int, int, bool]]()
    now = driver = 0.0  # both in seconds; the driver does one thing at a time
    done = lost = 0
    while True:
        for worker, unit in hand_out.assignments():
            driver = max(driver, now) + per_call
            takes = durations[unit] * slow[worker]
            lives = chance.expovariate(rate) if rate else float("inf")
            heapq.heappush(events, (driver + min(takes, lives), worker, unit, lives >= takes))
        now, worker, unit, finished = heapq.heappop(events)
        if unit < 0:  # it is there again
            hand_out.free(worker)
        elif finished:
            done += 1
            hand_out.free(worker)
        else:
            lost += 1
            hand_out.undone(unit)
            slow[worker] = 1.0  # it starts again elsewhere
            heapq.heappush(events, (now + world.restart_seconds, worker, -1, True))
        if done == units:
            break
    busy = per_call * (units + lost) / now
    return Outcome(sum(durations) / (now * workers), busy, lost)


def unit_seconds(units: int = 24, rows: int = 16, tokens: int = 80) -> list[float]:
    """Processor seconds of units of the model that ships with align, at one thread."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer("embedded", ModelConfig())
    model: PreTrainedModel = load_causal_lm("embedded", ModelConfig()).eval()
    prompts = [row["prompt"] for row in demo_prompts(units * rows, 1, "ppo")]
    ids = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    eos_id = tokenizer.eos_token_id
    assert isinstance(eos_id, int)
    settings, found = SamplingSettings(1.0, tokens, eos_id), []
    for start in range(0, len(ids), rows):
        began = time.process_time()
        unit = enumerate(ids[start : start + rows], start)
        sample(model, [SampleRequest(one, (1, place)) for place, one in unit], settings)
        found.append(time.process_time() - began)
    return found[1:]  # the first one warms up


class Echo:
    """A worker that does nothing, or nothing for a long time."""

    def answer(self, asked: list[SampleRequest]) -> list[SampleRequest]:
        return asked

    def sleep(self) -> None:
        time.sleep(3600)


def driver_seconds(calls: int = 200) -> dict[int, float]:
    """What the driver spends on one unit: hand it out, wait among so many calls, take the reply."""
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    actor = ray.remote(num_cpus=0)(Echo)
    quick, slow = actor.remote(), actor.remote()
    asked = [SampleRequest([1] * 20, (1, 0, place, 0)) for place in range(16)]
    under_way = [slow.sleep.remote() for _ in range(OUTSTANDING[-1])]
    ray.get(quick.answer.remote(asked))
    found = {}
    for outstanding in OUTSTANDING:
        began = time.process_time()
        for _ in range(calls):
            reply = quick.answer.remote(asked)
            ray.wait([*under_way[: outstanding - 1], reply], num_returns=1)
            ray.get(reply)
        found[outstanding] = (time.process_time() - began) / calls
    ray.kill(slow)
    ray.shutdown()
    return found


if __name__ == "__main__":
    main()
