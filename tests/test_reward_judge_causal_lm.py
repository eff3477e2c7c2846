"""A causal model as a judge: its letter scores are those of a plain forward pass."""

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from align.data.chat import encode_prompt
from align.data.errors import UserError
from align.data.messages import Message, assistant, user
from align.data.schemas import FEEDBACK, completed
from align.data.validate import validate_record
from align.reward.judge.asking import Judge
from align.reward.judge.causal_lm import CausalJudge, letter_ids
from align.reward.judge.letters import letter_orders
from align.reward.judge.pairwise import CRITERIA, Battle, judge_battles
from align.reward.judge.rbrm import Exchange, Manner, judge_answers, rubric_question
from align.reward.judge.records import Origin
from align.reward.judge.rubric import load_rubric

MakeModel = Callable[[str], PreTrainedModel]

QUESTIONS = [user("Is it?"), user("A. yes\nB. no"), user("A. no\nB. yes"), user("x" * 60)]
ORIGIN = Origin("my study", "CC0-1.0", datetime(2026, 1, 2, tzinfo=UTC))


def manual_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: list[Message],
    letters: str,
) -> list[float]:
    """One text, one token at a time: log softmax of the last logits at each letter's token."""
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
    total = torch.logsumexp(logits, dim=0)
    vocabulary = tokenizer.get_vocab()
    return [float(logits[vocabulary[letter]] - total) for letter in letters]


@pytest.fixture
def long_model(tiny_config: Callable[[str], PretrainedConfig]) -> PreTrainedModel:
    """Random weights that read a whole rubric."""
    config = tiny_config("llama")
    config.max_position_embeddings = 4096
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    model.eval()
    return model


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("max_tokens", [1, 200, 8192])
def test_letter_scores_are_those_of_a_manual_forward(
    tiny_causal: MakeModel, tokenizer: PreTrainedTokenizerBase, family: str, max_tokens: int
) -> None:
    model = tiny_causal(family)
    judge: Judge = CausalJudge("tiny", model, tokenizer, max_tokens)
    replies = judge.ask(QUESTIONS, letters=3)
    expected = [manual_logprobs(model, tokenizer, question, "ABC") for question in QUESTIONS]
    assert replies.logprobs_NK == pytest.approx(np.array(expected), abs=1e-4)
    assert not replies.problems and replies.floored == 0


def test_only_the_last_position_of_each_text_goes_through_the_vocabulary(
    tiny_causal: MakeModel, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, shapes = tiny_causal("llama"), []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *args: shapes.append(tuple(args[2].shape)))
    CausalJudge("tiny", model, tokenizer).ask([QUESTIONS[1], QUESTIONS[2]], letters=2)
    handle.remove()
    assert [shape[:2] for shape in shapes] == [(2, 1)]


def test_a_question_longer_than_the_context_has_a_problem_and_the_others_a_reply(
    tiny_causal: MakeModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    judge = CausalJudge("tiny", tiny_causal("llama"), tokenizer)
    replies = judge.ask([user("a"), user("b" * 200), user("c")], letters=2)
    length = len(encode_prompt(tokenizer, user("b" * 200)))
    assert replies.problems == {1: f"the question has {length} tokens, tiny reads up to 128"}
    assert np.isnan(replies.logprobs_NK).any(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize("count", [2, 4, 26])
def test_letters_are_tokens_of_their_own(tokenizer: PreTrainedTokenizerBase, count: int) -> None:
    ids = letter_ids(tokenizer, count)
    assert tokenizer.decode(ids) == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]


@pytest.mark.parametrize("between", [" ", "<think></think>", "人"])
def test_a_template_with_something_before_the_letter_is_refused(
    tokenizer: PreTrainedTokenizerBase, between: str
) -> None:
    assert isinstance(tokenizer.chat_template, str)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ m['content'] }}",
        "{{ '" + between + "' if m['role'] == 'assistant' }}{{ m['content'] }}",
    )
    with pytest.raises(UserError, match="a reply of 'A' does not begin with one token 'A' but"):
        letter_ids(tokenizer, 2)


def test_a_template_that_rewrites_the_question_once_it_is_answered_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = "{{ messages | length }}{{ messages[-1]['content'] }}"
    with pytest.raises(UserError, match="cannot judge by letters"):
        letter_ids(tokenizer, 2)


def test_a_space_that_belongs_to_the_letters_token_is_kept() -> None:
    """As SentencePiece has it: after `[/INST]` the reply begins with the one token " A"."""
    words = ["<unk>", "</s>", "▁[INST]", "▁?", "▁[/INST]", "▁B", "▁A", "A", "B", "▁"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{% endif %}{% endfor %}"
    )
    assert letter_ids(tokenizer, 2) == [words.index("▁A"), words.index("▁B")]
    with pytest.raises(UserError, match="a reply of 'C' does not begin with one token"):
        letter_ids(tokenizer, 3)


def test_a_rubric_end_to_end_is_the_average_of_manual_forwards(
    long_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    judge, rubric = CausalJudge("tiny", long_model, tokenizer), load_rubric("refusal")
    exchange = Exchange(user("Do it."), assistant("No."), "harmful")
    found = judge_answers(judge, rubric, [exchange], ORIGIN, Manner(most_orders=4))
    probs = np.zeros(4)
    for order in letter_orders(options=4, most=4, seed=0):
        question = rubric_question(rubric, exchange, order)
        letters = np.exp(manual_logprobs(long_model, tokenizer, question, "ABCD"))
        for option, share in zip(order, letters / letters.sum(), strict=True):
            probs[option] += share / 4
    (record,) = found.records
    assert np.exp(record["option_logprobs"]) == pytest.approx(probs, abs=1e-4)
    assert probs.std() > 1e-3 and 0 < found.letter_mass < 1


def test_a_battle_end_to_end_gives_a_valid_record(
    long_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    judge = CausalJudge("tiny", long_model, tokenizer)
    battle = Battle(user("Do it."), assistant("No."), assistant("Yes."))
    (record,) = judge_battles(judge, CRITERIA["harmless"], [battle], ORIGIN).records
    assert validate_record(completed(record, FEEDBACK["comparison"])) == []
