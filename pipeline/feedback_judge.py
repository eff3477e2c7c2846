"""`align feedback judge`: a language model as one more annotator of answers that are there.

It writes raw records, `rbrm` by a rubric or `comparison` by a criterion, as any annotator does.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from align.data.errors import UserError
from align.data.files import read_rows
from align.data.messages import Message
from align.data.records import writable_suffix, write_records
from align.data.rejects import Rejects
from align.data.schemas import Record
from align.pipeline.config import RunConfig
from align.pipeline.feedback_sources import (
    Asked,
    keep_apart,
    note_bad_rows,
    read,
    rejected_of,
    usable_folder,
)
from align.pipeline.progress import Progress, note
from align.reward.judge import pairwise
from align.reward.judge.answers import Answers, answers_in, in_pairs, read_answers, single
from align.reward.judge.asking import Judge, Replies
from align.reward.judge.endpoint import EndpointJudge
from align.reward.judge.pairwise import CRITERIA
from align.reward.judge.posting import endpoint_at
from align.reward.judge.rbrm import Exchange, Manner, guideline_of, judge_answers
from align.reward.judge.records import Origin
from align.reward.judge.rubric import PromptClass, load_rubric

AT_ONCE = 256  # questions between two updates of the progress
LITTLE_MASS = 0.5  # probability of the letters below which the judge seems not to follow


class Said(NamedTuple):
    """What a judge said about some answers."""

    records: list[Record]
    problems: dict[int, str]
    remark: str | None


@dataclass(frozen=True)
class Task:
    """What a judge is asked about, and how."""

    guideline: str
    """The `guideline_version` of its records."""
    cases: Callable[[Iterable[Answers]], list[Answers]]
    ask: Callable[[Judge, Sequence[Answers], Origin], Said]


def task_of(
    rubric: str | None, criterion: str | None, prompt_class: PromptClass, calibrated: bool
) -> Task:
    """Raises: UserError unless it is one of a rubric and a known criterion."""
    if rubric is not None and criterion is None:
        return _by_rubric(rubric, prompt_class, Manner(calibrated=calibrated))
    if criterion is not None and rubric is None:
        return _by_criterion(criterion)
    raise UserError("give one of --rubric NAME|FILE and --pairwise CRITERION")


def _by_rubric(name: str, prompt_class: PromptClass, manner: Manner) -> Task:
    rubric = load_rubric(name)
    guideline = guideline_of(rubric, manner)

    def ask(judge: Judge, cases: Sequence[Answers], origin: Origin) -> Said:
        exchanges = [Exchange(one.prompt, one.completions[0], prompt_class) for one in cases]
        found = judge_answers(judge, rubric, exchanges, origin, manner)
        remark = None
        if found.letter_mass < LITTLE_MASS:
            remark = (
                f"the judge gives the letters a probability of {found.letter_mass:.2f}: it hardly "
                "follows the format"
            )
        return Said(found.records, found.problems, remark)

    return Task(guideline, single, ask)


def _by_criterion(name: str) -> Task:
    if name not in CRITERIA:
        raise UserError(f"--pairwise {name}: must be one of {', '.join(CRITERIA)}")

    def ask(judge: Judge, cases: Sequence[Answers], origin: Origin) -> Said:
        battles = [
            pairwise.Battle(one.prompt, one.completions[0], one.completions[1]) for one in cases
        ]
        records, problems, bias = pairwise.judge_battles(judge, CRITERIA[name], battles, origin)
        remark = (
            f"of {bias.battles:,} battles, {bias.consistent:,} have one verdict in both orders, "
            f"{bias.first:,} went to the first shown and {bias.second:,} to the second"
        )
        return Said(records, problems, remark)

    return Task(pairwise.guideline_of(CRITERIA[name]), in_pairs, ask)


@dataclass(frozen=True)
class Watched:
    """Implements `Judge`: another one, which shows how far it is."""

    judge: Judge

    @property
    def id(self) -> str:
        """The judge's own."""
        return self.judge.id

    def ask(self, questions: Sequence[list[Message]], letters: int) -> Replies:
        """In parts, one after the other."""
        logprobs, floored = [np.empty((0, letters))], 0
        problems: dict[int, str] = {}
        with Progress("questions", len(questions)) as progress:
            for start in range(0, len(questions), AT_ONCE):
                part = self.judge.ask(questions[start : start + AT_ONCE], letters)
                logprobs.append(part.logprobs_NK)
                problems |= {start + place: why for place, why in part.problems.items()}
                floored += part.floored
                progress.update(min(start + AT_ONCE, len(questions)))
        return Replies(np.concatenate(logprobs), problems, floored)


def local_judge(path: str, config: RunConfig) -> Judge:
    """The causal model in a folder, under the settings of `model`; its path is its name."""
    # torch and transformers take seconds, and a judge elsewhere needs neither.
    from align.policy.model import load_causal_lm, load_tokenizer
    from align.reward.judge.causal_lm import CausalJudge

    tokenizer = load_tokenizer(path, config.model)
    return CausalJudge(path, load_causal_lm(path, config.model), tokenizer)


def endpoint_judge(url: str, model: str | None, key_variable: str | None, out: Path) -> Judge:
    """The model at a server; its replies are kept beside `out`, so that none is paid for twice."""
    if model is None:
        raise UserError("--endpoint needs --endpoint-model NAME, as the server calls it")
    endpoint = endpoint_at(url, model, key_variable)
    kept = out.with_name(f"{out.name}.replies.jsonl")
    return EndpointJudge(endpoint, kept, note, heard=threading.Event())


def judge(asked: Asked, bare: bool, task: Task, who: Judge, out: Path) -> None:
    """Ask about all answers of the sources and write the records to `out`.

    With `bare`, rows are prompts and answers rather than records. Raises: UserError if there is
    nothing to ask about, or the judge says nothing.
    """
    folder, rejected = usable_folder(out.parent), rejected_of(out)
    writable_suffix(out)  # before anything is paid for
    keep_apart(asked, out, rejected)
    _keep_others(out, who, task)
    answers = (
        _bare_answers(asked, rejected) if bare else map(answers_in, read(asked, folder, rejected))
    )
    cases = task.cases(answers)
    if not cases:
        raise UserError(f"{asked.name}: no two different answers to one prompt to compare")
    records: list[Record] = []
    problems: list[str] = []
    for origin, some in _by_origin(cases).items():
        said = task.ask(Watched(who), some, origin)
        records += said.records
        problems += said.problems.values()
        if said.remark:
            note(said.remark)
    if not records:
        raise UserError(f"{who.id} judged none of {len(cases)}: {problems[0]}")
    write_records(out, records)
    if problems:
        note(f"{len(problems):,} without a judgement; the first: {problems[0]}")
    note(f"{len(records):,} of {len(cases):,} judged by {who.id}: {out}")


def _keep_others(out: Path, who: Judge, task: Task) -> None:
    """Raises: UserError if `out` holds anything but earlier records of this judge and guideline."""
    if not out.exists() or not out.stat().st_size:
        return
    for _, row in read_rows(out):
        found = row.get("annotator_id", "nobody"), row.get("guideline_version", "no guideline")
        if found != (who.id, task.guideline):
            raise UserError(
                f"--out {out}: holds records by {found[0]} under {found[1]}, not by {who.id} under "
                f"{task.guideline}, and would be replaced: name another file, or remove this one"
            )


def _bare_answers(asked: Asked, rejected: Path) -> Iterator[Answers]:
    rejects = Rejects(rejected, asked.config.data.max_rejected)
    for source in asked.sources:
        assert source.path is not None
        yield from read_answers(source.path, rejects)
    rejects.finish()
    note_bad_rows(rejects)


def _by_origin(cases: Sequence[Answers]) -> dict[Origin, list[Answers]]:
    now = datetime.now(UTC)
    found: dict[Origin, list[Answers]] = {}
    for one in cases:
        found.setdefault(Origin(one.source, one.license, now), []).append(one)
    return found
