"""The cache with room against the one that copies itself."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from align.policy import cache
from align.policy.cache import with_room


def filled() -> DynamicCache:
    """Two layers, five rows, three tokens."""
    torch.manual_seed(0)
    made = DynamicCache()
    for layer in range(2):
        keys_BHLD, values_BHLD = torch.randn(2, 5, 2, 3, 4).unbind()
        made.update(keys_BHLD, values_BHLD, layer)
    return made


def test_it_holds_what_transformers_own_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "ROOM", 4)  # so that it grows more than once
    plain, roomy = filled(), filled()
    with_room(roomy, longest=12)
    for step, kept in enumerate([[0, 1, 2, 3, 4]] * 6 + [[0, 4, 2, 3], [2, 1], [1], [0]]):
        indices = torch.tensor(kept)
        plain.batch_select_indices(indices)
        roomy.batch_select_indices(indices)
        for number in range(2):
            keys_BHLD, values_BHLD = torch.randn(2, len(kept), 2, 1 + step % 2, 4).unbind()
            expected = plain.update(keys_BHLD, values_BHLD, number)
            found = roomy.update(keys_BHLD, values_BHLD, number)
            assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        assert roomy.get_seq_length() == plain.get_seq_length()


def test_a_new_token_and_a_lost_row_copy_nothing_else() -> None:
    made = filled()
    with_room(made, longest=99)
    new_BHLD = torch.ones(5, 2, 1, 4)
    before, _ = made.update(new_BHLD, new_BHLD, 0)
    made.batch_select_indices(torch.tensor([0, 1, 4]))
    after, _ = made.update(new_BHLD[:3], new_BHLD[:3], 0)
    assert after.data_ptr() == before.data_ptr()


def test_layers_of_another_kind_stay_as_they_are() -> None:
    class Other(DynamicLayer):
        pass

    made = filled()
    made.layers[1] = Other()  # type: ignore[no-untyped-call]
    with_room(made, longest=99)
    assert type(made.layers[1]) is Other and type(made.layers[0]) is not DynamicLayer
