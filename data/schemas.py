"""Arrow schemas of raw feedback records, the preference table and annotators.

A raw record keeps the form in which a judgement was collected: who judged which answers to which
prompt, and how. `nullable=False` documents a column; pyarrow does not enforce it,
`data/validate.py` does.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align.data.atomic import write_parquet
from align.data.errors import DataError
from align.data.files import readable

Record = dict[str, Any]  # a raw record, in the schema of its kind
Preference = dict[str, Any]  # a row of the preference table

VERSION = (1, 0)  # a reader refuses a newer major

# Bounds that keep margins finite in 32 bits, far from anything that people mean.
LARGEST_WEIGHT = 10**6  # of a question
LARGEST_REWARD = 100  # of a judge's option, either sign

LARGEST_LOGPROB = 1e-6  # a certain option's, which rounding may lift above 0

CHOICE = pa.dictionary(pa.int8(), pa.string())
TIME = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _list_of(kind: pa.DataType, nullable: bool = False) -> pa.DataType:
    return pa.list_(pa.field("item", kind, nullable=nullable))


MESSAGES = _list_of(pa.struct([_required("role", pa.string()), _required("content", pa.string())]))

HEADER = [
    _required("feedback_id", pa.string()),
    _required("kind", CHOICE),
    _required("prompt_id", pa.string()),  # sha256 of the prompt, see data/messages.py
    _required("prompt", MESSAGES),
    pa.field("cluster_id", pa.string()),  # near-duplicates share it; null: that of its text
    _required("completions", _list_of(MESSAGES)),  # each is one assistant turn
    _required("completion_ids", _list_of(pa.string())),
    pa.field("generator_ids", _list_of(pa.string(), nullable=True)),
    pa.field("generator_steps", _list_of(pa.int64(), nullable=True)),
    pa.field("display_order", _list_of(pa.int8())),  # null: not shown to a person, or not recorded
    _required("criterion", CHOICE),  # overall, helpful, honest, harmless, or rule:<id>
    _required("annotator_id", pa.string()),
    _required("annotator_kind", CHOICE),
    _required("guideline_version", pa.string()),
    _required("created_at", TIME),
    pa.field("duration_s", pa.float32()),
    _required("source", pa.string()),
    pa.field("license", pa.string()),
    _required("gold", pa.bool_()),  # a hidden test of the annotator, never trained on
]

ANSWER = pa.struct(
    [
        _required("question_id", pa.string()),
        _required("criterion", pa.string()),
        _required("option", pa.string()),
        pa.field("value", pa.float32()),  # 0 to 1, 1 is good whatever the polarity; null: N/A
        _required("weight", pa.float32()),
        _required("gate", pa.bool_()),  # a value below 1/2 fails the whole answer
    ]
)

FIELDS = {
    "best_of": [
        pa.field("best_index", pa.int32()),  # null exactly when none_acceptable
        _required("none_acceptable", pa.bool_()),
    ],
    "ranking": [_required("ranks", _list_of(pa.int32()))],  # 1 is best, dense, equal is a tie
    "comparison": [
        _required("outcome", CHOICE),  # a, b, tie or skip; completions are [a, b]
        pa.field("strength", pa.int8()),  # 0 to 3
        pa.field("player_a", pa.string()),  # set when the players are policies
        pa.field("player_b", pa.string()),
    ],
    "question": [
        # K completions: K blocks of the same questions, in the order of the completions.
        _required("answers", _list_of(ANSWER)),
        _required("questionnaire_version", pa.string()),
        pa.field("overall", pa.int8()),  # -2 to 2 for two completions, above 0: the first is better
    ],
    "rule": [
        _required("rule_id", pa.string()),
        _required("rule_text", pa.string()),
        _required("ruleset_version", pa.string()),
        _required("severity", pa.int8()),  # 1 clearly follows, 3 unsure, 5 clearly breaks
        _required("adversarial", pa.bool_()),
        pa.field("turn_index", pa.int32()),  # null: the whole dialogue was judged
    ],
    "rbrm": [
        _required("rubric_id", pa.string()),
        _required("rubric_version", pa.string()),
        _required("judge_id", pa.string()),
        _required("prompt_class", CHOICE),  # harmful, benign or unknown
        _required("option_ids", _list_of(pa.string())),
        _required("option_logprobs", _list_of(pa.float32())),
        _required("chosen_option", pa.string()),
        _required("reward", pa.float32()),
        _required("n_permutations", pa.int16()),
    ],
}

CHOICES = {
    "kind": (*FIELDS, "human", "model", "programmatic"),  # records and annotators both have one
    "feedback_kind": tuple(FIELDS),
    "annotator_kind": ("human", "model", "programmatic"),
    "outcome": ("a", "b", "tie", "skip"),
    "prompt_class": ("harmful", "benign", "unknown"),
    "split": ("train", "validation", "test"),
}
LEAST_COMPLETIONS = {
    "best_of": 2,
    "ranking": 2,
    "comparison": 2,
    "question": 1,
    "rule": 1,
    "rbrm": 1,
}

PREFERENCE_FIELDS = [
    _required("prompt", MESSAGES),
    _required("chosen", MESSAGES),  # one assistant turn
    _required("rejected", MESSAGES),
    _required("margin", pa.float32()),  # at least 0; 0 if unknown
    _required("target_prob", pa.float32()),  # P(chosen is better), 1/2 to 1
    _required("weight", pa.float32()),  # 1 / group_size
    _required("group_weight", pa.float32()),  # by votes; 1 on average over a group
    _required("group_id", pa.string()),  # prompt_id|criterion|source
    _required("group_size", pa.int32()),
    _required("pair_id", pa.string()),  # sha256 of prompt, both completions and criterion
    _required("prompt_id", pa.string()),
    _required("cluster_id", pa.string()),
    _required("chosen_id", pa.string()),
    _required("rejected_id", pa.string()),
    _required("criterion", CHOICE),
    _required("feedback_kind", CHOICE),
    _required("feedback_ids", _list_of(pa.string())),
    _required("annotator_ids", _list_of(pa.string())),
    _required("n_annotators", pa.int16()),
    pa.field("agreement", pa.float32()),  # share of the votes for the commonest; null for one vote
    pa.field("noise_prob", pa.float32()),
    pa.field("score_chosen", pa.float32()),
    pa.field("score_rejected", pa.float32()),
    pa.field("rule_id", pa.string()),
    _required("split", CHOICE),  # train, validation or test, by cluster
    _required("converter", pa.string()),
    _required("converter_config_sha256", pa.string()),
    pa.field("guideline_version", pa.string()),  # null where the votes followed several
    _required("created_at", TIME),  # of the newest vote
]

CONFLICT_FIELDS = [
    _required("prompt_id", pa.string()),
    _required("chosen_id", pa.string()),  # by `criterion`
    _required("rejected_id", pa.string()),
    _required("criterion", pa.string()),
    _required("against", pa.string()),  # the criterion by which it is the other way round, or even
    _required("feedback_ids", _list_of(pa.string())),
    _required("against_feedback_ids", _list_of(pa.string())),
    _required("outvoted", pa.bool_()),  # the pair of `against` is not in the preference table
]

ANNOTATOR_FIELDS = [
    _required("annotator_id", pa.string()),
    _required("kind", pa.string()),
    pa.field("qualified_from", TIME),
    pa.field("qualified_to", TIME),
    pa.field("pool", pa.string()),
    _required("gold_n", pa.int32()),
    pa.field("gold_agree", pa.float32()),
    pa.field("wilson_lb", pa.float32()),
    pa.field("kappa", pa.float32()),
    pa.field("ds_confusion", _list_of(_list_of(pa.float32()))),
]


def _schema(name: str, fields: list[pa.Field]) -> pa.Schema:
    version = ".".join(map(str, VERSION))
    return pa.schema(fields, {"align.schema": name, "align.schema_version": version})


FEEDBACK = {kind: _schema(kind, HEADER + fields) for kind, fields in FIELDS.items()}
PREFERENCE = _schema("preference", PREFERENCE_FIELDS)
CONFLICT = _schema("conflict", CONFLICT_FIELDS)
ANNOTATOR = _schema("annotator", ANNOTATOR_FIELDS)


TIMES = {field.name for field in (*HEADER, *ANNOTATOR_FIELDS) if field.type == TIME}


def completed(row: Mapping[str, Any], schema: pa.Schema) -> Record:
    """The row with its optional fields present and its times read; a bad value stays as it is."""
    record = {name: row.get(name) for name in schema.names} | dict(row)
    for name in TIMES & record.keys():
        record[name] = _as_time(record[name])
    return record


def _as_time(value: object) -> object:
    """ISO text or a datetime with a zone, as a datetime in UTC; anything else unchanged."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, datetime) and value.tzinfo is not None:
        try:
            return value.astimezone(UTC)
        except OverflowError:  # the last hours of the year 9999, or the first of the year 1
            return value.isoformat()
    return value


def table_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Validated rows as an Arrow table."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Validated rows into a Parquet file that carries the schema's name and version."""
    write_parquet(path, table_of(rows, schema))


def check_version(path: Path, name: str | None = None) -> None:
    """Refuse a Parquet or Arrow file of another schema, or of a newer major version.

    A file without our metadata passes: its rows are validated like any other.
    """
    metadata = _metadata(path)
    found = metadata.get(b"align.schema", b"").decode()
    version = metadata.get(b"align.schema_version", b"1.0").decode()
    if name is not None and found and found != name:
        raise DataError(f"{path}:1: holds {found} rows, not {name} rows")
    major = version.split(".")[0]
    if not major.isdigit() or int(major) > VERSION[0]:
        raise DataError(
            f"{path}:1: written in schema version {version}, this align reads up to "
            f"{VERSION[0]}.x: install a newer align"
        )


def _metadata(path: Path) -> dict[bytes, bytes]:
    with readable(path):
        if path.suffix.lower() == ".parquet":
            return pq.read_schema(path).metadata or {}
        if path.suffix.lower() == ".arrow":
            with pa.memory_map(str(path)) as source:
                return _arrow_schema(source).metadata or {}
    return {}


def _arrow_schema(source: pa.MemoryMappedFile) -> pa.Schema:
    try:
        return pa.ipc.open_file(source).schema
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).schema
