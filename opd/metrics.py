"""What a run's metrics are called: label, unit, a sentence, and what measures each.

The one table of them. `python -m bench.documents` writes from it docs/guide/metrics.md, and
app/static/lib/charts/metric_table.js, which the pages and reports read.
"""

import re
from dataclasses import dataclass
from typing import Literal

Source = Literal["step", "evaluation", "machine"]
Goal = Literal["high", "low", ""]


@dataclass(frozen=True)
class Metric:
    """`share`: a fraction of 1, shown as a percentage. `goal`: which of its values is the best;
    empty where none is."""

    label: str
    unit: str
    help: str
    source: Source = "step"
    share: bool = False
    goal: Goal = ""


# `k` stands for the number in names of the kind pass@4.
METRICS: dict[str, Metric] = {
    "score": Metric(
        "Score",
        "pass@1 of the main suite",
        "Fraction of held-out prompts answered right: pass@1 of the suite that the run's "
        "evaluations name first.",
        "evaluation",
        share=True,
        goal="high",
    ),
    "pass@k": Metric(
        "pass@k",
        "fraction",
        "Chance that at least one of k completions of a prompt is right, estimated without bias "
        "from all that were sampled.",
        "evaluation",
        share=True,
        goal="high",
    ),
    "teacher_pass@k": Metric(
        "Teacher pass@k",
        "fraction",
        "The teacher's own pass@k on the same prompts, as it reads them, measured once at the "
        "start.",
        "evaluation",
        share=True,
        goal="high",
    ),
    "teacher_finished": Metric(
        "Teacher finished (EOS)",
        "fraction",
        "Fraction of the teacher's own completions that end with a stop token.",
        "evaluation",
        share=True,
        goal="high",
    ),
    "reverse_kl": Metric(
        "Reverse KL",
        "nats per token",
        "How far the student's distribution is from the teacher's at the tokens the student wrote: "
        "Σ p (log p − log q) over the whole vocabulary, 0 where both agree.",
        goal="low",
    ),
    "log_ratio": Metric(
        "Log ratio",
        "nats per token",
        "Mean of log p − log q at the sampled tokens; an estimate of the reverse KL from the "
        "samples only, which may be negative in a step.",
    ),
    "loss": Metric(
        "Loss", "", "What the optimizer lowers, as the objective defines it.", goal="low"
    ),
    "reward": Metric(
        "Reward",
        "fraction",
        "Mean grade of the step's completions; with a right-or-wrong grader, the fraction that is "
        "right.",
        share=True,
        goal="high",
    ),
    "completion_tokens": Metric(
        "Completion length", "mean tokens", "Mean number of tokens in the step's completions."
    ),
    "student_entropy": Metric(
        "Student entropy",
        "nats per token",
        "How spread out the student's next-token distribution is; 0 means that it is certain.",
    ),
    "teacher_entropy": Metric(
        "Teacher entropy",
        "nats per token",
        "How spread out the teacher's next-token distribution is at the same positions.",
    ),
    "finished": Metric(
        "Finished (EOS)",
        "fraction",
        "Fraction of completions that end with a stop token; the others were truncated at the "
        "length limit.",
        share=True,
        goal="high",
    ),
    "same_top": Metric(
        "Top-1 agreement",
        "fraction",
        "Fraction of tokens at which student and teacher have the same first choice.",
        share=True,
        goal="high",
    ),
    "grad_norm": Metric(
        "Gradient norm", "", "Length of the gradient before clipping, over all trained weights."
    ),
    "learning_rate": Metric(
        "Learning rate", "", "The optimizer's step size at this step, after warmup and schedule."
    ),
    "sampler_gap": Metric(
        "Sampler gap",
        "nats, largest of the step",
        "Largest difference between a token's log-probability as sampled and as recomputed for the "
        "update; far from 0, sampler and trainer disagree, or an update lies between "
        "(sampling.lag).",
    ),
    "importance_ratio": Metric(
        "Importance ratio",
        "mean, 1 if equal",
        "Mean of exp(log p as recomputed − log p as sampled); far from 1, sampler and trainer "
        "disagree.",
    ),
    "importance_ratio_max": Metric(
        "Importance ratio, largest",
        "of the step's tokens",
        "Largest exp(log p as recomputed − log p as sampled), before any truncation or clip: how "
        "much one token can weigh in the loss.",
    ),
    "ratio_truncated": Metric(
        "Ratios truncated",
        "fraction",
        "Fraction of tokens whose importance ratio was above objective.ratio_cap, which they were "
        "weighed by instead.",
        share=True,
    ),
    "staleness": Metric(
        "Staleness",
        "steps, mean",
        "Updates between the weights that wrote the step's completions and those that they train; "
        "with sampling.lag 1 it is 1, but 0 in the first step and after a resume.",
    ),
    "by_teacher": Metric(
        "Written by the teacher",
        "fraction",
        "Fraction of the step's completions that the teacher wrote.",
        share=True,
    ),
    "teacher_sampling_flops": Metric(
        "Teacher sampling", "FLOP", "Compute for the completions that the teacher wrote."
    ),
    "seconds_sample": Metric(
        "Sampling",
        "seconds",
        "Time to write the step's completions; with sampling.lag 1, time waited for them.",
    ),
    "writing_seconds": Metric(
        "Writing, beside the training",
        "seconds",
        "Time that the server took for the step's completions, which it wrote while the step "
        "before trained (sampling.lag 1).",
    ),
    "seconds_teacher": Metric("Teacher", "seconds", "Time of the teacher's forward passes."),
    "seconds_student": Metric(
        "Student", "seconds", "Time of the student's forward and backward passes."
    ),
    "seconds_optimizer": Metric("Optimizer", "seconds", "Time to update the weights."),
    "seconds_store": Metric("Storage", "seconds", "Time to write the step's records."),
    "memory_peak": Metric(
        "GPU memory, allocated",
        "bytes, peak of the step",
        "Most bytes of tensors on the GPU at once.",
        "machine",
    ),
    "memory_reserved": Metric(
        "GPU memory, reserved",
        "bytes, peak of the step",
        "Most bytes that the allocator held for tensors; what other programs see as taken.",
        "machine",
    ),
    "system/cpu": Metric(
        "Processor, machine",
        "of all cores",
        "How busy all cores of the machine were, by whatever program, between two samples.",
        "machine",
        share=True,
    ),
    "system/process_cpu": Metric(
        "Processor, run",
        "cores",
        "How many cores the run's process used, between two samples.",
        "machine",
    ),
    "system/process_memory": Metric(
        "Memory, run", "bytes", "Memory of the run's process (resident set size).", "machine"
    ),
    "system/memory": Metric(
        "Memory, machine",
        "bytes",
        "Memory that is taken on the machine, by whatever program: all but what is available.",
        "machine",
    ),
    "system/gpu": Metric(
        "GPU use",
        "of the time",
        "Fraction of the time in which the run's GPU computed, as its driver says.",
        "machine",
        share=True,
    ),
    "system/gpu_memory": Metric(
        "GPU memory, device",
        "bytes",
        "Memory that is taken on the run's GPU, by whatever program, as its driver says.",
        "machine",
    ),
}


def described(name: str) -> Metric | None:
    """The entry of a metric as a run stores it: `pass@4`, `eval/SUITE/pass@4`; None: no entry."""
    return METRICS.get(re.sub(r"@\d+$", "@k", name.rpartition("/")[2])) or METRICS.get(name)
