"""Useful tokens per second of vLLM on CPUs, on the story prompts of the rollout benchmark.

    build/venv-vllm/bin/python benchmarks/vllm_rollouts.py --model MODEL --stories STORIES.txt

`make test-vllm` makes that environment. Prompts are the first twelve words of 64 stories, answers
have up to 400 tokens and end with EOS; `--asked FILE` takes both from a JSON list of pairs instead,
prompt ids and the length that another sampler's answer had, which vLLM's then has too. A token is
useful up to the end of its answer. The last line printed is JSON.

vLLM's attention on CPUs has no heads smaller than 32. A model with smaller ones gets the same
heads, widened by zeros: its distribution is the same (the log-probabilities are compared), and what
the zeros cost is next to nothing beside the rest of a step.

Shapes: G heads, S their size, D hidden size.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

SMALLEST_HEAD = 32
VOCABULARY_END = "<|endoftext|>"
Asked = list[tuple[list[int], int | None]]
"""Prompt ids, and how long the answer is to be; None ends it at EOS."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a Llama checkpoint")
    parser.add_argument("--stories", type=Path, help=f"text, stories end with {VOCABULARY_END}")
    parser.add_argument("--asked", type=Path, help="JSON: [[prompt ids, length], ...]")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=400)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="timed, after one that is not")
    parser.add_argument("--compile", action="store_true", help="let vLLM compile the model first")
    arguments = parser.parse_args()
    with_environment(arguments.threads)
    asked = read_asked(arguments)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(widened(arguments.model, Path(folder)), asked, arguments)))


def with_environment(threads: int) -> None:
    """Start again with Intel's OpenMP, as vLLM's documentation advises on CPUs, and with all of
    vLLM in this process: by default it is three, which wait for each other on two cores.
    """
    library = Path(sys.prefix) / "lib" / "libiomp5.so"
    wanted = {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    } | ({"LD_PRELOAD": str(library)} if library.exists() else {})
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def read_asked(arguments: argparse.Namespace) -> Asked:
    """The prompts of the file, or those of the stories."""
    if arguments.asked:
        return [(ids, length) for ids, length in json.loads(arguments.asked.read_text())]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    stories = arguments.stories.read_text(encoding="utf-8").split(VOCABULARY_END)
    words = [story.split()[:12] for story in stories if len(story.split()) >= 12]
    texts = [" ".join(some) for some in words[: arguments.prompts]]
    return [(ids, None) for ids in tokenizer(texts)["input_ids"]]


def widened(source: Path, folder: Path) -> Path:
    """A copy of a Llama model whose heads are large enough; the folder itself if they are.

    Head dimension i goes to place 2 i of a head twice as wide, where its rotation has the same
    frequency, theta^(-2 i / S); queries grow by sqrt(2), since scores are divided by sqrt(2 S).
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if size >= SMALLEST_HEAD:
        return source
    assert SMALLEST_HEAD % size == 0
    factor = SMALLEST_HEAD // size
    model = AutoModelForCausalLM.from_pretrained(source, dtype="float32")
    state = model.state_dict()
    for name, weight in state.items():
        if ".self_attn." in name:
            growth = factor**0.5 if ".q_proj." in name else 1.0
            state[name] = spread(weight, size, factor, into_heads=".o_proj." not in name) * growth
    config.head_dim = SMALLEST_HEAD
    wide = AutoModelForCausalLM.from_config(config)
    wide.load_state_dict(state)
    check_same(model, wide)
    wide.save_pretrained(folder)
    return folder


def spread(weight: Any, size: int, factor: int, into_heads: bool) -> Any:
    """Zeros between the dimensions of every head: of the outputs, (G S, D), or of the inputs."""
    weight_GSD = weight if into_heads else weight.T
    heads_GSD = weight_GSD.reshape(-1, size, weight_GSD.shape[1])
    wide_GSD = heads_GSD.new_zeros(len(heads_GSD), size * factor, heads_GSD.shape[2])
    wide_GSD[:, ::factor] = heads_GSD
    wide = wide_GSD.flatten(0, 1)
    return wide if into_heads else wide.T


def check_same(model: Any, wide: Any) -> None:
    """The distribution after every token of a text is that of the model before."""
    import torch

    ids_1L = torch.arange(3, 203)[None]
    with torch.no_grad():
        before, after = (one(ids_1L).logits.log_softmax(-1) for one in (model, wide))
    assert (before - after).abs().max() < 1e-3, "widening changed the model"


def measure(model: Path, asked: Asked, arguments: argparse.Namespace) -> dict[str, Any]:
    """The best of some rounds; vLLM may work on all answers at once."""
    from vllm import LLM, SamplingParams

    longest = max(len(ids) for ids, _ in asked) + arguments.new_tokens
    engine = LLM(
        model=str(model),
        dtype="float32",
        skip_tokenizer_init=True,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
        max_model_len=longest,
        max_num_seqs=len(asked),
        kv_cache_memory_bytes=2**30,
        enforce_eager=not arguments.compile,
        enable_prefix_caching=False,  # rounds repeat their prompts
        disable_log_stats=True,
    )
    eos_id = json.loads((model / "config.json").read_text())["eos_token_id"]
    prompts = [{"prompt_token_ids": ids} for ids, _ in asked]
    rounds = []
    for number in range(arguments.rounds + 1):
        settings = [
            SamplingParams(
                max_tokens=length or arguments.new_tokens,
                stop_token_ids=[] if length else [eos_id],
                seed=1000 * number + row,
                logprobs=0,
                detokenize=False,
            )
            for row, (_, length) in enumerate(asked)
        ]
        began, busy = time.perf_counter(), processor_seconds()
        outputs = engine.generate(prompts, settings, use_tqdm=False)
        times = time.perf_counter() - began, processor_seconds() - busy
        rounds.append((sum(len(one.outputs[0].token_ids) for one in outputs), *times))
    tokens, seconds, busy = max(rounds[1:], key=lambda one: one[0] / one[1])
    return {
        "engine": "vllm",
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_processor_second": round(tokens / busy, 1),
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "answers": len(asked),
        "threads": arguments.threads,
        "compiled": arguments.compile,
    }


def processor_seconds() -> float:
    """Of this process and those that vLLM started, which other work disturbs less."""
    here = psutil.Process()
    times = [one.cpu_times() for one in (here, *here.children(recursive=True))]
    return sum(one.user + one.system for one in times)


if __name__ == "__main__":
    main()
