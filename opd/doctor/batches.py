"""Whether the run's models give a row the same numbers in a batch as by itself, on its prompts."""

from collections.abc import Iterator

import torch

from opd.doctor.findings import Finding
from opd.doctor.rehearsal import Rehearsal
from opd.models.batches import Sequences
from opd.models.forward import causal, route_of
from opd.models.load import Pair
from opd.models.routes import BatchComparison, compare_batch
from opd.sampling.decoder import RereadingDecoder
from opd.sampling.decoding import decoding_of, equal_lengths
from opd.sampling.fast_decoder import takes
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import field_of

PROMPTS = 3
LONGEST, SHORTER = 64, 8  # tokens of the first prompt, and how many fewer each further one has
COMPLETION = 16  # tokens


def check_batches(rehearsal: Rehearsal) -> Iterator[Finding]:
    """One finding for the student, and one for each teacher that is a model of its own."""
    pair, rows = rehearsal.loaded.pair, _rows(rehearsal)
    with pair.computing():
        compared = compare_batch(
            pair.student, rows, pad_id=pair.pad_id, pairs_per_token=pair.pairs_per_token
        )
        ways = [*_reading(pair.student), *_writing(pair)]
    yield _finding("student", compared, ways)
    seen = {id(causal(pair.student))}
    for route, teacher in rehearsal.loaded.router.teachers.items():
        if not isinstance(teacher, LocalTeacher) or id(causal(teacher.model)) in seen:
            continue
        seen.add(id(causal(teacher.model)))
        with teacher.present(), teacher.state():
            compared = compare_batch(
                teacher.model, rows, pad_id=pair.pad_id, pairs_per_token=teacher.pairs_per_token
            )
        yield _finding(field_of(route), compared, _reading(teacher.model))


def _rows(rehearsal: Rehearsal) -> Sequences:
    """Rows of unequal lengths from the run's prompts; the first prompt has two completions, as in
    a group."""
    completions = rehearsal.completions[:PROMPTS]
    prompts = [
        c.prompt.ids[-(LONGEST - SHORTER * number) :] for number, c in enumerate(completions)
    ]
    answers = [c.sample.completion_ids[:COMPLETION] for c in completions]
    return Sequences([prompts[0], *prompts], [answers[-1], *answers])


def _reading(model: torch.nn.Module) -> list[str]:
    """What is unusual in how the model is read, in words."""
    route = route_of(model)
    return [
        words
        for words, so in (
            ("one row at a time", route.alone),
            (
                f"rows of more than {route.switch} tokens apart from shorter ones",
                route.switch is not None,
            ),
            ("with logits of whole rows (more memory)", route.backbone is None),
        )
        if so
    ]


def _writing(pair: Pair) -> list[str]:
    if takes(pair.student, pair.device):
        return []
    if equal_lengths(pair.student, pair.device):
        return ["completions sampled in batches of prompts of one length"]
    whole = causal(pair.student)
    rereads = decoding_of(whole, pair.device).make is RereadingDecoder
    return ["completions sampled without a cache, which is slow"] if rereads else []


def _finding(field: str, compared: BatchComparison, ways: list[str]) -> Finding:
    evidence = {"field": field, "largest": compared.difference, "ways": ways}
    if not compared.agrees:
        return Finding(
            "batch-differs",
            "error",
            f"{field}: a row's numbers change with its batch",
            f"On the run's prompts, log-probabilities of a batch differ by up to "
            f"{compared.difference:.2g} nats from those of its rows by themselves: the model "
            "depends on what is beside a row. Losses and KL would be wrong.",
            f"Use another {field}.model; docs/models.md lists classes that were tried.",
            evidence,
        )
    apart = f" How it is read, so that rows stay apart: {'; '.join(ways)}." if ways else ""
    return Finding(
        "batch-agrees",
        "info" if ways else "ok",
        f"{field}: a batch gives the numbers of single rows",
        f"On the run's prompts, log-probabilities differ by at most {compared.difference:.2g} "
        f"nats.{apart}",
        evidence=evidence,
    )
