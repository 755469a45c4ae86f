"""How good the teacher is on the held-out prompts: what its student can hope to reach."""

from collections.abc import Callable
from dataclasses import replace

from opd.data.prompts import PromptSet
from opd.errors import UserError
from opd.training.evaluation import scores_of, suite_name
from opd.training.rollouts import Writer, write_evaluation
from opd.types import HELD_OUT, Score

PREFIX = "teacher_"  # of its metrics, beside the student's in the same suite


def teacher_scores(
    writer: Writer, prompts: PromptSet, stop: Callable[[], bool], say: Callable[[str], None]
) -> list[Score]:
    """The teacher's pass@k and finished at every temperature of the evaluation, each prompt
    answered by the teacher that judges it and as that teacher reads it.

    Empty where the run does not ask for it or nothing can be graded. What a held-out prompt lacks
    for the teacher to read it raises UserError where `evaluation.teacher` is set, and is said
    otherwise. Raises Stopped.
    """
    config = writer.config
    if not config.evaluates_teacher:
        return []
    assert writer.router is not None
    try:
        for prompt in prompts.held_out:
            writer.router.prompt_ids(prompt)
    except UserError as error:
        if config.evaluation.teacher:
            raise
        say(f"the teacher itself is not evaluated: {error}")
        return []
    return [
        score for t in config.evaluation.temperatures for score in _at(writer, prompts, t, stop)
    ]


def _at(
    writer: Writer, prompts: PromptSet, temperature: float, stop: Callable[[], bool]
) -> list[Score]:
    completions = write_evaluation(
        writer, prompts.held_out, temperature=temperature, stop=stop, author="teacher"
    )
    if all(c.reward is None for c in completions):
        return []
    suite = suite_name(HELD_OUT, temperature, writer.config.sampling.temperature)
    scores = scores_of(suite, completions, writer.config.evaluation.pass_at)
    return [replace(s, metric=f"{PREFIX}{s.metric}") for s in scores]
