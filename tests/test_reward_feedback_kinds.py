"""Every kind and every option on small cases by hand, and planted weights found again."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import choix
import numpy as np
import pyarrow as pa
import pytest
import torch

from align.data.errors import DataError, UserError
from align.data.importers.header import header
from align.data.messages import assistant, user
from align.data.record_batches import record_batch
from align.data.schemas import Preference, Record
from align.reward.config import FeedbackConfig
from align.reward.convert import Part, convert
from align.reward.feedback.comparisons import Strengths, separated
from align.reward.feedback.learned import logistic_regression
from align.reward.feedback.pair_ids import pair_ids
from align.reward.feedback.rules import verdicts
from align.reward.feedback.strengths import strengths
from align.reward.loss import preference_loss
from align.reward.pairs_file import write_pairs


def record(kind: str, name: str, texts: str, prompt: str = "Hi", **fields: Any) -> Record:
    """A record about answers of one letter, which is text and id."""
    made = header(
        kind,
        name,
        user(prompt),
        [assistant(text) for text in texts],
        source="test",
        license="none",
        annotator_id=fields.pop("annotator_id", "ann"),
        guideline_version="1",
        completion_ids=list(texts),
    )
    return made | fields


def parts(records: Iterable[Record], feedback: dict[str, Any], **more: Any) -> list[Part]:
    return list(convert(records, FeedbackConfig.model_validate(feedback), 0.1, **more))


def pairs(records: Iterable[Record], **feedback: Any) -> dict[tuple[str, str], Preference]:
    """Rows of the table by chosen and rejected."""
    rows = [row for part in parts(records, feedback) for row in part.pairs.to_pylist()]
    return {(row["chosen_id"], row["rejected_id"]): row for row in rows}


def best_of(name: str, answers: str, best: int | None, **fields: Any) -> Record:
    return record("best_of", name, answers, best_index=best, none_acceptable=best is None, **fields)


def test_best_of_four_is_three_pairs_of_one_group_and_none_among_the_others() -> None:
    made = pairs([best_of("f", "abcd", 2)])
    assert set(made) == {("c", "a"), ("c", "b"), ("c", "d")}
    assert [row["weight"] for row in made.values()] == [pytest.approx(1 / 3)] * 3
    assert {row["group_size"] for row in made.values()} == {3}
    assert pairs([best_of("f", "abcd", None)]) == {}


def test_best_of_two_is_the_softmax_that_ziegler_trains() -> None:
    (row,) = pairs([best_of("f", "ab", 0)]).values()
    scores = {"a": 0.7, "b": 0.2}
    top1 = -math.log(math.exp(0.7) / (math.exp(0.7) + math.exp(0.2)))
    gap = scores[row["chosen_id"]] - scores[row["rejected_id"]]
    assert (
        row["weight"] * math.log1p(math.exp(-gap))
        == pytest.approx(top1)
        == pytest.approx(0.474077, abs=1e-6)
    )


def fitted_scores(rows: list[Preference]) -> dict[str, float]:
    """The scores at which the loss that training has on these pairs is the least; they sum to 0."""
    names = sorted({row[side] for row in rows for side in ("chosen_id", "rejected_id")})
    chosen, rejected = (
        torch.tensor([names.index(row[side]) for row in rows])
        for side in ("chosen_id", "rejected_id")
    )
    target, margin, weight = (
        torch.tensor([row[column] for row in rows], dtype=torch.float64)
        for column in ("target_prob", "margin", "weight")
    )
    scores = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [scores], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        losses = preference_loss(scores[chosen], scores[rejected], target, margin)
        loss = (weight * losses).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    values = (scores - scores.mean()).tolist()
    return dict(zip(names, values, strict=True))


def test_scores_learnt_from_best_of_pairs_are_those_of_choix() -> None:
    """Four answers, of which 600 people pick the best by a softmax of planted scores."""
    generator = np.random.default_rng(4)
    planted_scores = np.array([1.1, 0.3, -0.4, -1.0])
    chance = np.exp(planted_scores) / np.exp(planted_scores).sum()
    best = generator.choice(4, 600, p=chance).tolist()
    records = [best_of(f"f{i}", "abcd", pick, annotator_id=f"w{i}") for i, pick in enumerate(best)]
    found = list(fitted_scores(list(pairs(records).values())).values())
    data = [(pick, tuple(other for other in range(4) if other != pick)) for pick in best]
    expected = choix.ilsr_top1(4, data, tol=1e-12)
    np.testing.assert_allclose(found, expected - expected.mean(), atol=1e-5)
    np.testing.assert_allclose(found, planted_scores, atol=0.2)


def test_two_people_with_different_favourites_are_one_even_pair() -> None:
    made = pairs([best_of("f", "abc", 0), best_of("g", "abc", 1, annotator_id="other")])
    assert made["a", "b"]["target_prob"] == 0.5 and made["a", "c"]["target_prob"] == 1.0


def battle(name: str, answers: str, outcome: str, **fields: Any) -> Record:
    return record("comparison", name, answers, outcome=outcome, **fields)


@pytest.mark.parametrize(("margins", "margin"), [("none", 0), ("scores", 0), ("all", 2 / 3)])
def test_the_strength_of_a_vote_is_a_margin_on_request(margins: str, margin: float) -> None:
    (row,) = pairs([battle("f", "ab", "b", strength=2)], margins=margins).values()
    assert row["margin"] == pytest.approx(margin) and row["chosen_id"] == "b"


def test_a_vote_against_takes_from_the_margin_and_an_unknown_strength_does_not() -> None:
    votes = [battle("f", "ab", "a", strength=3), battle("g", "ab", "a", strength=None)]
    assert pairs(votes, margins="all")["a", "b"]["margin"] == 1
    votes.append(battle("h", "ba", "a", strength=3))
    assert pairs(votes, margins="all")["a", "b"]["margin"] == 0


def test_the_gap_of_ranks_is_a_margin_on_request() -> None:
    ranking = record("ranking", "f", "abc", ranks=[1, 2, 3])
    made = pairs([ranking], margins="all")
    assert {pair: row["margin"] for pair, row in made.items()} == {
        ("a", "b"): 0.5, ("a", "c"): 1.0, ("b", "c"): 0.5
    }  # fmt: skip
    assert {row["margin"] for row in pairs([ranking]).values()} == {0.0}


def judged(name: str, answer: str, severity: int, rule: str = "polite") -> Record:
    return record("rule", name, answer, rule_id=rule, severity=severity, criterion=f"rule:{rule}")


def test_margins_none_is_plain_bradley_terry() -> None:
    records = [judged("f", "a", 1), judged("g", "b", 5)]
    assert pairs(records)["a", "b"]["margin"] == 1.0
    assert pairs(records, margins="none")["a", "b"]["margin"] == 0.0


STRENGTHS = {"a": 2.0, "b": 1.0, "c": 0.9, "d": -1.0}


def planted(first_B: np.ndarray, second_B: np.ndarray, outcome_B: np.ndarray) -> Strengths:
    """Strengths of the answers a to d, in order of their ids; d is in a component of its own."""
    count = max(first_B.max(), second_B.max()) + 1
    assert len(first_B) == len(outcome_B)
    strength = np.array(list(STRENGTHS.values()))[:count]
    return Strengths(
        strength,
        np.array([0, 0, 0, 1])[:count],
        lambda i, j: np.full(len(i), 0.14),
    )


def test_fitted_strengths_pair_what_they_tell_apart_in_one_component() -> None:
    votes = [battle("f", "ab", "a"), battle("g", "cb", "b"), battle("h", "dd"[:1] + "a", "b")]
    config = {"comparisons": {"pairs": "fitted", "z": 1.96}}
    rows = [row for part in parts(votes, config, fit=planted) for row in part.pairs.to_pylist()]
    made = {(row["chosen_id"], row["rejected_id"]): row for row in rows}
    # b and c differ by 0.1 and 0.14 is the standard error of that; nobody is in d's component.
    assert set(made) == {("a", "b"), ("a", "c")}
    assert made["a", "c"]["target_prob"] == pytest.approx(1 / (1 + math.exp(-1.1)))
    assert made["a", "c"]["margin"] == pytest.approx(1.1)
    assert made["a", "c"]["feedback_ids"] == ["f", "g", "h"]
    config["comparisons"]["z"] = 0.5
    assert len(parts(votes, config, fit=planted)[0].pairs) == 3


def test_separated_players_by_a_double_loop() -> None:
    generator = np.random.default_rng(0)
    error_PP = generator.uniform(0.1, 1, (12, 12))
    error_PP += error_PP.T
    found = Strengths(
        generator.normal(size=12), generator.integers(0, 3, 12), lambda i, j: error_PP[i, j]
    )
    expected = {
        (i, j)
        for i, j in combinations(range(12), 2)
        if found.component_P[i] == found.component_P[j]
        and abs(found.strength_P[i] - found.strength_P[j]) >= 1.5 * error_PP[i, j]
    }
    first, second, gap = separated(found, 1.5)
    assert {tuple(sorted(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)} == (
        expected
    )
    assert np.allclose(gap, found.strength_P[first] - found.strength_P[second])


def test_answers_that_met_are_told_apart_by_the_error_of_their_difference() -> None:
    """Two strengths that sum to 0 are as far apart as twice one of them: not independent."""
    fitted = strengths(np.zeros(40, int), np.ones(40, int), (np.arange(40) < 30).astype(float))
    assert fitted.errors(np.array([0]), np.array([1])).item() == pytest.approx(
        math.sqrt(1 / 30 + 1 / 10)
    )


def test_fitted_pairs_without_a_fit_are_one_line() -> None:
    with pytest.raises(UserError, match=r"comparisons\.pairs: fitted needs a fit"):
        parts([battle("f", "ab", "a")], {"comparisons": {"pairs": "fitted"}})


def given(value: float | None, name: str = "q", criterion: str = "overall") -> dict[str, Any]:
    return {"question_id": name, "criterion": criterion, "option": "", "value": value} | {
        "weight": 1.0, "gate": False
    }  # fmt: skip


def asked(name: str, answers: str, *given: dict[str, Any], **fields: Any) -> Record:
    return record("question", name, answers, answers=list(given), **fields)


@pytest.mark.parametrize(
    ("overall", "chosen", "target"), [(2, "a", 1.0), (-1, "b", 1.0), (0, "a", 0.5)]
)
def test_mode_overall_goes_by_the_sign_of_the_judgement_alone(
    overall: int, chosen: str, target: float
) -> None:
    one = asked("f", "ab", given(0.0), given(1.0), overall=overall)
    (row,) = pairs([one], questions={"mode": "overall"}).values()
    assert (row["chosen_id"], row["target_prob"]) == (chosen, target)
    assert ("b", "a") in pairs([one])
    assert pairs([one | {"overall": None}], questions={"mode": "overall"}) == {}


def test_criterion_weights_decide_between_criteria() -> None:
    blocks = [given(1.0, "x", "helpful"), given(0.0, "y", "honest")]
    blocks += [given(0.0, "x", "helpful"), given(0.8, "y", "honest")]
    one = asked("f", "ab", *blocks)
    assert pairs([one])["a", "b"]["score_chosen"] == pytest.approx(0.5)
    heavy = {"criterion_weights": {"honest": 3.0}}
    assert pairs([one], questions=heavy)["b", "a"]["score_chosen"] == pytest.approx(0.6)


def test_least_gap_is_where_a_tie_ends() -> None:
    one = asked("f", "ab", given(0.5), given(0.75))
    assert pairs([one], questions={"least_gap": 0.3})["a", "b"]["target_prob"] == 0.5
    assert pairs([one], questions={"least_gap": 0.25})["b", "a"]["target_prob"] == 1.0


def test_equal_scores_are_a_tie_or_nothing_at_any_least_gap() -> None:
    free: dict[str, Any] = {"questions": {"least_gap": 0}, "judges": {"least_gap": 0}}
    equal = asked("f", "ab", given(0.5), given(0.5))
    assert [row["target_prob"] for row in pairs([equal], **free).values()] == [0.5]
    even = {"questions": {"mode": "overall", "least_gap": 0}}
    judged = equal | {"overall": 0}
    assert [row["target_prob"] for row in pairs([judged], **even).values()] == [0.5]
    alone = [asked(name, name, given(0.5)) for name in "ab"]
    assert pairs(alone, **free) == {}
    assert pairs([expected("f", "a", 0.8), expected("g", "b", 0.8)], **free) == {}
    assert set(pairs([expected("f", "a", 0.8), expected("g", "b", 0.81)], **free)) == {("b", "a")}


def test_means_of_the_same_scores_in_another_order_are_equal() -> None:
    good = {"a": (1, 1, 4), "b": (4, 1, 1)}  # of ten questions
    records = [
        asked(f"{answer}{place}", answer, *(given(float(q < count), f"q{q}") for q in range(10)))
        for answer, counts in good.items()
        for place, count in enumerate(counts)
    ]
    assert 0.1 + 0.1 + 0.4 != 0.4 + 0.1 + 0.1
    assert pairs(records, questions={"least_gap": 0}) == {}


TRUE_WEIGHTS = np.array([3.0, -1.0, 0.5, 2.0, 0.0])


def planted_questionnaires(count: int) -> list[Record]:
    generator = np.random.default_rng(5)
    records = []
    for i in range(count):
        values = generator.choice([0.0, 0.5, 1.0], (2, 5))
        prob = 1 / (1 + math.exp(-(values[0] - values[1]) @ TRUE_WEIGHTS))
        better = 1 if generator.random() < prob else -1
        blocks = [given(v, f"q{q}") for row in values.tolist() for q, v in enumerate(row)]
        records.append(asked(f"f{i}", "ab", *blocks, prompt=f"Hi {i}", overall=better))
    return records


def test_logistic_regression_finds_planted_weights_and_no_gradient_is_left() -> None:
    generator = np.random.default_rng(1)
    value = generator.choice([-1.0, -0.5, 0, 0.5, 1.0], (500, 5))
    outcome = (generator.random(500) < 1 / (1 + np.exp(-value @ TRUE_WEIGHTS))).astype(float)
    weight = logistic_regression(value, outcome, ridge=1.0)
    cosine = weight @ TRUE_WEIGHTS / np.linalg.norm(weight) / np.linalg.norm(TRUE_WEIGHTS)
    assert cosine > 0.95
    residual = outcome - 1 / (1 + np.exp(-value @ weight))
    assert np.allclose(value.T @ residual, weight, atol=1e-6)


def test_learned_weights_order_answers_as_the_planted_ones_do() -> None:
    records = planted_questionnaires(500)
    rows = [
        row
        for part in parts(records, {"questions": {"mode": "learned", "least_gap": 0.0}})
        for row in part.pairs.to_pylist()
    ]
    by_name = {one["feedback_id"]: one for one in records}
    right = 0
    for row in rows:
        values = np.array([one["value"] for one in by_name[row["feedback_ids"][0]]["answers"]])
        gap = (values[:5] - values[5:]) @ TRUE_WEIGHTS
        right += (gap > 0) == (row["chosen_id"] == "a") or abs(gap) < 0.3
    assert len(rows) == 500 and right > 0.93 * len(rows)
    assert max(row["margin"] for row in rows) <= 2


def test_weights_are_learned_from_battles_of_the_same_answers_too() -> None:
    records = planted_questionnaires(300)
    votes = [
        battle(f"v{i}", "ab", "a" if one["overall"] > 0 else "b", prompt=f"Hi {i}")
        for i, one in enumerate(records)
    ]
    config = {"questions": {"mode": "learned"}}
    mute = [one | {"overall": None} for one in records]
    (ours,), (theirs,) = parts([*mute, *votes], config), parts(records, config)
    assert len(ours.pairs) == len(theirs.pairs) == 300
    assert {r["feedback_ids"][0] for r in ours.pairs.to_pylist()} <= {
        r["feedback_id"] for r in mute
    }
    with pytest.raises(DataError, match="learned has nothing to learn from"):
        parts(mute, config)


def expected(name: str, answer: str, reward: float, judge: str = "j") -> Record:
    """What a judge gives one answer."""
    return record(
        "rbrm", name, answer, reward=reward, judge_id=judge, rubric_id="r",
        rubric_version="1", annotator_kind="model",
    )  # fmt: skip


def test_a_judge_that_always_says_the_same_makes_no_pair() -> None:
    assert pairs([expected("f", "a", 0.7), expected("g", "b", 0.7)]) == {}
    made = pairs([expected("f", "a", 0.7), expected("g", "b", -0.5)])
    assert made["a", "b"]["margin"] == pytest.approx(1.2)
    # Rewards of two judges have no common scale.
    assert pairs([expected("f", "a", 0.7), expected("g", "b", -0.5, judge="k")]) == {}
    near = [expected("f", "a", 0.7), expected("g", "b", 0.62)]
    assert pairs(near) == {} and set(pairs(near, judges={"least_gap": 0.05})) == {("a", "b")}


LEXICOGRAPHIC = {"rules": {"pairs": "lexicographic", "hard": ["safe", "legal"]}}


def test_hard_rules_decide_and_people_decide_the_rest() -> None:
    records = [
        judged("f", "a", 5, "safe"), judged("g", "b", 1, "safe"), judged("h", "c", 2, "safe"),
        battle("i", "ab", "a"), battle("j", "bc", "a"),
    ]  # fmt: skip
    (part,) = parts(records, LEXICOGRAPHIC)
    rows = {(r["chosen_id"], r["rejected_id"]): r for r in part.pairs.to_pylist()}
    assert set(rows) == {("b", "a"), ("c", "a"), ("b", "c")}
    assert {row["criterion"] for row in rows.values()} == {"overall"}
    assert rows["b", "a"]["target_prob"] == 1.0 and rows["b", "a"]["margin"] == 1.0
    assert rows["b", "a"]["feedback_ids"] == ["f", "g"]
    assert sum(row["weight"] for row in rows.values()) == pytest.approx(1)
    (conflict,) = part.conflicts.to_pylist()
    assert (conflict["chosen_id"], conflict["rejected_id"]) == ("b", "a")
    assert (conflict["criterion"], conflict["against"]) == ("rule:safe", "overall")
    assert conflict["against_feedback_ids"] == ["i"] and conflict["outvoted"]


def test_a_hard_rule_violator_is_never_chosen_over_a_clean_answer() -> None:
    generator = np.random.default_rng(7)
    records = []
    for prompt in range(200):
        for rule in ("safe", "legal", "brief"):
            for answer in "abcd":
                one = judged(f"{prompt}{rule}{answer}", answer, int(generator.integers(1, 6)), rule)
                records.append(one | record("rule", "x", answer, f"Hi {prompt}") | {
                    name: one[name] for name in ("feedback_id", "rule_id", "severity", "criterion")
                })  # fmt: skip
        ranks = (generator.permutation(4) + 1).tolist()
        records.append(record("ranking", f"r{prompt}", "abcd", f"Hi {prompt}", ranks=ranks))
    severity = {
        (one["prompt_id"], one["completion_ids"][0], one["rule_id"]): one["severity"]
        for one in records
        if one["kind"] == "rule"
    }
    (part,) = parts(records, LEXICOGRAPHIC)
    hard = ("safe", "legal")
    decided = 0
    for row in part.pairs.to_pylist():
        sides = [
            [severity[row["prompt_id"], row[f"{side}_id"], rule] for rule in hard]
            for side in ("chosen", "rejected")
        ]
        if all(value < 3 for value in sides[1]) and 3 not in sides[0]:
            decided += 1
            assert max(sides[0]) < 3, (row["criterion"], sides)
    assert decided > 20 and len(part.conflicts) > 20


def test_the_first_hard_rule_that_tells_decides() -> None:
    records = [
        judged("f", "a", 1, "safe"), judged("g", "b", 2, "safe"),
        judged("h", "a", 5, "legal"), judged("i", "b", 1, "legal"),
    ]  # fmt: skip
    table = pa.Table.from_batches([record_batch(records)])
    said = verdicts(table, ["safe", "legal"])
    assert said.prob_O.tolist() == [0.0] and sorted(said.record_E.tolist()) == [2, 3]
    assert len(verdicts(table, ["safe"]).prob_O) == 0


def test_rules_that_disagree_are_logged_and_both_kept() -> None:
    records = [judged("f", "a", 1), judged("g", "b", 5)]
    records += [judged("h", "a", 5, "brief"), judged("i", "b", 1, "brief"), battle("j", "ab", "b")]
    (part,) = parts(records, {})
    assert len(part.pairs) == 3
    logged = {(one["criterion"], one["against"]) for one in part.conflicts.to_pylist()}
    assert {frozenset(pair) for pair in logged} == {
        frozenset({"rule:polite", "rule:brief"}), frozenset({"overall", "rule:polite"})
    }  # fmt: skip
    assert not any(one["outvoted"] for one in part.conflicts.to_pylist())


def test_lexicographic_needs_hard_rules_and_they_need_it() -> None:
    for rules in ({"pairs": "lexicographic"}, {"hard": ["safe"]}):
        with pytest.raises(ValueError, match="hard rules need lexicographic"):
            FeedbackConfig.model_validate({"rules": rules})


def test_weights_are_of_known_criteria() -> None:
    for weights in ({"nice": 1.0}, {"honest": -1.0}):
        with pytest.raises(ValueError, match="criterion_weights"):
            FeedbackConfig.model_validate({"questions": {"criterion_weights": weights}})


def test_only_records_that_count_are_converted() -> None:
    """Membership of the pool is that at annotation time."""
    early, late = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 3))
    votes = [
        battle("f", "ab", "a", annotator_id="x", created_at=early),
        battle("g", "ab", "b", annotator_id="x", created_at=late),
        battle("h", "ab", "b", annotator_id="y", created_at=late) | {"gold": True},
    ]
    since = pa.scalar(datetime(2026, 2, 1, tzinfo=UTC), pa.timestamp("us", tz="UTC"))

    def counted(table: pa.Table) -> np.ndarray:
        flags: np.ndarray = pa.compute.greater(table["created_at"], since).to_numpy()
        return flags

    (part,) = parts(votes, {}, counted=counted)
    (row,) = part.pairs.to_pylist()
    assert (row["chosen_id"], row["feedback_ids"]) == ("b", ["g"])
    counts = part.counts["comparison"]
    assert (counts.records, counts.gold, counts.excluded, counts.silent) == (3, 1, 1, 0)


def test_conflicts_lie_beside_the_pairs(tmp_path: Path) -> None:
    records = [judged("f", "a", 1), judged("g", "b", 5), battle("j", "ab", "b")]
    write_pairs(tmp_path / "pairs.parquet", convert(records, FeedbackConfig(), 0.1))
    assert pa.parquet.read_table(tmp_path / "pairs.conflicts.parquet").num_rows == 1


@pytest.mark.parametrize("name", ['"', "\\", "\x00", "é 漢", "\x7f", "a\nb"])
def test_a_pair_id_is_the_hash_of_canonical_json(name: str) -> None:
    from align.data.messages import sha256_of

    made = pair_ids(pa.array([name, "p"]), pa.array(["b", "b"]), pa.array(["a", name]),
                    pa.array(["overall", "rule:x"])).to_pylist()  # fmt: skip
    assert made[0] == sha256_of([name, ["a", "b"], "overall"])
    assert made[1] == sha256_of(["p", sorted(["b", name]), "rule:x"])


def test_nothing_but_ties_is_an_empty_table_where_ties_are_dropped(tmp_path: Path) -> None:
    votes = [battle(f"f{i}", "ab", "tie") for i in range(5)]
    assert len(pairs(votes, ties="drop")) == 0 and len(pairs(votes)) == 1
    counts = write_pairs(tmp_path / "p.parquet", convert(votes, FeedbackConfig(ties="drop"), 0.1))
    assert counts["comparison"].silent == 5 and counts["comparison"].pairs == 0
    assert pa.parquet.read_table(tmp_path / "p.parquet").num_rows == 0


def test_forty_thousand_battles_between_two_answers_are_one_pair() -> None:
    base = battle("f", "ab", "a")
    votes = [
        base | {"feedback_id": f"f{i}", "annotator_id": f"ann {i}", "outcome": "aab"[i % 3]}
        for i in range(40_000)
    ]
    (row,) = pairs(votes).values()
    assert row["target_prob"] == pytest.approx(2 / 3, abs=1e-4)
    assert len(row["annotator_ids"]) == len(row["feedback_ids"]) == 40_000
    assert row["n_annotators"] == 2**15 - 1  # as much as its column can count


def test_more_rules_than_a_column_of_choices_holds() -> None:
    records = [
        judged(f"{rule}{answer}", answer, severity, f"rule {rule:03d}")
        for rule in range(300)
        for answer, severity in (("a", 1), ("b", 5))
    ]
    (part,) = parts(records, {})
    assert part.pairs["criterion"].num_chunks > 2
    names = part.pairs["criterion"].cast(pa.string()).to_pylist()
    assert names == [f"rule:rule {rule:03d}" for rule in range(300)]


@pytest.mark.parametrize("name", ["漢字", "a\u2028b", "\U0001f600", "e\u0301", "'; --", "a\x7f"])
def test_ids_and_texts_of_any_unicode_come_through(name: str) -> None:
    one = record("ranking", name, "ab", name, ranks=[1, 2]) | {
        "annotator_id": name, "completion_ids": [name, f"{name}2"],
        "completions": [assistant(name), assistant(f"{name} ")],
    }  # fmt: skip
    (row,) = pairs([one]).values()
    assert row["chosen"] == assistant(name) and row["rejected"] == assistant(f"{name} ")
    assert row["annotator_ids"] == row["feedback_ids"] == [name]
