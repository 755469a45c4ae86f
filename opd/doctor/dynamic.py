"""The checks that load models: as the run would, with a few rollouts in place of training."""

import time
from collections.abc import Iterator, Sequence

import torch

from opd.config.run import RunConfig
from opd.data.prompts import Prompt, load_prompts
from opd.devices.choice import free_memory
from opd.devices.support import run_device
from opd.doctor.agreement import check_rehearsal
from opd.doctor.batches import check_batches
from opd.doctor.findings import Finding, refused
from opd.doctor.machine.engine import check_server
from opd.doctor.machine.fit import check_gpu
from opd.doctor.memory import estimate
from opd.doctor.pace import EFFICIENCY, duration
from opd.doctor.rehearsal import PROMPTS, Rehearsal, rehearse
from opd.errors import UserError
from opd.models import cost
from opd.models.parameters import count_parameters
from opd.sampling.sample import Stopped
from opd.training.loading import Callbacks, LoadedRun, load

PRODUCT = 1024  # rows and columns of the product that measures the device


def dynamic(config: RunConfig, callbacks: Callbacks) -> Iterator[Finding]:
    """Findings; the last one says how long the run may take."""
    for finding in check_server(config):
        yield finding
        if finding.severity == "error":
            return
    try:
        free = free_memory(run_device(config))
        loaded = load(config, None, callbacks)
    except UserError as error:
        yield refused("models-refused", "The models cannot be loaded", error)
        return
    except (MemoryError, torch.OutOfMemoryError) as error:
        yield _out_of_memory(f"while the models were loaded ({error})")
        return
    try:
        yield from _with_models(config, loaded, callbacks, free)
    except UserError as error:
        yield refused("rehearsal-refused", "The run would fail with this error", error)
    except (MemoryError, torch.OutOfMemoryError) as error:
        yield _out_of_memory(f"while {PROMPTS} prompts were answered ({error})")
    except Stopped:
        return
    finally:
        loaded.close()


def _with_models(
    config: RunConfig, loaded: LoadedRun, callbacks: Callbacks, free: tuple[float, float] | None
) -> Iterator[Finding]:
    callbacks.say("reading prompts")
    pair, router = loaded.pair, loaded.router
    prompts = load_prompts(config, pair.tokenizer, router.context(), callbacks.say, pair.vocab)
    router.check_prompts(prompts.train)
    if free is not None:
        longest = max(len(p.ids) for p in prompts.train)
        trained = count_parameters(pair.student).trainable
        yield check_gpu(estimate(config, prompt_tokens=longest, trained=trained), *free)
    rehearsal = rehearse(config, loaded, _chosen(prompts.train), callbacks)
    yield from check_batches(rehearsal)
    yield from check_rehearsal(rehearsal)
    callbacks.say("measuring the device")
    yield _time(rehearsal)


def _chosen(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts spread over the whole set."""
    stride = max(1, len(prompts) // PROMPTS)
    return list(prompts[::stride])[:PROMPTS]


def _out_of_memory(when: str) -> Finding:
    return Finding(
        "out-of-memory",
        "error",
        "Out of memory",
        f"It ran out {when[:300]}; the run needs more than that.",
        "Lower optimizer.micro_batch_tokens and sampling.batch_size, train an adapter "
        "(student.lora), or use smaller models (teacher.quantize, teacher.offload).",
    )


def _time(rehearsal: Rehearsal) -> Finding:
    """A rough estimate: sampling as measured, training by its FLOPs at a measured rate.

    Sampling takes about as long per token whatever the number of rows, so its time is seconds per
    token of the longest answer, times answers' usual length, times batches. Training is
    `opd.models.cost`'s FLOPs over EFFICIENCY of what a matrix product reaches.
    """
    config, pair = rehearsal.config, rehearsal.loaded.pair
    lengths = [len(w.sample.completion_ids) for w in rehearsal.completions]
    prompts = [len(w.prompt.ids) for w in rehearsal.completions]
    rows = config.sampling.prompts_per_step * config.sampling.group_size
    batches = -(-rows // config.sampling.batch_size)
    sampling = rehearsal.seconds * batches
    usual = round(sum(lengths) / len(lengths)) + round(sum(prompts) / len(prompts))
    student = cost.model_cost(pair.student)
    models = (teacher.model for teacher in rehearsal.loaded.router.teachers.values())
    judge = next((cost.model_cost(m) for m in models if m is not None), None)  # one reads a row
    flops = cost.update_flops(config, student, judge, [usual] * rows)
    rate = _rate(pair.device, pair.dtype) * EFFICIENCY
    step = sampling + flops / rate
    return Finding(
        "time",
        "info",
        f"Roughly {duration(step)} per step, {duration(step * config.steps)} for {config.steps}",
        f"Sampling as measured with {len(lengths)} answers, training and scoring by their FLOPs; "
        "evaluations and checkpoints are not included. Rough: within a factor of 3.",
        evidence={
            "seconds_per_step": step,
            "of_which_sampling": sampling,
            "flops_per_step": flops,
            "assumed_flops_per_second": rate,
            "tokens_per_answer": sum(lengths) / len(lengths),
        },
    )


def _rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs per second of a square matrix product, the best of three."""
    a = torch.randn(PRODUCT, PRODUCT, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(4):  # the first one warms up
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2.0 * PRODUCT**3 / best
