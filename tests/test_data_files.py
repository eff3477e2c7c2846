"""Reading and writing files, and the rows that are set aside."""

import gzip
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from align.data.atomic import write_jsonl, write_parquet
from align.data.errors import DataError
from align.data.files import read_rows
from align.data.rejects import Rejects
from align.data.schemas import check_version

ROWS = [{"a": "one", "b": "1"}, {"a": "zwei\u2028 \u5510\u8a69 \U0001f600", "b": "2"}]


def written(path: Path) -> Path:
    """ROWS in the kind of file that the name asks for."""
    if path.suffix == ".jsonl":
        write_jsonl(path, ROWS)
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS, indent=4))
    elif path.suffix == ".csv":
        path.write_text("a,b\r\n" + "".join(f'"{row["a"]}",{row["b"]}\r\n' for row in ROWS))
    elif path.suffix == ".parquet":
        write_parquet(path, pa.Table.from_pylist(ROWS))
    else:
        table = pa.Table.from_pylist(ROWS)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".arrow"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    assert [row for _, row in read_rows(written(tmp_path / f"x{suffix}"))] == ROWS


def test_arrow_streams_as_datasets_writes_them_are_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    path = tmp_path / "x.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    assert list(read_rows(path)) == [(1, ROWS[0]), (2, ROWS[1])]


def test_a_json_file_may_hold_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('\ufeff{"a": 1}\n\n{"a": 2}\n', encoding="utf-8")
    assert list(read_rows(path)) == [(1, {"a": 1}), (3, {"a": 2})]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": ', "broken JSON"),
        (b"[1, 2]", "must be an object"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 300 + b"1" + b"}" * 300, "nested too deeply: more than 200"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', 'the key "c" is there twice'),
        (b'{"a": -Infinity}', "-Infinity is not a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit (4300 digits)"),
        (b'{"a": "\0"}', "Invalid control character at column 8"),
        (b"\0" * 100, "broken JSON"),
        (b"x" * 10_000_000, "broken JSON"),
        (b'{"a": 2', "broken JSON"),  # a file that still grows
    ],
)
def test_a_broken_line_is_set_aside_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 2}\n')
    rejects = Rejects(tmp_path / "rejected.jsonl")
    assert [row for _, row in read_rows(path, rejects)] == [{"a": 1}, {"a": 2}]
    assert (rejects.seen, rejects.rows, rejects.rejections[0].line) == (3, 1, 2)
    assert reason in rejects.rejections[0].reason


def test_a_broken_line_is_an_error_where_nobody_collects_rejects(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{\n')
    with pytest.raises(DataError, match=r"x\.jsonl:2: broken JSON"):
        list(read_rows(path))


def test_csv_rows_of_another_length_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1,2\n3\n"long ' + b"x" * 200_000 + b'",4\n\xff,5\n')
    rejects = Rejects(tmp_path / "rejected.jsonl")
    assert [len(row["a"]) for _, row in read_rows(path, rejects)] == [1, 200_005]
    assert [one.line for one in rejects.rejections] == [3, 5]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("gone.jsonl", None, "gone.jsonl:1: there is no such file"),
        ("x.jsonl", b"", "x.jsonl:1: the file is empty"),
        ("x.txt", b"a", r"x.txt:1: unknown kind of file '.txt': use one of .jsonl, .json, .csv"),
        ("x.json", b'[\n{"a": 1},\n{]', "x.json:3: broken JSON"),
        ("x.csv", b"a,a\n1,2\n", "x.csv:1: the header needs"),
        ("x.csv", b'a,b\n"1,2\n', "x.csv:2: broken CSV"),
        ("x.parquet", b"PAR1", "x.parquet:1: no readable parquet file"),
        ("x.arrow", b"nothing", "x.arrow:1: no readable arrow file"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "x.jsonl:1: this is UTF-16 text: save it as"),
        ("x.jsonl", '{"a": 1}'.encode("utf-16-be"), "x.jsonl:1: this is UTF-16 text"),
        ("x.json", '[{"a": 1}]'.encode("utf-16-le"), "x.json:1: this is UTF-16 text"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16"), "x.csv:1: this is UTF-16 text"),
        (
            "x.jsonl",
            gzip.compress(b'{"a": 1}'),
            "x.jsonl:1: this is a packed file: unpack it first",
        ),
        ("x.json", b'{\n"rows": []\n}', "x.json:1: one object over several lines: give a list"),
        ("x.json", b'[{"a": "\xff"}]', "x.json:1: not UTF-8: invalid start byte at byte 8"),
        ("x.json", b"[" * 100_000, "x.json:1: broken JSON: nested too deeply"),
        ("x.json", b'[\n{"a": 1}\n{"a": 2}]', "x.json:3: broken JSON: Expecting ',' or ']'"),
        ("x.json", b'[{"a": 1}, ]', "x.json:1: broken JSON: Expecting value"),
        ("x.json", b'[{"a": 1}', "x.json:1: broken JSON: Expecting ',' or ']'"),
        ("x.json", b'[{"a": 1}]\n{"a": 2}', "x.json:1: broken JSON: Extra data"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_rows(tmp_path / name, Rejects(tmp_path / "rejected.jsonl")))
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_rows_of_a_json_list_that_are_no_rows_do_not_stop_the_others(tmp_path: Path) -> None:
    items = ['{"a": 1}', '{"a": NaN}', '{"a": 1, "a": 2}', "3", '{"a": "\\ud800"}', "9" * 5000]
    path = tmp_path / "x.json"
    path.write_text("\ufeff [ " + " , ".join([*items, '{"a": "]"}']) + " ]\n", encoding="utf-8")
    rejects = Rejects(None)
    assert list(read_rows(path, rejects)) == [(1, {"a": 1}), (7, {"a": "]"})]
    assert [one.line for one in rejects.rejections] == [2, 3, 4, 5, 6]
    assert "twice" in rejects.rejections[1].reason and "found a int" in rejects.rejections[2].reason


@pytest.mark.parametrize("content", ["[]", " [ ]\n", "\n\n[\n]"])
def test_an_empty_json_list_has_no_rows(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    assert list(read_rows(path)) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet", ".arrow"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    os.mkfifo(path)
    with pytest.raises(DataError, match="this is no plain file"):
        list(read_rows(path))
    with pytest.raises(DataError, match="this is no plain file"):
        check_version(path)


def test_lines_may_end_in_windows_style_and_hold_invisible_marks(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    text = "\u202e\u05e9\u202c\u200b\u2028\u00a0"
    path.write_bytes(f'\ufeff{{"a": "{text}"}}\r\n\r\n{{"a": "b"}}\r\n'.encode())
    assert list(read_rows(path)) == [(1, {"a": text}), (3, {"a": "b"})]


def many(path: Path) -> bytearray:
    """A file of 20,000 rows, to be broken."""
    table = pa.table({"a": [f"text {i * 7919}" for i in range(20_000)]})
    if path.suffix == ".parquet":
        write_parquet(path, table)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=10_000)
    return bytearray(path.read_bytes())


@pytest.mark.parametrize(
    ("suffix", "broken"),
    [
        (".parquet", "half"),
        (".parquet", "middle"),
        (".parquet", "end"),
        (".arrow", "half"),
        (".arrow", "middle"),
    ],
)
def test_a_broken_table_is_one_line_and_never_ends_the_process(
    tmp_path: Path, suffix: str, broken: str
) -> None:
    path = tmp_path / f"x{suffix}"
    whole = many(path)
    if broken == "half":
        whole = whole[: len(whole) // 2]
    elif broken == "middle":  # offsets that point outside of the texts
        whole[1000 : len(whole) // 2 : 97] = bytes(len(range(1000, len(whole) // 2, 97)))
        whole[1001 : len(whole) // 2 : 97] = b"\xff" * len(range(1001, len(whole) // 2, 97))
    else:
        whole[-120:] = bytes(120)
    path.write_bytes(whole)
    with pytest.raises(DataError, match=rf"^\S+x\{suffix}:1: ") as error:
        list(read_rows(path))
    assert str(error.value).isprintable()


def test_a_text_that_is_not_unicode_and_a_column_that_is_there_twice_are_one_line(
    tmp_path: Path,
) -> None:
    offsets, letters = pa.array([0, 1, 2], pa.int32()).buffers()[1], pa.py_buffer(b"a\xff")
    bad = pa.Array.from_buffers(pa.string(), 2, [None, offsets, letters])
    write_parquet(tmp_path / "x.parquet", pa.table({"a": bad}))
    with pytest.raises(DataError, match=r"x\.parquet:1: no readable parquet file: .*UTF8"):
        list(read_rows(tmp_path / "x.parquet"))
    write_parquet(tmp_path / "y.parquet", pa.table([[1], [2]], names=["a", "a"]))
    with pytest.raises(DataError, match=r'y\.parquet:1: two columns are called "a"'):
        list(read_rows(tmp_path / "y.parquet"))


def test_a_time_that_has_no_name_is_the_fault_of_its_row_alone(tmp_path: Path) -> None:
    times = pa.array([0, 2**62, 1], pa.timestamp("us", "UTC"))
    write_parquet(tmp_path / "x.parquet", pa.table({"a": times}))
    rejects = Rejects(None)
    assert [line for line, _ in read_rows(tmp_path / "x.parquet", rejects)] == [1, 3]
    assert [(one.line, one.reason) for one in rejects.rejections] == [
        (2, "cannot be read: date value out of range")
    ]


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "x.jsonl"
    folder.mkdir()
    with pytest.raises(DataError, match="this is a folder"):
        list(read_rows(folder))


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.jsonl"
    write_jsonl(path, [{"time": datetime(2026, 1, 31, tzinfo=UTC)}])

    def failing() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise RuntimeError("the program stops here")

    with pytest.raises(RuntimeError):
        write_jsonl(path, failing())
    assert path.read_text() == '{"time": "2026-01-31T00:00:00+00:00"}\n'
    assert os.listdir(path.parent) == ["x.jsonl"]


def test_too_many_bad_rows_are_an_error_that_says_how_many_and_where(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path / "rejected.jsonl", max_rejected=0.01, seen=200)
    rejects.add(Path("f.jsonl"), 7, "ranks", "must not be null")
    rejects.add(Path("f.jsonl"), 8, "", "broken JSON")
    rejects.finish()  # 2 of 200 are 1 %
    rejects.add(Path("f.jsonl"), 9, "", "broken JSON")
    with pytest.raises(DataError) as error:
        rejects.finish()
    assert str(error.value) == (
        "f.jsonl:7: ranks: must not be null (3 of 200 rows rejected, 1.5%; data.max_rejected is "
        f"1.0%; all of them are in {tmp_path}/rejected.jsonl)"
    )
    first = json.loads((tmp_path / "rejected.jsonl").read_text().splitlines()[0])
    assert first == {"file": "f.jsonl", "line": 7, "field": "ranks", "reason": "must not be null"}


def test_one_bad_row_is_always_allowed_and_an_old_list_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "rejected.jsonl"
    rejects = Rejects(path, max_rejected=0, seen=3)
    rejects.add(Path("f.jsonl"), 1, "a", "bad")
    rejects.add(Path("f.jsonl"), 1, "b", "bad too")
    rejects.finish()
    assert rejects.rows == 1 and path.exists()
    Rejects(path, max_rejected=0, seen=3).finish()
    assert not path.exists()


def test_without_a_path_bad_rows_are_counted_and_kept_nowhere() -> None:
    rejects = Rejects(None, max_rejected=0, seen=3)
    rejects.add(Path("f.jsonl"), 1, "a", "bad")
    rejects.finish()
    rejects.add(Path("f.jsonl"), 2, "a", "bad")
    with pytest.raises(
        DataError, match=r"2 of 3 rows rejected, 66\.7%; data\.max_rejected is 0\.0%\)"
    ):
        rejects.finish()
