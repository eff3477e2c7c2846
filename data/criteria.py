"""By which criterion an answer is better: a closed set, and one more for every rule."""

CRITERIA = ("overall", "helpful", "honest", "harmless")
RULE = "rule:"


def is_criterion(name: str) -> bool:
    """Whether it is one of CRITERIA, or `rule:` and the id of a rule.

    An id holds no `|`, which parts the names in a group_id.
    """
    return name in CRITERIA or (name.startswith(RULE) and len(name) > len(RULE) and "|" not in name)
