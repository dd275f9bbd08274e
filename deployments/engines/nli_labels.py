"""Which columns of a model's output mean contradiction and entailment.

By name only. The pipeline of transformers takes the contradiction by position and, without an entailment,
the last column with a warning; both score wrongly in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .refusal import StartRefused

_NOT_ENTAILMENT = {"not_entailment", "not-entailment", "not entailment", "non_entailment", "non-entailment"}


class NliColumns(NamedTuple):
    """Columns of the model's raw output."""

    contradiction: int
    entailment: int


def nli_columns(id2label: Mapping[int, str], label2id: Mapping[str, int]) -> NliColumns:
    """Find both by name.

    Args:
        id2label: of the model's config; `not_entailment` is a contradiction only beside one other class.
        label2id: of the model's config, empty where it has none.

    Raises:
        StartRefused: a name is missing or stands twice, or the two maps disagree.
    """
    names = {int(i): str(name).strip().lower() for i, name in id2label.items()}
    entailment = [i for i, name in names.items() if name.startswith("entail")]
    others = _NOT_ENTAILMENT if len(names) == 2 else set()
    contradiction = [i for i, name in names.items() if name.startswith("contradict") or name in others]
    if len(entailment) != 1 or len(contradiction) != 1:
        raise StartRefused(
            f"the model's id2label is {dict(id2label)}; an NLI model names exactly one class 'entailment' and one "
            "'contradiction' (of two classes, 'not_entailment'): mend its config.json, or choose an NLI model"
        )
    columns = NliColumns(contradiction[0], entailment[0])
    back = {str(name).strip().lower(): int(i) for name, i in label2id.items()}
    if any(back.get(names[i], i) != i for i in columns):
        raise StartRefused(f"the model's label2id {dict(label2id)} contradicts its id2label {dict(id2label)}; mend one")
    return columns
