"""The same work by others: transformers' `generate`, and TRL's `DistillationTrainer`."""

import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import PrinterCallback, TrainerCallback

from bench.gpu.workbench import Figures, Workbench, in_gib, rates, spread
from bench.support.generation import generate as write_by_generate

BUDGET = 80.0
MICRO_BATCH = 8  # completions that TRL reads at once


def generate(bench: Workbench) -> Iterator[Figures]:
    """Sampling alone, from the student in bfloat16, the step's rows in one batch."""
    work = bench.work
    model, encoder = _loaded(bench, bench.student, torch.bfloat16).to(bench.device), _encoder(bench)
    texts = [text for text in bench.texts(work.prompts) for _ in range(work.group)]
    encoded = encoder(texts, return_tensors="pt", padding=True).to(bench.device)

    bench.start_peak()
    with torch.inference_mode():
        seconds = bench.repeated(lambda: write_by_generate(model, encoded, work.new))
    yield Figures(
        "generate, bfloat16",
        {"sampling tokens/s": rates(work.tokens, seconds), "peak GiB": in_gib(bench.peak())},
    )


def trl_bfloat16(bench: Workbench) -> Iterator[Figures]:
    """Weights, gradients and moments all in bfloat16; checkpointing as is its default."""
    yield _trl(bench, "TRL, all in bfloat16", torch.bfloat16, bf16=False)


def trl_mixed(bench: Workbench) -> Iterator[Figures]:
    """Float32 weights and moments under bf16=True; checkpointing as is its default."""
    yield _trl(bench, "TRL, float32 weights under bf16=True", torch.float32, bf16=True)


def _loaded(bench: Workbench, folder: str, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def _encoder(bench: Workbench) -> Any:
    return AutoTokenizer.from_pretrained(bench.student, padding_side="left")


class _StepTimes(TrainerCallback):  # type: ignore[misc]
    """Seconds of each step; ends the training after `times` and one, or when time is over."""

    def __init__(self, bench: Workbench, times: int) -> None:
        self.bench, self.times, self.seconds = bench, times, list[float]()
        self.began = self.last = time.perf_counter()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.bench.wait()
        self.last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.bench.wait()
        self.seconds.append(time.perf_counter() - self.last)
        late = time.perf_counter() - self.began > BUDGET
        if len(self.seconds) > self.times or (len(self.seconds) > 1 and late):
            control.should_training_stop = True


def _trl(bench: Workbench, name: str, dtype: torch.dtype, *, bf16: bool) -> Figures:
    missing = [package for package in ("trl", "datasets") if find_spec(package) is None]
    if missing:
        return Figures(name, {"skipped": f"{' and '.join(missing)} not installed"})
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    work, times = bench.work, bench.times
    at_once = min(work.rows, MICRO_BATCH)
    texts = [t for t in bench.texts(work.prompts * (times + 1)) for _ in range(work.group)]
    bench.start_peak()
    with tempfile.TemporaryDirectory() as folder:
        settings = DistillationConfig(
            output_dir=folder,
            use_cpu=not bench.on_card,
            bf16=bf16,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=work.rows // at_once,
            shuffle_dataset=False,
            max_completion_length=work.new,
            generation_kwargs={"min_new_tokens": work.new},
            beta=1.0,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            max_steps=times + 1,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = DistillationTrainer(
            model=_loaded(bench, bench.student, dtype),
            teacher_model=_loaded(bench, bench.teacher, torch.bfloat16),
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=_encoder(bench),
        )
        trainer.remove_callback(PrinterCallback)
        clock = _StepTimes(bench, times)
        trainer.add_callback(clock)
        trainer.train()
    return Figures(
        name,
        {
            "step s": spread(clock.seconds[1:]),
            "tokens/s": rates(work.tokens, clock.seconds[1:]),
            "peak GiB": in_gib(bench.peak()),
            "first step s": clock.seconds[0],
        },
    )
