"""In-context classification: the prompt as it should be, and label scores as manual sums."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from align.data.errors import UserError
from align.reward.judge.labels import few_shot_prompt, label_logprobs

CASES = [("2+2", "4"), ("1+5", "6"), ("3+0", "3")]


def test_the_prompt_is_instruction_cases_and_an_open_question() -> None:
    assert few_shot_prompt("Add.", CASES[:2], "7+1") == (
        "Add.\n\nInput: 2+2\nOutput: 4\n\nInput: 1+5\nOutput: 6\n\nInput: 7+1\nOutput:"
    )
    assert few_shot_prompt("Add.", [], "7+1") == "Add.\n\nInput: 7+1\nOutput:"


def test_the_answer_slot_is_empty_and_the_cases_keep_their_order() -> None:
    for order in ([0, 1, 2], [2, 0, 1]):
        prompt = few_shot_prompt("Add.", [CASES[i] for i in order], "9+9")
        places = [prompt.index(CASES[i][0]) for i in order] + [prompt.index("9+9")]
        assert places == sorted(places)
        assert prompt.endswith("Output:") and "18" not in prompt


@pytest.mark.parametrize("max_tokens", [1, 8192])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_a_label_scores_the_sum_of_its_tokens(
    tiny_causal: Callable[[str], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    family: str,
    max_tokens: int,
) -> None:
    model, labels = tiny_causal(family), [" yes", " no", " perhaps not"]
    prompt = few_shot_prompt("Is it?", [("a", "yes")], "b")
    found = label_logprobs(model, tokenizer, prompt, labels, max_tokens)
    for label, logprob in zip(labels, found, strict=True):
        ids, expected = tokenizer(prompt)["input_ids"], 0.0
        for token in tokenizer(label)["input_ids"]:
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
            expected += float(logits.log_softmax(dim=0)[token])
            ids = [*ids, token]
        assert logprob == pytest.approx(expected, abs=1e-3)
    assert np.std(found) > 0.1


def test_a_label_without_tokens_is_refused(
    tiny_causal: Callable[[str], PreTrainedModel], tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(UserError, match="label '' has no tokens in this tokenizer"):
        label_logprobs(tiny_causal("llama"), tokenizer, "Is it?", [" yes", ""])
