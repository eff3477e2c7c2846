"""UltraFeedback: a judge model rates the answers of several models to an instruction.

The full form has `instruction` and `completions`, each with `annotations`: four aspects rated 1 to
5 or N/A. One question record per answer holds them, scaled to 0 to 1. `fine-grained_score`, their
mean, and `overall_score`, from a critique that the judge wrote separately, stay out. The binarized
form has `chosen`, `rejected` (conversations) and a score of each: one record of both answers. The
score is 1 to 10 in HuggingFaceH4/ultrafeedback_binarized, and the mean of the aspects, 1 to 5, in
argilla/ultrafeedback-binarized-preferences-cleaned. MIT, openbmb/UltraFeedback (Cui et al. 2023,
arXiv:2310.01377).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from align.data.files import Row, column, text
from align.data.importers.header import Located, header, located
from align.data.importers.texts import answer_of, conversation_of, prompt_of, shared_prompt
from align.data.messages import Message, sha256_of, shown
from align.data.rejects import BadRow, Rejects
from align.data.schemas import Record

ASPECTS = {  # the aspect, and the criterion that it is part of
    "helpfulness": "helpful",
    "honesty": "honest",
    "instruction_following": "helpful",
    "truthfulness": "honest",
}
RATINGS = {str(rating): (rating - 1) / 4 for rating in range(1, 6)} | {"N/A": None}


def read(path: Path, rejects: Rejects) -> Iterator[Located]:
    """One question record per answer; in the binarized form, per pair."""
    return located(path, rejects, _questions)


def _questions(row: Row) -> Iterator[Record]:
    if "completions" not in row:
        yield _binarized(row)
        return
    prompt, completions = prompt_of(row, "instruction"), row["completions"]
    if not isinstance(completions, list) or not all(isinstance(one, dict) for one in completions):
        raise BadRow("completions", f"must be a list of objects, found {shown(completions)}")
    for place, completion in enumerate(completions):
        try:
            answer, model = answer_of(completion, "response"), text(completion, "model")
            ratings = _ratings(column(completion, "annotations"))
        except BadRow as bad:
            raise BadRow(f"completions[{place}].{bad.field}", bad.reason) from None
        yield _record(row, prompt, [answer], ratings, [model])


def _ratings(annotations: Any) -> list[dict[str, Any]]:
    if not isinstance(annotations, dict):
        raise BadRow("annotations", f"must be an object, found {shown(annotations)}")
    answers = []
    for aspect, criterion in ASPECTS.items():
        judged = column(annotations, aspect)
        rating = str(judged.get("Rating")) if isinstance(judged, dict) else "missing"
        if rating not in RATINGS:
            raise BadRow(f"annotations.{aspect}", f"has no Rating 1 to 5 or N/A: {shown(judged)}")
        answers.append(_answer(aspect, criterion, rating, RATINGS[rating]))
    return answers


def _binarized(row: Row) -> Record:
    chosen, rejected = conversation_of(row, "chosen"), conversation_of(row, "rejected")
    prompt, better, worse = shared_prompt(chosen, rejected, "rejected")
    if "chosen-rating" in row:
        scores = [_score(row, "chosen-rating", 5), _score(row, "rejected-rating", 5)]
        models = [text(row, "chosen-model"), text(row, "rejected-model")]
        return _record(row, prompt, [better, worse], scores, models)
    scores = [_score(row, "score_chosen", 10), _score(row, "score_rejected", 10)]
    return _record(row, prompt, [better, worse], scores, None)


def _score(row: Row, name: str, best: int) -> dict[str, Any]:
    score = column(row, name)
    if isinstance(score, bool) or not isinstance(score, int | float) or not 1 <= score <= best:
        raise BadRow(name, f"must be 1 to {best}, found {shown(score)}")
    return _answer("score", "overall", str(score), (score - 1) / (best - 1))


def _answer(question: str, criterion: str, option: str, value: float | None) -> dict[str, Any]:
    return {
        "question_id": question,
        "criterion": criterion,
        "option": option,
        "value": value,
        "weight": 1.0,
        "gate": False,
    }


def _record(
    row: Row,
    prompt: list[Message],
    completions: list[list[Message]],
    answers: list[dict[str, Any]],
    models: list[str] | None,
) -> Record:
    """The instructions' own source, where a row names it, stays in `source`."""
    name = sha256_of([prompt, completions, models])[:32]
    origin = row.get("source")
    return header(
        "question",
        f"ultrafeedback-{name}",
        prompt,
        completions,
        source=f"ultrafeedback/{origin}" if isinstance(origin, str) else "ultrafeedback",
        license="MIT",
        annotator_id="ultrafeedback-gpt-4",
        annotator_kind="model",
        guideline_version="ultrafeedback",
        generator_ids=models,
    ) | {"answers": answers, "questionnaire_version": "ultrafeedback", "overall": None}
