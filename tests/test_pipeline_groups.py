"""Preference groups in token ids: what is left out, what is cut, what each pair weighs."""

import itertools
import math
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from align.data.chat import encode
from align.data.config import DataConfig
from align.data.errors import DataError, UserError
from align.data.messages import assistant, user
from align.pipeline.config import RunConfig, TrainConfig
from align.pipeline.groups import Group, Preference, encode_groups, fingerprint_of
from align.policy.config import RolloutConfig
from align.reward.config import RewardConfig

pytestmark = pytest.mark.usefixtures("one_rank")

ANSWERS = ["a", "bb", "ccc", "dddd", "eeeee"]


def settings(max_length: int = 120, budget: int = 4096) -> RunConfig:
    """Lengths in bytes, more or less: the tokenizer has a token for each."""
    return RunConfig(
        name="test",
        data=DataConfig(max_length=max_length, max_prompt_length=max_length - 8),
        train=TrainConfig(micro_batch_tokens=budget),
        rollout=RolloutConfig(max_new_tokens=8),
    )


def rows_of(
    answers: list[str], group_id: str = "g", split: str = "train", group_weight: float = 1.0
) -> list[Preference]:
    """Every pair of a ranking, best first."""
    pairs = list(itertools.combinations(range(len(answers)), 2))
    return [
        {
            "group_id": group_id,
            "group_size": len(pairs),
            "feedback_kind": "ranking",
            "split": split,
            "prompt": user("Hi"),
            "chosen": assistant(answers[better]),
            "rejected": assistant(answers[worse]),
            "chosen_id": f"{better}",
            "rejected_id": f"{worse}",
            "target_prob": 0.5 if worse == better + 1 else 1.0,
            "margin": float(worse - better),
            "score_chosen": None,
            "score_rejected": None,
            "noise_prob": None,
            "weight": 1 / len(pairs),
            "group_weight": group_weight,
        }
        for better, worse in pairs
    ]


HELD_OUT = rows_of(["x", "y"], "held out", "test")


def train_groups(
    rows: list[Preference], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> list[Group]:
    train, test = encode_groups([*rows, *HELD_OUT], tokenizer, config)
    assert len(test) == 1
    return train


def weighted_loss(groups: list[Group]) -> float:
    """The loss of a made-up reward model that looks at all token ids."""
    total = 0.0
    for group in groups:
        both = zip(group.texts.prompts, group.texts.responses, strict=True)
        scores = [math.sin(sum(prompt) + 3 * sum(answer)) for prompt, answer in both]
        for pair in group.pairs:
            gap = (
                scores[pair.chosen] - scores[pair.rejected] - pair.margin * (pair.target_prob == 1)
            )
            better = 1 / (1 + math.exp(-gap))
            t = pair.target_prob
            total -= pair.weight * (t * math.log(better) + (1 - t) * math.log(1 - better))
    return total


def test_each_answer_of_a_group_is_there_once(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = rows_of(ANSWERS)
    (group,) = train_groups(rows, tokenizer, settings())
    assert len(group.texts) == 5 and len(group.pairs) == 10
    for pair in group.pairs:
        for side, place in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            expected = encode(tokenizer, user("Hi"), pair.row[side])
            assert group.texts.prompts[place] == expected.prompt_ids
            assert group.texts.responses[place] == expected.completion_ids
    assert [pair.row for pair in group.pairs] == rows
    assert sum(pair.weight for pair in group.pairs) == pytest.approx(1)
    longest = encode(tokenizer, user("Hi"), assistant("eeeee"))
    assert group.longest == len(longest.prompt_ids) + len(longest.completion_ids)


def test_groups_and_splits_are_kept_apart(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [*rows_of(ANSWERS[:3], "one"), *rows_of(ANSWERS[:2], "two", group_weight=0.25)]
    one, two = train_groups(rows[::-1], tokenizer, settings())[::-1]
    assert (len(one.texts), len(two.texts)) == (3, 2)
    assert sum(pair.weight for pair in one.pairs) == pytest.approx(1)
    assert sum(pair.weight for pair in two.pairs) == pytest.approx(0.25)


def test_an_answer_that_is_too_long_leaves_its_group_and_the_rest_keeps_its_weight(
    tokenizer: PreTrainedTokenizerBase, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of(["a", "b" * 500, "ccc", "dddd"], group_weight=0.5)
    (group,) = train_groups(rows, tokenizer, settings())
    assert len(group.texts) == 3
    assert [(p.row["chosen_id"], p.row["rejected_id"]) for p in group.pairs] == [
        ("0", "2"),
        ("0", "3"),
        ("2", "3"),
    ]
    assert [pair.weight for pair in group.pairs] == pytest.approx([0.5 / 3] * 3)
    assert "3 pairs left out" in capsys.readouterr().out


def test_a_group_that_was_broken_across_files_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = rows_of(ANSWERS[:3], "broken")
    with pytest.raises(DataError, match="group broken has 2 of its 3 pairs") as caught:
        train_groups(rows[1:], tokenizer, settings())
    assert "\n" not in str(caught.value)


def test_a_group_without_pairs_is_left_out(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [*rows_of(["a", "b" * 500], "lost"), *rows_of(["a", "b"], "kept")]
    (group,) = train_groups(rows, tokenizer, settings())
    assert {pair.row["group_id"] for pair in group.pairs} == {"kept"}


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_pairs_is_one_line(tokenizer: PreTrainedTokenizerBase, split: str) -> None:
    with pytest.raises(UserError, match="no preference pair is left to") as caught:
        encode_groups(rows_of(ANSWERS, split=split), tokenizer, settings())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answers_at_once", [2, 3, 4])
def test_a_big_group_is_cut_and_its_loss_stays_the_same(
    tokenizer: PreTrainedTokenizerBase, answers_at_once: int
) -> None:
    rows = rows_of([*ANSWERS, "ff", "g"], group_weight=0.5)
    (whole,) = train_groups(rows, tokenizer, settings())
    budget = answers_at_once * whole.longest
    parts = train_groups(rows, tokenizer, settings(max_length=whole.longest, budget=budget))
    assert len(parts) > 1
    assert all(len(part.texts) * part.longest <= budget for part in parts)
    assert weighted_loss(parts) == pytest.approx(weighted_loss([whole]))

    def shown(pairs: list[Any]) -> list[tuple[str, str, float]]:
        return [(p.row["chosen_id"], p.row["rejected_id"], p.weight) for p in pairs]

    assert shown([pair for part in parts for pair in part.pairs]) == shown(whole.pairs)


def test_a_group_that_fits_stays_whole(tokenizer: PreTrainedTokenizerBase) -> None:
    (whole,) = train_groups(rows_of(ANSWERS), tokenizer, settings())
    config = settings(max_length=whole.longest, budget=5 * whole.longest)
    assert len(train_groups(rows_of(ANSWERS), tokenizer, config)) == 1


def beaten_by(group: Group) -> dict[str, Any]:
    """Answer id -> the ids it was put before, and the weight of that choice."""
    ids = {}
    for pair in group.pairs:
        ids[pair.chosen], ids[pair.rejected] = pair.row["chosen_id"], pair.row["rejected_id"]
    return {
        ids[one.winner]: ({ids[place] for place in one.candidates} - {ids[one.winner]}, one.weight)
        for one in group.choices
    }


def ranked(rankings: str, budget: int = 4096) -> RunConfig:
    config = settings(budget=budget)
    return config.model_copy(update={"rm": RewardConfig.model_validate({"rankings": rankings})})


def strict(rows: list[Preference]) -> list[Preference]:
    return [row | {"target_prob": 1.0} for row in rows]


def test_a_ranking_is_a_choice_for_each_answer_but_the_last(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = strict(rows_of(ANSWERS[:4], group_weight=0.5))
    (group,) = train_groups(rows, tokenizer, ranked("plackett_luce"))
    third = pytest.approx(0.5 / 3)
    assert beaten_by(group) == {
        "0": ({"1", "2", "3"}, third),
        "1": ({"2", "3"}, third),
        "2": ({"3"}, third),
    }
    (group,) = train_groups(rows, tokenizer, ranked("best_of"))
    assert beaten_by(group) == {"0": ({"1", "2", "3"}, pytest.approx(0.5))}
    (group,) = train_groups(rows, tokenizer, ranked("pairs"))
    assert group.choices == []


def test_tied_answers_never_compete_in_a_choice(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = rows_of(ANSWERS[:3])  # 0 and 1 are tied, and 1 and 2
    (group,) = train_groups(rows, tokenizer, ranked("plackett_luce"))
    assert beaten_by(group) == {"0": ({"2"}, pytest.approx(1.0))}


def test_where_people_disagree_or_nobody_ranked_pairs_are_learnt(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    doubtful = [row | {"target_prob": 0.8} for row in rows_of(ANSWERS[:3])]
    battles = [row | {"feedback_kind": "comparison"} for row in strict(rows_of(ANSWERS[:3]))]
    for rows in (doubtful, battles):
        (group,) = train_groups(rows, tokenizer, ranked("plackett_luce"))
        assert group.choices == [] and len(group.pairs) == 3


def test_what_people_said_of_single_answers_is_kept_for_the_auxiliary_head(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    scored = {"feedback_kind": "question", "score_chosen": 0.8, "score_rejected": -1.0}
    (group,) = train_groups([rows_of(ANSWERS[:2])[0] | scored], tokenizer, settings())
    assert group.qualities == {0: 0.8, 1: 0.0}
    battle = scored | {"feedback_kind": "comparison"}
    (group,) = train_groups([rows_of(ANSWERS[:2])[0] | battle], tokenizer, settings())
    assert group.qualities == {}


def test_a_group_of_choices_is_never_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = strict(rows_of(ANSWERS))
    assert len(train_groups(rows, tokenizer, ranked("pairs", budget=120))) > 1
    assert len(train_groups(rows, tokenizer, ranked("plackett_luce", budget=120))) == 1


def test_the_margin_counts_for_certain_preferences_alone(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = [row | {"margin": 2.0, "target_prob": 0.9} for row in rows_of(ANSWERS[:2])]
    (doubtful,) = train_groups(rows, tokenizer, settings())
    (certain,) = train_groups(strict(rows), tokenizer, settings())
    assert (doubtful.pairs[0].margin, certain.pairs[0].margin) == (0.0, 2.0)


def test_training_reads_the_target_smoothed_by_noise_and_evaluation_the_votes(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = rows_of(ANSWERS[:2]) + [row | {"target_prob": 1.0} for row in rows_of(["x", "y"], "h")]
    plain = train_groups(rows, tokenizer, settings())
    noisy = train_groups([row | {"noise_prob": 0.2} for row in rows], tokenizer, settings())
    assert [group.pairs[0].learnt_prob for group in plain] == [0.5, 1.0]  # exactly
    assert [group.pairs[0].learnt_prob for group in noisy] == [0.5, pytest.approx(0.8)]
    assert [group.pairs[0].target_prob for group in noisy] == [0.5, 1.0]
    assert fingerprint_of(plain) != fingerprint_of(noisy)
    rows = [row | {"noise_prob": 0.1} for row in rows_of(ANSWERS)]
    (whole,) = train_groups(rows, tokenizer, settings())
    cut = settings(max_length=whole.longest, budget=3 * whole.longest)
    parts = train_groups(rows, tokenizer, cut)
    assert len(parts) > 1
    assert {pair.learnt_prob for part in parts for pair in part.pairs} == {0.5, 0.9}
