"""Unlabelled text as instructions: rules label it, and the template library words it."""

from align.data.chance import pick
from align.data.exchanges import Exchange
from align.data.files import Row, text
from align.data.messages import assistant, cluster_id_of, user
from align.data.rejects import BadRow
from align.data.tasks.instances import Instance
from align.data.tasks.templates import CHOICES, library, render
from align.data.tasks.unlabelled import Labeller


class Rules:
    """Puts texts into words, in the order in which they come."""

    def __init__(self, language: str, seed: int) -> None:
        self._seed = seed
        self._labeller = Labeller(language, seed)
        self._sets = {name: library(name, language) for name in ("summarisation", "classification")}

    def exchanges(self, row: Row) -> list[Exchange]:
        """One instruction about a text. Raises: BadRow if no rule fits it."""
        document = text(row, "text")
        made = self._labeller.label(document)
        if made is None:
            raise BadRow("text", "no rule makes an instruction of it: it has too few sentences")
        templates = self._sets[made.library].templates
        template = templates[pick(len(templates), "template", self._seed, document)]
        given, target = render(template, {**made.fields, CHOICES: list(made.choices)})
        known = {
            "task_id": made.rule,
            "template_id": template.name,
            "group": cluster_id_of(user(document)),  # as the text itself, in other sources
            "label": made.fields.get("label", "") if made.rule == "sentence-order" else "",
        }
        return [Exchange(user(given), assistant(target), known, Instance("", given, target))]
