"""Tokens of answers per second: our sampler, transformers' `generate`, one Ray worker and two.

All sides draw answers of up to 400 tokens to the same 64 prompts with the same model, the first 12
words of as many stories, at one thread, in turns. A token counts if it is part of an answer:
`generate` decodes finished rows to the end of the batch, and those do not. Workers draw four
answers to each prompt, from the same units whatever their number.

    python benchmarks/rollouts.py --model DIR --stories FILE
    python benchmarks/rollouts.py --model DIR --stories FILE --against vllm=1234

DIR is tinystories-656k or another causal model, FILE holds stories apart by <|endoftext|>.
`--against` puts beside it what another engine made of the same prompts, lengths and threads.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from transformers import AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from align.pipeline.ppo_metrics import measured_peak
from align.policy.config import ModelConfig
from align.policy.model import load_causal_lm
from align.policy.rollout import SampleRequest, cut_units
from align.policy.sample import SamplingSettings, sample
from align.policy.weights import pack
from align.policy.workers import RolloutWorkers

PROMPTS, WORDS, EACH = 64, 12, 4
ROWS = (16, 32, 64)
WORKER_ROWS = 32


def main() -> None:
    transformers_logging.disable_progress_bar()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder with a causal model")
    parser.add_argument("--stories", type=Path, required=True, help="a text file")
    parser.add_argument("--tokens", type=int, default=400, help="of an answer, at most")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts")
    parser.add_argument("--against", nargs="*", default=[], metavar="NAME=TOKENS_PER_SECOND")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer: Any = AutoTokenizer.from_pretrained(arguments.model)
    model: Any = load_causal_lm(arguments.model, ModelConfig()).eval()
    settings = SamplingSettings(1.0, arguments.tokens, tokenizer.eos_token_id)
    prompts = prompts_of(arguments.stories, tokenizer)
    sides: dict[str, Callable[[], int]] = {
        "generate, 64 rows": lambda: generate(model, prompts, settings)
    }
    for rows in ROWS:
        sides[f"ours, {rows} rows"] = lambda rows=rows: ours(model, prompts, settings, rows)
    speed = measured(sides, arguments.rounds)
    speed |= {
        name: float(rate) for name, _, rate in (one.partition("=") for one in arguments.against)
    }
    baseline, peak = speed["generate, 64 rows"], measured_peak(torch.device("cpu"))
    print(f"{'':24} {'tokens/s':>9} {'of generate':>12} {'of matmul peak':>15}")
    for name, rate in speed.items():
        share = rate * 2 * model.num_parameters() / peak
        print(f"{name:24} {rate:9.0f} {rate / baseline:12.2f} {share:15.1%}")
    speed = measured_workers(model, prompts, settings, arguments.rounds)
    for name, rate in speed.items():
        print(f"{name:24} {rate:9.0f} {rate / speed['1 worker']:12.2f} times one worker")


def prompts_of(stories: Path, tokenizer: Any) -> list[list[int]]:
    """Token ids of the beginnings of stories."""
    words = [story.split() for story in stories.read_text(encoding="utf-8").split("<|endoftext|>")]
    beginnings = [" ".join(one[:WORDS]) for one in words if len(one) >= WORDS][:PROMPTS]
    return [tokenizer(one)["input_ids"] for one in beginnings]


def requests(prompts: list[list[int]], each: int = 1) -> list[SampleRequest]:
    """Answers to draw, `each` to a prompt."""
    return [
        SampleRequest(prompt, (1, 0, position, index))
        for position, prompt in enumerate(prompts)
        for index in range(each)
    ]


def generate(model: Any, prompts: list[list[int]], settings: SamplingSettings) -> int:
    """Tokens of answers that `model.generate` draws in one batch."""
    longest = max(map(len, prompts))
    ids_BL = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask_BL = torch.zeros_like(ids_BL)
    for row, prompt in enumerate(prompts):
        ids_BL[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask_BL[row, longest - len(prompt) :] = 1
    output_BL = model.generate(
        input_ids=ids_BL,
        attention_mask=mask_BL,
        generation_config=GenerationConfig(
            do_sample=True,
            top_k=0,
            max_new_tokens=settings.max_new_tokens,
            eos_token_id=settings.eos_id,
            pad_token_id=0,
        ),
    )
    ended_BT = (output_BL[:, longest:] == settings.eos_id).cumsum(dim=1)
    return int((ended_BT == 0).sum() + (ended_BT.amax(dim=1) > 0).sum())  # EOS is part of it


def ours(model: Any, prompts: list[list[int]], settings: SamplingSettings, rows: int) -> int:
    """Tokens of answers that our sampler draws."""
    asked, tokens = requests(prompts), 0
    for unit in cut_units(asked, rows):
        drawn = sample(model, [asked[i] for i in unit], settings)
        tokens += sum(len(one.response_ids) for one in drawn)
    return tokens


def measured_workers(
    model: Any, prompts: list[list[int]], settings: SamplingSettings, rounds: int
) -> dict[str, float]:
    """Tokens per second of one worker and of two, a thread each."""
    asked = requests(prompts, EACH)
    with cluster(), group(1, model) as one, group(2, model) as two:
        return measured(
            {
                "1 worker": lambda: drawn_by(one, asked, settings),
                "2 workers": lambda: drawn_by(two, asked, settings),
            },
            rounds,
        )


def drawn_by(
    workers: RolloutWorkers, asked: list[SampleRequest], settings: SamplingSettings
) -> int:
    drawn = workers.sample(asked, settings, WORKER_ROWS)
    return sum(len(one.response_ids) for one in drawn)


@contextmanager
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=3, include_dashboard=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@contextmanager
def group(count: int, model: Any) -> Iterator[RolloutWorkers]:
    """Workers that hold the model."""
    with RolloutWorkers(count, 1.0, 1, model.config, None, torch.float32) as workers:
        workers.sync(pack(model.named_parameters()), version=0)
        yield workers


def measured(sides: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Median tokens per second of every side, the sides in turns, after one round to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(1 + rounds):
        for name, draw in sides.items():
            began = time.perf_counter()
            tokens = draw()
            rates[name].append(tokens / (time.perf_counter() - began))
    return {name: statistics.median(one[1:]) for name, one in rates.items()}


if __name__ == "__main__":
    main()
