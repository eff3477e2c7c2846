"""Does picking the best of n answers over-optimise the reward model? Asked where a taste is known.

The SFT model answers held-out prompts many times; the reward model picks, the taste that simulated
annotators tried to follow judges. No other feedback has a gold judge.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from align.pipeline.answers import PROBE_STEP, answer_text, sample_answers, sampling_settings
from align.pipeline.config import RunConfig
from align.pipeline.prompts import read_encoded_prompts
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts, per_text
from align.policy.logprobs import text_scores
from align.policy.model import TokenScores, load_causal_lm, load_tokenizer
from align.reward.best_of_n import best_of, declined
from align.reward.taste import taste

PROMPTS, ANSWERS = 64, 16
SHARES = (0.0, 0.1, 0.2, 1 / 3, 0.5)


def probe(
    config: RunConfig,
    directory: RunDirectory,
    policy: Path,
    reward: TokenScores,
    device: torch.device,
) -> dict[str, Any]:
    """Best-of-n and abstention curves, for `rm/evaluation.json`."""
    tokenizer = load_tokenizer(policy, config.model)
    _, prompts = read_encoded_prompts(config, directory, tokenizer)
    ids = [prompt.ids for prompt in prompts[:PROMPTS]]
    answers = sample_answers(
        load_causal_lm(policy, config.model),
        tokenizer,
        ids,
        sampling_settings(config, tokenizer),
        (config.seed, PROBE_STEP),
        per_prompt=ANSWERS,
    )
    texts = Texts(
        [one for one in ids for _ in range(ANSWERS)], [answer.response_ids for answer in answers]
    )
    budget = config.train.micro_batch_tokens
    proxy_B = per_text(lambda batch: text_scores(reward, batch), texts, budget, device)
    proxy_PN = proxy_B.double().numpy().reshape(len(ids), ANSWERS)
    gold = [taste(answer_text(tokenizer, answer)) for answer in answers]
    gold_PN = np.array(gold).reshape(proxy_PN.shape)
    return {
        "best_of_n": [asdict(best_of(proxy_PN, gold_PN, n)) for n in (1, 2, 4, 8, 16)],
        "declined": [asdict(declined(proxy_PN, gold_PN, share)) for share in SHARES],
    }
