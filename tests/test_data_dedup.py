"""Near-duplicates: against exact Jaccard, in every script, and splits that never move."""

import random
import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from align.data.dedup import (
    BANDS,
    MULTIPLIERS,
    ROWS,
    SIMILAR,
    grams_of,
    jaccard,
    near_duplicates,
    signature,
)
from align.data.hashing import mixed
from align.data.splits import assign, read_assignments, split_of, write_assignments


def sentence(length: int, chance: random.Random) -> list[str]:
    """Words of seven letters."""
    return ["".join(chance.choices("abcdefghijklmnop", k=7)) for _ in range(length)]


def slow_jaccard(one: str, other: str) -> float:
    """Sets of 5-grams, written out."""
    ours, theirs = ({text[i : i + 5] for i in range(len(text) - 4)} for text in (one, other))
    return len(ours & theirs) / len(ours | theirs)


def clusters_of(*texts: str) -> list[int]:
    found: list[int] = near_duplicates(texts, [str(i) for i in range(len(texts))]).tolist()
    return found


def changed_texts() -> list[str]:
    """Texts of 60 words, and copies with 1, 2, 4, ... words of them changed."""
    chance = random.Random(0)
    texts = []
    for _ in range(6):
        words = sentence(60, chance)
        texts.append(" ".join(words))
        for changes in (1, 2, 4, 8, 16):
            copy = list(words)
            for place in chance.sample(range(60), changes):
                copy[place] = "xyzzy"
            texts.append(" ".join(copy))
    return texts


def test_the_exact_jaccard_is_that_of_the_sets() -> None:
    for one, other in combinations(changed_texts(), 2):
        assert jaccard(grams_of(one), grams_of(other)) == pytest.approx(slow_jaccard(one, other))


def test_minhash_estimates_jaccard_within_a_tenth() -> None:
    """128 minima: a standard error of at most 0.044; 3 of them in the worst of 435 pairs."""
    texts = changed_texts()
    signatures = [signature(grams_of(text)) for text in texts]
    errors = [
        np.mean(signatures[i] == signatures[j]) - slow_jaccard(texts[i], texts[j])
        for i, j in combinations(range(len(texts)), 2)
    ]
    assert len(signatures[0]) == BANDS * ROWS
    assert np.mean(np.abs(np.array(errors)) < 0.1) > 0.97 and max(map(abs, errors)) < 0.15


def test_clusters_are_the_components_of_similar_texts() -> None:
    texts = changed_texts()
    cluster = list(range(len(texts)))
    for i, j in combinations(range(len(texts)), 2):
        if slow_jaccard(texts[i], texts[j]) >= SIMILAR:
            old, new = max(cluster[i], cluster[j]), min(cluster[i], cluster[j])
            cluster = [new if one == old else one for one in cluster]
    assert clusters_of(*texts) == cluster and len(set(cluster)) > 6


def test_chinese_near_duplicates_are_caught() -> None:
    text = "床前明月光疑是地上霜舉頭望明月低頭思故鄉春眠不覺曉處處聞啼鳥夜來風雨聲花落知多少"
    assert clusters_of(text, text + "嗎", "白日依山盡黃河入海流欲窮千里目更上一層樓") == [0, 0, 2]


def test_case_spaces_and_unicode_form_do_not_matter() -> None:
    assert (
        clusters_of(
            "Why is the sky blue?", "why  is\nthe SKY blue?", "\uff57\uff48\uff59 is the sky blue?"
        )
        == [0] * 3
    )


def test_empty_and_short_texts_are_their_own() -> None:
    assert clusters_of("", "a", "b", "a") == [0, 1, 2, 1]
    assert clusters_of() == []


def test_what_shares_a_cluster_already_stays_together() -> None:
    assert near_duplicates(["attack one", "something else"], ["session", "session"]).tolist() == [
        0,
        0,
    ]


def test_a_thousand_copies_are_one_cluster() -> None:
    assert clusters_of(*["Tell me a story about a dog."] * 1000) == [0] * 1000


def prompts_of(texts: list[str]) -> dict[str, tuple[str, str]]:
    return {f"p{i:03d}": (text, f"p{i:03d}") for i, text in enumerate(texts)}


def test_one_word_of_sixty_never_changes_the_split() -> None:
    chance = random.Random(1)
    texts = []
    for _ in range(40):
        words = sentence(60, chance)
        copy = list(words)
        copy[chance.randrange(60)] = "xyzzy"
        texts += [" ".join(words), " ".join(copy)]
    assigned, leaks = assign({}, prompts_of(texts), 0.5)
    splits = [assigned[name].split for name in sorted(assigned)]
    assert splits[::2] == splits[1::2] and set(splits) == {"train", "test"} and leaks == ()


def test_adding_rows_never_moves_an_old_one(tmp_path: Path) -> None:
    prompts = prompts_of(changed_texts())
    names = sorted(prompts, key=lambda name: random.Random(name).random())
    path = tmp_path / "splits.jsonl"
    for end in (5, 12, 20, len(names)):
        old = read_assignments(path)
        assigned, _ = assign(old, {name: prompts[name] for name in names[:end]}, 0.5)
        assert {name: assigned[name] for name in old} == old and len(assigned) == end
        write_assignments(path, assigned)
    # Less held out, later: what was assigned stays.
    assert assign(read_assignments(path), prompts, 0.01)[0] == assigned


def test_a_prompt_that_connects_two_splits_is_reported() -> None:
    words = sentence(60, random.Random(2))
    ends = [
        " ".join([*sentence(6, random.Random(3)), *words[6:]]),
        " ".join([*words[:-6], *sentence(6, random.Random(4))]),
    ]
    assert slow_jaccard(*ends) < SIMILAR
    for i in range(100):
        names = [f"a{i}", f"b{i}"]
        if split_of(names[0], 0.5) != split_of(names[1], 0.5):
            break
    old, _ = assign({}, {name: (text, name) for name, text in zip(names, ends, strict=True)}, 0.5)
    assert len({one.split for one in old.values()}) == 2
    assigned, leaks = assign(old, {"c": (" ".join(words), "c")}, 0.5)
    assert leaks == ("c",) and {name: assigned[name] for name in old} == old


def test_a_long_text_is_hashed_in_pieces_and_has_the_signature_of_the_whole() -> None:
    """All at once, each gram would take 128 words of 8 bytes, several times."""
    grams = grams_of("".join(random.Random(5).choices("abcdefghijklmnop", k=60_000)))
    tracemalloc.start()
    found = signature(grams)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30 * 2**20 < len(grams) * BANDS * ROWS * 8
    for place in (0, 77, BANDS * ROWS - 1):
        assert found[place] == mixed(grams * MULTIPLIERS[place]).min()
