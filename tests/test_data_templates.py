"""Templates: rendering, the library, choices among wordings, and tasks turned round."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from align.data.config import DataConfig
from align.data.errors import DataError
from align.data.exchanges import Exchange, Instruction, Reading
from align.data.instruction_config import Demonstrations, InstructionSource, TaskType, Templates
from align.data.instructions import instructions_of, prompts_of
from align.data.rejects import BadRow, Rejects
from align.data.tasks.diversity import diversity_of
from align.data.tasks.templates import (
    TaskTemplate,
    inverse_of,
    library,
    parse_set,
    read_set,
    render,
)
from align.data.tasks.wording import final_answer, wording

REVIEWS: list[dict[str, Any]] = [
    {"text": "A fine film.", "label": 1},
    {"text": "{{ dull }} ||| and long", "label": 0},
    {"text": "好看。", "label": "good"},
]
CHOICES = ("bad", "good")
GOLDEN = {
    "which": "Which of these fits the text: bad, good?",
    "assign": "Assign the text below to one of these classes: bad, good. "
    "Reply with the class alone.",
    "options": "Read the text and choose a class.\n\nClasses:\n- bad\n- good\n",
}
FIELDS = {
    "text": "一 text",
    "label": "good",
    "answer_choices": ["bad", "good"],
    "rationale": "Because so.",
    "context": "c",
    "question": "q?",
    "answer": "a",
    "document": "d",
    "summary": "s",
    "source": "x",
    "target": "y",
    "source_language": "English",
    "target_language": "中文",
    "kind": "names",
    "items": "Ann",
    "topic": "t",
    "instruction": "do",
    "input": "it",
    "output": "done",
}


def template(text: str) -> TaskTemplate:
    (made,) = parse_set(json.dumps({"templates": [{"name": "t", "text": text}]}), "x").templates
    return made


def exchanges(options: Templates, rows: list[dict[str, Any]], seed: int = 0) -> list[Exchange]:
    made = wording(options, seed, rows)
    return [exchange for row in rows for exchange in made.exchanges(row)]


def test_three_templates_of_three_records_are_as_written() -> None:
    templates = library("classification", "en").templates
    made = wording(Templates(library="classification", choices=CHOICES), 0, ())
    for one in templates:
        for row in REVIEWS:
            given, target = render(one, made.record(row))
            text = str(row["text"])
            expected = {
                "which": f"{text}\n\n{GOLDEN['which']}",
                "assign": f"{GOLDEN['assign']}\n\nText: {text}",
                "options": f"{GOLDEN['options']}\nText: {text}",
            }
            assert given == expected[one.name]
            assert target == (CHOICES[row["label"]] if row["label"] in (0, 1) else row["label"])


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }} ||| x",
        "{{ text.__init__.__globals__ }} ||| x",
        "{{ items.append(1) }} ||| x",
    ],
)
def test_a_template_cannot_leave_its_sandbox(text: str) -> None:
    with pytest.raises(BadRow, match="template t: "):
        render(template(text), {"text": "a", "items": [1]})


def test_a_missing_field_is_an_error_with_its_name_and_that_of_the_template() -> None:
    with pytest.raises(BadRow) as error:
        render(template("{{ text }} {{ missing }} ||| x"), {"text": "a"})
    assert error.value.field == "missing"
    assert error.value.reason == "template t: 'missing' is undefined; found text"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("templates: [{name: a, text: no bar}]", "template a: needs one `|||`"),
        ("templates: [{name: a, text: '{% if %} ||| b'}]", "template a: Expected an expression"),
        ("templates: [{name: a, text: '{{ b ||| c'}]", "template a: unexpected char ||| at"),
        ("templates: [{text: a ||| b}]", "a template needs name and text"),
        ("templates: [{name: a, text: b ||| c}, {name: a, text: d ||| e}]", "have one name"),
        ("templates: 3", "templates are a list"),
        ("tmplates: []", "it needs `templates`"),
        ("templates: [", "x:1: "),
        (
            "{templates: [{name: a, text: b ||| c}], inverse: [{name: b, text: d ||| e}]}",
            "inverse templates need `input` and `output`",
        ),
    ],
)
def test_a_mistake_in_a_file_of_templates_is_one_line(text: str, line: str) -> None:
    with pytest.raises(DataError) as error:
        parse_set(text, "x")
    assert line in str(error.value) and "\n" not in str(error.value)


def test_a_file_of_promptsource_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(
        "dataset: reviews\n"
        "templates:\n"
        "  0a1b: !Template\n"
        "    answer_choices: Bad ||| Good\n"
        "    id: 0a1b\n"
        "    jinja: '{% if text %}{{ text }} Good or bad? ||| {{ answer_choices[label] }}"
        "{% endif %}'\n"
        "    metadata: !TemplateMetadata\n"
        "      choices_in_prompt: true\n"
        "      metrics:\n"
        "      - Accuracy\n"
        "    name: good-or-bad\n"
        "    reference: ''\n"
    )
    found = read_set(path)
    assert found.task == "reviews"
    assert render(found.templates[0], {"text": "Fine.", "label": 1}) == (
        "Fine. Good or bad?",
        "Good",
    )
    with pytest.raises(BadRow, match="gives no input and target"):
        render(found.templates[0], {"text": "", "label": 1})


def test_answers_of_a_template_are_different() -> None:
    text = {"name": "t", "text": "{{ text }} ||| x", "answer_choices": "{{ a }} ||| {{ b }}"}
    (made,) = parse_set(json.dumps({"templates": [text]}), "x").templates
    with pytest.raises(BadRow, match="names an answer twice"):
        render(made, {"text": "t", "a": "yes", "b": "yes"})
    with pytest.raises(ValueError, match="`choices` names a class twice"):
        Templates(library="classification", choices=("a", "a"))


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("task", get_args(TaskType))
def test_every_template_of_the_library_renders_its_fields(task: TaskType, language: str) -> None:
    found = library(task, language)
    assert found.task == task and len(found.templates) >= 3 and found.inverse
    for group, asked in (("templates", found.output), ("inverse", found.input)):
        for one in getattr(found, group):
            given, target = render(one, FIELDS)
            assert target == FIELDS[asked]
            assert given and "\n\n\n" not in given
    for one in found.reasoning:
        _, target = render(one, FIELDS)
        assert target.startswith("Because so.\n") and final_answer(target) == FIELDS[found.output]
    names = [one.name for one in library(task, "en").templates]
    assert [one.name for one in found.templates] == names, "both languages have the same wordings"


def test_the_two_forms_of_an_instruction_are_as_written() -> None:
    headed = library("instruction", "en").templates[0]
    row = {"instruction": "Add.", "input": "1+1", "output": "2"}
    task = "The instruction below describes a task"
    assert render(headed, row) == (
        f"{task}, and the input is what it is about. Write the response that it asks for.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1+1\n\n### Response:",
        "2",
    )
    assert render(headed, {**row, "input": ""})[0] == (
        f"{task}. Write the response that it asks for.\n\n### Instruction:\nAdd.\n\n### Response:"
    )


def test_wordings_are_chosen_uniformly_and_by_the_row_alone() -> None:
    five = {"templates": [{"name": f"{i}", "text": f"{i} {{{{ x }}}} ||| y"} for i in range(5)]}
    made = wording(Templates(library="qa"), 1, ())
    templates = parse_set(json.dumps({**five, "input": "x", "output": "y"}), "x")
    made = replace(made, templates=templates)
    rows = [{"x": f"row {i}"} for i in range(5000)]
    names = [made.exchanges(row)[0].known["template_id"] for row in rows]
    assert sum((n - 1000) ** 2 / 1000 for n in Counter(names).values()) < 18.5  # chi2, 4 df, 0.1 %
    assert [made.exchanges(row)[0].known["template_id"] for row in rows[::-1]] == names[::-1]


def test_a_label_that_is_no_class_is_a_bad_row() -> None:
    options = Templates(library="classification", choices=CHOICES)
    for label in (2, "ugly", None, -1):
        with pytest.raises(BadRow, match="is none of the classes bad, good"):
            exchanges(options, [{"text": "a", "label": label}])


def test_columns_and_values_give_the_fields() -> None:
    options = Templates(
        library="translation",
        columns={"source": "en", "target": "zh"},
        values={"source_language": "English", "target_language": "Chinese"},
    )
    (one,) = exchanges(options, [{"en": "water", "zh": "水"}])
    assert "water" in one.prompt[0]["content"] and one.completion[0]["content"] == "水"  # type: ignore[index]
    with pytest.raises(BadRow, match="there is no such column; found en"):
        exchanges(options, [{"en": "water"}])


def test_a_task_turned_round_twice_is_itself() -> None:
    for task in get_args(TaskType):
        found = library(task, "en")
        assert inverse_of(inverse_of(found)) == found != inverse_of(found)
    found = library("translation", "en")
    one, back = found.templates[0], inverse_of(found).templates[0]
    assert (
        render(one, FIELDS)[1] == FIELDS["target"] and render(back, FIELDS)[1] == FIELDS["source"]
    )


def test_a_task_is_turned_round_where_its_answer_determines_its_question() -> None:
    rows = [{"source": f"{i}", "target": f"t{i // 2 if i < 20 else i}"} for i in range(100)]
    values = {"source_language": "a", "target_language": "b"}
    options = Templates(library="translation", values=values, inverse_share=1)
    found = exchanges(options, rows)
    turned = [one for one in found if one.known["task_id"] == "translation-inverse"]
    assert len(found) - len(turned) == 100
    assert len(turned) == 80, "the first twenty share their answers by twos"
    for one in turned:
        assert one.completion is not None
        (same,) = [
            other
            for other in found
            if other.known["group"] == one.known["group"] and other is not one
        ]
        assert same.known["task_id"] == "translation"


def test_a_classification_is_not_turned_round_unless_it_may_be_made_up() -> None:
    rows = [{"text": f"film {i}", "label": i % 2} for i in range(100)]
    options = Templates(library="classification", choices=CHOICES, inverse_share=1)
    assert len(exchanges(options, rows)) == 100
    generative = options.model_copy(update={"generative": True})
    assert len(exchanges(generative, rows)) == 200
    half = generative.model_copy(update={"inverse_share": 0.5})
    assert 130 < len(exchanges(half, rows)) < 170


def read(
    path: Path, rows: list[dict[str, Any]], reading: Reading, **options: Any
) -> list[Instruction]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = InstructionSource(format="labelled", path=path, **options)
    rejects = Rejects(path.parent / "rejected.jsonl")
    found = list(instructions_of(source, rejects, reading))
    rejects.finish()
    return found


def test_reasons_and_demonstrations_come_in_all_four_combinations(tmp_path: Path) -> None:
    rows = [
        {"context": f"c{i}", "question": f"{i}+1?", "answer": f"{i + 1}", "rationale": f"since-{i}"}
        for i in range(600)
    ]
    found = read(
        tmp_path / "x.jsonl",
        rows,
        Reading(seed=1),
        templates=Templates(library="qa", reasoning_share=0.3),
        demonstrations=Demonstrations(share=0.5, most=2),
    )
    kinds: Counter[tuple[bool, bool]] = Counter()
    for row, one in zip(rows, found, strict=True):
        assert one.completion is not None and one.instance is not None
        target, prompt = one.completion[0]["content"], one.prompt[0]["content"]
        reasoned, shown = "since-" in target, bool(one.instance.demonstrations)
        assert final_answer(target) == row["answer"]
        assert ("since-" in prompt) == (reasoned and shown), "demonstrations are of the same kind"
        kinds[reasoned, shown] += 1
    assert len(kinds) == 4
    reasoned_rows = kinds[True, True] + kinds[True, False]
    assert abs(reasoned_rows - 180) < 3 * (600 * 0.3 * 0.7) ** 0.5


def test_template_errors_are_rejected_rows_with_their_place(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"document": f"{i}", "summary": "s"} for i in range(5)]
    templates = Templates(library="summarisation")
    read(tmp_path / "x.jsonl", [*rows, {"document": "a"}], Reading(), templates=templates)
    rejected = json.loads((tmp_path / "rejected.jsonl").read_text())
    assert (rejected["line"], rejected["field"]) == (6, "summary")
    assert "is undefined; found document" in rejected["reason"]


def test_ppo_asks_the_task_as_it_is_and_not_turned_round(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"topic": "rain", "text": "It rains."}) + "\n")
    templates = Templates(library="generation", inverse_share=1)
    source = InstructionSource(format="labelled", path=path, templates=templates)
    (prompt,) = prompts_of(DataConfig(prompts=(source,)).prompts[0], Rejects(None))
    assert "rain" in prompt.prompt[0]["content"] and "It rains." not in prompt.prompt[0]["content"]


def test_copies_of_a_template_lower_every_figure_of_diversity() -> None:
    texts = [one.compiled.render(FIELDS) for one in library("classification", "zh").templates]
    texts += [one.compiled.render(FIELDS) for one in library("qa", "en").templates]
    few, many = diversity_of(texts), diversity_of(texts + texts[:3])
    assert many.distinct_1 < few.distinct_1
    assert many.distinct_2 < few.distinct_2
    assert many.dissimilarity < few.dissimilarity
    assert sum(many.lengths.values()) == sum(few.lengths.values()) + 3
    assert diversity_of(["a b c", "a b c"]).dissimilarity == 0
    assert diversity_of(["a b c d", "e"]).lengths == {1: 1, 4: 1}


def test_the_task_of_labelled_rows_is_the_column_s_else_the_source_s_else_the_template_s(
    tmp_path: Path,
) -> None:
    """Two sources of one library are two tasks, and so have caps of their own."""
    rows = [{"text": "Fine.", "label": "good"}, {"text": "Bad.", "label": "bad", "task_id": "own"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = Templates(library="classification", choices=CHOICES, inverse_share=1, generative=True)
    for task, expected in (("movies", "movies"), (None, "classification")):
        source = InstructionSource(format="labelled", path=path, templates=options, task=task)
        found = [one.task_id for one in instructions_of(source, Rejects(None), Reading())]
        assert found == [f"{expected}-inverse", expected, "own-inverse", "own"]


def test_a_task_where_the_format_names_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="names its tasks itself"):
        InstructionSource(format="unlabelled", path=Path("a.txt"), task="x")


@pytest.mark.parametrize("label", [1, 1.0, "1", "1.0", "good"])
def test_a_class_is_its_name_or_its_number(label: Any) -> None:
    made = wording(Templates(library="classification", choices=CHOICES), 0, ())
    assert made.record({"text": "a", "label": label})["label"] == "good"


@pytest.mark.parametrize("label", [0.5, 2.0, -1, None, ".0", True])
def test_what_is_no_class_is_a_bad_row(label: Any) -> None:
    made = wording(Templates(library="classification", choices=CHOICES), 0, ())
    with pytest.raises(BadRow, match="none of the classes"):
        made.record({"text": "a", "label": label})
