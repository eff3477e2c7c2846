"""Which records of an Arrow batch are surely valid, without making Python objects of them.

The word on what is valid has `data/validate.py`, record by record; it is asked about those that do
not pass here. Legend: R records, A answers, G given answers to questions.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from align.data.arrays import (
    Flags,
    Ints,
    first_of,
    flags_of,
    joint_codes,
    name_codes,
    numbers,
    one_array,
    ragged,
    text_codes,
)
from align.data.criteria import RULE, is_criterion
from align.data.messages import ROLES
from align.data.presence import NAMES, OWN_NAMES, blank, incomplete, rows_with
from align.data.questionnaires import QUESTIONNAIRES
from align.data.record_batches import plain
from align.data.schemas import (
    CHOICES,
    FEEDBACK,
    LARGEST_LOGPROB,
    LARGEST_REWARD,
    LARGEST_WEIGHT,
    LEAST_COMPLETIONS,
)

# Microseconds of the first and the last moment that Python has a name for.
FIRST_TIME, LAST_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999
PARALLEL = ("completion_ids", "generator_ids", "generator_steps", "display_order")


def surely_valid(table: pa.Table, kind: str) -> Flags:
    """Flags of records (R) in the kind's own schema, with choices as text."""
    fine_R = np.ones(len(table), dtype=bool)
    for field in plain(FEEDBACK[kind]):
        fine_R &= ~incomplete(table[field.name], field)
    if fine_R.all():  # the checks below need values
        for bad_R in (*_header(table, kind), *CHECKS[kind](table)):
            fine_R &= ~bad_R
    elif fine_R.any():
        kept = np.flatnonzero(fine_R)
        fine_R[kept] = surely_valid(table.take(pa.array(kept)).combine_chunks(), kind)
    return fine_R


def _header(table: pa.Table, kind: str) -> Iterator[Flags]:
    for name in (*NAMES, *OWN_NAMES[kind]):
        yield blank(table[name])
    yield numbers(table["duration_s"]) < 0
    time_R = one_array(table["created_at"]).cast(pa.int64()).to_numpy()
    yield (time_R < FIRST_TIME) | (time_R > LAST_TIME)
    yield flags_of(pc.match_substring(table["prompt_id"], "|"))
    yield _unknown(table, "criterion", is_criterion)
    for name, known in CHOICES.items():
        if name in table.column_names:
            yield _unknown(table, name, known.__contains__)
    yield flags_of(pc.not_equal(table["kind"], kind))
    yield from _messages(table)
    start_R1, ids = ragged(table["completion_ids"])
    count_R = _lengths(table, "completions")
    yield count_R < LEAST_COMPLETIONS[kind]
    for name in PARALLEL:
        yield _given(table, name) & (_lengths(table, name) != count_R)
    names_A, _ = name_codes(ids)
    yield _repeats(start_R1, names_A)
    start_R1, order = ragged(table["display_order"])
    place_A = order.to_numpy().astype(np.int64)
    size_A = np.repeat(np.diff(start_R1), np.diff(start_R1))
    yield _repeats(start_R1, place_A) | rows_with(
        np.diff(start_R1), (place_A < 0) | (place_A >= size_A)
    )


def _messages(table: pa.Table) -> Iterator[Flags]:
    """Prompts that end in no turn of a person's, and answers that are not one assistant turn."""
    start_R1, messages = ragged(table["prompt"])
    length_R = np.diff(start_R1)
    role, content = messages.field("role"), messages.field("content")
    yield rows_with(length_R, ~flags_of(pc.is_in(role, pa.array(ROLES))))
    yield length_R == 0
    if len(messages):
        last = pa.array(np.maximum(start_R1[1:] - 1, 0))
        yield ~flags_of(pc.is_in(role.take(last), pa.array(["user", "tool"])))
        yield blank(content.take(last))
    start_R1, answers = ragged(table["completions"])
    start_A1, turns = ragged(answers)
    role_A = ~flags_of(pc.is_in(turns.field("role"), pa.array(["assistant"])))
    length_A = np.diff(start_A1)
    yield rows_with(np.diff(start_R1), rows_with(length_A, role_A) | (length_A != 1))


def _best_of(table: pa.Table) -> Iterator[Flags]:
    best_R, none_R = numbers(table["best_index"]), flags_of(table["none_acceptable"])
    yield np.isnan(best_R) != none_R
    yield (best_R < 0) | (best_R >= _lengths(table, "completions"))


def _ranking(table: pa.Table) -> Iterator[Flags]:
    """Ranks are dense when there are as many different ones as the highest says."""
    start_R1, ranks = ragged(table["ranks"])
    rank_A = ranks.to_numpy().astype(np.int64)
    length_R = np.diff(start_R1)
    yield length_R != _lengths(table, "completions")
    yield length_R == 0
    record_A = np.repeat(np.arange(len(length_R)), length_R)
    different = np.unique(np.stack([record_A, rank_A]), axis=1)
    highest_R = np.zeros(len(length_R), dtype=np.int64)
    np.maximum.at(highest_R, record_A, rank_A)
    yield highest_R != np.bincount(different[0], minlength=len(length_R))
    yield rows_with(length_R, rank_A < 1)


def _comparison(table: pa.Table) -> Iterator[Flags]:
    yield _lengths(table, "completions") != 2
    yield _outside(table, "strength", 0, 3)
    yield _given(table, "player_a") != _given(table, "player_b")
    itself = pc.equal(one_array(table["player_a"]), one_array(table["player_b"]))
    yield flags_of(pc.fill_null(itself, False))


def _question(table: pa.Table) -> Iterator[Flags]:
    """Ready questionnaires are left to `validate`."""
    count_R, overall_R = _lengths(table, "completions"), numbers(table["overall"])
    start_R1, given = ragged(table["answers"])
    asked_R = np.diff(start_R1)
    yield flags_of(pc.is_in(one_array(table["questionnaire_version"]), pa.array([*QUESTIONNAIRES])))
    yield ~np.isnan(overall_R) & (count_R != 2)
    yield _outside(table, "overall", -2, 2)
    yield (asked_R == 0) & np.isnan(overall_R)
    yield (asked_R % np.maximum(count_R, 1)) != 0
    yield _repeated_questions(start_R1, given, count_R)
    yield _changed_questions(start_R1, given)
    value_G, weight_G = numbers(given.field("value")), numbers(given.field("weight"))
    gate_G = flags_of(given.field("gate"))
    criterion_G, names = name_codes(given.field("criterion"))
    known = np.array([is_criterion(name) for name in names.to_pylist()], dtype=bool)
    yield rows_with(
        asked_R,
        (value_G < 0)
        | (value_G > 1)
        | (weight_G < 0)
        | (weight_G > LARGEST_WEIGHT)
        | (gate_G & np.isnan(value_G))
        | blank(given.field("question_id"))
        | ~known[criterion_G],
    )


def _repeated_questions(start_R1: Ints, given: pa.StructArray, count_R: Ints) -> Flags:
    """Records that ask something else about another answer, or the same twice about one."""
    asked_R = np.diff(start_R1)
    record_G = np.repeat(np.arange(len(asked_R)), asked_R)
    question_G, _ = name_codes(given.field("question_id"))
    size_G = np.maximum(asked_R // np.maximum(count_R, 1), 1)[record_G]
    place_G = np.arange(len(record_G)) - start_R1[:-1][record_G]
    first_G = start_R1[:-1][record_G] + place_G % size_G
    same = joint_codes(record_G, place_G // size_G, question_G)
    twice = np.bincount(same)[same] > 1
    return rows_with(asked_R, (question_G != question_G[first_G]) | twice)


def _changed_questions(start_R1: Ints, given: pa.StructArray) -> Flags:
    """Records in which a question, or an option of it, means two things."""
    asked_R = np.diff(start_R1)
    record_G = np.repeat(np.arange(len(asked_R)), asked_R)
    question_G = joint_codes(record_G, text_codes(given.field("question_id")))
    option_G = joint_codes(question_G, text_codes(given.field("option")))
    changed_G = np.zeros(len(record_G), dtype=bool)
    for name, meant_G in (
        ("criterion", question_G),
        ("weight", question_G),
        ("gate", question_G),
        ("value", option_G),
    ):
        said_G = text_codes(given.field(name))
        changed_G |= said_G != said_G[first_of(meant_G)]
    return rows_with(asked_R, changed_G)


def _rule(table: pa.Table) -> Iterator[Flags]:
    yield _lengths(table, "completions") != 1
    yield _outside(table, "severity", 1, 5)
    turn_R = numbers(table["turn_index"])
    yield (turn_R < 0) | (turn_R > _lengths(table, "prompt"))
    wanted = pc.binary_join_element_wise(RULE, table["rule_id"], "")
    yield flags_of(pc.not_equal(table["criterion"], wanted))


def _rbrm(table: pa.Table) -> Iterator[Flags]:
    yield flags_of(pc.not_equal(table["annotator_kind"], "model"))
    yield _lengths(table, "completions") != 1
    yield _outside(table, "reward", -LARGEST_REWARD, LARGEST_REWARD)
    yield _outside(table, "n_permutations", 1, 2**15 - 1)
    length_R = _lengths(table, "option_ids")
    yield length_R != _lengths(table, "option_logprobs")
    start_R1, options = ragged(table["option_ids"])
    yield _repeats(start_R1, text_codes(options))
    start_R1, logprobs = ragged(table["option_logprobs"])
    yield rows_with(np.diff(start_R1), logprobs.to_numpy() > LARGEST_LOGPROB)
    record_G = pa.array(np.repeat(np.arange(len(length_R)), length_R))
    chosen = pc.equal(one_array(table["chosen_option"]).take(record_G), options)
    yield ~rows_with(length_R, flags_of(chosen))


CHECKS: dict[str, Callable[[pa.Table], Iterator[Flags]]] = {
    "best_of": _best_of,
    "ranking": _ranking,
    "comparison": _comparison,
    "question": _question,
    "rule": _rule,
    "rbrm": _rbrm,
}


def _unknown(table: pa.Table, name: str, known: Callable[[str], bool]) -> Flags:
    codes_R, names = name_codes(one_array(table[name]))
    bad = np.array([not known(value) for value in names.to_pylist()], dtype=bool)
    return bad[codes_R]


def _outside(table: pa.Table, name: str, low: int, high: int) -> Flags:
    value_R = numbers(table[name])
    return (value_R < low) | (value_R > high)


def _repeats(start_R1: Ints, item_A: Ints) -> Flags:
    """Rows with two equal items."""
    length_R = np.diff(start_R1)
    same = joint_codes(np.repeat(np.arange(len(length_R)), length_R), item_A)
    return rows_with(length_R, np.bincount(same, minlength=1)[same] > 1)


def _lengths(table: pa.Table, name: str) -> Ints:
    return np.diff(ragged(table[name])[0])


def _given(table: pa.Table, name: str) -> Flags:
    return ~flags_of(one_array(table[name]).is_null())
