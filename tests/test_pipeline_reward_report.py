"""What the reward stage says of held-out pairs."""

import json
from pathlib import Path

from align.pipeline.groups import Group, Pair
from align.pipeline.loading import default_config
from align.pipeline.reward_report import write_evaluation
from align.pipeline.run_directory import RunDirectory
from align.pipeline.texts import Texts
from align.reward.reliability import Outcome


def pair(name: str, target_prob: float) -> Pair:
    row = {
        "pair_id": name,
        "prompt": [{"role": "user", "content": "Hi"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
        "criterion": "overall",
        "feedback_ids": [f"f-{name}"],
        "annotator_ids": ["ann"],
        "feedback_kind": "ranking",
        "agreement": None,
    }
    return Pair(0, 1, target_prob, target_prob, 0.0, 1.0, row)


def test_labels_that_a_model_thinks_wrong_are_listed_worst_first(tmp_path: Path) -> None:
    """Held-out pairs, of which the model has not seen the labels."""
    gaps = {"sure": 4.0, "wrong": -3.0, "worse": -5.0, "doubt": -1.0, "tie": -9.0}
    pairs = [pair(name, 0.5 if name == "tie" else 1.0) for name in gaps]
    outcomes = [
        Outcome(gap, one.target_prob) for gap, one in zip(gaps.values(), pairs, strict=True)
    ]
    texts = Texts([[5], [5]], [[6, 7], [8]])
    (tmp_path / "rm").mkdir()
    write_evaluation(
        RunDirectory(tmp_path), outcomes, [Group(texts, pairs, [])], default_config("x", ())
    )
    listed = (tmp_path / "rm" / "disagreements.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in listed]
    assert [row["pair_id"] for row in rows] == ["worse", "wrong"]
    assert rows[0]["feedback_ids"] == ["f-worse"] and rows[0]["predicted"] < 0.01
    report = json.loads((tmp_path / "rm" / "evaluation.json").read_text("utf-8"))
    assert len(report["risk_coverage"]) == 10
